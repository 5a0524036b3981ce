"""CVA, cross-view attention (paper, section 3.4): each position of a view sees the same position of the other views."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import Tensor, nn

from imagpose.canvas.view_grid import VIEWS, join_views, split_views

POSITIONS = 32  # length of AnimateDiff's position table, so that its motion modules can initialize this one


class PerViewGroupNorm(nn.GroupNorm):
    """GroupNorm of each view alone, as in the official code's motion module.

    diffusers' AnimateDiff transformer normalizes all frames of a clip together. Views of one canvas differ in
    brightness far more than the frames of a clip do, and their statistics must not leak into each other.
    """

    def forward(self, views: Tensor) -> Tensor:  # pyrefly: ignore[bad-override-param-name]  # torch's hides `input`
        """(B, channels, V, h, w) -> the same shape."""
        alone = super().forward(views.transpose(1, 2).flatten(0, 1))
        return alone.unflatten(0, (len(views), -1)).transpose(1, 2)


class CrossViewAttention(nn.Module):
    """diffusers' AnimateDiff transformer over the four views as if they were four frames; identity at the start."""

    def __init__(self, channels: int, heads: int, norm_groups: int) -> None:
        """For canvases of `channels` feature maps; `heads` divides them."""
        super().__init__()
        self.mixer = AnimateDiffTransformer3D(
            heads,
            channels // heads,
            in_channels=channels,
            norm_num_groups=norm_groups,
            positional_embeddings="sinusoidal",
            num_positional_embeddings=POSITIONS,
        )
        self.mixer.norm = PerViewGroupNorm(norm_groups, channels, self.mixer.norm.eps)
        nn.init.zeros_(self.mixer.proj_out.weight)
        nn.init.zeros_(self.mixer.proj_out.bias)
        for module in self.mixer.modules():
            if isinstance(module, Attention):
                # Sequences of 4: the plain product is as fast as fused attention, and has no limit of 65,535 on
                # batch * height * width (https://github.com/pytorch/pytorch/issues/142228).
                module.set_processor(AttnProcessor())

    def forward(self, canvas: Tensor) -> Tensor:
        """(B, channels, 2h, 2w) -> the same shape."""
        return join_views(self.mixer(split_views(canvas), num_frames=VIEWS))


class CrossViewTransformer2DModel(Transformer2DModel):
    """A spatial transformer followed by cross-view attention: takes the place of any Transformer2DModel."""

    @functools.wraps(Transformer2DModel.__init__)  # keeps the signature that the config is read from
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        config = self.config
        self.cva = CrossViewAttention(config.in_channels, config.num_attention_heads, config.norm_num_groups)

    def forward(self, *args: Any, return_dict: bool = True, **kwargs: Any) -> tuple[Tensor]:
        """As Transformer2DModel's; always returns a tuple, the only form that the UNet's blocks use."""
        sample = super().forward(*args, return_dict=False, **kwargs)[0]
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return (self._gradient_checkpointing_func(self.cva, sample),)
        return (self.cva(sample),)
