"""How many re-ID trainings should share a GPU, and computed how: steps a second of one, some and many at once.

Each process makes the network of preset `market-lite-256` (random weights, noise for images) in each way, warms it up,
and then all of them, or only the first ones, take steps for the same few seconds. A small network is bound by the
launch of its kernels: several processes fill the gaps, until the GPU itself is full.

Environment: SHARING_PROCESSES (default "1 3 6 9"), SHARING_SECONDS of each measurement (3), SHARING_WAYS (below),
REID_SIZE (256x128), REID_BACKBONE.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from typing import Any

WAYS: dict[str, dict[str, Any]] = {
    "as it chooses": {"precision": "auto"},
    "contiguous": {"precision": "auto", "channels_last": False},
    "float32": {"precision": "fp32"},
    "compiled": {"precision": "auto", "compile": True},
}
"""Settings of the training, by name."""
WARM_UP, STEPS_BETWEEN_LOOKS = 5, 5
PATIENCE = 60.0
"""Seconds that a process waits for the others, above all for one that compiles."""


def settings() -> dict[str, Any]:
    """`market-lite-256`'s network and losses, with random weights."""
    from reid.config import lite_recipe

    height, width = (int(side) for side in os.environ.get("REID_SIZE", "256x128").split("x"))
    recipe = lite_recipe(height=height, width=width)
    changed = {"weights": "none", "backbone": os.environ.get("REID_BACKBONE", recipe["network"].backbone)}
    if changed["backbone"] != recipe["network"].backbone:
        changed["frozen_stages"] = 0
    return {**recipe, "network": recipe["network"].model_copy(update=changed)}


def steps_for(step: Callable[[], None], seconds: float, finish: Callable[[], None]) -> float:
    """Steps a second, over about so many seconds."""
    started, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - started) < seconds:
        for _ in range(STEPS_BETWEEN_LOOKS):
            step()
        finish()
        count += STEPS_BETWEEN_LOOKS
    return count / passed if count and passed else 0.0


def work(rank: int, counts: list[int], ways: list[str], seconds: float, barrier: Barrier, found: Any) -> None:
    """One process: every way, in every number of processes that it belongs to."""
    import torch

    from benchmarks.reid.training import finished, ours

    recipe = settings()
    for number, way in enumerate(ways):
        step = ours(recipe["network"].backbone, **{**recipe, **WAYS[way]})
        for _ in range(WARM_UP):
            step()
        finished()
        for place, count in enumerate(counts):
            barrier.wait(PATIENCE)
            if rank < count:
                found[(number * len(counts) + place) * max(counts) + rank] = steps_for(step, seconds, finished)
        if rank == 0 and torch.cuda.is_available():
            print(f"{way}: {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB a process", flush=True)
        del step
        barrier.wait(PATIENCE)
        if rank == 0:
            print_rates(way, counts, found[number * len(counts) * max(counts) :])


def print_rates(way: str, counts: list[int], found: list[float]) -> None:
    """One way's lines, as soon as they are known: later ways may run out of time."""
    for place, count in enumerate(counts):
        rates = found[place * max(counts) : place * max(counts) + count]
        print(
            f"{way:<14} {count:2d} processes  {sum(rates):8.1f} steps/s in all  {min(rates):7.1f} the slowest",
            flush=True,
        )


def main() -> int:
    """Print steps a second of every way and number of processes; returns 0."""
    counts = [int(count) for count in os.environ.get("SHARING_PROCESSES", "1 3 6 9").split()]
    ways = os.environ.get("SHARING_WAYS", ",".join(WAYS)).split(",")
    seconds = float(os.environ.get("SHARING_SECONDS", "3"))
    context = multiprocessing.get_context("spawn")
    found, barrier = context.Array("d", len(ways) * len(counts) * max(counts)), context.Barrier(max(counts))
    arguments = (counts, ways, seconds, barrier, found)
    processes = [context.Process(target=work, args=(rank, *arguments), daemon=True) for rank in range(max(counts))]
    started = time.monotonic()
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    print(json.dumps({"processes": counts, "ways": ways, "seconds": round(time.monotonic() - started, 1)}))
    return max(abs(process.exitcode or 0) for process in processes)


if __name__ == "__main__":
    sys.exit(main())
