"""A small set of standard poses, chosen by rule from training poses: front, back, both sides; standing and striding.

The rule looks at skeletons alone. A pose's *facing* comes from shoulders (hips), in a side view from where the nose
lies beside the neck; its *stride* is the distance of the ankles over the body's height. Of each facing, the quarter
with the shortest strides counts as standing, the quarter with the longest ones as striding. Of each group the medoid
is taken: the pose whose joints, moved to the body's center and scaled to its height, are nearest to all others'.

Legend: N poses, (N, 18, 3) x, y, score in view pixels, NaN where a joint is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datasets.runtime.errors import InputError
from imagpose.synthesis.viewpoints import DIRECTIONS, body_height, direction, stride, visible_keypoints

COMPLETE = 14
"""Joints that a standard pose must show at least: all limbs, whatever side of the head."""
STANDARD_POSES = tuple(f"{direction}-{stride}" for stride in ("standing", "striding") for direction in DIRECTIONS)
"""All of them, in the order in which a smaller set is filled."""
MOST_COMPARED = 400
"""Poses of a group that are compared with each other, evenly over its keys."""
QUARTER = 0.25


@dataclass(frozen=True, kw_only=True)
class StandardPose:
    """A chosen pose and where it comes from."""

    name: str
    key: str
    """The training image that lends it."""
    keypoints: np.ndarray
    """(18, 3)."""
    candidates: int
    """Poses of its group."""


def choose_standard_poses(keys: Sequence[str], keypoints: np.ndarray, count: int) -> list[StandardPose]:
    """The first `count` standard poses for which the training poses have candidates.

    Args:
        keys: of the training images that may lend a pose; their order does not matter.
        keypoints: (N, 18, 3).

    Raises:
        InputError: no pose is complete enough for any of them.
    """
    order = np.argsort(np.asarray(keys, dtype=object))
    names, keypoints = np.asarray(keys, dtype=object)[order], keypoints[order]
    directions, strides = direction(keypoints), stride(keypoints)
    usable = (visible_keypoints(keypoints) >= COMPLETE) & (directions >= 0) & np.isfinite(strides)
    chosen = []
    for name in STANDARD_POSES:
        facing_name, _, way = name.partition("-")
        group = np.flatnonzero(usable & (directions == DIRECTIONS.index(facing_name)))
        if len(group):
            limit = np.quantile(strides[group], QUARTER if way == "standing" else 1 - QUARTER)
            group = group[strides[group] <= limit if way == "standing" else strides[group] >= limit]
            best = group[_medoid(keypoints[group])]
            chosen.append(
                StandardPose(name=name, key=str(names[best]), keypoints=keypoints[best], candidates=len(group))
            )
    if not chosen:
        raise InputError(
            f"none of {len(names)} training poses shows {COMPLETE} joints and where it faces, so none can be a "
            "standard pose; extract better poses, or give --pose-policy reconstruction"
        )
    return chosen[:count]


def _medoid(keypoints: np.ndarray) -> int:
    """The pose with the smallest mean distance to the others, over the joints that two poses both show."""
    compared = np.unique(np.linspace(0, len(keypoints) - 1, min(len(keypoints), MOST_COMPARED)).astype(int))
    points = keypoints[compared, :, :2]
    centers = np.nanmean(points, axis=1, keepdims=True)
    points = (points - centers) / np.maximum(body_height(keypoints[compared]), 1.0)[:, None, None]
    totals = [np.nanmean(np.linalg.norm(points - one, axis=-1)) for one in points]
    return int(compared[int(np.argmin(totals))])
