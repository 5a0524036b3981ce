"""Shards of earlier artifacts of the same stage, taken over instead of being made again.

A shard is known by what goes into it. It is copied and not hard-linked: corruption of one artifact must not reach
another.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets.runtime.errors import ArtifactError
from datasets.runtime.hashing import file_sha256
from datasets.runtime.manifests import is_complete, manifest_of
from datasets.shards.index_files import read_index_file


def earlier_artifacts(directory: Path, stage: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Finished artifacts beside a stage's working folder, each with its index; corrupt ones are passed over."""
    for artifact in sorted(directory.parent.iterdir()):
        if artifact != directory and artifact.is_dir() and is_complete(artifact):
            try:
                yield artifact, read_index_file(artifact, stage)
            except ArtifactError:
                continue


def copy_checked(existing: Path, target: Path) -> bool:
    """Copy an earlier artifact's shard after comparing it with that artifact's manifest; False if it is corrupt.

    The copy appears under its name only when it is whole.
    """
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        listed = {file["name"]: file["sha256"] for file in manifest_of(existing.parent)["files"]}
        shutil.copyfile(existing, temporary)
    except (FileNotFoundError, ArtifactError):
        return False
    if file_sha256(temporary) != listed.get(existing.name):
        temporary.unlink()
        return False
    temporary.replace(target)
    return True
