"""What a pose backend is to the rest of the package, and which of several people an image is about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from datasets.poses.skeleton import missing_keypoints, present_joints


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

        Returns:
            For each image (P, 18, 3) float32 x, y, score in pixels of that image; P may be 0, a missing joint is
            ``(NaN, NaN, 0)``.
        """
        ...


def joints_box(keypoints: np.ndarray) -> np.ndarray:
    """Left, top, right, bottom of a skeleton's (18, 3) present joints, (4,) float; zeros where there is none."""
    joints = np.asarray(keypoints, np.float64)[present_joints(keypoints), :2]
    return np.concatenate([joints.min(0), joints.max(0)]) if len(joints) else np.zeros(4)


def largest_person(people: np.ndarray) -> int:
    """Which of several people is the largest: the longest diagonal of the joints' box.

    Of those with half as many joints as the fullest skeleton or more: a few stray joints can be far apart.

    Args:
        people: (P, 18, 3), P at least 1, x, y in any one unit.

    Returns:
        Its number; the first of equal ones.
    """
    boxes = np.stack([joints_box(person) for person in people])
    counts = present_joints(people).sum(-1)
    diagonals = np.where(2 * counts >= counts.max(), np.hypot(*(boxes[:, 2:] - boxes[:, :2]).T), -1)
    return int(np.argmax(diagonals))


def main_person(people: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The person that an image of one person is about: surely seen, large, in the middle.

    The largest product of three figures wins: sum of the joints' scores; diagonal of the joints' bounding box (somebody
    in the background has as many joints, but small); a Gaussian of the distance of the box's middle from the image's
    middle column, sigma a third of the width (a neighbor is cut by the crop's side).

    Args:
        people: (P, 18, 3) x, y, score in pixels.
        size: height and width of the image in pixels.

    Returns:
        (18, 3) keypoints; all missing if there is nobody.
    """
    there = present_joints(people) if len(people) else np.zeros((0, 0), bool)
    if not there.any():
        return missing_keypoints()
    low = np.where(there[..., None], people[..., :2], np.inf).min(1)
    high = np.where(there[..., None], people[..., :2], -np.inf).max(1)
    seen = there.any(1)
    low[~seen] = high[~seen] = 0
    width = size[1]
    off_center = ((low[:, 0] + high[:, 0]) / 2 - (width - 1) / 2) / (width / 3)
    diagonal = np.hypot(*(high - low).T) + 1  # a single joint has an extent too
    weight = people[..., 2].sum(1) * diagonal * np.exp(-(off_center**2) / 2)
    return people[int(np.argmax(weight))]
