"""Several processes (torchrun) that make one artifact: each takes its share of files, the first one finishes it."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch

from datasets.runtime import devices

PATIENCE = timedelta(days=7)
"""How long a process waits for the others at the end; torchrun ends it earlier if one of them fails."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that torchrun started."""

    rank: int
    world: int

    @property
    def first(self) -> bool:
        """Whether this process writes what there is once."""
        return self.rank == 0

    def mine(self, number: int) -> bool:
        """Whether file `number` is this process's to make."""
        return number % self.world == self.rank


@contextmanager
def ranks() -> Generator[Ranks, None, None]:
    """The block in which each process makes its files; it ends for all of them together.

    Only a barrier is needed, so gloo serves on every machine, GPUs or not.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks(0, 1)
        return
    torch.distributed.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield Ranks(torch.distributed.get_rank(), world)
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()


def own_device(name: str) -> torch.device:
    """`devices.pick`, and of several GPUs this process's own."""
    device = devices.pick(name)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return device
