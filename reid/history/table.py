"""``history.parquet``: a row for each regeneration that gave another result than the one before it."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from datasets.runtime.atomic import write_bytes_atomically
from datasets.runtime.errors import InputError
from reid.config import HistoryEntry

HISTORY = "history.parquet"
TEXTS = ("counts", "quality", "versions", "config")
"""Columns of mappings, stored as JSON: their names differ from entry to entry."""
GAIN = pa.struct(
    [(name, pa.string()) for name in ("protocol", "arm", "baseline", "unit")]
    + [("fraction", pa.int32())]
    + [(name, pa.float64()) for name in ("value", "low", "high", "before", "after")]
)
NAMES = ("finished", "run", "preset", "variant", "pages", "code", "benchmark", "images", "arm", "reference", "protocol")
SCHEMA = pa.schema(
    [(name, pa.string()) for name in (*NAMES, *TEXTS)] + [("seconds", pa.float64()), ("gains", pa.list_(GAIN))]
)


def read_history(path: Path) -> list[HistoryEntry]:
    """All entries, oldest first; none where there is no file yet.

    Raises:
        InputError: the file is no history.
    """
    if not path.is_file():
        return []
    try:
        rows = pq.read_table(path, schema=SCHEMA).to_pylist()
        return [HistoryEntry(**row | {name: json.loads(row[name]) for name in TEXTS}) for row in rows]
    except (pa.ArrowException, OSError, TypeError, ValueError, ValidationError) as error:
        raise InputError(f"{path} is no history of regenerations ({type(error).__name__}); move it away") from None


def append(path: Path, entry: HistoryEntry) -> list[HistoryEntry]:
    """Add an entry; a reader sees the file before or after it. Returns all of them."""
    entries = [*read_history(path), entry]
    rows = [item.model_dump() for item in entries]
    rows = [row | {name: json.dumps(row[name], sort_keys=True) for name in TEXTS} for row in rows]
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), content)
    write_bytes_atomically(path, content.getvalue())
    return entries


def entry_before(entries: Sequence[HistoryEntry], benchmark: str, variant: str) -> HistoryEntry | None:
    """The newest entry with another result than `benchmark`, so that a run that changes nothing finds the same one."""
    of_series = [entry for entry in entries if entry.variant == variant]
    while of_series and of_series[-1].benchmark == benchmark:
        of_series.pop()
    return of_series[-1] if of_series else None
