"""LPIPS between the picture that a prediction means and the true one, beside Eq. 4's squared error of latents.

The squared error asks for the mean of all pictures that fit the conditions, which is blurred where there is much noise,
and counts every cell of the latents alike. What a picture looks like is asked for by a perceptual distance of decoded
pictures, as in PATN (VGG features, https://arxiv.org/abs/1904.03349) and in latent diffusion since (Berrada et al.
2024, https://arxiv.org/abs/2411.04873; Kang et al. 2024, https://arxiv.org/abs/2405.05967). LPIPS here is VGG16's,
so that AlexNet's, by which generators are compared, is not trained on.

`B` canvases, `C, h, w` a view's latents, `T` timesteps.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from torch import Tensor

from imagpose.canvas.training import CanvasBatch
from imagpose.canvas.view_grid import unpack_views, view_map
from imagpose.metrics.lpips import Lpips
from imagpose.training.noise import NoiseLevels


class PerceptualTerm:
    """The weighted distance of one masked view of each canvas."""

    def __init__(
        self, weight: float, vae: AutoencoderKL, lpips: Lpips, scheduler: DDIMScheduler, device: torch.device
    ) -> None:
        """All parts on one device; VAE and LPIPS are not trained."""
        self.weight, self.lpips = weight, lpips
        self.vae = vae.eval().requires_grad_(False)
        self.levels = NoiseLevels(scheduler, device)

    def errors(self, prediction: Tensor, noisy: Tensor, timesteps: Tensor, batch: CanvasBatch) -> Tensor:
        """The distance spread over the view's cells, to be added to Eq. 4's errors: (B, 1, 2h, 2w) float32.

        One view stands for all masked views of its canvas, so it counts as many times as there are; decoding costs more
        than the denoiser does. Which one the timestep's remainder says, which is as random and known to every process.

        Args:
            prediction: the network's, (B, C, 2h, 2w).
            noisy: its input latents, the same shape.
            timesteps: (B,) in [0, T).
        """
        picked, counts = masked_view(batch, timesteps)
        clean, _ = self.levels.ends(prediction.float(), noisy, timesteps)
        made = self._decoded(_views(clean, picked))
        with torch.no_grad():
            real = self._decoded(_views(batch.latents, picked))
        distances = self.weight * counts * self.lpips(made, real).float()
        height, width = (side // 2 for side in noisy.shape[2:])
        return view_map(picked * distances[:, None], height, width)

    def _decoded(self, latents: Tensor) -> Tensor:
        """Pictures in about [-1, 1], (B, 3, H, W)."""
        scaled = (latents / self.vae.config.scaling_factor).contiguous(memory_format=torch.channels_last)
        return self.vae.decode(scaled, return_dict=False)[0]


def masked_view(batch: CanvasBatch, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """One masked view of each canvas, (B, 4) bool, and how many it has, (B,); none where a canvas has none."""
    masked = unpack_views((batch.mask == 0) & (batch.loss_weights > 0))[:, :, 0, 0, 0]
    counts = masked.sum(1)
    wanted = timesteps % counts.clamp(min=1)
    return masked & (masked.cumsum(1) - 1 == wanted[:, None]), counts


def _views(canvas: Tensor, picked: Tensor) -> Tensor:
    """The picked view of each canvas, (B, C, h, w)."""
    return unpack_views(canvas)[torch.arange(len(canvas), device=canvas.device), picked.int().argmax(1)]
