"""Parquet tables of finished artifacts, read with the columns that their readers count on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from datasets.runtime.errors import ArtifactError
from datasets.runtime.reading.contents import AGAIN, artifact_file

MOST_ROWS = 20_000_000
"""Of a table; the largest real one, the subsets of ten draws of Market-1501, has 260,000."""


def read_table(
    directory: Path,
    name: str,
    columns: pa.Schema | None = None,
    *,
    optional: Sequence[str] = (),
    stage: str | None = None,
) -> pa.Table:
    """A table of a finished artifact.

    Args:
        directory: the artifact.
        name: the table's file below it.
        columns: those that are read, with their types; every column if not given.
        optional: names among `columns` that the table may lack, and then lacks in the result.
        stage: the stage that the artifact must be of.

    Raises:
        ArtifactError: see `artifact_file`; or the file is no Parquet, too long, or lacks a column or has another type.
    """
    path = artifact_file(directory, name, stage)
    try:
        with pq.ParquetFile(path) as file:
            if file.metadata.num_rows > MOST_ROWS:
                raise ValueError(f"{file.metadata.num_rows:,} rows, more than {MOST_ROWS:,}")
            table = file.read() if columns is None else _chosen(file, columns, optional)
            table.validate(full=True)  # text that is not UTF-8 would be found by whoever looks at it first
            return table
    except (OSError, pa.ArrowException, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ArtifactError(f"{path} cannot be read as a table ({reason}); {AGAIN}") from None


def _chosen(file: pq.ParquetFile, columns: pa.Schema, optional: Sequence[str]) -> pa.Table:
    """Some columns in the types that are wanted: text may be stored as another kind of text, numbers as wider ones.

    Raises:
        ValueError: a column is absent, there twice, or has empty places.
        pa.ArrowException: a value does not fit its type.
    """
    names = file.schema_arrow.names
    wanted = pa.schema([column for column in columns if column.name in names or column.name not in optional])
    for column in wanted:
        if names.count(column.name) != 1:
            raise ValueError(f"it has {names.count(column.name)} columns '{column.name}'")
    table = file.read(wanted.names).select(wanted.names).cast(wanted)
    for column in wanted:
        if column.name not in optional and table[column.name].null_count:
            raise ValueError(f"column '{column.name}' has {table[column.name].null_count} empty places")
    return table.replace_schema_metadata(None)
