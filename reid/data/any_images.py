"""Any collection of images, one after the other: shards, a folder that tells identities, or pictures without labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from datasets.runtime.errors import DatasetLayoutError
from datasets.runtime.manifests import manifest_of
from datasets.runtime.regular_files import read_regular
from datasets.runtime.remote.folders import fetch_folder
from datasets.sources.files import refuse_undecodable
from datasets.sources.folders.image_folders import SPLIT_FOLDERS, SYNTHETIC, find_table, read_table, rows_of_names
from datasets.sources.folders.output_forms import PICTURES, key_of, pictures_below
from reid.data.images import iterate_samples

LABELS = ("split", "pid", "camid")


def iterate_images(folder: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    """(facts, file's bytes) of every image: ``key``, with `LABELS` where the folder tells them, else with ``path``.

    Raises:
        DatasetLayoutError: there is no image, a table or a file cannot be read, two pictures share a key, or a name is
            not UTF-8.
        ArtifactError: a tar is corrupt.
    """
    if tars := sorted(fetch_folder(Path(folder)).glob("*-[0-9]*.tar")):
        manifest_of(folder)
        for tar in tars:
            yield from iterate_samples(tar)
        return
    rows = _labeled_rows(folder) or _unlabeled_rows(folder)
    if not rows:
        raise DatasetLayoutError(f"{folder} holds no images: neither shards nor {', '.join(PICTURES)}")
    for row in rows:
        try:
            yield row, read_regular(Path(folder) / row["path"])
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
    rows: dict[str, dict[str, Any]] = {}
    for path in pictures_below(folder):
        inside = path.relative_to(folder)
        refuse_undecodable(folder, str(inside))
        key = key_of(inside)
        if key in rows:
            raise DatasetLayoutError(f"{folder}: {rows[key]['path']} and {inside} both get the key '{key}'; rename one")
        rows[key] = {"key": key, "path": str(inside)}
    return list(rows.values())


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items, the last one shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
