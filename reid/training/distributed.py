"""One batch distributed over several processes (GPUs), equivalent to training in one process.

Started by ``torchrun --nproc-per-node N -m reid train --processes N ...``. Each process runs the backbone on its share
of the images; the features are gathered, and every process computes neck, classifier and all losses on the *whole*
batch. So the hardest positive and negative of a triplet, the neck's statistics and the centers are as in one process.
The backbone's own batch normalization is synchronized on GPUs; on CPUs torch cannot, and each normalizes its share.

Legend: B images in the batch, S in a process's share, D feature width.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
from torch import Tensor, distributed, nn

from datasets.runtime import devices
from datasets.runtime.errors import InputError


class Processes:
    """The processes that train together, including this one; also used for a single process.

    Args:
        count: how many the settings ask for.
        device: 'auto', 'cpu', 'cuda' ...

    Raises:
        InputError: another number was started.
    """

    def __init__(self, count: int, device: str) -> None:
        started = int(os.environ.get("WORLD_SIZE", "1"))
        if started != count:
            raise InputError(
                f"processes {count}, but {started} started; run 'torchrun --nproc-per-node {count} -m reid train "
                f"--processes {count} ...'"
            )
        self.count, self.rank = count, 0
        self.device = devices.pick(device)
        if count == 1:
            return
        from accelerate import PartialState  # only here: its import takes a second

        state = PartialState(cpu=self.device.type == "cpu")
        self.rank, self.device = state.process_index, state.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and logs progress."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all processes have reached this point."""
        if self.count > 1:
            distributed.barrier()

    def prepare(self, backbone: nn.Module) -> nn.Module:
        """The backbone with batch normalization over all processes, where torch can."""
        if self.count == 1 or self.device.type == "cpu":
            return backbone
        return nn.SyncBatchNorm.convert_sync_batchnorm(backbone)

    def share(self, batch: int) -> slice:
        """Which images of a batch this process takes.

        Raises:
            InputError: there are too few for everyone to get some.
        """
        size = -(-batch // self.count)
        if batch <= size * (self.count - 1):
            raise InputError(f"a batch of {batch} images cannot be shared by {self.count} processes; start fewer")
        return slice(self.rank * size, min((self.rank + 1) * size, batch))

    def gather(self, features: Tensor, batch: int) -> Tensor:
        """All images' features (B, D) from each process's (S, D); gradients flow to this process's own only."""
        if self.count == 1:
            return features
        size = -(-batch // self.count)
        padded = nn.functional.pad(features.detach(), (0, 0, 0, size - len(features)))
        parts = [torch.empty_like(padded) for _ in range(self.count)]
        distributed.all_gather(parts, padded.contiguous())
        gathered = torch.cat(parts)[:batch]
        share = self.share(batch)
        return torch.cat([gathered[: share.start], features, gathered[share.stop :]])

    def add_gradients(self, shared: Iterable[nn.Parameter], whole: Iterable[nn.Parameter]) -> None:
        """Make the gradients of all processes those of the whole batch.

        Args:
            shared: parameters whose gradient comes from a process's own images: summed.
            whole: parameters whose gradient every process has computed from all images: averaged, against drift.
        """
        if self.count == 1:
            return
        for parameter in whole:
            if parameter.grad is not None:
                parameter.grad /= self.count
        gradients = [p.grad for p in (*shared, *whole) if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))
