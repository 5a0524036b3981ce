"""The manifest of an artifact: what was made, from what, by which versions, and the hash of every file.

It is written last: a folder that has one is complete.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from datasets.runtime.atomic import write_text_atomically
from datasets.runtime.config import StageConfig
from datasets.runtime.errors import ArtifactError
from datasets.runtime.hashing import file_sha256, json_sha256

MANIFEST = "manifest.json"
LOGS = "logs"
"""Folder of an artifact for what differs from run to run (times, progress pictures): verified, but not counted in its
content hash, so that an equal retraining re-does nothing downstream."""
SCRATCH = ".scratch"
"""Folder of an unfinished artifact for what is needed only to resume after an interruption (training states); `build`
deletes it once the manifest is written."""
RECORDED_VERSIONS = (
    "torch",
    "diffusers",
    "transformers",
    "torchvision",
    "timm",
    "numpy",
    "pandas",
    "pyarrow",
    "pillow",
)


def is_complete(directory: Path) -> bool:
    """Whether a folder is a finished artifact."""
    return (Path(directory) / MANIFEST).is_file()


def manifest_of(directory: Path, stage: str | None = None) -> dict[str, Any]:
    """The manifest of a finished artifact.

    Raises:
        ArtifactError: if there is none, or it belongs to another stage than `stage`.
    """
    path = Path(directory) / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError:
        raise ArtifactError(
            f"{directory} is not a finished artifact (no {MANIFEST}); run the stage that makes it"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); delete the folder and run its stage again") from None
    if stage is not None and manifest.get("stage") != stage:
        raise ArtifactError(f"{directory} is an artifact of stage '{manifest.get('stage')}', expected '{stage}'")
    return manifest


def model_sha256(folder: Path) -> str:
    """Fingerprint of a saved model's folder by its files' content; a finished artifact's is in its manifest.

    A model card (``*.md``) does not count: rewording one must not train anything again.
    """
    if is_complete(folder):
        return manifest_of(folder)["content_sha256"]
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file() and path.suffix != ".md")
    return json_sha256([[str(path.relative_to(folder)), file_sha256(path)] for path in files])


def write_manifest(
    config: StageConfig, directory: Path, key: str, inputs: dict[str, Any], summary: dict[str, Any], started: float
) -> None:
    """Hash an artifact's files and write its manifest; a half-written ``.NAME.tmp`` of an earlier try is deleted.

    Args:
        config: what the artifact was made from.
        directory: the folder that holds its files.
        key: the artifact's key.
        inputs: path and fingerprint of each input, by field.
        summary: what the stage returned; JSON.
        started: when the work began, in seconds since the epoch.
    """
    for path in directory.rglob(".*.tmp"):  # half-written before a kill, and not needed again
        path.unlink()
    files = [
        {"name": str(path.relative_to(directory)), "size": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path not in (directory / ".key", directory / MANIFEST)
        if path.relative_to(directory).parts[0] != SCRATCH
    ]
    counted = [file for file in files if not file["name"].startswith(f"{LOGS}/")]
    manifest = {
        "stage": config.stage,
        "stage_version": config.stage_version,
        "key": key,
        "content_sha256": json_sha256([[file["name"], file["sha256"]] for file in counted]),
        "summary": summary,
        "config": config.model_dump(mode="json"),
        "inputs": inputs,
        "files": files,
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "seconds": round(time.time() - started, 3),
        "versions": installed_versions(),
    }
    manifest = json.loads(json.dumps(manifest))  # as a reader sees it: keys that are numbers become text, and sort so
    manifest["own_sha256"] = json_sha256(manifest)
    write_text_atomically(directory / MANIFEST, json.dumps(manifest, indent=1) + "\n")


@functools.cache
def installed_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that can change a result; read without importing them."""
    versions = {"python": platform.python_version()}
    for name in RECORDED_VERSIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
