"""Any other data set, through a table: a CSV or Parquet file with the columns ``path, pid, camid, split``.

Paths are relative to the table's own folder. A role is told by the pid as in Market-1501 (-1 junk, 0 distractor).
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from datasets.errors import DatasetLayoutError
from datasets.sources import ImageSource, SourceEntry, image_record, is_safe_path

MARKER = ""
COLUMNS = ("path", "pid", "camid", "split")
SPLITS = ("train", "query", "gallery")
MAX_NUMBER = 2**31 - 1


class TableSource(ImageSource):
    """Images that a table lists."""

    def __init__(self, file: Path) -> None:
        super().__init__(file.parent)
        self.table = file


def open_source(file: Path) -> ImageSource:
    """The folder of a table file."""
    if not Path(file).is_file():
        raise DatasetLayoutError(
            f"{file} is not a file; layout 'table' takes a CSV or Parquet with {','.join(COLUMNS)}"
        )
    return TableSource(Path(file))


def read_table(file: Path) -> pd.DataFrame:
    """The table's rows as strings.

    Raises: DatasetLayoutError: if it cannot be read or lacks a column.
    """
    try:
        if file.suffix == ".parquet":
            rows = pd.read_parquet(file).astype(str)
        else:
            rows = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8")
    except Exception as error:
        raise DatasetLayoutError(f"{file} cannot be read as a table: {' '.join(str(error).split())}") from None
    missing = [column for column in COLUMNS if column not in rows.columns]
    if missing:
        raise DatasetLayoutError(f"{file} has no column {', '.join(missing)}; it needs {','.join(COLUMNS)}")
    return rows


def parse_row(row: dict[str, str]) -> tuple[dict[str, int | str] | None, str]:
    """Identity fields of a row, or None and the rule that it breaks."""
    try:
        pid, camid = int(row["pid"]), int(row["camid"])
    except ValueError:
        return None, "a row whose pid and camid are whole numbers"
    if not (-1 <= pid <= MAX_NUMBER and 1 <= camid <= MAX_NUMBER):
        return None, "a row with pid >= -1 and camid >= 1"
    if row["split"] not in SPLITS:
        return None, f"a row whose split is one of {', '.join(SPLITS)}"
    if not is_safe_path(row["path"]) or not row["path"]:
        return None, "a row whose path stays below the table's folder"
    role = {-1: "junk", 0: "distractor"}.get(pid, "person")
    return {"pid": pid, "camid": camid, "sequence": 0, "frame": 0, "role": role}, ""


def list_images(source: ImageSource) -> tuple[list[dict[str, object]], list[str]]:
    """Index rows of the table, not yet checked. The key is the path without its suffix, ``/`` and ``.`` as ``_``."""
    rows = []
    seen: set[str] = set()
    for fields in read_table(source.table).to_dict("records"):
        parsed, rule = parse_row(fields)
        path = fields["path"]
        split = fields["split"] if fields["split"] in SPLITS else "train"
        refused = ("duplicate", "an earlier row has the same path") if path in seen else None
        seen.add(path)
        if parsed is not None:
            parsed["key"] = path.rpartition(".")[0].replace("/", "_").replace(".", "_") or path
        rows.append(image_record(SourceEntry(path, refused), split, parsed, rule))
    return rows, []
