"""Pairs of images (source, target) by PATN's rule, which all later pose-transfer papers follow.

An image can be in a pair if its skeleton has both shoulders and both hips. Market-1501: all ordered pairs of different
images of one person (no distractors, no junk). DeepFashion: of one person, category and outfit number.
Counts of the published keypoints: 263,632 for Market-1501 train, 8,570 for DeepFashion test
(https://github.com/tengteng95/Pose-Transfer, ``create_pairs_dataset.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from datasets.deepfashion import outfit_of
from datasets.skeleton import present_joints

TORSO = (2, 5, 8, 11)
"""Both shoulders and both hips."""


def has_torso(keypoints: np.ndarray) -> np.ndarray:
    """Whether skeletons have both shoulders and both hips: (..., 18, 3) -> bool (...)."""
    return present_joints(keypoints)[..., TORSO].all(-1)


def market1501_groups(pids: Sequence[int]) -> list[int | None]:
    """The group of each image, None for distractors and junk."""
    return [int(pid) if pid > 0 else None for pid in pids]


def deepfashion_groups(keys: Sequence[str]) -> list[str]:
    """The group of each image by its key (PATN's flat name)."""
    return [outfit_of(key) for key in keys]


def ordered_pairs(
    keys: Sequence[str], groups: Sequence[object | None], keypoints: np.ndarray
) -> Iterator[tuple[str, str]]:
    """All ordered pairs of different images of a group, groups and images in sorted order.

    Args:
        keys: image keys.
        groups: what may be paired together, one per image; None pairs with nothing.
        keypoints: (N, 18, 3) skeletons.
    """
    members: dict[object, list[str]] = {}
    for key, group, usable in zip(keys, groups, has_torso(keypoints), strict=True):
        if group is not None and usable:
            members.setdefault(group, []).append(key)
    for group in sorted(members):
        images = sorted(members[group])
        yield from ((source, target) for source in images for target in images if source != target)
