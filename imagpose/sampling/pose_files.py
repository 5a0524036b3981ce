"""Skeletons that a user hands in: this project's JSON, that of OpenPose-style tools, or rows of a keypoint CSV."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datasets.poses.csv_files import PoseRow, read_pose_csv
from datasets.poses.skeleton import JOINT_COUNT, present_joints, scale_keypoints
from datasets.runtime.errors import InputError
from datasets.shards.encoded import keypoints_from_json
from datasets.sources.files import image_key

Size = tuple[int, int]  # height, width
Finder = Callable[[np.ndarray], np.ndarray]
Box = tuple[int, int, int, int]  # left, top, right, bottom

MOST_STRETCH = 1.4
"""A picture may be this much wider or taller than the model's views and is taken whole; beyond it a box is cut out."""
HEADROOM, FOOTROOM = 0.12, 0.08
"""Space above the highest and below the lowest joint, in heights of the figure, as in a re-ID crop."""


class PoseFiles:
    """Finds the skeleton of a file; coordinates come out in pixels of a view of `size`."""

    def __init__(self, tables: Sequence[Path], size: Size, finder: Finder | None = None) -> None:
        """Read the keypoint tables (``name:keypoints_y:keypoints_x``); an image's row is in that image's pixels.

        Args:
            size: height and width of a view.
            finder: finds the skeleton of a picture that no table names, (18, 3) in its pixels.
        """
        self.size, self.finder = size, finder
        self.rows: dict[str, PoseRow] = {}
        for table in tables:
            self.rows.update(read_pose_csv(table))

    def pose(self, file: Path) -> np.ndarray:
        """The (18, 3) skeleton that a JSON file holds, or of the person in a picture, as in a view of that person.

        Raises:
            InputError: neither, or no joint in it.
        """
        if file.suffix.lower() == ".json":
            keypoints = self._of_json(file)
        else:
            image = open_photo(file)
            found = self.in_photo(file, image)
            keypoints = keypoints_in_box(found, person_box(found, image, self.size), self.size)
        if not present_joints(keypoints).any():
            raise InputError(f"{file}: the pose has no joint, so nothing is requested; give another one")
        return keypoints

    def in_photo(self, file: Path, image: Image.Image, *, required: bool = True) -> np.ndarray:
        """The (18, 3) skeleton of a picture in its own pixels: a table's row, else what the pose network finds.

        Args:
            required: refuse a picture in which nobody is found, rather than to give a skeleton without joints.

        Raises:
            InputError: neither knows one.
        """
        row = self.rows.get(image_key(file.name))
        if row is not None and row.status != "ok":
            raise InputError(f"{file}: its row in the keypoint table is unusable ({row.status}); give another pose")
        if row is not None:
            return row.keypoints
        if self.finder is None:
            raise InputError(
                f"{file}: its skeleton is unknown; give a JSON file with 18 x [x, y, score] instead, or a table with a "
                "row for this image (--keypoints FILE.csv)"
            )
        found = self.finder(np.asarray(image))
        if required and not present_joints(found).any():
            raise InputError(
                f"{file}: no person was found in this picture; crop it closely around one, or give the skeleton as "
                "JSON (18 x [x, y, score])"
            )
        return found

    def _of_json(self, file: Path) -> np.ndarray:
        try:
            keypoints, size = _parse(json.loads(file.read_text()))
        except OSError as error:
            raise InputError(f"{file} cannot be read: {error.strerror}") from None
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise InputError(
                f"{file} holds no skeleton ({error}); expected 18 x [x, y, score], or an object with 'keypoints', "
                "'width' and 'height', or OpenPose's JSON with 18 joints"
            ) from None
        return keypoints if size is None else scale_keypoints(keypoints, size, self.size).astype(np.float32)


def open_photo(file: Path) -> Image.Image:
    """A photograph as RGB.

    Raises:
        InputError: not an image.
    """
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except (OSError, Image.DecompressionBombError) as error:
        raise InputError(f"{file} cannot be opened as an image: {error}") from None


def _parse(value: Any) -> tuple[np.ndarray, Size | None]:
    """Keypoints and the size (height, width) of the picture they belong to, where the file says it."""
    size: Size | None = None
    if isinstance(value, dict) and "people" in value:
        flat = np.array(value["people"][0]["pose_keypoints_2d"], np.float32).reshape(-1, 3)
        rows = [[None, None, 0.0] if score <= 0 else [x, y, score] for x, y, score in flat.tolist()]
        if "canvas_width" in value:
            size = (int(value["canvas_height"]), int(value["canvas_width"]))
    elif isinstance(value, dict):
        rows = value["keypoints"]
        size = tuple(value["view"]) if "view" in value else (int(value["height"]), int(value["width"]))
    else:
        rows = value
    if len(rows) != JOINT_COUNT:
        raise ValueError(f"{len(rows)} joints, expected {JOINT_COUNT} in OpenPose's COCO order")
    return keypoints_from_json(rows), size


def person_box(keypoints: np.ndarray, image: Image.Image, size: Size) -> Box:
    """The part of a photograph that a view shows: all of it where the proportions fit, else a box around the person.

    The box has the view's proportions and may reach out of the photograph (then black).

    Args:
        keypoints: (18, 3) in the photograph's pixels.
        size: height and width of a view.
    """
    aspect = size[0] / size[1]
    joints = keypoints[present_joints(keypoints), :2]
    stretch = (image.height / image.width) / aspect
    if 1 / MOST_STRETCH <= stretch <= MOST_STRETCH or not len(joints):
        return 0, 0, image.width, image.height
    (left, top), (right, bottom) = joints.min(0), joints.max(0)
    figure = max(bottom - top, (right - left) * aspect / 1.5, 1.0)
    height = figure * (1 + HEADROOM + FOOTROOM)
    middle, width = (left + right) / 2, height / aspect
    upper = top - figure * HEADROOM
    x0, y0, x1, y1 = (round(float(side)) for side in (middle - width / 2, upper, middle + width / 2, upper + height))
    return x0, y0, x1, y1


def keypoints_in_box(keypoints: np.ndarray, box: Box, size: Size) -> np.ndarray:
    """Keypoints of a photograph in pixels of the view that shows its `box`."""
    moved = np.array(keypoints, np.float32)
    moved[:, :2] -= box[:2]
    return scale_keypoints(moved, (box[3] - box[1], box[2] - box[0]), size).astype(np.float32)
