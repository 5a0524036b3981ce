"""How to train in the time that is left: ``python -m benchmarks.gpu.choose_training STORE NAME SECONDS``.

Reads the logs of the trainings in ``STORE/NAME-BATCH-PRECISION-WAY``, finished or stopped by the clock; prints batch
size, precision, way ('plain' or 'compiled') and number of steps. What a training needs before it is up to speed, above
all to compile, counts against it, though the second time it may take less: compiled kernels stay on the disk.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from datasets.runtime.manifests import LOGS

FAST_ENOUGH = 0.9
"""Of the most canvases in the time: below it more steps of a smaller batch teach more."""
MARGIN = 0.9
"""Share of the time that is planned for: a training that is cut off leaves no generator."""


@dataclass(frozen=True)
class Trial:
    """A training that was tried."""

    batch: int
    precision: str
    way: str
    speed: float
    """Steps a second, once it runs."""
    start: float
    """Seconds that it took longer than that."""

    def steps(self, seconds: float) -> int:
        """Steps that it takes in so many seconds."""
        return max(0, int(self.speed * (MARGIN * seconds - self.start)))


def speed_and_start(folder: Path) -> tuple[float, float] | None:
    """Steps a second of the later half of a training's log, and the seconds that its beginning lost; None without one.

    The first half is no measure: it waits until workers and kernels have started, then takes the batches that the
    workers have made meanwhile. Nor is the whole training, which ends with pictures.
    """
    log = folder / LOGS / "train.jsonl"
    lines = map(json.loads, log.read_text().splitlines() if log.is_file() else [])
    rows = [{"step": 0, "seconds": 0.0}, *(row for row in lines if "seconds" in row)]
    middle, last = rows[(len(rows) - 1) // 2], rows[-1]
    seconds = last["seconds"] - middle["seconds"]
    if not seconds:
        return None
    speed = (last["step"] - middle["step"]) / seconds
    return speed, max(0.0, rows[1]["seconds"] - rows[1]["step"] / speed)


def trials(store: Path, name: str) -> list[Trial]:
    """All of them that came far enough to be timed."""
    found = []
    for folder in sorted(store.glob(f"{name}-*")):
        parts = re.fullmatch(rf"{re.escape(name)}-(\d+)-(\w+)-(plain|compiled)(\.partial)?", folder.name)
        if parts and (timed := speed_and_start(folder)) is not None:
            found.append(Trial(int(parts[1]), parts[2], parts[3], *timed))
    return found


def choose(store: Path, name: str, seconds: float) -> tuple[Trial, int] | None:
    """The way to train and its steps, or None if there is none: the smallest batch that is nearly the fastest."""
    found = {trial: trial.batch * trial.steps(seconds) for trial in trials(store, name)}
    if not any(found.values()):
        return None
    fast = [trial for trial, canvases in found.items() if canvases >= FAST_ENOUGH * max(found.values())]
    best = min(fast, key=lambda trial: (trial.batch, -found[trial]))
    return best, best.steps(seconds)


def main() -> int:
    """Print the choice; returns 1 if there is none."""
    choice = choose(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
    if choice is None:
        return 1
    trial, steps = choice
    print(trial.batch, trial.precision, trial.way, steps)
    return 0


if __name__ == "__main__":
    sys.exit(main())
