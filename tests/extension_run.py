"""Run docs/extending.md's preset to the report, then once more with another generator's pictures as an arm.

In one process, because each start of torch costs seconds; only the index is made by a child, which must find the
extension, too. Works in the current folder; the last line is a JSON object of what lies where.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from in_process import maker  # beside this file, which is run by its path

from datasets.runtime.config import StageConfig
from flows.config import RegenerateConfig
from flows.pipeline import Regeneration
from flows.preflight import check
from flows.stages import run_stages

STORE = Path("store").absolute()
SMALL: dict[str, Any] = {
    "preset": "shop",
    "root": "shop",
    "store": STORE,
    "output": "out",
    "device": "cpu",
    "fractions": [60],
    "train": {"steps": 1, "batch_size": 1, "warmup_steps": 0, "sample_steps": 1},
    "synthesize": {"steps": 2, "showcase": 1},
    "reid": {"schedule": {"steps": 2}, "batch": {"identities": 2, "images": 2}},
    "benchmark": {"resamples": 100},
}


def make(configs: Sequence[StageConfig]) -> list[Path]:
    """The index by a child process, everything else here."""
    if configs and configs[0].stage == "index":
        return run_stages(configs, STORE).folders
    return maker(STORE)(configs)


def main() -> None:
    """Both runs."""
    config = RegenerateConfig(**SMALL)
    check(config)
    first = Regeneration(config, make).make()
    (index,), (subsets,) = STORE.glob("index/[!.]*"), STORE.glob("select-subsets/[!.]*")
    subprocess.run([sys.executable, "flip.py", index, subsets, "shop", "others"], check=True)
    config = RegenerateConfig(**SMALL, synthetic={"flip": Path("others/{fraction}-{draw}")})
    second = Regeneration(config, make).make()
    folders = {"index": index, "report": second.report, "benchmark": second.benchmark}
    result: dict[str, Any] = {name: str(folder) for name, folder in folders.items()}
    result["kept"] = first.runs == second.runs[: len(first.runs)]
    sys.stdout.write(f"\n{json.dumps(result)}\n")


if __name__ == "__main__":
    main()
