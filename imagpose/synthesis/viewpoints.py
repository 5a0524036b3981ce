"""What a skeleton alone tells of a viewpoint: where the body faces, how long its stride is, how rare that is.

Legend: N poses, (N, 18, 3) x, y, score in pixels, NaN where a joint is missing.
"""

from __future__ import annotations

import numpy as np

NOSE, NECK = 0, 1  # COCO-18
RIGHT_SHOULDER, LEFT_SHOULDER, RIGHT_HIP, LEFT_HIP = 2, 5, 8, 11
RIGHT_ANKLE, LEFT_ANKLE = 10, 13
FACINGS = ("front", "back", "side", "unknown")
DIRECTIONS = ("front", "back", "left", "right")
"""Where the body faces in the image; 'left': its nose is to the left of its neck."""
STRIDES = (0.1, 0.3)
"""Bounds between short, middle and long strides; on Market-1501 a quarter of the poses lies on either side."""
FEW = 5
"""A viewpoint with fewer poses counts in proportion, so that a lone skeleton, which may be wrong, is not drawn over and
over."""


def visible_keypoints(keypoints: np.ndarray) -> np.ndarray:
    """How many joints are known: (N, 18, 3) -> (N,)."""
    return np.isfinite(keypoints[..., :2]).all(-1).sum(-1)


def facing(keypoints: np.ndarray) -> np.ndarray:
    """Which way a body faces, from its shoulders (hips where they are missing).

    Args:
        keypoints: (N, 18, 3) pixels, missing = NaN.

    Returns:
        (N,) indices into `FACINGS`. A person seen from the front has the right shoulder on the image's left.
    """
    width = _signed_width(keypoints, RIGHT_SHOULDER, LEFT_SHOULDER)
    width = np.where(np.isnan(width), _signed_width(keypoints, RIGHT_HIP, LEFT_HIP), width)
    height = np.nan_to_num(body_height(keypoints), nan=1.0)
    share = width / np.maximum(height, 1.0)  # shoulders span about 0.2 of a standing body's height
    result = np.select([share > 0.06, share < -0.06, np.isfinite(share)], [0, 1, 2], default=3)
    return result.astype(np.int64)


def direction(keypoints: np.ndarray) -> np.ndarray:
    """(N,) indices into `DIRECTIONS`; -1 where the skeleton does not tell."""
    sides = facing(keypoints)
    ahead = keypoints[:, NOSE, 0] - keypoints[:, NECK, 0]
    is_side = (sides == FACINGS.index("side")) & np.isfinite(ahead) & (ahead != 0)
    choices = [sides == FACINGS.index("front"), sides == FACINGS.index("back"), is_side & (ahead < 0), is_side]
    return np.select(choices, [0, 1, 2, 3], default=-1)


def stride(keypoints: np.ndarray) -> np.ndarray:
    """(N,) distance of the ankles over the height of the visible body; NaN where one is missing."""
    apart = np.linalg.norm(keypoints[:, LEFT_ANKLE, :2] - keypoints[:, RIGHT_ANKLE, :2], axis=1)
    return apart / np.maximum(body_height(keypoints), 1.0)


def viewpoint(keypoints: np.ndarray) -> np.ndarray:
    """(N,) which of the 4 directions x 3 strides a pose shows; -1 where the skeleton does not tell both."""
    directions, strides = direction(keypoints), stride(keypoints)
    known = (directions >= 0) & np.isfinite(strides)
    return np.where(known, (len(STRIDES) + 1) * directions + np.searchsorted(STRIDES, strides, "right"), -1)


def rarity(viewpoints: np.ndarray) -> np.ndarray:
    """(N,) probabilities inversely to how many of the poses show the same viewpoint, `FEW` at least.

    Poses that do not tell have none, unless no pose tells: then all are alike.
    """
    known = viewpoints >= 0
    if not known.any():
        return np.full(len(viewpoints), 1 / max(1, len(viewpoints)))
    counts = np.bincount(viewpoints[known])
    weights = np.where(known, 1 / np.maximum(counts[viewpoints], FEW), 0.0)
    return weights / weights.sum()


def body_height(keypoints: np.ndarray) -> np.ndarray:
    """(N,) height of the visible body in pixels; NaN where nothing is visible."""
    y = keypoints[..., 1]
    known = np.isfinite(y)
    height = np.where(known, y, -np.inf).max(-1) - np.where(known, y, np.inf).min(-1)
    return np.where(known.any(-1), height, np.nan)


def _signed_width(keypoints: np.ndarray, right: int, left: int) -> np.ndarray:
    return keypoints[:, left, 0] - keypoints[:, right, 0]
