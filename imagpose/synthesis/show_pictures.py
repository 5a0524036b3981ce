"""``python -m imagpose show-pictures``: one picture of what a generator makes, from a synthetic set's showcase."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from datasets.runtime.atomic import write_bytes_atomically
from datasets.runtime.errors import ArtifactError, InputError
from datasets.runtime.reading.contents import AGAIN, artifact_file, read_json
from datasets.runtime.reading.tables import read_table
from datasets.sources.pictures import read_picture
from imagpose.config import ShowPicturesConfig
from imagpose.pictures.contact_sheet import SheetRow, contact_sheet
from imagpose.pictures.synthetic_jpeg import encode_synthetic_jpeg

logger = logging.getLogger(__name__)

QUALITY = 90
MADE_BY = pa.schema([("generator_sha256", pa.string())])


def run_show_pictures(config: ShowPicturesConfig) -> int:
    """Write rows of source | target skeletons | generated | real as one marked JPEG; returns the exit code.

    Raises:
        InputError: no finished set, or one without a showcase; a file name that does not end in .jpg.
    """
    if config.jpg.suffix.lower() not in (".jpg", ".jpeg") or (config.jpg.exists() and not config.jpg.is_file()):
        raise InputError(f"--jpg {config.jpg} names no JPEG file; give one that ends in .jpg")
    rows = showcase_rows(config.synthetic)
    if not rows:
        raise InputError(f"{config.synthetic} has no showcase; make the set with --showcase 8")
    sheet = contact_sheet(spread(rows, config.rows), config.scale)
    made_by = read_table(config.synthetic, "synthetic.parquet", MADE_BY).to_pandas()
    config.jpg.parent.mkdir(parents=True, exist_ok=True)
    jpeg = encode_synthetic_jpeg(sheet, made_by.generator_sha256.iloc[0], QUALITY)
    write_bytes_atomically(config.jpg, jpeg)
    logger.info("%d of %d rows in %s", min(config.rows, len(rows)), len(rows), config.jpg)
    return 0


def showcase_rows(directory: Path) -> list[SheetRow]:
    """The rows of a set's ``showcase.json``, pictures loaded.

    Raises:
        ArtifactError: no finished synthetic set, or its showcase is corrupt.
    """
    value = read_json(directory, "showcase.json", "synthesize")

    def pictures(names: Sequence[str]) -> list[np.ndarray]:
        return [np.asarray(read_picture(artifact_file(directory, name))) for name in names]

    try:
        return _rows(value, pictures)
    except (KeyError, TypeError, OSError, ValueError) as error:
        raise ArtifactError(
            f"{directory}/showcase.json or a picture of it cannot be read ({error!r}); {AGAIN}"
        ) from None


def _rows(value: Mapping[str, Any], pictures: Callable[[Sequence[str]], list[np.ndarray]]) -> list[SheetRow]:
    return [
        SheetRow(
            sources=pictures(row["sources"]),
            skeletons=pictures(row["poses"]),
            generated=pictures(row["generated"]),
            truth=pictures(row["truth"]),
        )
        for row in value["rows"]
    ]


def spread(rows: Sequence[SheetRow], count: int) -> list[SheetRow]:
    """`count` rows, evenly over all of them: nothing is chosen by its looks."""
    return [rows[i] for i in np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)]
