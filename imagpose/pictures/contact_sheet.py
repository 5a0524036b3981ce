"""Contact sheets for people to look at: a PNG, a row per canvas, sources | target skeletons | generated | truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from datasets.poses.skeleton import draw_skeleton

GAP = 2
"""Pixels between pictures (at the pictures' own size)."""
GROUP_GAP = 10
"""Pixels between sources, skeletons and generated images."""
PAPER = 245
"""Gray of the sheet."""


@dataclass(frozen=True, kw_only=True)
class SheetRow:
    """One canvas on a sheet; every picture (H, W, 3) uint8."""

    sources: Sequence[np.ndarray]
    skeletons: Sequence[np.ndarray]
    generated: Sequence[np.ndarray]
    truth: Sequence[np.ndarray] = ()
    """For comparison with the generated ones, if available: real images, or skeletons found in them."""


def skeleton_picture(keypoints: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The target pose as the network sees it: (18, 3) keypoints in a view of `size` (H, W) -> (H, W, 3) uint8."""
    return draw_skeleton(keypoints, *size)


def contact_sheet(rows: Sequence[SheetRow], scale: int = 2) -> np.ndarray:
    """Lay rows below each other; groups start at the same column in every row.

    Args:
        rows: at least one; all pictures of one size.
        scale: whole-number magnification, so that a pixel stays a pixel.

    Returns:
        (rows of sheet, columns, 3) uint8.
    """
    if not rows:
        raise ValueError("a contact sheet needs at least one row")
    groups = [[row.sources, row.skeletons, row.generated, row.truth] for row in rows]
    groups = groups if any(row.truth for row in rows) else [group[:3] for group in groups]
    counts = [max([1, *(len(group[column]) for group in groups)]) for column in range(len(groups[0]))]
    height, width = rows[0].generated[0].shape[:2]
    starts = np.cumsum([GAP, *(count * (width + GAP) - GAP + GROUP_GAP for count in counts)])
    sheet = np.full((len(rows) * (height + GAP) + GAP, int(starts[-1]) - GROUP_GAP + GAP, 3), PAPER, np.uint8)
    for number, group in enumerate(groups):
        top = GAP + number * (height + GAP)
        for start, pictures in zip(starts, group, strict=False):
            for place, picture in enumerate(pictures):
                left = int(start) + place * (width + GAP)
                sheet[top : top + height, left : left + width] = picture
    return cv2.resize(sheet, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST) if scale > 1 else sheet


def save_contact_sheet(rows: Sequence[SheetRow], path: Path, scale: int = 2) -> None:
    """Write `contact_sheet` as PNG (without a date: equal rows give equal bytes)."""
    Image.fromarray(contact_sheet(rows, scale)).save(path, format="PNG")
