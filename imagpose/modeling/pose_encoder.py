"""Skeleton picture to feature maps at the latents' resolution (paper, section 3.3: "identical to ControlNet")."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn


class PoseEncoder(ModelMixin, ConfigMixin):
    """ControlNet's conditioning embedding without its zero-initialized last convolution.

    That convolution is a set of zero-initialized input columns of the UNet's first one: convolving the sum of two
    inputs' channels is the sum of two convolutions, so both are the same function and the UNet stays a stock one.
    """

    @register_to_config
    def __init__(self, channels: Sequence[int] = (16, 32, 96, 256), in_channels: int = 3) -> None:
        """A stride of 2 between two entries of `channels`; four entries give stride 8, three give 4."""
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(in_channels, channels[0], 3, padding=1), nn.SiLU()]
        for before, after in pairwise(channels):
            layers += [nn.Conv2d(before, before, 3, padding=1), nn.SiLU()]
            layers += [nn.Conv2d(before, after, 3, padding=1, stride=2), nn.SiLU()]
        self.layers = nn.Sequential(*layers)

    @property
    def stride(self) -> int:
        """Pixels per cell; must be the VAE's."""
        return 2 ** (len(self.config.channels) - 1)

    @property
    def out_channels(self) -> int:
        """Channels it adds to the UNet's input."""
        return self.config.channels[-1]

    def forward(self, skeletons: Tensor) -> Tensor:
        """(B, 3, H, W) drawn skeletons in [0, 1] -> (B, P, H/stride, W/stride)."""
        return self.layers(skeletons)
