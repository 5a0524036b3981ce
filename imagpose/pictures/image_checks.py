"""Degenerate pictures, found by arithmetic: flat, saturated, or a copy of the source.

These checks only label images and never filter them: every image is written, and the consumer decides what to use.
Whether the *person* is still the same is a separate check (`reid check-identity`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as JPEG uses


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Thresholds of the checks. Real Market-1501 crops are far from each of them."""

    contrast: float = 6.0
    """Standard deviation of the luma, in gray levels; less is flat."""
    saturated: float = 0.5
    """Share of pixels that are black (<= 2) or white (>= 253) in all channels; more is saturated."""
    source_difference: float = 2.0
    """Mean absolute difference to the nearest source, in gray levels; less is a copy (JPEG alone costs about 2)."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """What was measured on one picture."""

    contrast: float
    saturated: float
    source_difference: float
    status: str
    """'ok', 'flat', 'saturated' or 'copy'."""


def check_generated_image(image: np.ndarray, sources: np.ndarray | None = None, limits: Limits = Limits()) -> Check:
    """Measure one generated image.

    Args:
        image: (H, W, 3) uint8.
        sources: (S, H, W, 3) uint8 pictures that it was made from; none: the copy check is left out (NaN).
    """
    contrast = float((image.astype(np.float32) @ LUMA).std())
    saturated = float(((image <= 2).all(-1) | (image >= 253).all(-1)).mean())
    difference = float("nan")
    if sources is not None and len(sources):
        difference = float(np.abs(sources.astype(np.float32) - image).mean((1, 2, 3)).min())
    return Check(
        contrast=round(contrast, 3),
        saturated=round(saturated, 4),
        source_difference=round(difference, 3),
        status=_verdict(contrast, saturated, difference, limits),
    )


def _verdict(contrast: float, saturated: float, difference: float, limits: Limits) -> str:
    if saturated > limits.saturated:
        return "saturated"
    if contrast < limits.contrast:
        return "flat"
    return "copy" if difference < limits.source_difference else "ok"
