"""Batch size and number of steps for the time that is left: ``python -m benchmarks.gpu.choose_batch STORE SECONDS``.

Reads the logs of the trainings in ``STORE/batch-N``, finished or stopped by the clock; prints the two numbers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from datasets.runtime.manifests import LOGS

FAST_ENOUGH = 0.9
"""Of the fastest batch's canvases a second: below it more steps of a smaller batch teach more."""
MARGIN = 0.9
"""Share of the time that is planned for: a training that is cut off leaves no generator."""


def steps_per_second(folder: Path) -> float | None:
    """Of the later half of a training's log; None without one.

    The first half is no measure: it waits until workers and kernels have started, then takes the batches that the
    workers have made meanwhile. Nor is the whole training, which ends with pictures.
    """
    log = folder / LOGS / "train.jsonl"
    rows = [{"step": 0, "seconds": 0.0}, *map(json.loads, log.read_text().splitlines() if log.is_file() else [])]
    middle, last = rows[(len(rows) - 1) // 2], rows[-1]
    seconds = last["seconds"] - middle["seconds"]
    return (last["step"] - middle["step"]) / seconds if seconds else None


def choose(store: Path, seconds: float) -> tuple[int, int] | None:
    """(batch size, steps), or None if no training of the sweep came far enough to be timed."""
    found: dict[int, float] = {}
    for folder in store.glob("batch-*"):
        if (speed := steps_per_second(folder)) is not None:
            found[int(folder.name.removesuffix(".partial").removeprefix("batch-"))] = speed
    if not found:
        return None
    canvases = {batch: batch * speed for batch, speed in found.items()}
    batch = min(size for size, speed in canvases.items() if speed >= FAST_ENOUGH * max(canvases.values()))
    return batch, max(1, int(MARGIN * seconds * found[batch]))


def main() -> int:
    """Print batch size and steps; returns 1 if there are none to print."""
    choice = choose(Path(sys.argv[1]), float(sys.argv[2]))
    if choice is None:
        return 1
    print(*choice)
    return 0


if __name__ == "__main__":
    sys.exit(main())
