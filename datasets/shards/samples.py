"""One sample of a shard: its JSON checked, its picture decoded, and one error that names the file and the sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from datasets.poses.skeleton import JOINT_COUNT
from datasets.poses.views import crop_of, open_picture
from datasets.runtime.errors import ArtifactError
from datasets.runtime.reading.json_values import parse_object
from datasets.shards.tars import image_of

AGAIN = "make its folder again"
MOST_JSON_BYTES = 1 << 20
"""Of a sample; ours have 1 kB."""

Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]
Joint = Annotated[tuple[Number | None, Number | None, Number], Field(strict=False)]
Keypoints = Annotated[list[Joint | None], Field(min_length=JOINT_COUNT, max_length=JOINT_COUNT)]
Whole = Annotated[int, Field(ge=-(2**31), lt=2**31)]
Side = Annotated[int, Field(ge=1, le=65_535)]


class _Facts(BaseModel):
    """Types of what readers use, where a sample has it."""

    model_config = ConfigDict(strict=True)

    key: str | None = None
    pid: Whole | None = None
    camid: Whole | None = None
    split: str | None = None
    width: Side | None = None
    height: Side | None = None
    crop: list[int] | None = None
    view: Annotated[list[Side], Field(min_length=2, max_length=2)] | None = None
    keypoints: Keypoints | None = None
    found_keypoints: Keypoints | None = None


def sample_facts(path: Path, key: str, members: Mapping[str, bytes], *required: str) -> dict[str, Any]:
    """What a sample's JSON says.

    Args:
        path: the shard.
        key: the sample's key.
        members: its files by kind.
        required: fields that it must have.

    Raises:
        ArtifactError: no JSON, or fields that are absent, of another type, or of another sample.
    """
    try:
        content = members["json"]
        if len(content) > MOST_JSON_BYTES:
            raise ValueError(f"its JSON has {len(content)} bytes, more than {MOST_JSON_BYTES}")
        facts = parse_object(content)
        _Facts.model_validate(facts)
        if absent := [name for name in required if facts.get(name) is None]:
            raise ValueError(f"its JSON has no '{absent[0]}'")
        if facts.get("crop") is not None and None in (facts.get("width"), facts.get("height")):
            raise ValueError("its JSON has a crop and no size of the picture")
        crop_of(facts)
        if facts.get("key", key) != key:
            raise ValueError("its JSON is of another sample")
    except (KeyError, ValueError) as error:
        raise unreadable(path, key, error) from None
    return facts


def sample_picture(path: Path, key: str, members: Mapping[str, bytes], facts: Mapping[str, Any]) -> Image.Image:
    """A sample's picture as `open_picture` gives it.

    Raises:
        ArtifactError: it cannot be decoded, is a bomb, or has another size than the sample's JSON says.
    """
    try:
        return open_picture(image_of(members), facts)
    except (KeyError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise unreadable(path, key, error) from None


def keypoints_from_json(rows: Sequence[Sequence[float | None] | None]) -> np.ndarray:
    """(18, 3) float32 x, y, score from a sample's JSON; a missing joint is NaN, NaN, 0."""
    missing = (float("nan"), float("nan"), 0.0)
    return np.array([missing if row is None or row[0] is None else row for row in rows], np.float32)


def unreadable(path: Path, key: str, error: Exception) -> ArtifactError:
    """What is wrong with a sample, in one line."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        reason = f"its JSON's {'.'.join(map(str, first['loc']))}: {first['msg']}"
    else:
        reason = f"it lacks {error.args[0]}" if isinstance(error, KeyError) else " ".join(str(error).split())
    return ArtifactError(f"{path}: sample '{key}' cannot be read ({reason}); {AGAIN}")
