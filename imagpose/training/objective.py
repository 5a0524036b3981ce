"""What one training step minimizes (paper, Eq. 4): noise, timesteps, weighted squared error, learning rate.

`B` canvases, `C, 2h, 2w` a canvas's latents, `T` timesteps. Everything random is a function of the seed and the step's
number, so that weights, EMA weights, optimizer and the step are all that a checkpoint must hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from datasets.runtime.training.schedules import cosine_decay, linear_warmup
from imagpose.canvas.training import EMPTY, CanvasBatch, CanvasPlan
from imagpose.config import TrainGeneratorConfig
from imagpose.training.noise import prediction_target


def learning_rate_at(config: TrainGeneratorConfig, step: int) -> float:
    """Rate of the step that follows `step` finished ones: linear warm-up, then constant or a cosine to a twentieth."""
    if step < config.warmup_steps:
        return linear_warmup(config.learning_rate, step, config.warmup_steps + 1)
    if config.learning_rate_schedule == "constant":
        return config.learning_rate
    share = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return cosine_decay(config.learning_rate, share, floor=0.05)


def noise_of_step(
    config: TrainGeneratorConfig, step: int, latent_canvas: tuple[int, int, int], train_timesteps: int
) -> tuple[Tensor, Tensor]:
    """Noise (batch, C, 2h, 2w) and timesteps (batch,) of a step: a function of seed and step.

    The timesteps are stratified, one in each of `batch_size` equal parts of [0, T): each is uniform over T, and the
    loss of a small batch varies less.
    """
    draws = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    noise = torch.randn(config.batch_size, *latent_canvas, generator=draws)
    places = torch.randperm(config.batch_size, generator=draws) + torch.rand(config.batch_size, generator=draws)
    return noise, (places / config.batch_size * train_timesteps).long().clamp(max=train_timesteps - 1)


def squared_errors(
    model: Callable[..., Tensor], scheduler: DDIMScheduler, batch: CanvasBatch, noise: Tensor, timesteps: Tensor
) -> Tensor:
    """Squared error of the prediction, averaged over channels and weighted by view: (B, 1, 2h, 2w) float32."""
    noisy = scheduler.add_noise(batch.latents, noise, timesteps)
    prediction = model(
        noisy,
        timesteps,
        batch.mask,
        batch.latents * batch.mask,
        batch.skeletons,
        batch.image_tokens,
        batch.source_latents,
        batch.keep_image,
        batch.keep_texture,
    )
    target = prediction_target(scheduler, batch.latents, noise, timesteps)
    return (prediction.float() - target).square().mean(1, keepdim=True) * batch.loss_weights


def loss_sum(
    model: Callable[..., Tensor],
    scheduler: DDIMScheduler,
    weights: Tensor,
    batch: CanvasBatch,
    noise: Tensor,
    timesteps: Tensor,
) -> Tensor:
    """Weighted squared error, summed over the batch's canvases and cells and averaged over channels.

    Args:
        weights: (T,) of the timesteps.
    """
    errors = squared_errors(model, scheduler, batch, noise, timesteps)
    return (errors * weights[timesteps][:, None, None, None]).sum()


def total_weight(plans: Sequence[CanvasPlan], visible_weight: float, cells: int) -> float:
    """Sum of the batch's loss weights over its views' cells: what makes a mean of `loss_sum`."""
    visible = sum(seen for plan in plans for seen in plan.visible)
    masked = sum(
        slot != EMPTY and not seen for plan in plans for slot, seen in zip(plan.slots, plan.visible, strict=True)
    )
    return cells * (masked + visible_weight * visible)
