"""Training and test images from plain folders, for data and generators that never made shards.

A folder tells whose images it holds in one of two ways:

- a table ``images.csv`` or ``images.parquet`` (or ``synthetic.*`` beside generated images) with the columns
  ``path, pid, camid`` and ``split`` (train, query, gallery or synthetic; training images if there is none). Optional:
  ``key`` (else the path without suffix), ``status`` (rows other than 'ok' are left out, and counted in the log), and,
  of generated images, ``source_keys`` (a list; in CSV separated by spaces) and ``target_pose_key``, which a leak-free
  run checks;
- Market-1501's file names (``0002_c1s1_000451_03.jpg``), in Market-1501's folders, or, for generated images, in the
  folder itself; generated images also in the forms in which other generators publish them
  (`datasets.sources.folders.output_forms`).

Which files are images follows the rule of the index (`datasets.sources.files`).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from datasets.runtime.errors import DatasetLayoutError, InputError, printable
from datasets.runtime.manifests import is_complete, manifest_of
from datasets.runtime.reading.names import is_safe_path
from datasets.runtime.regular_files import read_regular
from datasets.runtime.remote.folders import fetch_folder
from datasets.sources import market1501
from datasets.sources.files import MAX_NUMBER, ImageSource, image_key, is_ignored, refuse_undecodable, slashed
from datasets.sources.folders.output_forms import published_table

logger = logging.getLogger(__name__)

TABLES = ("images.csv", "images.parquet", "synthetic.csv", "synthetic.parquet")
COLUMNS = ("path", "pid", "camid")
SPLIT_FOLDERS = {split: folder for folder, split in market1501.FOLDERS.items()}
SYNTHETIC = "synthetic"
SPLITS = (*SPLIT_FOLDERS, SYNTHETIC)
INDEX_ADVICE = (
    "images of another layout become shards by 'python -m datasets index --layout NAME', 'extract-poses' and "
    "'write-shards'"
)


def find_table(folder: Path) -> Path | None:
    """The table of a folder, if it has one; of several the first of `TABLES`."""
    found = [Path(folder) / name for name in TABLES if (Path(folder) / name).is_file()]
    if len(found) > 1:
        logger.warning("%s: of several tables %s is read, not %s", folder, found[0].name, found[1].name)
    return found[0] if found else None


def read_table(path: Path) -> pd.DataFrame:
    """A folder's table, sorted by key, rows of another status than 'ok' left out.

    Raises:
        DatasetLayoutError: it cannot be read, lacks a column, names a file outside the folder, an image twice, or a
            split that there is not.
    """
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
        table = table.assign(
            path=table["path"].astype(str).map(slashed), pid=_whole(table, "pid"), camid=_whole(table, "camid")
        )
    except Exception as error:  # whatever the two readers raise on bytes that are no table
        raise DatasetLayoutError(
            f"{path} is no table with {', '.join(COLUMNS)}: {' '.join(str(error).split())}"
        ) from None
    if bad := [name for name in table.path if not name or not is_safe_path(name)]:
        raise DatasetLayoutError(f"{path} names {bad[0]}, which does not lie below it")
    if "key" not in table:
        table = table.assign(key=[(path.rpartition(".")[0] or path).replace("/", "_") for path in table.path])
    if "status" in table:
        _log_left_out(path, table.status[table.status != "ok"])
        table = table[table.status == "ok"]
    _refuse_values(path, table)
    if path.suffix == ".csv" and "source_keys" in table:
        table = table.assign(source_keys=table.source_keys.astype(str).str.split())
    if (twice := _named_twice(table)) is not None:
        raise DatasetLayoutError(f"{path} names {twice} twice")
    return table.sort_values("key", ignore_index=True)


def _read_csv(path: Path) -> pd.DataFrame:
    """Every field as text: a key such as 0002 or NA stays what it is."""
    return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")


def _whole(table: pd.DataFrame, column: str) -> pd.Series:
    """A column as integers.

    Raises:
        ValueError: a value is no whole number.
    """
    numbers = pd.to_numeric(table[column])
    if len(bad := table[column][(numbers % 1 != 0) | ~numbers.between(-MAX_NUMBER, MAX_NUMBER)]):
        raise ValueError(f"{column} '{bad.iloc[0]}' is no whole number up to {MAX_NUMBER}")
    return numbers.astype("int64")


def _refuse_values(path: Path, table: pd.DataFrame) -> None:
    """Refuse keys that are no text, and splits that no reader would ask for: their rows would be left out unsaid."""
    if bad := [key for key in table.key if not (isinstance(key, str) and key)]:
        raise DatasetLayoutError(
            f"{path} has the key {str(bad[0])!r}, expected a text; leave the column out, or mend it"
        )
    if "split" in table and (
        bad := [split for split in table.split if not (isinstance(split, str) and split in SPLITS)]
    ):
        raise DatasetLayoutError(
            f"{path} has the split {str(bad[0])!r}, expected one of {', '.join(SPLITS)}; mend or drop such rows"
        )


def _log_left_out(path: Path, statuses: pd.Series) -> None:
    if len(statuses):
        counts = ", ".join(f"{status}: {count}" for status, count in sorted(Counter(statuses.astype(str)).items()))
        logger.warning("%s: %d rows are left out for their status (%s)", path, len(statuses), counts)


def _named_twice(table: pd.DataFrame) -> str | None:
    """A key that two rows have, but for a query that lies in the gallery too; None if there is none."""
    repeated = table[table.key.duplicated(keep=False)]
    if "split" in table:
        once = repeated.groupby("key").split.agg(lambda splits: sorted(splits) == ["gallery", "query"])
        repeated = repeated[~repeated.key.map(once).fillna(value=False).astype(bool)]
    return None if repeated.empty else str(repeated.key.iloc[0])


def iterate_folder(folder: Path, split: str) -> Iterator[tuple[dict[str, Any], bytes]]:
    """(metadata, image file's bytes) of each image of a split, as `iterate_samples` gives those of a shard.

    Raises:
        DatasetLayoutError: the folder tells of no image of this split, or a file is missing.
    """
    folder = fetch_folder(Path(folder))
    for row in _rows(folder, split):
        try:
            yield row, read_regular(folder / row["path"])
        except OSError as error:
            raise DatasetLayoutError(f"{folder / row['path']} cannot be read ({error.strerror})") from None


def synthetic_problem(folder: Path) -> str | None:
    """Why no run can train on a folder of generated images, told from names and tables alone; None if one can.

    Files are not opened: what they hold is checked when they are read.
    """
    try:
        if not folder.is_dir():
            raise DatasetLayoutError(f"{folder} is not a folder; give one of generated images")
        if is_complete(folder):
            names = {file["name"] for file in manifest_of(folder)["files"]}
            if "synthetic.parquet" not in names or not any(name.endswith(".tar") for name in names):
                raise DatasetLayoutError(f"{folder} is an artifact, but none of 'imagpose synthesize'; give one")
            return None
        for row in _rows(folder, SYNTHETIC):
            if not (file := folder / row["path"]).is_file():
                raise DatasetLayoutError(f"{file} is not there, or no plain file; the folder's table names it")
    except (InputError, OSError) as error:
        return " ".join(str(error).split())
    return None


def _rows(folder: Path, split: str) -> list[dict[str, Any]]:
    """Where the images of a split lie and whom they show.

    Raises:
        DatasetLayoutError: the folder tells of no image of this split.
    """
    table = find_table(folder)
    published = published_table(folder) if split == SYNTHETIC and table is None else None
    if published is not None:
        rows = published[["key", "path", "pid", "camid"]].to_dict("records")
    else:
        rows = _rows_of_table(table, split) if table else rows_of_names(folder, split)
    if not rows:
        raise DatasetLayoutError(
            f"{folder} holds no {split} images: neither {split}-*.tar, nor a table (images.csv with "
            f"{','.join(COLUMNS)},split), nor files named as Market-1501's; {INDEX_ADVICE}"
        )
    return rows


def read_generated_table(folder: Path) -> pd.DataFrame:
    """The images of a folder of generated ones: ``key, path, pid, camid``, and where they come from, if it says.

    Returns:
        Also ``source_keys`` and ``target_pose_key`` where a table or the names tell them.

    Raises:
        DatasetLayoutError: the folder does not say whose images it holds.
    """
    if (found := find_table(fetch_folder(folder))) is not None:
        table = read_table(found)
        return table[table.split == SYNTHETIC] if "split" in table else table
    if (published := published_table(folder)) is not None:
        return published
    return pd.DataFrame(_rows(Path(folder), SYNTHETIC))


def _rows_of_table(path: Path, split: str) -> list[dict[str, Any]]:
    table = read_table(path)
    if "split" in table:
        table = table[table.split == split]
    elif split not in ((SYNTHETIC,) if path.stem == SYNTHETIC else ("train", SYNTHETIC)):
        return []
    return table[["key", "path", "pid", "camid"]].to_dict("records")


def rows_of_names(folder: Path, split: str) -> list[dict[str, Any]]:
    """Rows of the files whose names are Market-1501's; the others are counted and named in the log.

    Raises:
        DatasetLayoutError: two files have the same name, or a path is not UTF-8.
    """
    rows: dict[str, dict[str, Any]] = {}
    passed_over = []
    with ImageSource(folder) as source:
        entries = source.entries("" if split == SYNTHETIC else SPLIT_FOLDERS[split])
    for entry in entries:
        name = entry.path.rpartition("/")[2]
        parsed = market1501.parse_name(name) if entry.refused is None else None
        if parsed is None:
            passed_over += [] if entry.refused is None and is_ignored(entry.path) else [entry.path]
            continue
        refuse_undecodable(folder, entry.path)
        row = {"key": image_key(name), "path": entry.path, "pid": parsed["pid"], "camid": parsed["camid"]}
        if (first := rows.setdefault(row["key"], row)) is not row:
            raise DatasetLayoutError(f"{folder} holds {row['key']} twice: {first['path']} and {row['path']}")
    if passed_over:
        logger.warning(
            "%s: %d files are passed over, whose names are not Market-1501's: %s",
            folder,
            len(passed_over),
            ", ".join(map(printable, passed_over[:3])),
        )
    return list(rows.values())
