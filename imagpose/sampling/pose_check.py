"""Whether a generated image shows the pose that was requested: the skeleton is extracted again and compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from datasets.poses.estimation import PoseEstimator, main_person
from datasets.poses.skeleton import present_joints

TOLERANCE = 0.1
"""A joint is right within this share of the figure's height (PCK@0.1)."""


def find_skeletons(estimator: PoseEstimator, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The person that each picture is about, (18, 3) in its pixels; all missing where nobody is found."""
    people = estimator.estimate(pictures)
    return [main_person(found, picture.shape[:2]) for found, picture in zip(people, pictures, strict=True)]


def pose_score(target: np.ndarray, found: np.ndarray) -> float | None:
    """Share of the target joints that were found near where they were requested (PCK@0.1 of the figure's height).

    The figure is the target skeleton, from its highest to its lowest joint. A joint that was not found is wrong.

    Args:
        target, found: (18, 3) in pixels of the same picture.

    Returns:
        0 to 1; None where fewer than two joints were requested.
    """
    joints = present_joints(target)
    if joints.sum() < 2:
        return None
    height = float(np.ptp(target[joints, 1]))
    distance = np.linalg.norm(target[joints, :2] - found[joints, :2], axis=1)
    near = present_joints(found)[joints] & (np.nan_to_num(distance, nan=np.inf) <= TOLERANCE * height)
    return round(float(near.mean()), 4)
