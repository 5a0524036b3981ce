"""Training and test images from plain folders, for data and generators that never made shards.

A folder tells whose images it holds in one of two ways:

- a table ``images.csv`` or ``images.parquet`` (or ``synthetic.*`` beside generated images) with the columns
  ``path, pid, camid`` and ``split`` (train, query, gallery or synthetic; training images if there is none). Optional:
  ``key`` (else the path without suffix), ``status`` (rows other than 'ok' are left out), and, of generated images,
  ``source_keys`` (a list; in CSV separated by spaces) and ``target_pose_key``, which a leak-free run checks;
- Market-1501's file names (``0002_c1s1_000451_03.jpg``), in Market-1501's folders, or, for generated images, in the
  folder itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from datasets.runtime.errors import DatasetLayoutError
from datasets.sources import market1501
from datasets.sources.files import is_safe_path

TABLES = ("images.csv", "images.parquet", "synthetic.csv", "synthetic.parquet")
COLUMNS = ("path", "pid", "camid")
SPLIT_FOLDERS = {split: folder for folder, split in market1501.FOLDERS.items()}
SYNTHETIC = "synthetic"


def find_table(folder: Path) -> Path | None:
    """The table of a folder, if it has one."""
    return next((Path(folder) / name for name in TABLES if (Path(folder) / name).is_file()), None)


def read_table(path: Path) -> pd.DataFrame:
    """A folder's table, sorted by key, rows of another status than 'ok' left out.

    Raises:
        DatasetLayoutError: it cannot be read, or lacks a column, or names a file outside the folder.
    """
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
        table = table.astype({"pid": int, "camid": int, "path": str})
    except Exception as error:
        raise DatasetLayoutError(
            f"{path} is no table with {', '.join(COLUMNS)}: {' '.join(str(error).split())}"
        ) from None
    if bad := [name for name in table.path if not name or not is_safe_path(name)]:
        raise DatasetLayoutError(f"{path} names {bad[0]}, which does not lie below it")
    if "key" not in table:
        table = table.assign(key=table.path.str.rpartition(".")[0].str.replace("/", "_"))
    if "status" in table:
        table = table[table.status == "ok"]
    if path.suffix == ".csv" and "source_keys" in table:
        table = table.assign(source_keys=table.source_keys.astype(str).str.split())
    if table.key.duplicated().any():
        raise DatasetLayoutError(f"{path} names {table.key[table.key.duplicated()].iloc[0]} twice")
    return table.sort_values("key", ignore_index=True)


def iterate_folder(folder: Path, split: str) -> Iterator[tuple[dict[str, Any], bytes]]:
    """(metadata, image file's bytes) of each image of a split, as `iterate_samples` gives those of a shard.

    Raises:
        DatasetLayoutError: the folder tells of no image of this split, or a file is missing.
    """
    folder = Path(folder)
    table = find_table(folder)
    rows = _rows_of_table(table, split) if table else _rows_of_names(folder, split)
    if not rows:
        raise DatasetLayoutError(
            f"{folder} holds no {split} images: neither {split}-*.tar, nor a table (images.csv with "
            f"{','.join(COLUMNS)},split), nor files named as Market-1501's"
        )
    for row in rows:
        try:
            yield row, (folder / row["path"]).read_bytes()
        except OSError as error:
            raise DatasetLayoutError(f"{folder / row['path']} cannot be read ({error.strerror})") from None


def _rows_of_table(path: Path, split: str) -> list[dict[str, Any]]:
    table = read_table(path)
    if "split" in table:
        table = table[table.split == split]
    elif split not in ((SYNTHETIC,) if path.stem == SYNTHETIC else ("train", SYNTHETIC)):
        return []
    return table[["key", "path", "pid", "camid"]].to_dict("records")


def _rows_of_names(folder: Path, split: str) -> list[dict[str, Any]]:
    below = folder if split == SYNTHETIC else folder / SPLIT_FOLDERS[split]
    rows = []
    for path in sorted(below.rglob("*.jpg")):
        if (parsed := market1501.parse_name(path.name)) is not None:
            where = {"key": path.name.partition(".")[0], "path": str(path.relative_to(folder))}
            rows.append({**where, "pid": parsed["pid"], "camid": parsed["camid"]})
    return rows
