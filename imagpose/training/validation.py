"""Validation: the error on people whom no step sees, by how noisy the input is, and pictures of them.

The loss of training wanders with the timesteps that a batch happens to draw. Here canvases, noise and timesteps are
drawn once from the seed, so two checkpoints, two runs or two ablations are compared on the same cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from imagpose.canvas.training import CanvasPlan, ViewSource, make_batch, plan_canvas
from imagpose.config import CanvasTrainingConfig
from imagpose.modeling.denoiser import IMAGPose
from imagpose.training.objective import Objective

BUCKETS = 10
"""Equal parts of [0, T), from little noise to nothing else."""
CANVASES_PER_PERSON = 2


@dataclass(frozen=True, kw_only=True)
class ValidationCase:
    """One canvas at one noise level."""

    plan: CanvasPlan
    bucket: int
    place: float
    """Where in its bucket the timestep lies, from 0 to 1."""
    seed: int
    """Of the noise."""


def validation_cases(source: ViewSource, config: CanvasTrainingConfig) -> list[ValidationCase]:
    """Two canvases of each person, each at one timestep of every bucket: nothing dropped, nothing flipped."""
    rng = np.random.default_rng([config.seed, 3])
    plain = config.model_copy(
        update={
            "flip": 0.0,
            "drop_image_tokens": 0.0,
            "drop_texture_tokens": 0.0,
            "drop_both": 0.0,
            "drop_everything": 0.0,
        }
    )
    cases = []
    for images in source.by_pid.values():
        for _ in range(CANVASES_PER_PERSON):
            plan = plan_canvas(images, plain, rng)
            places, seeds = rng.random(BUCKETS), rng.integers(1 << 62, size=BUCKETS)
            cases += [
                ValidationCase(plan=plan, bucket=bucket, place=float(places[bucket]), seed=int(seeds[bucket]))
                for bucket in range(BUCKETS)
            ]
    return cases


@torch.no_grad()
def validation_losses(
    objective: Objective,
    model: IMAGPose,
    source: ViewSource,
    cases: Sequence[ValidationCase],
    accelerator: Accelerator,
    batch_size: int,
) -> dict[str, float]:
    """Mean error on masked views: 'loss', the mean of the buckets, and 'loss_t000' and so on for each.

    Unweighted: comparable between recipes that predict the same thing. The processes share the cases.
    """
    sums = torch.zeros(2, BUCKETS, dtype=torch.float64)
    mine = cases[accelerator.process_index :: accelerator.num_processes]
    for start in range(0, len(mine), batch_size):
        part = mine[start : start + batch_size]
        errors, weights = _errors(objective, model, source, part, accelerator)
        for case, error, weight in zip(part, errors.tolist(), weights.tolist(), strict=True):
            sums[:, case.bucket] += torch.tensor([error, weight], dtype=torch.float64)
    if accelerator.num_processes > 1:
        sums = accelerator.reduce(sums.to(accelerator.device), "sum").cpu()
    means = (sums[0] / sums[1].clamp_min(1e-9)).tolist()
    width = objective.scheduler.config.num_train_timesteps // BUCKETS
    named = {f"loss_t{bucket * width:03d}": round(mean, 6) for bucket, mean in enumerate(means)}
    return {"loss": round(sum(means) / BUCKETS, 6), **named}


def _errors(
    objective: Objective,
    model: IMAGPose,
    source: ViewSource,
    part: Sequence[ValidationCase],
    accelerator: Accelerator,
) -> tuple[Tensor, Tensor]:
    """Summed error and summed weight of each case's masked views, (B,) each."""
    batch = make_batch(source, [case.plan for case in part], visible_weight=0.0).to(accelerator.device)
    steps = objective.scheduler.config.num_train_timesteps
    timesteps = torch.tensor([int((q.bucket + q.place) / BUCKETS * steps) for q in part]).clamp(max=steps - 1)
    draws = [torch.Generator().manual_seed(case.seed) for case in part]
    noise = torch.stack([torch.randn(batch.latents.shape[1:], generator=draw) for draw in draws])
    device = accelerator.device
    with accelerator.autocast():
        errors = objective.errors(model, batch, noise.to(device), timesteps.to(device))
    return errors.sum((1, 2, 3)).double().cpu(), batch.loss_weights.sum((1, 2, 3)).double().cpu()
