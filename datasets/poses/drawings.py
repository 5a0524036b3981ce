"""Skeletons read from their drawings: black pictures with joints and limbs in OpenPose's colors.

OpenPose, ControlNet and this project draw joint i as a disk in full `COLORS[i]` over limbs at 60 % of their color. So a
joint is found by its color, and the person's left and right stay what they are; a pose network would see a person of
unknown side, or none.
"""

from __future__ import annotations

import cv2
import numpy as np

from datasets.poses.skeleton import COLORS, JOINT_COUNT, JOINTS, LIMB_BRIGHTNESS, LIMBS, missing_keypoints

DARK = 40
"""Largest channel of a pixel that counts as black (JPEG leaves some noise there)."""
MIN_BLACK = 0.5
MIN_SHARE_OF_PALETTE = 0.7
"""Share of the other pixels that have a color of joints or limbs, or one of them fading into black."""
MIN_PURE, PURE = 0.9, 0.45
"""Share of the other pixels whose lowest channel is below `PURE` times the highest; no photograph has such colors."""
MIN_LEVELS = 0.5
"""Or share of them that are as bright as joints or limbs are drawn: faces are drawn in white beside them."""
MIN_COLORS = 5
"""Colors of the palette in which something is drawn."""
MIN_JOINTS = 5
TOLERANCE = 42
"""Distance in the farthest channel within which a pixel has a joint's color; neighboring colors are 85 apart."""
MAX_SAMPLE = 100_000
"""Pixels that are looked at to tell a drawing from a photograph."""
MAX_SIDE = 2048
"""Pixels; a larger drawing is read at this size."""
MIN_LIMB_PIXELS = 16
MIN_DISK = 0.35
"""A spot of a joint's color is a disk if it has this share of the usual disk's pixels; others may lie on it."""
MIN_DISK_PIXELS = 10
"""Smaller disks cannot be told from the edges of others."""
REPEATED = 0.5
"""A second spot of a joint's color that is this large beside the first is another person's joint, or a hand's."""

Spot = tuple[int, np.ndarray]
"""Pixels of a connected spot of one color, and its middle (x, y)."""


class UnreadableDrawingError(ValueError):
    """A picture is a drawing of skeletons, but one person's joints cannot be told from it."""


def is_drawing(picture: np.ndarray) -> bool:
    """Whether a picture is a drawing of skeletons: mostly black, and the rest in colors of joints and limbs.

    Args:
        picture: (H, W, 3) uint8 RGB.
    """
    brightest = picture.max(-1)
    drawn = brightest > DARK
    if not drawn.any() or drawn.mean() > 1 - MIN_BLACK:
        return False
    stride = 1 + int(drawn.sum()) // MAX_SAMPLE
    pixels = picture[drawn][::stride].astype(np.float32)
    brightest = pixels.max(-1)
    full = pixels * (255 / brightest[:, None])  # an edge that fades into black has its limb's hue
    distance = np.stack([np.abs(full - color).max(-1) for color in np.array(COLORS, np.float32)], -1)
    of_palette = distance.min(-1) <= TOLERANCE
    levels = np.abs(brightest[:, None] - (255, round(255 * LIMB_BRIGHTNESS))).min(-1)
    colors = np.bincount(distance[of_palette].argmin(-1), minlength=JOINT_COUNT)
    return bool(
        of_palette.mean() >= MIN_SHARE_OF_PALETTE
        and ((levels <= TOLERANCE // 2).mean() >= MIN_LEVELS or (pixels.min(-1) <= PURE * brightest).mean() >= MIN_PURE)
        and (colors >= max(2, 0.005 * len(pixels))).sum() >= MIN_COLORS
    )


def read_drawing(picture: np.ndarray) -> np.ndarray:
    """The skeleton that a drawing shows.

    Args:
        picture: (H, W, 3) uint8 RGB, one for which `is_drawing` holds.

    Returns:
        (18, 3) float32 x, y, score 1 in its pixels; NaN, NaN, 0 where a joint is not drawn.

    Raises:
        UnreadableDrawingError: a joint is there twice (several people, hands), or a limb is drawn whose joint is not
            found (other colors, too small, too blurred).
    """
    factor = max(1.0, max(picture.shape[:2]) / MAX_SIDE)
    if factor > 1:
        size = (round(picture.shape[1] / factor), round(picture.shape[0] / factor))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST)  # other ways mix colors
    rows, columns = (np.flatnonzero((picture.max(-1) > DARK).any(1 - axis)) for axis in (0, 1))
    left, top = int(columns[0]), int(rows[0])
    pixels = picture[top : rows[-1] + 1, left : columns[-1] + 1].astype(np.int16)  # the black around needs no look
    keypoints = _joints(pixels)
    keypoints[:, :2] = (keypoints[:, :2] + (left, top) + 0.5) * factor - 0.5
    return keypoints


def _joints(pixels: np.ndarray) -> np.ndarray:
    """The skeleton in the drawn part (H, W, 3) int16 of a picture, in its pixels."""
    keypoints = missing_keypoints()
    found = [_spots(pixels, color, TOLERANCE) for color in COLORS]
    usual = float(np.median([spots[0][0] for spots in found if spots] or [0]))
    if usual < MIN_DISK_PIXELS:
        raise UnreadableDrawingError("its joints are too small to be read; give a larger drawing")
    for joint, all_spots in enumerate(found):
        spots = [spot for spot in all_spots if spot[0] >= MIN_DISK * usual]  # smaller: where two limbs' colors mix
        if len(spots) > 1 and spots[1][0] >= REPEATED * spots[0][0] and _far_apart(spots):
            raise UnreadableDrawingError(f"the {_words(joint)} is there more than once; draw one person without hands")
        if spots:
            keypoints[joint] = (*spots[0][1], 1)
    for limb, color in zip(LIMBS, COLORS, strict=False):
        lacking = [joint for joint in limb if not keypoints[joint, 2]]
        spots = _spots(pixels, [LIMB_BRIGHTNESS * channel for channel in color], TOLERANCE // 2) if lacking else []
        if spots and spots[0][0] >= MIN_LIMB_PIXELS:
            raise UnreadableDrawingError(f"a limb ends at the {_words(lacking[0])}, which is not found by its color")
    if (keypoints[:, 2] > 0).sum() < MIN_JOINTS:
        raise UnreadableDrawingError(f"fewer than {MIN_JOINTS} joints are found by their colors")
    return keypoints


def _words(joint: int) -> str:
    return JOINTS[joint].replace("_", " ")


def _spots(pixels: np.ndarray, color: object, tolerance: int) -> list[Spot]:
    """Connected spots of a color, largest first: pixels and middle (x, y)."""
    mask = (np.abs(pixels - np.asarray(color)).max(-1) <= tolerance).astype(np.uint8)
    _, _, facts, middles = cv2.connectedComponentsWithStats(mask, connectivity=8)
    areas = facts[1:, cv2.CC_STAT_AREA].tolist()  # the first component is all other pixels
    return sorted(zip(areas, middles[1:], strict=True), key=lambda spot: -spot[0])


def _far_apart(spots: list[Spot]) -> bool:
    """Whether two spots are no halves of one disk that something is drawn across."""
    radius = np.sqrt((spots[0][0] + spots[1][0]) / np.pi)
    return float(np.linalg.norm(spots[0][1] - spots[1][1])) > 2.5 * radius
