"""The report's pictures: person images as data URIs, so that the report is one file and loads nothing from the network.

Every image is decoded and encoded again by Pillow; bytes and names of a data set never reach the report as they are.
An image that cannot be had becomes an empty frame with the reason, never a gap.
"""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from datasets.poses.skeleton import JOINT_COUNT, overlay_skeleton, present_joints
from datasets.runtime.errors import ArtifactError, InputError
from datasets.runtime.reading.json_values import read_object
from datasets.runtime.reading.tables import read_table
from datasets.runtime.regular_files import read_regular
from datasets.shards.tars import read_chosen
from datasets.sources.files import UnreadableFileError
from datasets.sources.index import open_images, read_index
from datasets.sources.pictures import PictureError, decode_picture

logger = logging.getLogger(__name__)

PHOTO_HEIGHT = 192
"""Greatest height in pixels at which a photo is embedded; Market-1501's are 128."""
OVERLAY_HEIGHT = 256
"""Height at which skeletons are drawn, so that limbs are thin beside the person."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image of the report: `uri` is empty where it could not be had, and `note` then says why."""

    uri: str = ""
    width: int = 64
    height: int = 128
    label: str = ""
    note: str = ""
    mark: str = ""
    """'right', 'wrong' or nothing."""


def embed(
    image: Image.Image, label: str = "", *, most_height: int = PHOTO_HEIGHT, photo: bool = True, mark: str = ""
) -> Picture:
    """A picture of the report: JPEG for photos, PNG for drawings; larger ones are scaled down."""
    image = image.convert("RGB")
    if image.height > most_height:
        image = image.resize(
            (max(1, round(image.width * most_height / image.height)), most_height), Image.Resampling.LANCZOS
        )
    buffer = io.BytesIO()
    if photo:
        image.save(buffer, "JPEG", quality=90, subsampling=0, optimize=True)
    else:
        image.save(buffer, "PNG", optimize=True)
    kind = "jpeg" if photo else "png"
    uri = f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(uri=uri, width=image.width, height=image.height, label=label, mark=mark)


def embed_file(path: Path, label: str = "", **options: Any) -> Picture:
    """`embed` of an image file; an empty frame if it cannot be read."""
    try:
        return embed_bytes(read_regular(path), label, **options)
    except OSError as error:
        logger.warning("%s cannot be shown: %s", path, error)
        return Picture(label=label, note="cannot be read")


def embed_bytes(data: bytes, label: str = "", **options: Any) -> Picture:
    """`embed` of an encoded image; an empty frame if it cannot be decoded."""
    try:
        return embed(decode_picture(data), label, **options)
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be shown: %s", label, error)
        return Picture(label=label, note="cannot be read")


def tar_members(path: Path, keys: Container[str]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Samples of some keys in a shard, extension -> bytes; a corrupt tar ends early. No torch is needed."""
    try:
        yield from read_chosen(path, keys)
    except ArtifactError as error:
        logger.warning("%s", error)


class SourceImages:
    """The data set's images by key, read from its folder or zip as the index says."""

    def __init__(self, directory: Path) -> None:
        """Open an `index` artifact; its data set may have moved away, then every picture is an empty frame."""
        rows = read_index(directory)
        self.table = rows.drop_duplicates("key").set_index("key", drop=False).sort_index()
        try:
            self._source = open_images(directory)
        except InputError as error:
            logger.warning("the data set of %s cannot be opened: %s", directory, error)
            self._source = None

    def open(self, key: str) -> Image.Image:
        """The decoded RGB image.

        Raises:
            UnreadableFileError: it is not listed, not there any more, or no image.
        """
        if self._source is None or key not in self.table.index:
            raise UnreadableFileError("missing", "is not in the index, or its data set is gone")
        data = self._source.read(str(self.table.at[key, "path"]))
        try:
            return decode_picture(data)
        except PictureError as error:
            raise UnreadableFileError("corrupt", str(error)) from None

    def picture(self, key: str, label: str = "", *, mark: str = "") -> Picture:
        """The image in the report, or an empty frame that says why not."""
        try:
            return embed(self.open(key), label or key, mark=mark)
        except UnreadableFileError as error:
            logger.warning("image %s cannot be shown: %s", key, error)
            return Picture(label=label or key, note="image not found", mark=mark)


def overlay_pictures(images: SourceImages, poses: Path, count: int = 10) -> list[Picture]:
    """Training images with their skeletons: people of different identities, every skeleton at least half complete."""
    table = read_table(poses, "poses.parquet").to_pandas().set_index("key").sort_index()
    rows = images.table[(images.table["split"] == "train") & images.table["key"].isin(table.index)]
    people: dict[int, str] = {}
    for key, pid in zip(rows["key"], rows["pid"], strict=True):
        if int(pid) not in people and present_joints(_keypoints(table, key)).sum() >= JOINT_COUNT // 2:
            people[int(pid)] = key
    chosen = _spread(sorted(people), count)
    return [_overlay(images, people[pid], _keypoints(table, people[pid])) for pid in chosen]


def _keypoints(table: pd.DataFrame, key: str) -> np.ndarray:
    return np.asarray(table.at[key, "keypoints"], np.float32).reshape(JOINT_COUNT, 3)


def _overlay(images: SourceImages, key: str, keypoints: np.ndarray) -> Picture:
    try:
        image = images.open(key)
    except UnreadableFileError:
        return Picture(label=key, note="image not found")
    scale = OVERLAY_HEIGHT / image.height
    size = (max(1, round(image.width * scale)), OVERLAY_HEIGHT)
    enlarged = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
    placed = keypoints.copy()
    placed[:, :2] = (placed[:, :2] + 0.5) * scale - 0.5
    drawn = Image.fromarray(overlay_skeleton(enlarged, placed))
    return embed(drawn, key, most_height=OVERLAY_HEIGHT)


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """`count` items spread evenly over a sequence; all of them if there are no more."""
    if len(items) <= count:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, count).astype(int)]


def ranked_pictures(images: SourceImages, keys: Iterable[str], right: Iterable[bool]) -> list[Picture]:
    """A ranked list: the gallery images in order, each marked right or wrong."""
    return [images.picture(key, mark="right" if hit else "wrong") for key, hit in zip(keys, right, strict=True)]


def read_json(path: Path) -> Any | None:
    """A JSON object from its file; None if it is absent or corrupt."""
    try:
        return read_object(path)
    except (OSError, ValueError):
        return None
