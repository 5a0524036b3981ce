"""What a pose backend is to the rest of the package, and which of several people an image is about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from datasets.skeleton import missing_keypoints, present_joints


class PoseEstimator(Protocol):
    """Finds the skeletons of the people in images."""

    name: str
    """The backend's name as it stands in a pose artifact: 'openpose-tiny', 'openpose'."""
    weights_sha256: str
    """SHA-256 of the weights' file: equal image, backend and weights give equal keypoints."""

    def estimate(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Find people.

        Args:
            images: uint8 (H, W, 3) RGB arrays, sizes may differ.
        Returns: for each image (P, 18, 3) float32 x, y, score in pixels of that image; P may be 0, a missing joint is
            ``(NaN, NaN, 0)``.
        """
        ...


def main_person(people: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The person that an image of one person is about: most score, the farther from the middle the less it counts.

    Every joint counts its score times a Gaussian of its person's distance from the middle column (sigma half a width).

    Args:
        people: (P, 18, 3) x, y, score in pixels.
        size: height and width of the image in pixels.
    Returns: (18, 3) keypoints; all missing if there is nobody.
    """
    if not len(people):
        return missing_keypoints()
    width = size[1]
    weights = []
    for keypoints in people:
        there = present_joints(keypoints)
        middle = keypoints[there, 0].mean() if there.any() else np.inf
        weights.append(keypoints[there, 2].sum() * np.exp(-2 * ((middle - (width - 1) / 2) / width) ** 2))
    return people[int(np.argmax(weights))]
