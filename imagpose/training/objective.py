"""What one training step minimizes: noise, timesteps, weighted error (paper, Eq. 4), learning rate.

`B` canvases, `C, 2h, 2w` a canvas's latents, `T` timesteps. Everything random is a function of the seed and the step's
number, so that weights, EMA weights, optimizer and the step are all that a checkpoint must hold.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from diffusers import DDIMScheduler, LCMScheduler
from torch import Tensor

from datasets.runtime.training.schedules import cosine_decay, linear_warmup
from imagpose.canvas.training import EMPTY, CanvasBatch, CanvasPlan
from imagpose.config import CanvasTrainingConfig, TrainGeneratorSettings
from imagpose.training.noise import noise_scheduler, prediction_target, timestep_weights
from imagpose.training.perceptual import PerceptualTerm


def learning_rate_at(config: CanvasTrainingConfig, step: int) -> float:
    """Rate of the step that follows `step` finished ones: linear warm-up, then constant or a cosine to a twentieth."""
    if step < config.warmup_steps:
        return linear_warmup(config.learning_rate, step, config.warmup_steps + 1)
    if config.learning_rate_schedule == "constant":
        return config.learning_rate
    share = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return cosine_decay(config.learning_rate, share, floor=0.05)


def noise_of_step(
    config: CanvasTrainingConfig, step: int, latent_canvas: tuple[int, int, int], train_timesteps: int
) -> tuple[Tensor, Tensor]:
    """Noise (batch, C, 2h, 2w) and timesteps (batch,) of a step: a function of seed and step.

    The timesteps are stratified, one in each of `batch_size` equal parts of [0, T): each is uniform over T, and the
    loss of a small batch varies less.
    """
    draws = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    noise = torch.randn(config.batch_size, *latent_canvas, generator=draws)
    places = torch.randperm(config.batch_size, generator=draws) + torch.rand(config.batch_size, generator=draws)
    return noise, (places / config.batch_size * train_timesteps).long().clamp(max=train_timesteps - 1)


class Objective(ABC):
    """What a step minimizes, cell by cell."""

    scheduler: DDIMScheduler | LCMScheduler
    """Noises the latents, and is saved with the generator."""
    weights: Tensor
    """(T,) loss weight of every timestep."""
    sampler: str
    """The sampler of the progress pictures, and how they are guided."""
    guidance: float

    @abstractmethod
    def errors(self, network: Callable[..., Tensor], batch: CanvasBatch, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Error of a network on a batch, averaged over channels and weighted by view: (B, 1, 2h, 2w) float32.

        Args:
            noise: (B, C, 2h, 2w).
            timesteps: (B,) in [0, T).
        """

    def trained_errors(
        self, network: Callable[..., Tensor], batch: CanvasBatch, noise: Tensor, timesteps: Tensor
    ) -> Tensor:
        """What a step of training minimizes: `errors`, and what validation leaves out."""
        return self.errors(network, batch, noise, timesteps)


class NoisePrediction(Objective):
    """Eq. 4: the squared error of the predicted noise or velocity; where asked, LPIPS of the picture that it means."""

    sampler = "ddim"

    def __init__(
        self, config: TrainGeneratorSettings, device: torch.device, perceptual: PerceptualTerm | None = None
    ) -> None:
        """Noise and weights as the recipe says.

        Args:
            perceptual: added to the error in training; validation compares recipes and goes without.
        """
        self.scheduler = noise_scheduler(config.noise)
        self.weights = timestep_weights(config.noise, self.scheduler).to(device)
        self.guidance = config.sample_guidance
        self.perceptual = perceptual

    def errors(self, network: Callable[..., Tensor], batch: CanvasBatch, noise: Tensor, timesteps: Tensor) -> Tensor:
        """As `Objective` says."""
        return self._predicted(network, batch, noise, timesteps)[0]

    def trained_errors(
        self, network: Callable[..., Tensor], batch: CanvasBatch, noise: Tensor, timesteps: Tensor
    ) -> Tensor:
        """As `Objective` says."""
        errors, prediction, noisy = self._predicted(network, batch, noise, timesteps)
        if self.perceptual is not None:
            errors = errors + self.perceptual.errors(prediction, noisy, timesteps, batch)
        return errors

    def _predicted(
        self, network: Callable[..., Tensor], batch: CanvasBatch, noise: Tensor, timesteps: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Squared errors, the prediction that has them and the noisy latents that it was made from."""
        noisy = self.scheduler.add_noise(batch.latents, noise, timesteps)
        prediction = predict(network, noisy, timesteps, batch)
        target = prediction_target(self.scheduler, batch.latents, noise, timesteps)
        errors = (prediction.float() - target).square().mean(1, keepdim=True) * batch.loss_weights
        return errors, prediction, noisy


def predict(network: Callable[..., Tensor], noisy: Tensor, timesteps: Tensor, batch: CanvasBatch) -> Tensor:
    """A network's output for noisy latents under the conditions of a training batch, (B, C, 2h, 2w)."""
    return network(
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


def loss_sum(
    objective: Objective, network: Callable[..., Tensor], batch: CanvasBatch, noise: Tensor, timesteps: Tensor
) -> Tensor:
    """Weighted errors, summed over the batch's canvases and cells."""
    errors = objective.trained_errors(network, batch, noise, timesteps)
    return (errors * objective.weights[timesteps][:, None, None, None]).sum()


def total_weight(plans: Sequence[CanvasPlan], visible_weight: float, cells: int) -> float:
    """Sum of the batch's loss weights over its views' cells: what makes a mean of `loss_sum`."""
    visible = sum(seen for plan in plans for seen in plan.visible)
    masked = sum(
        slot != EMPTY and not seen for plan in plans for slot, seen in zip(plan.slots, plan.visible, strict=True)
    )
    return cells * (masked + visible_weight * visible)
