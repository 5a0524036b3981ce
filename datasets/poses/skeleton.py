"""Skeletons of 18 joints: OpenPose's COCO-18 order, and how to flip, scale and draw them.

Keypoints are float arrays ``(..., 18, 3)`` of x, y, score; x and y are pixel indices of their image (a pixel's center
has whole coordinates, so the right edge's center is ``width - 1``), a missing joint is ``(NaN, NaN, 0)``. "Left" and
"right" are the person's own. Order and colors: CMU OpenPose's COCO model as ControlNet draws it
(https://github.com/CMU-Perceptual-Computing-Lab/openpose, https://github.com/lllyasviel/ControlNet-v1-1-nightly). Limbs
are bars of one width; ControlNet's are ellipses as wide in their middle (78 % of the pixels of either drawing are in
both, measured at 512x256), which would leave gaps in a view of 64 columns. NumPy and OpenCV only.
"""

from __future__ import annotations

import cv2
import numpy as np

JOINTS = (
    "nose",
    "neck",
    "right_shoulder",
    "right_elbow",
    "right_wrist",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
    "right_hip",
    "right_knee",
    "right_ankle",
    "left_hip",
    "left_knee",
    "left_ankle",
    "right_eye",
    "left_eye",
    "right_ear",
    "left_ear",
)
"""Names of the joints in order."""

JOINT_COUNT = len(JOINTS)

FLIP_PAIRS = ((2, 5), (3, 6), (4, 7), (8, 11), (9, 12), (10, 13), (14, 15), (16, 17))
"""Joints that change places in a flipped picture."""

LIMBS = (
    (1, 2),
    (1, 5),
    (2, 3),
    (3, 4),
    (5, 6),
    (6, 7),
    (1, 8),
    (8, 9),
    (9, 10),
    (1, 11),
    (11, 12),
    (12, 13),
    (1, 0),
    (0, 14),
    (14, 16),
    (0, 15),
    (15, 17),
)
"""Pairs of joints that a drawing connects, in OpenPose's order: limb i has color i."""

COLORS = (
    (255, 0, 0),
    (255, 85, 0),
    (255, 170, 0),
    (255, 255, 0),
    (170, 255, 0),
    (85, 255, 0),
    (0, 255, 0),
    (0, 255, 85),
    (0, 255, 170),
    (0, 255, 255),
    (0, 170, 255),
    (0, 85, 255),
    (0, 0, 255),
    (85, 0, 255),
    (170, 0, 255),
    (255, 0, 255),
    (255, 0, 170),
    (255, 0, 85),
)
"""RGB; joint i has color i, limb i has it at 60 %."""

LIMB_BRIGHTNESS = 0.6
_FLIP_ORDER = np.arange(JOINT_COUNT)
for _right, _left in FLIP_PAIRS:
    _FLIP_ORDER[[_right, _left]] = _left, _right
_SHIFT = 4  # OpenCV's fixed point: 1/16 px
_FAR = 1e6  # px; beyond it OpenCV's fixed point would overflow, and no image is that large


def missing_keypoints() -> np.ndarray:
    """A skeleton without any joint, (18, 3) float32."""
    keypoints = np.zeros((JOINT_COUNT, 3), np.float32)
    keypoints[:, :2] = np.nan
    return keypoints


def present_joints(keypoints: np.ndarray) -> np.ndarray:
    """Which joints are there: (..., 18, 3) -> bool (..., 18)."""
    keypoints = np.asarray(keypoints)
    return np.isfinite(keypoints[..., :2]).all(-1) & (keypoints[..., 2] > 0)


def flip_keypoints(keypoints: np.ndarray, width: int) -> np.ndarray:
    """The skeleton of the horizontally flipped image: flipped places *and* exchanged left and right joints.

    Flipping the drawn map instead would keep the colors and so turn "seen from the front" into "from behind".

    Args:
        keypoints: (..., 18, 3).
        width: the image's width in pixels.

    Returns:
        A new array of the same shape.
    """
    flipped = np.array(keypoints)[..., _FLIP_ORDER, :]
    flipped[..., 0] = width - 1 - flipped[..., 0]
    return flipped


def scale_keypoints(keypoints: np.ndarray, source_size: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Keypoints after resizing their image from `source_size` to `size`, both (height, width) in pixels.

    Centers of pixels move as image resizing moves them: ``x' = (x + 0.5) * width' / width - 0.5``.
    """
    scaled = np.array(keypoints, dtype=np.result_type(np.asarray(keypoints), np.float32))
    factors = np.array([size[1] / source_size[1], size[0] / source_size[0]])
    scaled[..., :2] = (scaled[..., :2] + 0.5) * factors - 0.5
    return scaled


def draw_skeleton(
    keypoints: np.ndarray,
    height: int,
    width: int,
    *,
    source_size: tuple[int, int] | None = None,
    line_width: float | None = None,
) -> np.ndarray:
    """Draw one skeleton on black: limbs at 60 % of their color, joints in full color on top.

    Args:
        keypoints: (18, 3); missing joints and the limbs that end in them are left out.
        height, width: size of the drawing in pixels.
        source_size: (height, width) of the image that the keypoints belong to, if it is another one.
        line_width: half the limbs' width and the joints' radius in pixels; ``max(1, round(height / 128))`` by default.

    Returns:
        RGB uint8 (height, width, 3), anti-aliased.
    """
    keypoints = np.asarray(keypoints, np.float64)
    if keypoints.shape != (JOINT_COUNT, 3):
        raise ValueError(f"keypoints have shape {keypoints.shape}, expected (18, 3)")
    if source_size is not None:
        keypoints = scale_keypoints(keypoints, source_size, (height, width))
    radius = line_width if line_width is not None else max(1, round(height / 128))
    canvas = np.zeros((height, width, 3), np.uint8)
    there = present_joints(keypoints) & (np.abs(np.nan_to_num(keypoints[:, :2])) < _FAR).all(-1)
    points = np.round(np.where(there[:, None], keypoints[:, :2], 0) * (1 << _SHIFT)).astype(int).tolist()
    thickness = max(1, round(2 * radius))
    for (start, end), color in zip(LIMBS, COLORS, strict=False):
        if there[start] and there[end]:
            dark = [LIMB_BRIGHTNESS * channel for channel in color]
            cv2.line(canvas, points[start], points[end], dark, thickness, cv2.LINE_AA, _SHIFT)
    for joint in np.flatnonzero(there):
        cv2.circle(canvas, points[joint], round(radius * (1 << _SHIFT)), COLORS[joint], cv2.FILLED, cv2.LINE_AA, _SHIFT)
    return canvas


def overlay_skeleton(image: np.ndarray, keypoints: np.ndarray, *, opacity: float = 0.8) -> np.ndarray:
    """The skeleton laid over its image, for people to look at.

    Args:
        image: RGB uint8 (H, W, 3).
        keypoints: (18, 3) in that image's pixels.
        opacity: 0 leaves the image as it is, 1 covers it where limbs are.

    Returns:
        RGB uint8 (H, W, 3), a new array.
    """
    height, width = image.shape[:2]
    drawing = draw_skeleton(keypoints, height, width).astype(np.float32)
    cover = opacity * np.minimum(1, drawing.max(-1, keepdims=True) / (255 * LIMB_BRIGHTNESS))
    return np.round(image * (1 - cover) + drawing * cover).clip(0, 255).astype(np.uint8)
