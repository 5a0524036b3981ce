"""Further pictures of test images (in other poses, reconstructed): which image each shows, and whether that may be."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd

from datasets.runtime.errors import ArtifactError, InputError
from datasets.runtime.manifests import (
    LOGS,
    RecordedForm,
    input_path,
    is_complete,
    manifest_of,
    recorded_values,
    summary_of,
)
from datasets.runtime.reading.contents import read_json
from datasets.runtime.remote.copies import is_file
from reid.data.training_set import read_synthetic_table

logger = logging.getLogger(__name__)

DRAWING = f"{LOGS}/drawing.json"
"""How long a set's pictures took: ``pictures`` made in ``seconds``."""


class _Drawn(RecordedForm):
    """A set of `imagpose draw-poses`."""

    images: int = 0
    drawn_images: int | None = None
    test_identities_seen: int | None = None
    """How many of the drawn people its generator was trained on; null: unknown."""


class _Drawing(RecordedForm):
    pictures: int = 0
    seconds: float = 0


class _Encoded(RecordedForm):
    samples: int = 0


def sources_of(folder: Path, test_keys: Collection[str], protocol: str) -> dict[str, str]:
    """The test image that each picture of a set shows, by the picture's key.

    Args:
        test_keys: of all query and gallery images.
        protocol: 'leak-free' refuses a set whose generator has seen test identities, or whose poses are other test
            images'; 'paper' takes it.

    Raises:
        InputError: the set does not say what its pictures show, shows other images, or leaks.
    """
    table, known = read_synthetic_table(folder), set(test_keys)
    if "source_keys" not in table:
        raise InputError(
            f"{folder} does not say which image each picture shows; give it a table images.csv with "
            "path,pid,camid,source_keys, or names as docs/extending.md lists them"
        )
    sources = {key: list(names) for key, names in zip(table.key, table.source_keys, strict=True)}
    for key, names in sources.items():
        if len(names) != 1 or names[0] not in known:
            shown = ", ".join(names[:2]) or "nothing"
            raise InputError(f"{folder}: {key} shows {shown}, expected one query or gallery image of the test set")
    if protocol == "leak-free":
        _refuse_leak(folder, table, known)
    return {key: names[0] for key, names in sources.items()}


def _refuse_leak(folder: Path, table: pd.DataFrame, test_keys: set[str]) -> None:
    seen = identities_seen(folder)
    if seen:
        raise InputError(
            f"{folder} was drawn by a generator that has seen {seen} of the test identities, which protocol "
            "'leak-free' forbids; give a set by another generator, or --protocol paper"
        )
    if seen is None:
        logger.warning("%s does not say what its generator has seen: whether it leaks cannot be checked", folder)
    for row in table.itertuples() if "target_pose_key" in table else ():
        if row.target_pose_key in test_keys and row.target_pose_key not in row.source_keys:
            raise InputError(
                f"{folder}: {row.key} has the pose of another test image ({row.target_pose_key}), which protocol "
                "'leak-free' forbids; draw poses of training images"
            )


def identities_seen(folder: Path) -> int | None:
    """How many of the drawn people the generator was trained on; None if the folder does not say."""
    return summary_of(manifest_of(folder), _Drawn).test_identities_seen if is_complete(folder) else None


def pose_policy(folder: Path) -> str | None:
    """In which poses a set of `imagpose draw-poses` shows the images: 'standard' or 'reconstruction'; else None."""
    return manifest_of(folder)["config"].get("pose_policy") if is_complete(folder) else None


def drawing_seconds(folder: Path) -> float | None:
    """Seconds that drawing took for each image that was drawn, its encoding included; None where nobody measured.

    The encoding's share is missing where its artifact is gone.
    """
    if not is_complete(folder) or not is_file(Path(folder) / DRAWING):
        return None
    manifest = manifest_of(folder)
    drawn, took = summary_of(manifest, _Drawn), recorded_values(read_json(folder, DRAWING), _Drawing, DRAWING)
    if not drawn.drawn_images or not took.pictures:
        return None
    return took.seconds / took.pictures * drawn.images / drawn.drawn_images + _encoding_seconds(manifest)


def _encoding_seconds(manifest: dict[str, Any]) -> float:
    try:
        encoded = manifest_of(input_path(manifest, "encoded"), "encode")
    except (ArtifactError, KeyError):
        return 0.0
    return encoded["seconds"] / max(1, summary_of(encoded, _Encoded).samples)
