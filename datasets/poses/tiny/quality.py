"""Accuracy of a network's skeletons, measured against known ones."""

from __future__ import annotations

import numpy as np

from datasets.poses.skeleton import present_joints

PCK_RADIUS = 0.05
"""Of the image's height."""


def pose_quality(predicted: np.ndarray, known: np.ndarray, height: float, min_scores: np.ndarray) -> dict[str, float]:
    """Figures of predicted skeletons against known ones.

    Args:
        predicted, known: (N, 18, 3) in pixels of images `height` pixels high.
        min_scores: (18,); a predicted joint with a lower score counts as absent.

    Returns:
        'pck': share of the known joints whose prediction is present and within 5 % of the height;
        'placed': the same share, counting joints with lower scores too;
        'missed': share of the known joints that the prediction lacks;
        'extra': share of the joints that the known skeletons lack which the prediction has.
    """
    there = present_joints(known)
    found = present_joints(predicted) & (predicted[..., 2] >= min_scores)
    error = np.linalg.norm(predicted[..., :2] - known[..., :2], axis=-1)
    near = error <= PCK_RADIUS * height  # False where either is NaN
    return {
        "pck": _share((near & found)[there]),
        "placed": _share(near[there]),
        "missed": _share(~found[there]),
        "extra": _share(found[~there]),
    }


def _share(values: np.ndarray) -> float:
    return round(float(values.mean()), 4) if values.size else float("nan")
