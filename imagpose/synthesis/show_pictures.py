"""``python -m imagpose show-pictures``: one picture of what a generator makes, from a synthetic set's showcase."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from datasets.runtime.errors import InputError
from datasets.runtime.manifests import manifest_of
from datasets.sources.pictures import read_picture
from imagpose.config import ShowPicturesConfig
from imagpose.pictures.contact_sheet import SheetRow, contact_sheet
from imagpose.pictures.synthetic_jpeg import encode_synthetic_jpeg

logger = logging.getLogger(__name__)

QUALITY = 90


def run_show_pictures(config: ShowPicturesConfig) -> int:
    """Write rows of source | target skeletons | generated | real as one marked JPEG; returns the exit code.

    Raises:
        InputError: no finished set, or one without a showcase; a file name that does not end in .jpg.
    """
    if config.jpg.suffix.lower() not in (".jpg", ".jpeg") or (config.jpg.exists() and not config.jpg.is_file()):
        raise InputError(f"--jpg {config.jpg} names no JPEG file; give one that ends in .jpg")
    manifest_of(config.synthetic, "synthesize")
    rows = showcase_rows(config.synthetic)
    if not rows:
        raise InputError(f"{config.synthetic} has no showcase; make the set with --showcase 8")
    sheet = contact_sheet(spread(rows, config.rows), config.scale)
    made_by = pd.read_parquet(config.synthetic / "synthetic.parquet", columns=["generator_sha256"])
    config.jpg.parent.mkdir(parents=True, exist_ok=True)
    config.jpg.write_bytes(encode_synthetic_jpeg(sheet, made_by.generator_sha256.iloc[0], QUALITY))
    logger.info("%d of %d rows in %s", min(config.rows, len(rows)), len(rows), config.jpg)
    return 0


def showcase_rows(directory: Path) -> list[SheetRow]:
    """The rows of a set's ``showcase.json``, pictures loaded."""
    value = json.loads((directory / "showcase.json").read_text())

    def pictures(names: Sequence[str]) -> list[np.ndarray]:
        return [np.asarray(read_picture(directory / name)) for name in names]

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
