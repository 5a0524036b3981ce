"""The backend ``openpose-tiny``: the small network as a pose estimator for crops of one person."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from datasets.artifacts import file_sha256
from datasets.skeleton import missing_keypoints, scale_keypoints
from datasets.tiny_pose.decoding import decode_person
from datasets.tiny_pose.network import TinyPoseNetwork, load_network
from datasets.tiny_pose.targets import to_pixels

MIN_SCORE = 0.25
"""A joint whose peak is lower counts as absent."""


@torch.inference_mode()
def maps_of(network: TinyPoseNetwork, pixels: np.ndarray) -> tuple[Tensor, Tensor]:
    """Heat maps (B, 18, h, w) in [0, 1] and fields (B, 38, h, w) of crops (B, H, W, 3) uint8 of the network's size."""
    device = next(network.parameters()).device
    images = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() / 255
    logits, fields = network(images)
    return logits.sigmoid(), fields


class TinyPoseEstimator:
    """A `PoseEstimator` for crops of one person; finds at most one."""

    name = "openpose-tiny"

    def __init__(
        self,
        weights: Path,
        *,
        device: str | torch.device = "cpu",
        batch_size: int = 64,
        min_score: float = MIN_SCORE,
    ) -> None:
        """Load a network.

        Args:
            weights: ``weights.safetensors`` of a saved network, config.json beside it.
            batch_size: crops at a time.
            min_score: a joint with a lower score is left out.
        Raises: WeightsError: there is no network.
        """
        self.network = load_network(weights).to(device)
        self.weights_sha256 = file_sha256(weights)
        self.batch_size, self.min_score = batch_size, min_score

    def estimate(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Skeletons, (1, 18, 3) for each image or (0, 18, 3) where no joint is found; see `PoseEstimator`."""
        found: list[np.ndarray] = []
        size = (self.network.config.height, self.network.config.width)
        for start in range(0, len(images), self.batch_size):
            batch = images[start : start + self.batch_size]
            heat, fields = maps_of(self.network, np.stack([_resized(image, *size) for image in batch]))
            people = decode_person(heat.cpu(), fields.cpu())
            people[..., :2] = to_pixels(people[..., :2])
            people[people[..., 2] < self.min_score] = missing_keypoints()[0]
            for image, keypoints in zip(batch, people, strict=True):
                person = scale_keypoints(keypoints, size, image.shape[:2])
                found.append(person[None] if (person[:, 2] > 0).any() else np.empty((0, 18, 3), np.float32))
        return found


def _resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
