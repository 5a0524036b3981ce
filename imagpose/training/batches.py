"""The batch of a training step on one process, as workers of `datasets.shards.loader` make it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imagpose.canvas.training import CanvasBatch, ViewSource, make_batch, plan_batch
from imagpose.config import CanvasTrainingConfig
from imagpose.training.objective import noise_of_step, total_weight


@dataclass(frozen=True, kw_only=True)
class StepBatch:
    """One process's share of a step."""

    parts: list[tuple[Tensor, CanvasBatch]]
    """Canvases' numbers in the whole batch, (n,), and their tensors: a part per accumulated gradient."""
    draws: list[tuple[Tensor, Tensor]]
    """Noise (n, C, 2h, 2w) and timesteps (n,) of each part."""
    total_weight: float
    """Of the whole batch, over all processes: what makes a mean of the sums of its parts."""

    def pin_memory(self) -> StepBatch:
        """The same in page-locked memory."""
        return StepBatch(
            parts=[(numbers, batch.pin_memory()) for numbers, batch in self.parts],
            draws=[(noise.pin_memory(), timesteps.pin_memory()) for noise, timesteps in self.draws],
            total_weight=self.total_weight,
        )


@dataclass(frozen=True, kw_only=True)
class StepReader:
    """Makes the batch of any step; every process plans the whole batch and lays out its own canvases only.

    The noise is drawn here too: on a GPU a batch of 1,024 is computed in about the time that a core takes to draw it.
    """

    source: ViewSource
    config: CanvasTrainingConfig
    train_timesteps: int
    """Steps of the noise schedule."""
    process: int
    processes: int

    def __call__(self, step: int) -> StepBatch:
        """A function of the step's number alone."""
        plans = plan_batch(self.source, self.config, step)
        channels, height, width = self.source.latent_shape
        noise, timesteps = noise_of_step(self.config, step, (channels, 2 * height, 2 * width), self.train_timesteps)
        mine = torch.arange(self.process, len(plans), self.processes)
        shares = mine.tensor_split(self.config.gradient_accumulation)
        return StepBatch(
            parts=[
                (numbers, make_batch(self.source, [plans[i] for i in numbers], self.config.visible_weight))
                for numbers in shares
            ],
            draws=[(noise[numbers], timesteps[numbers]) for numbers in shares],
            total_weight=total_weight(plans, self.config.visible_weight, height * width),
        )
