"""The tables of a synthetic set: what was planned, and where every picture comes from."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

PLAN_FILE, TABLE_FILE = "plan.parquet", "synthetic.parquet"
PLAN_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("canvas", pa.int32()),
        ("slot", pa.int32()),
        ("pid", pa.int32()),
        ("camid", pa.int32()),
        ("source_keys", pa.list_(pa.string())),
        ("target_pose_key", pa.string()),
        ("seed", pa.int64()),
    ]
)
TABLE_SCHEMA = pa.schema(
    [
        *PLAN_SCHEMA,
        ("mode", pa.string()),
        ("sampler", pa.string()),
        ("steps", pa.int32()),
        ("guidance", pa.float64()),
        ("unconditional", pa.string()),
        ("generator_sha256", pa.string()),
        ("pose_score", pa.float64()),
        ("contrast", pa.float64()),
        ("saturated", pa.float64()),
        ("source_difference", pa.float64()),
        ("status", pa.string()),
    ]
)


def write_table(table: pd.DataFrame, schema: pa.Schema, path: Path) -> None:
    """Write a Parquet file that appears whole or not at all; equal tables have equal bytes."""
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(
        pa.Table.from_pandas(table, schema=schema, preserve_index=False).replace_schema_metadata(), temporary
    )
    temporary.replace(path)
