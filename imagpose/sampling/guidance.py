"""Classifier-free guidance: what the conditional and the unconditional half of a batch see, and how they are mixed.

Eq. 2 of the paper, ``u + s (c - u)``. Eq. 5 as printed drops the pose from `c`, Eq. 2 does not; its `u` keeps the pose
alone, and so does ours unless the official code's `u`, which keeps the sources too, is requested.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cached_property

import torch
from torch import Tensor

from imagpose.canvas.layout import Canvases
from imagpose.config.fields import Unconditional
from imagpose.modeling.denoiser import IMAGPose
from imagpose.sampling.condition_cache import cached_conditions


def given_cells(model: IMAGPose, canvases: Canvases) -> Tensor:
    """Where the canvas follows the sources: (B, 1, 2h, 2w) bool; nowhere without ILC."""
    return canvases.visible if model.uses_masked_latents else torch.zeros_like(canvases.visible)


class GuidedPrediction:
    """The network's prediction for one batch of canvases, as a function of noisy latents and time."""

    def __init__(
        self,
        model: IMAGPose,
        canvases: Canvases,
        guidance_scale: float,
        unconditional: Unconditional,
        *,
        reuse_conditions: bool = True,
    ) -> None:
        """Compute the conditions, which are the same at every step.

        Args:
            model: the denoiser, in evaluation mode.
            canvases: what is known and requested.
            guidance_scale: s; 1 is no guidance and half the work.
            unconditional: what the unconditional half still sees.
            reuse_conditions: call it within `cached`, which computes once what is constant over the steps.
        """
        self.model, self.scale, self.reuse_conditions = model, guidance_scale, reuse_conditions
        self.guided = guidance_scale != 1.0
        self.pose_alone = self.guided and unconditional == "pose"
        self.given, self.noise = given_cells(model, canvases), canvases.noise
        self.context = model.feature_conditioning(
            canvases.image_tokens, canvases.source_latents, canvases.keep_image, canvases.keep_texture
        )
        visible, known = canvases.visible.to(model.unet.dtype), canvases.known.to(model.unet.dtype)
        self.conditions = model.condition_channels(visible, known, canvases.skeletons)
        if self.pose_alone:
            unseen = model.condition_channels(torch.zeros_like(visible), torch.zeros_like(known), canvases.skeletons)
            self.conditions = torch.cat([self.conditions, unseen])

    def cached(self) -> AbstractContextManager[None]:
        """The block in which predictions are requested."""
        if not self.reuse_conditions:
            return nullcontext()
        return cached_conditions(self.model, self.conditions, self.context)

    def __call__(self, noisy_latents: Tensor, timestep: Tensor) -> Tensor:
        """Noisy latents (B, C, 2h, 2w) and their timestep, one for all or (B,) -> the guided prediction, float32."""
        if not self.guided:
            return self._predict(noisy_latents, timestep).float()
        # noise in place of the sources: at any level, a noised source still tells who it is
        blind = torch.where(self.given, self.noise, noisy_latents) if self.pose_alone else noisy_latents
        with_source, without = self._predict(torch.cat([noisy_latents, blind]), timestep).float().chunk(2)
        return without + self.scale * (with_source - without)

    def _predict(self, noisy_latents: Tensor, timestep: Tensor) -> Tensor:
        halves, unet = 2 if self.guided else 1, self.model.unet
        times = timestep.expand(len(noisy_latents) // halves).repeat(halves)
        if self.reuse_conditions:
            return unet(noisy_latents.to(unet.dtype), times, self.context, return_dict=False)[0]
        return self.model.predict(noisy_latents, times, *self._both_halves)

    @cached_property
    def _both_halves(self) -> tuple[Tensor, Tensor]:
        """Condition channels and tokens of every row; the unconditional half's tokens are zero."""
        if not self.guided:
            return self.conditions, self.context
        conditions = self.conditions if self.pose_alone else torch.cat([self.conditions] * 2)
        return conditions, torch.cat([self.context, torch.zeros_like(self.context)])
