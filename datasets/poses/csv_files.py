"""The published OpenPose keypoint files: ``name:keypoints_y:keypoints_x``, one image a row, -1 for a missing joint.

PATN's files (https://github.com/tengteng95/Pose-Transfer) and their descendants come with and without spaces and with
trailing commas; all are read. Names may end in any image suffix and have folders in front, as PATN's script writes them
for other data sets (``compute_coordinates.py``). Coordinates are pixels of the image (Market-1501: 64x128; DeepFashion
"resize" files: 176x256) or of DeepFashion's 256x256 original, whose columns 40 to 215 are the picture proper.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.poses.skeleton import JOINT_COUNT, missing_keypoints, present_joints
from datasets.runtime.atomic import write_text_atomically
from datasets.runtime.errors import InputError, printable
from datasets.runtime.regular_files import read_regular
from datasets.sources.files import image_key, is_image_name

HEADER = "name:keypoints_y:keypoints_x"
MISSING = -1
LARGEST = 1_000_000
"""Pixels; a coordinate beyond it lies in no image, and beyond float32 it would not even be a number."""
LONGEST_LINE = 10_000
"""Characters; a row with four decimals has about 400."""
_SEPARATOR = re.compile(r"[,\s]+")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?(nan|inf(inity)?)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class PoseRow:
    """One row of a file: 'ok', 'no-person', or what is wrong with it."""

    status: str
    error: str
    keypoints: np.ndarray
    """(18, 3) x, y, score (of a CSV file 1 or 0); all missing unless ok."""
    size: tuple[int, int] | None = None
    """Height and width of the picture whose pixels the coordinates are, where the row itself says it (JSON)."""
    people: int = 1
    """How many people with a joint the row's file holds; `keypoints` are those of the largest (JSON)."""


def read_pose_csv(file: Path) -> dict[str, PoseRow]:
    """The rows of one file by image key, each with a status; coordinates are the file's own.

    The key is the file name's; where rows of several folders share a file name, it is the path's, with ``_`` for ``/``
    (as layout 'table' has it).

    Raises:
        InputError: the file is not of this format as a whole: unreadable, not UTF-8, another header, a line that names
            no image.
    """
    try:
        text = read_regular(Path(file)).decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(f"{file}, line {line}: not UTF-8 text; save the file as UTF-8") from None
    lines = [line.strip(" \t,") for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    if lines[0].replace(" ", "") != HEADER:
        raise InputError(f"{file} begins with '{printable(lines[0][:60])}', expected the header '{HEADER}'")
    named: list[tuple[int, str, PoseRow]] = []
    for number, line in enumerate(lines[1:], start=2):
        if not line:
            continue
        name, row = parse_pose_line(line)
        if name is None:
            shown = printable(line[:60])
            raise InputError(f"{file}, line {number}: '{shown}' names no image; a row is 'name.jpg: [18 y]: [18 x]'")
        named.append((number, name, row))
    keys = keys_of_names({name for _, name, _ in named})
    rows: dict[str, PoseRow] = {}
    for number, name, row in named:
        key = keys[name]
        rows[key] = _bad("duplicate-row", f"line {number} gives the image a second row") if key in rows else row
    return rows


def keys_of_names(names: set[str]) -> dict[str, str]:
    """The key of each image name: its file name's, its path's where several folders share the file name."""
    short = {name: file_key(name) for name in names}
    shared = {key for key, count in Counter(short.values()).items() if count > 1}
    return {name: path_key(name) if key in shared and "/" in _slashed(name) else key for name, key in short.items()}


def file_key(path: str) -> str:
    """The key of an image by its file name alone."""
    return image_key(_slashed(path).rpartition("/")[2])


def path_key(path: str) -> str:
    """The key of an image by its whole path, as layout 'table' has it."""
    return image_key(_slashed(path).lstrip("./")).replace("/", "_").replace(".", "_")


def _slashed(path: str) -> str:
    return path.replace("\\", "/")


def parse_pose_line(line: str) -> tuple[str | None, PoseRow]:
    """A row's image name (None if it has none) and content."""
    name, *lists = (part.strip() for part in line.split(":", 4))
    if not is_image_name(name) or ".." in _slashed(name).split("/"):
        return None, _bad("malformed", "no image name")
    if len(line) > LONGEST_LINE:
        return name, _bad("malformed", f"has {len(line)} characters, more than {LONGEST_LINE}")
    if len(lists) != 2 or not all(part.startswith("[") and part.endswith("]") for part in lists):
        return name, _bad("malformed", "expected two lists in brackets, y before x")
    try:
        y, x = ([_number(item) for item in _SEPARATOR.split(part[1:-1]) if item] for part in lists)
    except ValueError:
        return name, _bad("not-a-number", "a coordinate is not a number")
    if len(x) != JOINT_COUNT or len(y) != JOINT_COUNT:
        return name, _bad("wrong-length", f"{len(y)} y and {len(x)} x, expected {JOINT_COUNT} each")
    return name, _row(np.array(x), np.array(y))


def _number(item: str) -> float:
    """A coordinate as a number; Python's own reading takes '1_0' and other scripts' digits too."""
    if not _NUMBER.fullmatch(item):
        raise ValueError(item)
    return float(item)


def _row(x: np.ndarray, y: np.ndarray) -> PoseRow:
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return _bad("not-a-number", "a coordinate is not finite")
    missing = x == MISSING
    if (missing != (y == MISSING)).any():
        return _bad("half-missing", "a joint has only one of its coordinates")
    if missing.all():
        return PoseRow("no-person", "", missing_keypoints())
    if max(np.abs(x).max(), np.abs(y).max()) > LARGEST:
        return _bad("out-of-image", f"a coordinate is larger than {LARGEST}, as no image is")
    keypoints = missing_keypoints()
    keypoints[~missing] = np.stack([x[~missing], y[~missing], np.ones((~missing).sum())], -1)
    return PoseRow("ok", "", keypoints)


def _bad(status: str, error: str) -> PoseRow:
    return PoseRow(status, error, missing_keypoints())


def format_pose_row(name: str, keypoints: np.ndarray) -> str:
    """One row in the published form, whole pixels, -1 for a missing joint."""
    there = present_joints(keypoints)
    y, x = (
        [round(float(value)) if is_there else MISSING for value, is_there in zip(column, there, strict=True)]
        for column in (keypoints[:, 1], keypoints[:, 0])
    )
    return f"{name}: {y}: {x}"


def write_pose_csv(file: Path, named_keypoints: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write a file in the published form from (file name, (18, 3) keypoints) pairs; its folder is made if need be."""
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    rows = [format_pose_row(name, keypoints) for name, keypoints in named_keypoints]
    write_text_atomically(Path(file), "\n".join([HEADER, *rows]) + "\n")
