"""The data set of a week on the disk, made from a pool of rendered people, and what is really in it."""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from PIL import ImageEnhance

from benchmarks.year.plan import GALLERY, TRAIN, Week, pid_of
from datasets.miniature.config import MiniatureConfig
from datasets.miniature.render import make_miniature
from datasets.runtime.artifacts import build
from datasets.sources.pictures import read_picture

QUERY = "query"
FOLDERS = (TRAIN, QUERY, GALLERY)
PEOPLE = MiniatureConfig(
    train_identities=12,
    test_identities=5,
    images_per_identity=6,
    distractors=4,
    junk=2,
    width=32,
    height=64,
    seed=77,
)
"""Everybody who may ever appear; five test identities are the fewest that an interval can be computed from."""


def make_pool(folder: Path) -> Path:
    """Render the pool, unless it is there."""
    return build(PEOPLE, make_miniature, output=folder)


def pictures_below(root: Path) -> list[str]:
    """The pictures of a data set, relative to its root, sorted."""
    return sorted(f"{folder}/{path.name}" for folder in FOLDERS for path in (root / folder).glob("*.jpg"))


def put(week: Week, pool: Path, root: Path) -> None:
    """Make the data set what it is in a week; what does not change keeps its bytes and its date."""
    for folder in FOLDERS:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in pictures_below(root):
        if name not in week.files:
            (root / name).unlink()
    for name, version in week.files.items():
        content, path = _content(pool / name, version), root / name
        if not path.is_file() or path.read_bytes() != content:
            path.write_bytes(content)
            set_date([path], week.date)


def _content(path: Path, version: int) -> bytes:
    """A picture's bytes; each version above 0 is darker than the one before."""
    if version == 0:
        return path.read_bytes()
    file = io.BytesIO()
    ImageEnhance.Brightness(read_picture(path)).enhance(0.9**version).save(file, "JPEG", quality=90)
    return file.getvalue()


def hashes(root: Path) -> dict[str, str]:
    """SHA-256 of every picture."""
    return {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in pictures_below(root)}


def counts_of(root: Path) -> dict[str, int]:
    """What a history must say of a data set, counted from the names of its files."""
    names = pictures_below(root)
    parts = Counter(name.partition("/")[0] for name in names if pid_of(name) >= 0)
    return {
        "training images": parts[TRAIN],
        "training people": len({pid_of(name) for name in names if name.startswith(TRAIN)}),
        "queries": parts[QUERY],
        "gallery images": parts[GALLERY],
        "cameras": len({_camera(name) for name in names}),
    }


def answerable_queries(root: Path) -> int:
    """Queries of whom the gallery has a picture by another camera: those that a report counts."""
    found = [name for name in pictures_below(root) if name.startswith((QUERY, GALLERY))]
    gallery = {(pid_of(name), _camera(name)) for name in found if name.startswith(GALLERY)}
    queries = [(pid_of(name), _camera(name)) for name in found if name.startswith(QUERY)]
    return sum(any(pid == other and camera != by for other, by in gallery) for pid, camera in queries)


def _camera(name: str) -> str:
    return name.rpartition("/")[2].split("_")[1][:2]


def set_date(paths: Iterable[Path], date: datetime) -> None:
    """Date files, as a disk would have on that day."""
    for path in paths:
        os.utime(path, (date.timestamp(),) * 2, follow_symlinks=False)


def set_date_of_new(folder: Path, since: float, date: datetime) -> None:
    """Date everything below a folder that has been written since a moment of the real clock."""
    new = [path for path in folder.rglob("*") if path.lstat().st_mtime >= since and path.lstat().st_ctime >= since]
    set_date(sorted(new, reverse=True), date)  # files before their folders
