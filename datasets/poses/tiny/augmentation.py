"""Augmentations of a training crop and its skeleton: position, flip, color, sharpness, occluders."""

from __future__ import annotations

import cv2
import numpy as np

from datasets.poses.skeleton import flip_keypoints, missing_keypoints

MAX_ROTATION = 15.0  # degrees
SCALE = (0.75, 1.3)
MAX_STRETCH = 1.12
MAX_SHIFT = 0.10  # of the side
OCCLUDED = 0.25
BLURRED = 0.2
GRAY = 0.1


def augment(
    image: np.ndarray, keypoints: np.ndarray, other: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A random variant of a crop.

    Args:
        image: uint8 (H, W, 3).
        keypoints: (18, 3) in its pixels.
        other: another crop of the same shape, from which occluders are cut.

    Returns:
        A new uint8 image of the same shape and its keypoints; joints moved outside it keep their places there.
    """
    height, width = image.shape[:2]
    if rng.random() < 0.5:
        image, keypoints = image[:, ::-1], flip_keypoints(keypoints, width)
    matrix = _random_placement(height, width, rng)
    border = cv2.BORDER_REPLICATE if rng.random() < 0.7 else cv2.BORDER_CONSTANT
    color = rng.integers(0, 256, 3).tolist()
    image = cv2.warpAffine(
        np.ascontiguousarray(image),
        matrix,
        (width, height),
        flags=cv2.INTER_LINEAR,
        borderMode=border,
        borderValue=color,
    )
    keypoints = keypoints.copy()
    keypoints[:, :2] = keypoints[:, :2] @ matrix[:, :2].T + matrix[:, 2]
    if rng.random() < OCCLUDED:
        _put_in_front(image, other, rng)
    return _recolor(_blur(image, rng), rng), keypoints


def _random_placement(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(2, 3) matrix of a rotation about the middle, scaling, stretching and shift."""
    angle = np.deg2rad(np.clip(rng.normal(0, MAX_ROTATION / 2), -MAX_ROTATION, MAX_ROTATION))
    scale = np.exp(rng.uniform(*np.log(SCALE)))
    stretch = np.exp(rng.uniform(-1, 1) * np.log(MAX_STRETCH))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turn = turn @ np.diag([scale * stretch, scale / stretch])
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    shift = rng.uniform(-MAX_SHIFT, MAX_SHIFT, 2) * (width, height)
    return np.column_stack([turn, middle + shift - turn @ middle])


def _put_in_front(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> None:
    """Cover a rectangle with a piece of another crop or one color, in place."""
    height, width = image.shape[:2]
    tall, wide = int(height * rng.uniform(0.08, 0.4)), int(width * rng.uniform(0.15, 0.6))
    top, left = rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1)
    if rng.random() < 0.6:
        from_top, from_left = rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1)
        image[top : top + tall, left : left + wide] = other[from_top : from_top + tall, from_left : from_left + wide]
    else:
        image[top : top + tall, left : left + wide] = rng.integers(0, 256, 3)


def _blur(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if rng.random() >= BLURRED:
        return image
    if rng.random() < 0.5:
        return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 1.5))
    height, width = image.shape[:2]
    factor = rng.uniform(0.4, 0.9)
    small = cv2.resize(image, (max(1, int(width * factor)), max(1, int(height * factor))), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def _recolor(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Contrast, brightness and tint through one table per channel; sometimes gray."""
    if rng.random() < GRAY:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    gain = np.exp(rng.normal(0, 0.2) + rng.normal(0, 0.06, 3))
    offset = rng.normal(0, 18) + rng.normal(0, 5, 3)
    table = (np.arange(256)[:, None] - 128) * gain + 128 + offset
    return cv2.LUT(image, table.round().clip(0, 255).astype(np.uint8)[:, None])


def forget_outside(keypoints: np.ndarray, height: int, width: int) -> np.ndarray:
    """Keypoints with the joints outside the image set missing: (..., 18, 3)."""
    x, y = keypoints[..., 0], keypoints[..., 1]
    with np.errstate(invalid="ignore"):
        outside = (x < -0.5) | (y < -0.5) | (x > width - 0.5) | (y > height - 0.5)
    return np.where(outside[..., None], missing_keypoints()[0], keypoints)
