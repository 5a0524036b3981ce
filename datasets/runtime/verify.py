"""Re-hash finished artifacts and name what is corrupt."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from pydantic import Field

from datasets.runtime.config import Config
from datasets.runtime.errors import ArtifactError, InputError
from datasets.runtime.hashing import file_sha256, json_sha256
from datasets.runtime.keys import KEY_LENGTH
from datasets.runtime.manifests import MANIFEST, content_sha256, is_complete, manifest_of

logger = logging.getLogger(__name__)

CORRUPT = 1
_KEY = re.compile(rf"[0-9a-f]{{{KEY_LENGTH}}}")


class VerifyConfig(Config):
    """Re-hash finished artifacts."""

    artifacts: list[Path] = Field(min_length=1)
    """Folders of artifacts, or of a whole store."""


def run_verify(config: VerifyConfig) -> int:
    """Check every artifact below the given folders; returns 1 if any is corrupt, else 0.

    Raises:
        InputError: a folder holds no finished artifact.
    """
    problems = []
    artifacts = dict.fromkeys(artifact for folder in config.artifacts for artifact in find_artifacts(folder))
    for artifact in artifacts:
        lines = problems_of(artifact)
        problems += lines
        for line in lines:
            logger.error("corrupt: %s", line)
        if not lines:
            logger.info("intact: %s", artifact)
    logger.info("%d artifacts checked, %d problems", len(artifacts), len(problems))
    return CORRUPT if problems else 0


def find_artifacts(folder: Path) -> list[Path]:
    """The artifacts at or below a folder, sorted: folders with a manifest, and folders of a store that lost theirs.

    Unfinished ones (``*.partial``) are left out; what lies inside an artifact is part of it.

    Raises:
        InputError: if there are none.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give an artifact or a store")
    if is_complete(folder) or _has_a_key(folder):
        return [folder]
    found: list[Path] = []
    for path in sorted(folder.rglob("*")):
        if (found and path.is_relative_to(found[-1])) or not path.is_dir() or _is_working_folder(path, folder):
            continue
        if is_complete(path) or _has_a_key(path):
            found.append(path)
    if not found:
        raise InputError(f"{folder} holds no finished artifact (no {MANIFEST} in or below it)")
    return found


def _has_a_key(path: Path) -> bool:
    """Whether a folder is named as a store names finished artifacts."""
    return _KEY.fullmatch(path.name) is not None


def _is_working_folder(path: Path, top: Path) -> bool:
    return any(part.endswith(".partial") for part in path.relative_to(top).parts)


def problems_of(artifact: Path) -> list[str]:
    """One line, beginning with the path, for each corrupt file of an artifact, its manifest included."""
    try:
        manifest = manifest_of(artifact)
        said = manifest.pop("own_sha256", None)  # manifests of earlier versions have none
        if content_sha256(manifest["files"]) != manifest["content_sha256"] or said not in (None, json_sha256(manifest)):
            return [f"{artifact / MANIFEST}: content changed"]
        return [f"{artifact / line}" for line in verify(artifact)]
    except ArtifactError as error:
        missing = not (artifact / MANIFEST).exists()
        return [f"{artifact / MANIFEST}: {'missing' if missing else f'cannot be read ({error})'}"]
    except OSError as error:
        return [f"{artifact / MANIFEST}: cannot be read ({error!r})"]


def verify(directory: Path) -> list[str]:
    """Re-hash an artifact's files; returns one line for each that is missing, changed or not listed."""
    manifest = manifest_of(directory)
    listed = {file["name"]: file for file in manifest["files"]}
    present = {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_symlink() or not p.is_dir()}
    present -= {MANIFEST}
    problems = [f"{name}: missing" for name in sorted(listed.keys() - present)]
    problems += [f"{name}: not in the manifest" for name in sorted(present - listed.keys())]
    for name in sorted(listed.keys() & present):
        if reason := _problem(directory / name, listed[name]):
            problems.append(f"{name}: {reason}")
    return problems


def _problem(path: Path, listed: dict[str, Any]) -> str | None:
    """What is wrong with a file of an artifact, or None."""
    if not path.is_file():  # a pipe would be waited for, a link to nowhere cannot be read
        return "is no plain file"
    if path.stat().st_size != listed["size"]:
        return f"content changed: {path.stat().st_size} bytes, written were {listed['size']}"
    return None if file_sha256(path) == listed["sha256"] else "content changed"
