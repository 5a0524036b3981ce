"""The metrics of an evaluation: which of them have their weights at hand, and what they say of a batch of pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.runtime import devices
from imagpose.config import EvaluateGeneratorConfig
from imagpose.metrics.frechet import inception_features, torchvision_features
from imagpose.metrics.lpips import LPIPS_COLUMNS, Lpips, alexnet_features
from imagpose.metrics.published import WEIGHTS
from imagpose.metrics.similarity import psnr, ssim, ssim_table1
from imagpose.metrics.weights import find_weights, unknown_weights

logger = logging.getLogger(__name__)

FEATURE_NETWORKS: Mapping[str, Callable[[Path, torch.device], Callable[[Tensor], Tensor]]] = {
    "inception": inception_features,
    "torchvision_inception": torchvision_features,
    "alexnet": alexnet_features,
}
"""Networks behind the Frechet distances, by their names in `WEIGHTS`."""
INCEPTIONS = ("inception", "torchvision_inception")
"""Those of FID."""


class Meter:
    """The metrics whose weights are at hand.

    Attributes:
        absent: sentences that say which columns are left out, and how to get their weights.
        unknown_weights: by column, a sentence on weights that are not the published ones.
        perceptual: LPIPS by column.
        features: networks behind FID and its like, by name.
    """

    def __init__(self, config: EvaluateGeneratorConfig) -> None:
        """Find the weights and load the networks.

        Raises:
            WeightsError: weights that are not the published ones, or that cannot be fetched.
        """
        found = {
            name: find_weights(
                name, getattr(config, name), from_hub=config.from_hub, known_only=config.known_weights_only
            )
            for name in WEIGHTS
        }
        self.absent = [reason for reason in found.values() if isinstance(reason, str)]
        files = {name: path for name, path in found.items() if isinstance(path, Path)}
        self.unknown_weights: dict[str, str] = {}
        for name, path in files.items():
            self.unknown_weights |= unknown_weights(name, path)
        for reason in self.absent:
            logger.warning("column left out: %s", reason)
        for reason in self.unknown_weights.values():
            logger.warning("unknown weights: %s", reason)
        self.device = devices.pick(config.device)
        self.perceptual = {
            column: Lpips(files[backbone], backbone).to(self.device)
            for backbone, column in LPIPS_COLUMNS.items()
            if backbone in files
        }
        self.features = {
            name: load(files[name], self.device) for name, load in FEATURE_NETWORKS.items() if name in files
        }

    def drop_distance_of_alexnet(self, reason: str) -> None:
        """Go without the one distance that nobody requested by name; FID's networks are the user's own wish."""
        if self.features.pop("alexnet", None) is not None:
            self.absent.append(f"frechet_alexnet: {reason}")
            logger.warning("column left out: %s", self.absent[-1])

    def scores(self, made: Tensor, real: Tensor) -> dict[str, np.ndarray]:
        """Per picture, from (N, 3, H, W) uint8 pairs."""
        made, real = made.to(self.device), real.to(self.device)
        values = {"ssim": ssim(made, real), "psnr": psnr(made, real), "ssim_table1": ssim_table1(made, real)}
        values |= {column: distance.of_pictures(made, real) for column, distance in self.perceptual.items()}
        return {name: value.double().cpu().numpy() for name, value in values.items()}

    def save_features(self, pictures: Tensor, path: Path) -> None:
        """Write ``PATH.NAME.npy`` for each feature network."""
        for name, features in self.features.items():
            parts = [features(part.to(self.device)).float().cpu().numpy() for part in pictures.split(32)]
            _save_array(np.concatenate(parts), path.with_name(f"{path.name}.{name}.npy"))


def _save_array(array: np.ndarray, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)
    temporary.replace(path)
