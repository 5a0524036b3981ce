"""The backend ``openpose-tiny``: the small network as a pose estimator for crops of one person."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from datasets.poses.skeleton import JOINTS, missing_keypoints, scale_keypoints
from datasets.poses.tiny.decoding import decode_person
from datasets.poses.tiny.network import TinyPoseNetwork, load_network
from datasets.poses.tiny.targets import to_pixels
from datasets.runtime.hashing import file_sha256

HEAD = ("nose", "right_eye", "left_eye", "right_ear", "left_ear")
MIN_SCORES = np.array([0.4 if joint in HEAD else 0.2 for joint in JOINTS], np.float32)
"""A joint whose peak is lower counts as missing. Chosen on Market-1501: the published skeletons often lack visible arms
and legs, so those are worth detecting, but a face that they lack is usually turned away. docs/results.md says which
images were used."""

MIN_JOINTS = 4
"""Fewer are no person, as in OpenPose."""


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
    ) -> None:
        """Load a network.

        Args:
            weights: ``weights.safetensors`` of a saved network, config.json beside it.
            batch_size: crops at a time.

        Raises:
            WeightsError: there is no network.
        """
        self.network = load_network(weights).to(device)
        self.weights_sha256 = file_sha256(weights)
        self.batch_size = batch_size

    def estimate(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Skeletons, (1, 18, 3) for each image or (0, 18, 3) where nobody is found; see `PoseEstimator`."""
        found: list[np.ndarray] = []
        size = (self.network.config.height, self.network.config.width)
        for start in range(0, len(images), self.batch_size):
            batch = images[start : start + self.batch_size]
            heat, fields = maps_of(self.network, np.stack([_resized(image, *size) for image in batch]))
            people = decode_person(heat.cpu(), fields.cpu())
            people[..., :2] = to_pixels(people[..., :2])
            people[people[..., 2] < MIN_SCORES] = missing_keypoints()[0]
            for image, keypoints in zip(batch, people, strict=True):
                person = scale_keypoints(keypoints, size, image.shape[:2])
                found.append(person[None] if (person[:, 2] > 0).sum() >= MIN_JOINTS else person[None][:0])
        return found


def _resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
