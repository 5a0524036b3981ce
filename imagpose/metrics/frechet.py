"""FID (Heusel et al. 2017, https://arxiv.org/abs/1706.08500) by torchmetrics, on features of two Inception networks.

Pictures are (N, 3, H, W) uint8, as they were written. The family of Table 1 (PIDM, PCDMs, CFLD) measures differently
from everybody else: `torchvision_features` follows it, for comparison with that table only (docs/synthesis.md tells the
differences).
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3
from torchvision.models import inception_v3

from datasets.runtime.arrays.tensor_files import read_state
from datasets.runtime.errors import WeightsError

FEATURES = 2048
"""Width of both Inception networks' last layer."""


def inception_features(weights: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The usual FID's features: TensorFlow's Inception, pictures scaled to 299x299 bilinearly with antialiasing.

    Returns:
        A function from (N, 3, H, W) uint8 to (N, 2048) float32, both on `device`.
    """
    plain = io.BytesIO()
    torch.save(read_state(weights), plain)  # torch-fidelity would unpickle the user's file; this one is ours
    plain.seek(0)
    try:
        # torch.load reads a file object as well as the path that the annotation wants
        network = NoTrainInceptionV3("inception-v3-compat", [str(FEATURES)], plain)  # pyrefly: ignore[bad-argument-type]
    except RuntimeError as error:
        raise WeightsError(f"{weights} holds no TensorFlow Inception: {_short(error)}") from None
    network.to(device)
    return torch.inference_mode()(lambda pictures: network(pictures).flatten(1))


def torchvision_features(weights: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Features of Table 1's family: torchvision's Inception, no antialiasing, and a wrong normalization.

    The scale and shift below are meant for ImageNet-normalized input but are given pictures in [0, 1] by PIDM, PCDMs
    and CFLD; the published figures stand on it, so it is kept.
    """
    network = inception_v3(weights=None, init_weights=False, transform_input=False)
    try:
        network.load_state_dict(read_state(weights))
    except RuntimeError as error:
        raise WeightsError(f"{weights} holds no torchvision Inception: {_short(error)}") from None
    network.fc = nn.Identity()
    network.to(device).eval()
    scale = torch.tensor([0.229, 0.224, 0.225], device=device).view(3, 1, 1) / 0.5
    shift = (torch.tensor([0.485, 0.456, 0.406], device=device).view(3, 1, 1) - 0.5) / 0.5

    @torch.inference_mode()
    def features(pictures: Tensor) -> Tensor:
        large = interpolate(pictures.float() / 255, (299, 299), mode="bilinear", align_corners=False)
        return network(large * scale + shift)

    return features


class _Ready(nn.Module):
    """Stands where torchmetrics expects a network: the features are computed already, shard by shard."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(real: np.ndarray, made: np.ndarray) -> float | None:
    """FID between two sets of features, (n, D) and (m, D); None where either has fewer than two rows."""
    if len(real) < 2 or len(made) < 2:
        return None
    metric = FrechetInceptionDistance(feature=_Ready(real.shape[1]), normalize=False)
    metric.update(torch.from_numpy(real).double(), real=True)
    metric.update(torch.from_numpy(made).double(), real=False)
    return float(metric.compute())


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
