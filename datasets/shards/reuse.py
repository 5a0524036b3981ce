"""Shards of earlier artifacts of the same stage, taken over instead of being made again.

A shard is known by what goes into it. It takes no further room where the file system can share it: as a clone (Btrfs,
XFS), which keeps a content of its own, else as a hard link. A link shares later corruption too, so its content is
compared with the earlier manifest now, and `verify` names every artifact that a corrupt file belongs to.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets.runtime.config import StageConfig
from datasets.runtime.errors import ArtifactError
from datasets.runtime.hashing import file_sha256
from datasets.runtime.manifests import finished_beside, manifest_of
from datasets.runtime.remote.copies import fetched
from datasets.shards.index_files import read_index_file

FICLONE = 0x40049409
"""Linux's request to let two files share their blocks until one is written to; see ioctl_ficlone(2)."""


def earlier_artifacts(directory: Path, config: StageConfig) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Finished artifacts beside a stage's working folder, each with its index.

    Passed over are corrupt ones, and those of another version of the stage, which may have written other bytes.
    """
    for artifact in finished_beside(directory):
        try:
            if manifest_of(artifact)["stage_version"] == config.stage_version:
                yield artifact, read_index_file(artifact, config.stage)
        except ArtifactError:
            continue


def take_over(existing: Path, target: Path) -> bool:
    """Take over an earlier artifact's shard after comparing it with that artifact's manifest; False if it is corrupt.

    It appears under its name only when it is whole.
    """
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        listed = {file["name"]: file["sha256"] for file in manifest_of(existing.parent)["files"]}
        _share(fetched(existing, None, listed.get(existing.name)), temporary)
    except (FileNotFoundError, ArtifactError):
        return False
    if file_sha256(temporary) != listed.get(existing.name):
        temporary.unlink()
        return False
    temporary.replace(target)
    return True


def _share(existing: Path, target: Path) -> None:
    """Clone, else hard-link, else copy a file; files of finished artifacts are never written to again."""
    with existing.open("rb") as source:
        try:
            with target.open("wb") as clone:
                fcntl.ioctl(clone.fileno(), FICLONE, source.fileno())
            return
        except OSError:  # no copy-on-write here
            target.unlink()
    try:
        os.link(existing, target)
    except OSError:  # no hard links here, or too many of them
        shutil.copyfile(existing, target)
