"""A network as it embeds images for testing: plain for a few, on a CPU compiled for many.

Compiled with frozen weights (torch inductor's ``freezing``: normalization folded into the convolutions, weights packed
for the processor) EfficientNet-Lite0 takes 3.3 ms a 128x64 image on an Intel core, else 8.8; compiling takes ten
seconds. Features differ by 2e-6 of the largest. PyTorch's own ``TORCH_COMPILE_DISABLE=1`` turns it off.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch._inductor import config as inductor_config  # freezing is not among the options of torch.compile that work

from datasets.runtime.training.compilation import CompiledOrPlain, can_compile
from reid.data.images import normalize
from reid.training.model import ReidNetwork

IMAGES_BEFORE_COMPILING = 1024
"""Who has embedded so many is likely to embed more than the 1,800 at which compiling has paid."""
COMPILED_BATCH = 64
"""Images in a compiled call, always: another number would be compiled anew."""


class NetworkEmbedder:
    """Test features of images by one network.

    Attributes:
        width: D, numbers in a feature.
    """

    def __init__(self, network: ReidNetwork, device: torch.device) -> None:
        self.network = network.to(device).eval().to(memory_format=torch.channels_last)
        self.device, self.width = device, network.width
        self._images = 0
        self._compiles = device.type == "cpu" and can_compile()
        self._compiled: CompiledOrPlain | None = None

    def __call__(self, pixels_u8: Tensor) -> np.ndarray:
        """(B, 3, H, W) uint8 images to (B, D) float32; no flip, no augmentation."""
        with torch.inference_mode():
            images = normalize(pixels_u8.to(self.device), self.network.normalization)
            images = images.contiguous(memory_format=torch.channels_last)
            if self._compiles and self._images >= IMAGES_BEFORE_COMPILING:
                features = torch.cat([self._full_batch(part) for part in images.split(COMPILED_BATCH)])
            else:
                features = self.network.embed(images)
            self._images += len(images)
            return features.float().cpu().numpy()

    def _full_batch(self, images: Tensor) -> Tensor:
        """By the compiled network, or as it is where it cannot be compiled."""
        padded = images
        if len(images) < COMPILED_BATCH:
            padded = images.new_zeros(COMPILED_BATCH, *images.shape[1:]).contiguous(memory_format=torch.channels_last)
            padded[: len(images)] = images
        if self._compiled is None:
            torch.compiler.reset()  # frozen networks are compiled one by one, and torch keeps eight
            self._compiled = CompiledOrPlain(_Embedding(self.network), "embedding")
        with inductor_config.patch(freezing=True):
            return self._compiled(padded)[: len(images)]


class _Embedding(torch.nn.Module):
    """`ReidNetwork.embed` as a module's forward."""

    def __init__(self, network: ReidNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.embed(images)
