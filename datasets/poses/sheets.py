"""Contact sheets of skeletons over their images, for people to look at: random ones, the worst, or those with nobody.

A sheet shows people's pictures: it stays outside the repository, with the data it was made from.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from datasets.poses.config import ShowPosesConfig
from datasets.poses.skeleton import overlay_skeleton, scale_keypoints
from datasets.poses.table import read_poses
from datasets.runtime.errors import InputError
from datasets.runtime.manifests import manifest_of, recorded_path
from datasets.sources.files import ImageSource, UnreadableFileError
from datasets.sources.index import open_images, read_index
from datasets.sources.pictures import PictureError, decode_pixels

logger = logging.getLogger(__name__)

PICTURE_HEIGHT = 256
"""Rows that a picture is brought to."""
MAX_PICTURE_WIDTH = 384
GAP, CAPTION, PAPER, INK = 6, 16, 255, 40


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One image of a sheet: as it is, then under each of its skeletons."""

    image: np.ndarray
    """RGB uint8 (H, W, 3)."""
    skeletons: Sequence[np.ndarray]
    """(18, 3) each, in the image's pixels."""
    caption: str


def skeleton_sheet(entries: Sequence[Entry], columns: int = 8) -> np.ndarray:
    """Lay entries side by side, `columns` of them a row, each as wide as it is; RGB uint8."""
    if not entries:
        raise ValueError("a sheet needs at least one entry")
    cells = [_cell(entry) for entry in entries]
    rows = [cells[first : first + columns] for first in range(0, len(cells), columns)]
    height = PICTURE_HEIGHT + CAPTION + GAP
    width = max(sum(cell.shape[1] + GAP for cell in row) for row in rows)
    sheet = np.full((len(rows) * height + GAP, width + GAP, 3), PAPER, np.uint8)
    for number, row in enumerate(rows):
        top, left = GAP + number * height, GAP
        for cell in row:
            sheet[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
            left += cell.shape[1] + GAP
    return sheet


def _cell(entry: Entry) -> np.ndarray:
    height, width = entry.image.shape[:2]
    factor = min(PICTURE_HEIGHT / height, MAX_PICTURE_WIDTH / width)
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    picture = cv2.resize(entry.image, size[::-1], interpolation=cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA)
    overlays = [
        overlay_skeleton(picture, scale_keypoints(skeleton, (height, width), size)) for skeleton in entry.skeletons
    ]
    strip = np.concatenate([picture, *overlays], 1)
    cell = np.full((PICTURE_HEIGHT + CAPTION, strip.shape[1], 3), PAPER, np.uint8)
    cell[: size[0]] = strip
    place = (0, size[0] + CAPTION - 4)
    cv2.putText(cell, entry.caption, place, cv2.FONT_HERSHEY_SIMPLEX, 0.36, (INK,) * 3, 1, cv2.LINE_AA)
    return cell


def read_picture(source: ImageSource, path: str) -> np.ndarray:
    """An indexed image, RGB uint8.

    Raises:
        InputError: it is not there any more.
    """
    try:
        content = source.read(path)
    except (UnreadableFileError, OSError) as error:
        raise InputError(
            f"{path} of {source.root} cannot be read any more ({error}); say with --root where the data set lies now"
        ) from None
    try:
        return decode_pixels(content)
    except PictureError as error:
        raise InputError(f"{path} of {source.root} is no image any more ({error}); index the data set again") from None


def index_of(poses: Path) -> Path:
    """The index that a pose artifact was made from, where its manifest says, if its content is still that.

    Raises:
        InputError: it is gone or has been made anew from other images.
    """
    manifest = manifest_of(poses)
    index, sha256 = recorded_path(manifest, "images"), manifest["inputs"]["images"]["sha256"]
    try:
        same = manifest_of(index, "index")["content_sha256"] == sha256
    except InputError:
        same = False
    if not same:
        raise InputError(f"{poses} was made from the index {index}, which is gone or changed; give it with --images")
    return index


def choose(poses: pd.DataFrame, pick: str, count: int, seed: int) -> pd.DataFrame:
    """Rows for a sheet.

    Args:
        poses: with ``keypoints`` and ``status``.
        pick: 'random' and 'worst' (lowest mean score over all 18 joints, a missing one counting 0) of the images with a
            skeleton; 'no-person': random ones of those where nobody was found.
    """
    status = "no-person" if pick == "no-person" else "ok"
    wanted = poses[poses["status"] == status]
    wanted = wanted.assign(score=[float(keypoints[:, 2].mean()) for keypoints in wanted["keypoints"]])
    if pick == "worst":
        return wanted.sort_values(["score", "key"]).head(count)
    order = np.random.default_rng(seed).permutation(len(wanted))[:count]
    return wanted.iloc[np.sort(order)]


def run_show_poses(config: ShowPosesConfig) -> int:
    """Write a contact sheet of a pose artifact's skeletons as PNG."""
    index = config.images or index_of(config.poses)
    images = read_index(index)
    images = images[images["split"].isin(config.splits)]
    poses = read_poses(config.poses).merge(images[["key", "path"]], on="key")
    rows = choose(poses, config.pick, config.count, config.seed)
    if rows.empty:
        counts = ", ".join(f"{count} {status}" for status, count in poses["status"].value_counts().items()) or "none"
        raise InputError(f"{config.poses} has nothing to show for --pick {config.pick}; its images: {counts}")
    with open_images(index, config.root) as source:
        entries = [
            Entry(
                image=read_picture(source, row.path),
                skeletons=[row.keypoints] if config.pick != "no-person" else [],
                caption=f"{row.key[:22]} {row.score:.2f}",
            )
            for row in rows.itertuples()
        ]
    save_sheet(entries, config.png, config.columns)
    logger.info("%d images (%s) of %d on %s", len(entries), config.pick, len(poses), config.png)
    return 0


def save_sheet(entries: Sequence[Entry], file: Path, columns: int = 8) -> None:
    """Write `skeleton_sheet` as PNG; equal entries give equal bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(skeleton_sheet(entries, columns)).save(file, format="PNG")
