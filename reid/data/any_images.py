"""Any collection of images, one after the other: shards, a folder that tells identities, or pictures without labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets.runtime.errors import DatasetLayoutError
from datasets.runtime.manifests import manifest_of
from reid.data.folders import SPLIT_FOLDERS, SYNTHETIC, find_table, read_table, rows_of_names
from reid.data.images import iterate_samples

LABELS = ("split", "pid", "camid")
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
"""File names that count as pictures in a folder that says nothing about them."""


def iterate_images(folder: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    """(facts, file's bytes) of every image: ``key``, with `LABELS` where the folder tells them, else with ``path``.

    Raises:
        DatasetLayoutError: there is no image, a table or a file cannot be read, or two pictures share a key.
        ArtifactError: a tar is corrupt.
    """
    if tars := sorted(Path(folder).glob("*-[0-9]*.tar")):
        manifest_of(folder)
        for tar in tars:
            yield from iterate_samples(tar)
        return
    rows = _labeled_rows(folder) or _unlabeled_rows(folder)
    if not rows:
        raise DatasetLayoutError(f"{folder} holds no images: neither shards nor {', '.join(PICTURES)}")
    for row in rows:
        try:
            yield row, (Path(folder) / row["path"]).read_bytes()
        except OSError as error:
            raise DatasetLayoutError(f"{Path(folder) / row['path']} cannot be read ({error.strerror})") from None


def _labeled_rows(folder: Path) -> list[dict[str, Any]]:
    """Rows of a folder with a table or in Market-1501's layout; none of any other."""
    if (path := find_table(folder)) is not None:
        table = read_table(path)
        if "split" not in table:
            table = table.assign(split=SYNTHETIC if path.stem == SYNTHETIC else "train")
        return table[["key", "path", *LABELS]].to_dict("records")
    splits = [split for split, name in SPLIT_FOLDERS.items() if (Path(folder) / name).is_dir()]
    return [row | {"split": split} for split in splits for row in rows_of_names(Path(folder), split)]


def _unlabeled_rows(folder: Path) -> list[dict[str, Any]]:
    """Every picture below a folder by its path; the key is the path without suffix, ``_`` for ``/``."""
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in PICTURES and path.is_file())
    rows: dict[str, dict[str, Any]] = {}
    for path in paths:
        inside = path.relative_to(folder)
        key = str(inside.with_suffix("")).replace("/", "_")
        if key in rows:
            raise DatasetLayoutError(f"{folder}: {rows[key]['path']} and {inside} both get the key '{key}'; rename one")
        rows[key] = {"key": key, "path": str(inside)}
    return list(rows.values())
