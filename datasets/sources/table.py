"""Any other data set, through a table: a CSV or Parquet file with the columns ``path, pid, camid, split``.

Paths are relative to the table's own folder; a backslash in them is read as a slash. A role follows from the pid as in
Market-1501 (-1 junk, 0 distractor).
"""

from __future__ import annotations

import csv
import io
import os
import re
from pathlib import Path

from datasets.runtime.errors import DatasetLayoutError
from datasets.runtime.hashing import json_sha256
from datasets.runtime.reading.names import is_safe_path
from datasets.runtime.regular_files import read_regular
from datasets.runtime.remote.addresses import is_remote
from datasets.runtime.remote.copies import is_file
from datasets.runtime.remote.listings import listed_files as storage_list
from datasets.sources.files import MAX_NUMBER, ImageSource, Listing, Row, SourceEntry, image_record, slashed

COLUMNS = ("path", "pid", "camid", "split")
SPLITS = ("train", "query", "gallery")
EXPECTED = f"expected a CSV or Parquet file with {','.join(COLUMNS)}"
MAX_TABLE_BYTES = 1 << 30
"""Tens of millions of rows."""
_NUMBER = re.compile(r"-?[0-9]{1,10}")


class TableSource(ImageSource):
    """Images that a table lists."""

    def __init__(self, file: Path) -> None:
        super().__init__(file.parent)
        self.table = file

    def _open(self) -> None:
        """Nothing: what the table lists is read by its path."""


def open_source(file: Path) -> ImageSource:
    """The folder of a table file."""
    if not is_file(Path(file)):
        raise DatasetLayoutError(
            f"{file} is not a file; layout 'table' takes a CSV or Parquet with {','.join(COLUMNS)}"
        )
    return TableSource(Path(file))


def read_table(file: Path) -> list[dict[str, str]]:
    """The table's rows: path, pid, camid, split as strings; a row of another length than the header has pid ''.

    Raises:
        DatasetLayoutError: if it cannot be read or lacks a column.
    """
    try:
        names, rows = _read_parquet(file) if file.suffix.lower() == ".parquet" else _read_csv(file)
    except UnicodeDecodeError as error:
        raise DatasetLayoutError(f"{file} is not UTF-8 text ({error}); save the table as UTF-8") from None
    except (OSError, csv.Error) as error:
        raise DatasetLayoutError(f"{file} cannot be read as a table: {' '.join(str(error).split())}") from None
    missing = [column for column in COLUMNS if names.count(column) != 1]
    if missing:
        raise DatasetLayoutError(
            f"{file} lacks or repeats {', '.join(missing)}; it needs {','.join(COLUMNS)}, separated by commas"
        )
    places = [names.index(column) for column in COLUMNS]
    return [_fields(row, places if len(row) == len(names) else None) for row in rows]


def _fields(row: list[str], places: list[int] | None) -> dict[str, str]:
    """A row's fields by column; of one that has another length than the header only what should be the path."""
    values = [row[0], "", "", ""] if places is None else [row[place] for place in places]
    path, *others = values
    return dict(zip(COLUMNS, [slashed(path), *others], strict=True))


def _read_csv(file: Path) -> tuple[list[str], list[list[str]]]:
    text = io.StringIO(read_regular(file, MAX_TABLE_BYTES).decode("utf-8-sig"), newline="")
    names, *rows = [row for row in csv.reader(text, strict=True) if row] or [[]]
    return [name.strip() for name in names], rows


def _read_parquet(file: Path) -> tuple[list[str], list[list[str]]]:
    # Imported here, as settings name this layout, and the flows' help should not wait for pyarrow.
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file)
        wanted = [name for name in table.column_names if name in COLUMNS]
        if len(set(wanted)) < len(wanted):
            return wanted, []
        columns = [pc.fill_null(table[name].cast(pa.string()), "").to_pylist() for name in wanted]
    except pa.ArrowException as error:
        raise DatasetLayoutError(f"{file} cannot be read as a table: {' '.join(str(error).split())}") from None
    return wanted, [list(row) for row in zip(*columns, strict=True)]


def parse_row(row: dict[str, str]) -> tuple[Row | None, str]:
    """Identity fields of a row, or None and what is wrong with it."""
    if not (_NUMBER.fullmatch(row["pid"]) and _NUMBER.fullmatch(row["camid"])):
        return None, "the row's pid and camid are not whole numbers, or it has another length than the header"
    pid, camid = int(row["pid"]), int(row["camid"])
    if not (-1 <= pid <= MAX_NUMBER and 1 <= camid <= MAX_NUMBER):
        return None, "the row's pid is below -1, its camid below 1, or a number is too large"
    if row["split"] not in SPLITS:
        return None, f"the row's split is none of {', '.join(SPLITS)}"
    if not is_safe_path(row["path"]) or not row["path"]:
        return None, "the row's path is empty or leads out of the table's folder"
    role = {-1: "junk", 0: "distractor"}.get(pid, "person")
    return {"pid": pid, "camid": camid, "sequence": 0, "frame": 0, "role": role}, ""


def list_images(source: ImageSource) -> Listing:
    """Index rows of the table, not yet checked. The key is the path without its suffix, ``/`` and ``.`` as ``_``."""
    if not isinstance(source, TableSource):
        raise TypeError(f"{source.root} was not opened as a table")
    rows = []
    seen: set[tuple[str, str]] = set()
    for fields in read_table(source.table):
        parsed, problem = parse_row(fields)
        path = fields["path"]
        split = fields["split"] if fields["split"] in SPLITS else "train"
        refused = ("duplicate", "an earlier row has the same path") if (path, split) in seen else None
        seen.add((path, split))
        if parsed is not None:
            parsed["key"] = path.rpartition(".")[0].replace("/", "_").replace(".", "_") or path
        rows.append(image_record(SourceEntry(path, refused), split, parsed, problem))
    return Listing(rows, [])


def key_inputs(root: Path) -> dict[str, object]:
    """What an index's key depends on besides the table's own content: the files that it lists.

    Raises:
        DatasetLayoutError: the table cannot be read.
    """
    return {"listed_files": json_sha256(listed_files(root))} if is_file(root) else {}


def listed_files(file: Path) -> list[list[object]]:
    """Path, size and date of the files that a table lists: what changes when one of them does.

    Raises:
        DatasetLayoutError: the table cannot be read.
    """
    found: list[list[object]] = []
    paths = sorted({row["path"] for row in read_table(file) if row["path"] and is_safe_path(row["path"])})
    if is_remote(file):
        there = storage_list(file.parent)
        return [[path, there[path].size, there[path].stamp] if path in there else [path] for path in paths]
    for path in paths:
        try:
            status = os.stat(file.parent / path)
        except OSError:
            found.append([path])
        else:
            found.append([path, status.st_size, status.st_mtime_ns])
    return found
