"""Folders of generated images as their generators publish them: whose image each is, from its name.

Published code names a picture after its source, and often after the image that lent the pose too. A form declares how.
All pictures of a folder must follow the form of the first, so nothing is left out unseen. One more form is one
`OUTPUT_FORMS.register` (docs/extending.md).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath

import pandas as pd

from datasets.runtime.errors import DatasetLayoutError
from datasets.runtime.registry import Registry
from datasets.sources import market1501
from datasets.sources.files import is_ignored, refuse_undecodable

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
"""File names that count as pictures in a folder that says nothing about them."""
GENERATED_FOLDERS = ("query_gen", "bounding_box_test_gen", "bounding_box_train_gen")
"""Folders beside Market-1501's own ones in which Pose2ID keeps what it has drawn."""

Names = tuple[str, str | None]
"""Source image and pose image, both without suffix; None: the name does not say which pose."""


@dataclass(frozen=True)
class OutputForm:
    """How one generator names what it has drawn."""

    name: str
    text: str
    """How names look, for messages and documentation."""
    parse: Callable[[PurePath], Names | None]
    """From a picture's path below its folder; None if it is not of this form."""


def _in_pose_folders(path: PurePath) -> Names | None:
    return (_stem(path.name), None) if re.fullmatch(r"pose\d+", path.parent.name) else None


def _joined_by(joint: str) -> Callable[[PurePath], Names | None]:
    def parse(path: PurePath) -> Names | None:
        source, found, pose = path.stem.removesuffix("_vis").partition(joint)
        return (_stem(source), _stem(pose)) if found else None

    return parse


def _stem(name: str) -> str:
    return name.partition(".")[0]


OUTPUT_FORMS: Registry[OutputForm] = Registry(
    "form of generated images' names",
    OutputForm("pose2id", "pose1/SOURCE.jpg ... pose8/SOURCE.jpg", _in_pose_folders),
    OutputForm("pcdms", "SOURCE_to_TARGET.png", _joined_by("_to_")),
    OutputForm("gfla", "SOURCE_2_TARGET_vis.jpg, with or without '_vis'", _joined_by("_2_")),
    OutputForm("patn", "SOURCE.jpg___TARGET.jpg_vis.jpg", _joined_by("___")),
)


def pictures_below(folder: Path) -> list[Path]:
    """Every picture of a folder and its sub-folders, by path; hidden ones and macOS's shadows are none."""
    found = (path for path in Path(folder).rglob("*") if path.suffix.lower() in PICTURES and path.is_file())
    return sorted(path for path in found if not is_ignored(path.relative_to(folder).as_posix()))


def key_of(path: PurePath) -> str:
    """A picture's key: its path without suffix, ``_`` for ``/``."""
    return str(path.with_suffix("")).replace("/", "_")


def published_table(folder: Path) -> pd.DataFrame | None:
    """A folder of generated images in one of the forms: ``key, path, pid, camid, source_keys, target_pose_key``.

    Returns:
        None if its first picture is of no form; without the column ``target_pose_key`` where the form does not say it.

    Raises:
        DatasetLayoutError: a later picture is of another form, a source is no image of Market-1501, or a name is not
            UTF-8.
    """
    below = [Path(folder) / name for name in GENERATED_FOLDERS if (Path(folder) / name).is_dir()] or [Path(folder)]
    paths = [path.relative_to(folder) for place in below for path in pictures_below(place)]
    form = next((form for form in OUTPUT_FORMS.values() if paths and form.parse(paths[0])), None)
    if form is None:
        return None
    table = pd.DataFrame([_row(path, form, folder) for path in paths])
    if table.key.duplicated().any():
        raise DatasetLayoutError(f"{folder} has two pictures of key {table.key[table.key.duplicated()].iloc[0]}")
    return table.drop(columns="target_pose_key") if table.target_pose_key.isna().all() else table


def _row(path: PurePath, form: OutputForm, folder: Path) -> dict[str, object]:
    refuse_undecodable(folder, str(path))
    names = form.parse(path)
    parsed = None if names is None else market1501.parse_name(f"{names[0]}.jpg")
    if names is None or parsed is None:
        raise DatasetLayoutError(
            f"{folder}: {path} is not named as the first picture, {form.text}, with sources as 0002_c1s1_000451_03; "
            "remove it, or give the folder a table images.csv with path,pid,camid,source_keys"
        )
    labels = {"pid": parsed["pid"], "camid": parsed["camid"]}
    return {"key": key_of(path), "path": str(path), **labels, "source_keys": [names[0]], "target_pose_key": names[1]}
