"""JSON that others may have written: parsed with bounds on depth and size, so that no content ends in a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic_core import from_json

from datasets.runtime.regular_files import read_regular

MOST_BYTES = 32 << 20
"""Of a JSON file; the manifest of an artifact of 100,000 files has 20 MB."""


def parse_object(content: str | bytes) -> dict[str, Any]:
    """A JSON object's value.

    Raises:
        ValueError: not JSON, not UTF-8, nested deeper than 200 levels (`json` raises RecursionError), or no object.
    """
    value = from_json(content)
    if not isinstance(value, dict):
        raise ValueError(f"holds a JSON {type(value).__name__}, expected an object")
    return value


def read_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no regular file, larger than `MOST_BYTES`, or see `parse_object`.
    """
    return parse_object(read_regular(path, MOST_BYTES))
