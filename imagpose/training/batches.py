"""The batch of a training step on one process, as workers of `datasets.shards.loader` make it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imagpose.canvas.training import CanvasBatch, ViewSource, make_batch, plan_batch
from imagpose.config import CanvasTrainingConfig
from imagpose.training.objective import total_weight


@dataclass(frozen=True, kw_only=True)
class StepBatch:
    """One process's share of a step."""

    parts: list[tuple[Tensor, CanvasBatch]]
    """Canvases' numbers in the whole batch, (n,), and their tensors: a part per accumulated gradient."""
    total_weight: float
    """Of the whole batch, over all processes: what makes a mean of the sums of its parts."""

    def pin_memory(self) -> StepBatch:
        """The same in page-locked memory."""
        return StepBatch(
            parts=[(numbers, batch.pin_memory()) for numbers, batch in self.parts], total_weight=self.total_weight
        )


@dataclass(frozen=True, kw_only=True)
class StepReader:
    """Reads the batch of any step; every process plans the whole batch and lays out its own canvases only."""

    source: ViewSource
    config: CanvasTrainingConfig
    process: int
    processes: int

    def __call__(self, step: int) -> StepBatch:
        """A function of the step's number alone."""
        plans = plan_batch(self.source, self.config, step)
        height, width = self.source.latent_shape[1:]
        mine = torch.arange(self.process, len(plans), self.processes)
        return StepBatch(
            parts=[
                (numbers, make_batch(self.source, [plans[i] for i in numbers], self.config.visible_weight))
                for numbers in mine.tensor_split(self.config.gradient_accumulation)
            ],
            total_weight=total_weight(plans, self.config.visible_weight, height * width),
        )
