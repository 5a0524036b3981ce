"""Re-hash finished artifacts and name what is damaged."""

from __future__ import annotations

import logging
from pathlib import Path

from datasets.artifacts import MANIFEST, is_complete, json_sha256, manifest_of, verify
from datasets.config import VerifyConfig
from datasets.errors import ArtifactError, InputError

logger = logging.getLogger(__name__)

DAMAGED = 1


def run_verify(config: VerifyConfig) -> int:
    """Check every artifact below the given folders; returns 1 if any is damaged, else 0.

    Raises: InputError: a folder holds no finished artifact.
    """
    damage = []
    artifacts = [artifact for folder in config.artifacts for artifact in find_artifacts(folder)]
    for artifact in artifacts:
        lines = damage_of(artifact)
        damage += lines
        for line in lines:
            logger.error("damaged: %s", line)
        if not lines:
            logger.info("whole: %s", artifact)
    logger.info("%d artifacts checked, %d damaged files", len(artifacts), len(damage))
    return DAMAGED if damage else 0


def find_artifacts(folder: Path) -> list[Path]:
    """The finished artifacts at or below a folder, sorted; unfinished ones (``*.partial``) are left out.

    Raises: InputError: if there are none.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give an artifact or a store")
    if is_complete(folder):
        return [folder]
    found = sorted(path.parent for path in folder.glob(f"**/{MANIFEST}") if not path.parent.name.endswith(".partial"))
    if not found:
        raise InputError(f"{folder} holds no finished artifact (no {MANIFEST} in or below it)")
    return found


def damage_of(artifact: Path) -> list[str]:
    """One line, beginning with the path, for each damaged file of an artifact, its manifest included."""
    try:
        manifest = manifest_of(artifact)
        files = [[file["name"], file["sha256"]] for file in manifest["files"]]
        if json_sha256(files) != manifest["content_sha256"]:
            return [f"{artifact / MANIFEST}: content changed"]
        return [f"{artifact / line}" for line in verify(artifact)]
    except (ArtifactError, KeyError, TypeError, OSError) as error:
        return [f"{artifact / MANIFEST}: cannot be read ({error})"]
