"""Skeletons in JSON files: this project's own, and those of OpenPose, ControlNet, AlphaPose, MMPose and COCO.

A skeleton is a list of joints: rows ``[x, y, score]``, ``[x, y]`` or null, or the same numbers in one flat list. How
many there are says in which order: 18 (OpenPose's COCO model), 17 (COCO; the neck is the middle of the shoulders), 25
(OpenPose's BODY_25) or 133 (COCO-WholeBody, as DWPose; its first 17). A joint without score, or at (0, 0) in rows of
two, is missing.

Around it may be: nothing; ``{"keypoints": ...}`` with ``width`` and ``height`` (pixels of the picture) or ``view``
([height, width], a sample of encoded shards); ``{"people": [{"pose_keypoints_2d": ...}]}`` (version 1.1:
``pose_keypoints``) with ``canvas_width`` and ``canvas_height``; COCO's ``annotations``; MMPose's ``instances`` and
``keypoint_scores``; or a list of any of these. Coordinates that all lie in about [0, 1] are shares of the picture.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from datasets.poses.csv_files import LARGEST, PoseRow, keys_of_names
from datasets.poses.estimation import largest_person
from datasets.poses.skeleton import missing_keypoints, present_joints
from datasets.runtime.errors import InputError, printable
from datasets.runtime.regular_files import read_regular

Size = tuple[int, int]
"""Height and width in pixels."""
UNIT: Size = (1, 1)
"""Size of a picture whose pixels are given as shares of it."""
KEYPOINTS_SUFFIX = "_keypoints"
"""What OpenPose appends to an image's name."""
MAX_BYTES = 16 << 20
MAX_DEPTH = 8
"""Lists and objects around a skeleton."""
NORMALIZED = (-1.0, 2.0)
"""No person of two joints or more fits into three pixels: coordinates in this range are shares of the picture."""

COCO_17 = {0: 0, 2: 6, 3: 8, 4: 10, 5: 5, 6: 7, 7: 9, 8: 12, 9: 14, 10: 16, 11: 11, 12: 13, 13: 15}
COCO_17 |= {14: 2, 15: 1, 16: 4, 17: 3}
"""Our joint -> place in COCO's order (https://cocodataset.org/#keypoints-2020); the neck (1) is not among them."""
BODY_25 = {joint: joint if joint < 8 else joint + 1 for joint in range(18)}
"""Our joint -> place in OpenPose's BODY_25, which has the middle of the hips as its ninth joint."""
ORDERS: dict[int, Mapping[int, int]] = {
    18: {joint: joint for joint in range(18)},
    17: COCO_17,
    25: BODY_25,
    133: COCO_17,
}
"""Number of joints -> their order."""
NECK, SHOULDERS = 1, (2, 5)

_SEVERAL = ("people", "annotations", "instance_info", "instances")
_JOINTS = ("pose_keypoints_2d", "pose_keypoints", "keypoints")
_SIZES = (("canvas_width", "canvas_height"), ("width", "height"))
_EXPECTED = (
    "expected 18 x [x, y, score] in OpenPose's COCO order (or 17 of COCO, 25 of BODY_25), alone or as 'keypoints' with "
    "'width' and 'height', or a file of OpenPose's with 'people'"
)


@dataclass(frozen=True, slots=True, eq=False)
class JsonSkeleton:
    """The person that a JSON file is about."""

    keypoints: np.ndarray
    """(18, 3) float32 x, y, score; NaN, NaN, 0 where missing."""
    size: Size | None
    """Height and width of the picture whose pixels x and y are, `UNIT` for shares of it; None if the file does not
    say."""
    is_view: bool
    """The coordinates are pixels of a model's view, not of a picture that a view is cut from."""
    people: int
    """How many people with a joint the file holds; `keypoints` are those of the largest."""


def read_pose_json(file: Path) -> JsonSkeleton:
    """The skeleton of a JSON file; all joints missing where the file says that nobody is there.

    Raises:
        InputError: it cannot be read, or holds no skeleton of a known form.
    """
    try:
        value = json.loads(read_regular(file, MAX_BYTES).decode("utf-8-sig"))
        return parse_pose(value)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{file} is not UTF-8 text; save the file as UTF-8") from None
    except RecursionError:
        raise InputError(f"{file} holds no skeleton (nested too deeply); {_EXPECTED}") from None
    except (ValueError, OverflowError) as error:
        raise InputError(f"{file} holds no skeleton ({printable(str(error))}); {_EXPECTED}") from None


def read_pose_folder(folder: Path) -> tuple[dict[str, PoseRow], list[str]]:
    """One row for each JSON file in a folder and below, by image key, and the other files.

    ``NAME.json`` and OpenPose's ``NAME_keypoints.json`` are of the image ``NAME.jpg`` (or any other suffix). Where
    files of several folders share a name, they are of the images at those paths, as in a CSV file.

    Raises:
        InputError: there is no JSON file.
    """
    images: dict[str, str] = {}
    others = []
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.suffix.lower() == ".json":
            images[name] = name[: -len(".json")].removesuffix(KEYPOINTS_SUFFIX)
        elif not file.is_dir():
            others.append(printable(name))
    rows: dict[str, PoseRow] = {}
    keys = keys_of_names(set(images.values()))
    for name, image in images.items():
        key, row = keys[image], _row_of_file(folder / name)
        rows[key] = PoseRow("duplicate-row", f"{name} is its second file", missing_keypoints()) if key in rows else row
    if not rows:
        raise InputError(f"{folder} holds no JSON file; give a folder with one skeleton an image, or a keypoint CSV")
    return rows, others


def _row_of_file(file: Path) -> PoseRow:
    try:
        found = read_pose_json(file)
    except InputError as error:
        return PoseRow("malformed", str(error), missing_keypoints())
    if not found.people:
        return PoseRow("no-person", "", missing_keypoints())
    return PoseRow("ok", "", found.keypoints, found.size, found.people)


def parse_pose(value: Any) -> JsonSkeleton:
    """The skeleton in a JSON value.

    Raises:
        ValueError: it is of no known form, or of several pictures.
    """
    found = _Found()
    found.collect(value)
    if len(found.images) > 1:
        raise ValueError(f"skeletons of {len(found.images)} pictures; give one file for each")
    if len(found.sizes) > 1:
        raise ValueError(f"pictures of several sizes, {' and '.join(f'{w}x{h}' for h, w in sorted(found.sizes))}")
    people = np.stack(found.people or [missing_keypoints()])
    size = next(iter(found.sizes), None)
    if not found.is_view and _is_normalized(people):
        size = size or UNIT
        people[..., :2] = people[..., :2] * (size[1], size[0]) - 0.5  # the left edge is half a pixel left of pixel 0
    return JsonSkeleton(people[largest_person(people)], size, found.is_view, len(found.people))


def _is_normalized(people: np.ndarray) -> bool:
    joints = people[present_joints(people), :2]
    return len(joints) >= 2 and bool(((joints >= NORMALIZED[0]) & (joints <= NORMALIZED[1])).all())


@dataclass(eq=False)
class _Found:
    """What a walk through a JSON value has found."""

    people: list[np.ndarray] = field(default_factory=list)
    sizes: set[Size] = field(default_factory=set)
    images: set[str] = field(default_factory=set)
    is_view: bool = False

    def collect(self, value: Any, depth: int = 0) -> None:
        """Take up the skeletons in a value.

        Raises:
            ValueError: there is something else.
        """
        if depth > MAX_DEPTH:
            raise ValueError("nested too deeply")
        if isinstance(value, dict):
            self._collect_object(value, depth)
        elif isinstance(value, list) and value and not _is_skeleton(value):
            for item in value:
                self.collect(item, depth + 1)
        elif isinstance(value, list):
            self._add(value)
        else:
            raise ValueError(f"{_shown(value)} in place of a skeleton")

    def _collect_object(self, value: dict[str, Any], depth: int) -> None:
        self._note_picture(value)
        for name in _SEVERAL:
            if isinstance(value.get(name), list):
                for item in value[name]:
                    if item != {}:  # nobody, in some tools' words
                        self.collect(item, depth + 1)
                return
        name = next((name for name in _JOINTS if name in value), None)
        if name is None:
            raise ValueError(f"an object without {', '.join(map(repr, (_SEVERAL[0], *_JOINTS)))}")
        joints, scores = value[name], value.get("keypoint_scores")
        if isinstance(joints, list) and isinstance(scores, list) and _is_skeleton(joints):
            joints = _with_scores(joints, scores)
        if not isinstance(joints, list):
            raise ValueError(f"{_shown(joints)} as '{name}'")
        self.collect(joints, depth + 1)

    def _note_picture(self, value: dict[str, Any]) -> None:
        """Take up the size and name of the picture that an object is about, where it has them."""
        if "view" in value:
            size, self.is_view = value["view"], True
            if not (isinstance(size, list) and len(size) == 2):
                raise ValueError(f"view {_shown(size)}, not [height, width]")
            self.sizes.add((_side(size[0]), _side(size[1])))
            return
        for width, height in _SIZES:
            if width in value or height in value:
                self.sizes.add((_side(value.get(height)), _side(value.get(width))))
                break
        if isinstance(value.get("image_id"), (str, int)):
            self.images.add(str(value["image_id"]))
        if isinstance(value.get("images"), list) and "annotations" in value:
            for image in value["images"]:
                if isinstance(image, dict):
                    self._note_picture(image)

    def _add(self, joints: list[Any]) -> None:
        keypoints = coco_18(_rows(joints)) if joints else missing_keypoints()
        if present_joints(keypoints).any():
            self.people.append(keypoints)


def _is_skeleton(value: list[Any]) -> bool:
    """Whether a list is joints, flat or in rows, and not a list of people."""
    if all(item is None or _is_number(item) for item in value):
        return True
    return all(
        row is None or (isinstance(row, list) and len(row) <= 3 and all(x is None or _is_number(x) for x in row))
        for row in value
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _with_scores(joints: list[Any], scores: list[Any]) -> list[Any]:
    """Rows of two with the scores that stand beside them."""
    if len(joints) != len(scores) or not all(isinstance(row, list) and len(row) == 2 for row in joints):
        raise ValueError(f"{len(scores)} keypoint_scores for {len(joints)} keypoints [x, y]")
    return [[*row, score] for row, score in zip(joints, scores, strict=True)]


def _rows(joints: list[Any]) -> np.ndarray:
    """Joints of any form as (N, 3) float32, missing ones as NaN, NaN, 0."""
    if not any(isinstance(row, list) for row in joints):
        width = next((width for width in (3, 2) if len(joints) in {width * count for count in ORDERS}), 3)
        if len(joints) % width:
            raise ValueError(f"{len(joints)} numbers, not three for each joint")
        joints = [joints[start : start + width] for start in range(0, len(joints), width)]
    return np.array([_row(row) for row in joints], np.float32)


def _row(row: Sequence[Any] | None) -> tuple[float, float, float]:
    missing = (math.nan, math.nan, 0.0)
    if row is None:
        return missing
    if len(row) not in (2, 3):
        raise ValueError(f"a joint of {len(row)} numbers, expected [x, y, score] or [x, y]")
    numbers = [math.nan if value is None else _number(value) for value in row]
    score = numbers[2] if len(numbers) == 3 else float(any(numbers))
    if math.isnan(numbers[0]) or math.isnan(numbers[1]) or not score > 0:
        return missing
    return numbers[0], numbers[1], min(score, 1.0)


def _number(value: Any) -> float:
    if not _is_number(value):
        raise ValueError(f"{_shown(value)} in place of a coordinate")
    number = float(value)
    if abs(number) > LARGEST:
        raise ValueError(f"coordinate {number:g}, beyond any picture")
    return number


def _side(value: Any) -> int:
    """A picture's width or height."""
    if not _is_number(value) or not 1 <= value <= LARGEST:
        raise ValueError(f"{_shown(value)} as width or height of the picture, expected 1 to {LARGEST} pixels")
    return int(value)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def coco_18(joints: np.ndarray) -> np.ndarray:
    """Joints (N, 3) in another order as (18, 3) in OpenPose's COCO order, float32.

    Raises:
        ValueError: no known order has N joints.
    """
    order = ORDERS.get(len(joints))
    if order is None:
        raise ValueError(f"{len(joints)} joints, expected 18, or 17 (COCO), 25 (BODY_25), 133 (COCO-WholeBody)")
    keypoints = missing_keypoints()
    keypoints[list(order)] = joints[list(order.values())]
    shoulders = keypoints[list(SHOULDERS)]
    if NECK not in order and present_joints(shoulders).all():
        keypoints[NECK, :2], keypoints[NECK, 2] = shoulders[:, :2].mean(0), shoulders[:, 2].min()
    return keypoints
