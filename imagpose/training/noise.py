"""The noise schedule, shared by training and sampling, and the loss weight of each timestep.

`B` canvases, `T` timesteps. One scheduler object is made here, trains the model and is saved with it; the official code
trains on one schedule and samples on another.
"""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler, LCMScheduler
from torch import Tensor

from imagpose.config import NoiseConfig


def noise_scheduler(config: NoiseConfig) -> DDIMScheduler:
    """The scheduler that a generator is trained with and keeps."""
    return DDIMScheduler(
        num_train_timesteps=config.train_timesteps,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        beta_schedule=config.beta_schedule,
        prediction_type=config.prediction_type,
        rescale_betas_zero_snr=config.zero_terminal_snr,
        timestep_spacing=config.timestep_spacing,
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1 if config.timestep_spacing == "leading" else 0,
    )


def prediction_target(scheduler: DDIMScheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What the network should predict: the noise, or the velocity sqrt(a) * noise - sqrt(1 - a) * latents."""
    if scheduler.config.prediction_type == "epsilon":
        return noise
    if scheduler.config.prediction_type == "v_prediction":
        return scheduler.get_velocity(latents, noise, timesteps)
    raise ValueError(f"unknown prediction type {scheduler.config.prediction_type!r}")


def signal_to_noise(scheduler: DDIMScheduler) -> Tensor:
    """SNR of every timestep, a / (1 - a): (T,) float64, zero at the end of a zero-terminal-SNR schedule."""
    alphas = scheduler.alphas_cumprod.double().cpu()
    # diffusers keeps 2^-24 instead of 0 at the end, so that samplers need not divide by zero
    return alphas / (1 - alphas)


def timestep_weights(config: NoiseConfig, scheduler: DDIMScheduler) -> Tensor:
    """Loss weight of every timestep, (T,) float32 (Min-SNR, https://arxiv.org/abs/2303.09556).

    min(SNR, gamma) / (SNR + 1) for velocity, / SNR for noise; never below the floor, which keeps the last, signal-free
    step in training.
    """
    snr = signal_to_noise(scheduler)
    if config.min_snr_gamma is None:
        return torch.ones_like(snr, dtype=torch.float32)
    clipped = snr.clamp(max=config.min_snr_gamma)
    divisor = snr + 1 if config.prediction_type == "v_prediction" else snr
    return (clipped / divisor).clamp(min=config.min_snr_floor).float()


class NoiseLevels:
    """The levels of a schedule on a device, and what a prediction means at them."""

    def __init__(self, scheduler: DDIMScheduler | LCMScheduler, device: torch.device) -> None:
        """Shares of signal and noise in x_t, ``x_t = signal * x_0 + spread * noise``."""
        self.predicts_noise = scheduler.config.prediction_type == "epsilon"
        shares = scheduler.alphas_cumprod
        self.signal, self.spread = (share.sqrt().to(device) for share in (shares, 1 - shares))

    def at(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and spread of every canvas, (B, 1, 1, 1) each."""
        return self.signal[timesteps][:, None, None, None], self.spread[timesteps][:, None, None, None]

    def ends(self, prediction: Tensor, noisy: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Clean latents and noise that a prediction at `noisy` means, (B, C, 2h, 2w) each."""
        signal, spread = self.at(timesteps)
        if self.predicts_noise:
            return (noisy - spread * prediction) / signal, prediction
        return signal * noisy - spread * prediction, signal * prediction + spread * noisy
