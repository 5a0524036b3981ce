"""Batch size and number of steps for the time that is left: ``python -m benchmarks.gpu.choose_batch STORE SECONDS``.

Reads what the trainings in ``STORE/batch-*`` took a canvas; prints the two numbers.
"""

from __future__ import annotations

import sys
from pathlib import Path

from datasets.runtime.manifests import is_complete, manifest_of

FAST_ENOUGH = 0.9
"""Of the fastest batch's canvases a second: below it more steps of a smaller batch teach more."""


def choose(store: Path, seconds: float) -> tuple[int, int] | None:
    """(batch size, steps), or None if no training of the sweep has finished."""
    speeds: dict[int, float] = {}
    for folder in store.glob("batch-*"):
        if is_complete(folder):
            manifest = manifest_of(folder, "train-imagpose")
            speeds[manifest["config"]["batch_size"]] = manifest["summary"]["canvases_per_second"]
    if not speeds:
        return None
    batch = min(size for size, speed in speeds.items() if speed >= FAST_ENOUGH * max(speeds.values()))
    return batch, max(1, int(seconds * speeds[batch] / batch))


def main() -> int:
    """Print batch size and steps; returns 1 if there are none to print."""
    choice = choose(Path(sys.argv[1]), float(sys.argv[2]))
    if choice is None:
        return 1
    print(*choice)
    return 0


if __name__ == "__main__":
    sys.exit(main())
