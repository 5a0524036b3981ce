"""Skeletons that a user hands in: a picture of somebody, a JSON file, a drawn skeleton, or rows of a keypoint CSV."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.poses.csv_files import PoseRow, read_pose_csv
from datasets.poses.drawings import UnreadableDrawingError, is_drawing, read_drawing
from datasets.poses.estimation import joints_box, largest_person
from datasets.poses.json_files import UNIT, JsonSkeleton, Size, read_pose_json
from datasets.poses.skeleton import missing_keypoints, present_joints, scale_keypoints
from datasets.poses.views import without_joints_outside
from datasets.runtime.errors import InputError
from datasets.sources.files import image_key
from datasets.sources.pictures import read_picture

logger = logging.getLogger(__name__)

Finder = Callable[[np.ndarray], np.ndarray]
"""(H, W, 3) uint8 RGB to the skeletons of the people in it, (P, 18, 3) in its pixels."""
Box = tuple[int, int, int, int]  # left, top, right, bottom

MOST_STRETCH = 1.4
"""A picture may be this much wider or taller than the model's views and is taken whole; beyond it a box is cut out."""
HEADROOM, FOOTROOM = 0.12, 0.08
"""Space above the highest and below the lowest joint, in heights of the figure, as in a re-ID crop."""
MOST_OUTSIDE = 0.5
"""Share of a box that may lie outside the photograph without a warning."""


class PoseFiles:
    """Finds the skeleton of a file; coordinates come out in pixels of a view of `size`."""

    def __init__(self, tables: Sequence[Path], size: Size, finder: Finder | None = None) -> None:
        """Read the keypoint tables (``name:keypoints_y:keypoints_x``); an image's row is in that image's pixels.

        Args:
            size: height and width of a view.
            finder: finds the people in a picture that no table names.
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
            keypoints = self._in_view(file, read_pose_json(file))
        else:
            image = read_picture(file)
            found = self.in_photo(file, image)
            box = person_box(found, image, self.size)
            warn_of_black(file, box, (image.height, image.width))
            keypoints = keypoints_in_box(found, box, self.size)
        if not present_joints(without_joints_outside(keypoints, self.size[1], self.size[0])).any():
            raise InputError(f"{file}: the pose has no joint, so nothing is requested; give another one")
        return keypoints

    def in_photo(self, file: Path, image: Image.Image, *, required: bool = True) -> np.ndarray:
        """The (18, 3) skeleton of a picture in its own pixels: a table's row, the drawn one, or what a network finds.

        Args:
            required: refuse a picture in which nobody is found, rather than to give a skeleton without joints.

        Raises:
            InputError: none of them gives one.
        """
        row = self.rows.get(image_key(file.name))
        if row is not None and row.status != "ok":
            raise InputError(f"{file}: its row in the keypoint table is unusable ({row.status}); give another pose")
        if row is not None:
            return row.keypoints
        if is_drawing(np.asarray(image)):
            return _of_drawing(file, image)
        if self.finder is None:
            raise InputError(
                f"{file}: its skeleton is unknown; give a JSON file with 18 x [x, y, score] instead, or a table with a "
                "row for this image (--keypoints FILE.csv)"
            )
        try:
            people = self.finder(np.asarray(image))
        except InputError as error:
            raise type(error)(f"{file}: {error}") from None
        people = people[present_joints(people).any(-1)]
        if required and not len(people):
            raise InputError(
                f"{file}: no person was found in this picture; crop it closely around one, or give the skeleton as "
                "JSON (18 x [x, y, score])"
            )
        return _largest(file, people) if len(people) else missing_keypoints()

    def _in_view(self, file: Path, found: JsonSkeleton) -> np.ndarray:
        """A JSON file's skeleton in pixels of the view: as it stands, scaled, or with a box around the person."""
        if found.people > 1:
            logger.warning("%s holds %d people; taking the largest", file, found.people)
        keypoints, (height, width) = found.keypoints, self.size
        if found.size is not None and (found.is_view or found.size == UNIT):
            return scale_keypoints(keypoints, found.size, self.size).astype(np.float32)
        if found.size is not None:
            box = view_box(keypoints, found.size, self.size)
            warn_of_black(file, box, found.size)
            return keypoints_in_box(keypoints, box, self.size)
        inside = without_joints_outside(keypoints, width, height)
        if (present_joints(inside) == present_joints(keypoints)).all():
            return keypoints
        logger.warning(
            "%s does not say how large its picture is, and joints lie outside the %dx%d view: taking a box around the "
            "person; add 'width' and 'height' of the picture to have it otherwise",
            file,
            width,
            height,
        )
        return keypoints_in_box(keypoints, figure_box(keypoints, self.size), self.size)


def _largest(file: Path, people: np.ndarray) -> np.ndarray:
    if len(people) > 1:
        logger.warning("%s shows %d people; taking the largest, crop the picture around another one", file, len(people))
    return people[largest_person(people)]


def _of_drawing(file: Path, image: Image.Image) -> np.ndarray:
    try:
        keypoints = read_drawing(np.asarray(image))
    except UnreadableDrawingError as error:
        raise InputError(
            f"{file} is a drawing of a skeleton that cannot be read ({error}); give the skeleton as JSON "
            "(18 x [x, y, score]), or a photograph"
        ) from None
    logger.info("%s is a drawing: %d joints read by their colors", file, present_joints(keypoints).sum())
    return keypoints


def person_box(keypoints: np.ndarray, image: Image.Image, size: Size) -> Box:
    """The part of a photograph that a view shows: all of it where the proportions fit, else a box around the person.

    The box has the view's proportions and may reach out of the photograph (then black).

    Args:
        keypoints: (18, 3) in the photograph's pixels.
        size: height and width of a view.
    """
    return view_box(keypoints, (image.height, image.width), size)


def view_box(keypoints: np.ndarray, picture: Size, size: Size) -> Box:
    """`person_box` of a picture of that height and width."""
    stretch = (picture[0] / picture[1]) / (size[0] / size[1])
    if 1 / MOST_STRETCH <= stretch <= MOST_STRETCH or not present_joints(keypoints).any():
        return 0, 0, picture[1], picture[0]
    return figure_box(keypoints, size)


def figure_box(keypoints: np.ndarray, size: Size) -> Box:
    """The box around a skeleton with at least one joint, with the proportions of a view of `size`."""
    aspect = size[0] / size[1]
    left, top, right, bottom = joints_box(keypoints)
    figure = max(bottom - top, (right - left) * aspect / 1.5, 1.0)
    height = figure * (1 + HEADROOM + FOOTROOM)
    middle, width = (left + right) / 2, height / aspect
    upper = top - figure * HEADROOM
    x0, y0, x1, y1 = (round(float(side)) for side in (middle - width / 2, upper, middle + width / 2, upper + height))
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


def warn_of_black(file: Path, box: Box, picture: Size) -> None:
    """Say so where most of what a view shows lies outside the picture of that height and width."""
    left, top, right, bottom = box
    inside = max(0, min(right, picture[1]) - max(left, 0)) * max(0, min(bottom, picture[0]) - max(top, 0))
    outside = 1 - inside / ((right - left) * (bottom - top))
    if outside > MOST_OUTSIDE:
        logger.warning(
            "%s: %.0f %% of the box around the person, %s, lies outside the %dx%d picture and is black; give a picture "
            "that shows the whole person, cropped around them",
            file,
            100 * outside,
            box,
            picture[1],
            picture[0],
        )


def keypoints_in_box(keypoints: np.ndarray, box: Box, size: Size) -> np.ndarray:
    """Keypoints of a photograph in pixels of the view that shows its `box`."""
    moved = np.array(keypoints, np.float32)
    moved[:, :2] -= box[:2]
    return scale_keypoints(moved, (box[3] - box[1], box[2] - box[0]), size).astype(np.float32)
