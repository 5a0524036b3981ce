"""People in a photograph of a scene, by a network that is made for crops of one person.

Shown a whole scene, such a network joins parts of several people into one skeleton. So it is shown many crops of a
person's proportions, at several sizes and places; the crops that it is surest of are people. The person is found again
in a crop closely around each.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, product

import cv2
import numpy as np

from datasets.poses.estimation import PoseEstimator, joints_box
from datasets.poses.skeleton import missing_keypoints, present_joints
from datasets.runtime.errors import InputError

Window = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; may reach out of the picture."""

ASPECT = 2.0
"""Height over width of a crop, as in Market-1501."""
SHARES = (1.0, 0.75, 0.56, 0.42)
"""Heights of the crops, as shares of the picture's."""
STRIDE = 0.25
"""Distance of neighboring crops, as a share of their sides."""
MIN_JOINTS, MIN_SCORE, MIN_RELATIVE_SCORE = 8, 0.25, 0.6
"""A person has so many joints, such a mean score over all 18, and this share of the surest person's. On rendered scenes
people have 0.5 to 0.7, and a background without anybody 0.05."""
MOST_OVERLAP = 0.3
"""Two skeletons whose boxes share more than this of the smaller one are of one person."""
MARGIN = 0.12
"""Space around a person's joints in the crop in which it is found again, in heights of the figure."""
MAX_HEIGHT = 720
"""Largest person for whom a picture is searched in full resolution: the crops are shown to a network of 128 rows."""
MAX_WINDOWS = 4000
"""A picture of 4:3 has 320 crops; one that has more than these is of a shape that no camera makes."""
CHUNK = 64


def find_people(estimator: PoseEstimator, picture: np.ndarray) -> np.ndarray:
    """Skeletons of the people in a scene, surest first.

    Args:
        estimator: finds the skeleton of the person that a crop shows.
        picture: (H, W, 3) uint8 RGB.

    Returns:
        (P, 18, 3) float32 in the picture's pixels; P is 0 where nobody is found.

    Raises:
        InputError: the picture is far wider than high, or the other way round.
    """
    height, width = picture.shape[:2]
    factor = min(1.0, MAX_HEIGHT / _tallest(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA) if factor < 1 else picture
    windows = _windows(*small.shape[:2])
    if len(windows) > MAX_WINDOWS:
        raise InputError(f"a picture of {width}x{height} pixels cannot be searched for people; crop it around one")
    candidates = _skeletons(estimator, small, windows)
    people = _distinct(candidates)
    closer = _skeletons(estimator, small, [_window_around(person) for person in people])
    found = np.stack(
        [again if _score(again) >= _score(first) else first for first, again in zip(people, closer, strict=True)]
        or [missing_keypoints()]
    )[: len(people)]
    found[..., :2] = (found[..., :2] + 0.5) / factor - 0.5
    return found.astype(np.float32)


def _tallest(height: int, width: int) -> float:
    """Height of the largest person that fits into a picture."""
    return min(float(height), ASPECT * width)


def _windows(height: int, width: int) -> list[Window]:
    windows = []
    for share in SHARES:
        rows = max(2, round(_tallest(height, width) * share))
        columns = max(1, round(rows / ASPECT))
        margin = min(columns // 4, max(0, width - columns // 2))  # somebody may stand at the picture's edge
        tops = _places(0, height - rows, STRIDE * rows)
        lefts = _places(-margin, max(-margin, width + margin - columns), STRIDE * columns)
        windows += [(left, top, left + columns, top + rows) for top, left in product(tops, lefts)]
    return windows


def _places(first: int, last: int, stride: float) -> list[int]:
    count = 1 + int(np.ceil((last - first) / max(stride, 1)))
    return np.unique(np.linspace(first, last, count).round().astype(int)).tolist()


def _skeletons(estimator: PoseEstimator, picture: np.ndarray, windows: Sequence[Window]) -> list[np.ndarray]:
    """The skeleton that each crop shows, (18, 3) in the picture's pixels; all missing where none is found."""
    chunks = [windows[start : start + CHUNK] for start in range(0, len(windows), CHUNK)]
    found = (estimator.estimate([_crop(picture, window) for window in chunk]) for chunk in chunks)
    skeletons = []
    for window, people in zip(windows, chain.from_iterable(found), strict=True):
        keypoints = np.array(people[0] if len(people) else missing_keypoints(), np.float32)
        keypoints[:, :2] += window[:2]
        skeletons.append(keypoints)
    return skeletons


def _crop(picture: np.ndarray, window: Window) -> np.ndarray:
    """A crop, black where it reaches out of the picture."""
    left, top, right, bottom = window
    crop = np.zeros((bottom - top, right - left, 3), np.uint8)
    part = picture[max(0, top) : max(0, bottom), max(0, left) : max(0, right)]
    y, x = max(0, -top), max(0, -left)
    crop[y : y + part.shape[0], x : x + part.shape[1]] = part
    return crop


def _distinct(skeletons: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The surest skeleton of each person, surest first."""
    sure = [s for s in skeletons if present_joints(s).sum() >= MIN_JOINTS and _score(s) >= MIN_SCORE]
    kept: list[np.ndarray] = []
    for skeleton in sorted(sure, key=_score, reverse=True):
        if kept and _score(skeleton) < MIN_RELATIVE_SCORE * _score(kept[0]):
            break
        if all(_overlap(skeleton, other) <= MOST_OVERLAP for other in kept):
            kept.append(skeleton)
    return kept


def _score(skeleton: np.ndarray) -> float:
    return float(skeleton[present_joints(skeleton), 2].sum()) / len(skeleton)


def _overlap(first: np.ndarray, second: np.ndarray) -> float:
    """What two skeletons' boxes share, of the smaller one."""
    boxes = [joints_box(skeleton) for skeleton in (first, second)]
    sides = [np.maximum(box[2:] - box[:2], 1) for box in boxes]
    shared = np.minimum(boxes[0][2:], boxes[1][2:]) - np.maximum(boxes[0][:2], boxes[1][:2])
    return float(np.prod(np.maximum(shared, 0)) / min(np.prod(side) for side in sides))


def _window_around(skeleton: np.ndarray) -> Window:
    left, top, right, bottom = joints_box(skeleton)
    height = max(bottom - top, (right - left) * ASPECT / 1.5, 8.0) * (1 + 2 * MARGIN)
    middle, upper = (left + right) / 2, (top + bottom - height) / 2
    x0, y0 = round(float(middle - height / ASPECT / 2)), round(float(upper))
    return x0, y0, x0 + round(float(height / ASPECT)), y0 + round(float(height))
