"""Skeletons that a user hands in: this project's JSON, that of OpenPose-style tools, or rows of a keypoint CSV."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from datasets.encoded import keypoints_from_json
from datasets.errors import InputError
from datasets.pose_csv import PoseRow, read_pose_csv
from datasets.skeleton import JOINT_COUNT, present_joints, scale_keypoints
from datasets.sources import image_key

Size = tuple[int, int]  # height, width


class PoseFiles:
    """Finds the skeleton of a file; coordinates come out in pixels of a view of `size`."""

    def __init__(self, tables: Sequence[Path], size: Size) -> None:
        """Read the keypoint tables (``name:keypoints_y:keypoints_x``); an image's row is in that image's pixels."""
        self.size = size
        self.rows: dict[str, PoseRow] = {}
        for table in tables:
            self.rows.update(read_pose_csv(table))

    def has_row(self, file: Path) -> bool:
        """Whether a table knows an image."""
        return image_key(file.name) in self.rows

    def pose(self, file: Path) -> np.ndarray:
        """The (18, 3) skeleton that a JSON file holds, or that a table gives for an image.

        Raises: InputError: neither, or no joint in it.
        """
        keypoints = self._of_json(file) if file.suffix.lower() == ".json" else self._of_image(file)
        if not present_joints(keypoints).any():
            raise InputError(f"{file}: the pose has no joint, so nothing is asked for; give another one")
        return keypoints

    def _of_image(self, file: Path) -> np.ndarray:
        row = self.rows.get(image_key(file.name))
        if row is None:
            raise InputError(
                f"{file}: its skeleton is unknown; give a JSON file with 18 x [x, y, score] instead, or a table with a "
                "row for this image (--keypoints FILE.csv)"
            )
        if row.status != "ok":
            raise InputError(f"{file}: its row in the keypoint table is unusable ({row.status}); give another pose")
        image = open_photo(file)
        return scale_keypoints(row.keypoints, (image.height, image.width), self.size).astype(np.float32)

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
    """A photograph as RGB. Raises: InputError: not an image."""
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
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
