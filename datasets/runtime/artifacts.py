"""Artifacts: finished folders named by the hash of what they were made from.

A stage is a frozen config and a function ``make(config, directory) -> summary``. `build` runs it in a working folder
beside the final name, writes ``manifest.json`` last, and renames the folder when it is whole. So a folder that has a
manifest is complete, a second run does nothing, and an interrupted stage finds its own half-done work again.

The key of an artifact covers the stage's name and version, every setting that can change the result, and the
*content* of its inputs (not their paths, not their dates), so an input that is rebuilt to the same bytes re-does
nothing downstream.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict

from datasets.runtime.errors import ArtifactBusyError, ArtifactError, InputError

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
LOGS = "logs"
"""Folder of an artifact for what differs from run to run (times, progress pictures): verified, but not counted in its
content hash, so that an equal retraining re-does nothing downstream."""
SCRATCH = ".scratch"
"""Folder of an unfinished artifact for what is needed only to go on after an interruption (training states); `build`
deletes it once the manifest is written."""
KEY_LENGTH = 16
SECONDS_TO_JOIN = 300.0
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


class Role(Enum):
    """What a config field stands for in an artifact's key."""

    ARTIFACT = "artifact"  # a finished artifact's folder: counts by its content
    FILE = "file"  # a file of the user's: counts by its SHA-256
    TREE = "tree"  # a folder of the user's: counts by the names, sizes and dates of its files
    MODEL = "model"  # a saved model's folder: counts by the content of its files
    RUNTIME = "runtime"  # how, not what: device, workers; never counts


Artifact = Annotated[Path, Role.ARTIFACT]
SourceFile = Annotated[Path, Role.FILE]
SourceTree = Annotated[Path, Role.TREE]
ModelFolder = Annotated[Path, Role.MODEL]


class Config(BaseModel):
    """Base of every config: frozen, typed, unknown fields refused, explained field by field."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=(), validate_default=True
    )


class StageConfig(Config):
    """Settings of one stage whose result is an artifact."""

    stage: ClassVar[str]
    """Folder below the store, and the command's name unless `command` says another."""
    package: ClassVar[str]
    """The package whose command makes it: ``python -m {package} {stage}``."""
    command: ClassVar[str | None] = None
    """The command's name where two packages use the same word for stages of different names."""
    stage_version: ClassVar[int] = 1
    """Raised when the stage's code starts to give another result for the same settings."""

    def further_inputs(self) -> dict[str, object]:
        """What else the result depends on, as it counts in the key; nothing for most stages."""
        return {}


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_sha256(value: object) -> str:
    """SHA-256 of a JSON value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def tree_sha256(root: Path) -> str:
    """Fingerprint of a folder by names, sizes and modification times; a file is taken by its content."""
    if root.is_file():
        return file_sha256(root)
    rows = []
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            try:
                status = os.stat(path)
            except OSError:
                status = os.lstat(path)  # a link to nowhere counts by itself
            rows.append([os.path.relpath(path, root), status.st_size, status.st_mtime_ns])
    return json_sha256(sorted(rows))


def model_sha256(folder: Path) -> str:
    """Fingerprint of a saved model's folder by its files' content; a finished artifact's is in its manifest.

    A model card (``*.md``) does not count: rewording one must not train anything again.
    """
    if is_complete(folder):
        return manifest_of(folder)["content_sha256"]
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file() and path.suffix != ".md")
    return json_sha256([[str(path.relative_to(folder)), file_sha256(path)] for path in files])


def manifest_of(directory: Path, stage: str | None = None) -> dict[str, Any]:
    """The manifest of a finished artifact.

    Raises: ArtifactError: if there is none, or it belongs to another stage than `stage`.
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


def is_complete(directory: Path) -> bool:
    """Whether a folder is a finished artifact."""
    return (Path(directory) / MANIFEST).is_file()


def _fingerprint(role: Role, path: Path) -> str:
    if role is Role.ARTIFACT or (role is Role.TREE and is_complete(path)):  # a rendered data set, made by a stage
        return manifest_of(path)["content_sha256"]
    if not path.exists():
        raise InputError(f"{path} does not exist; give the path of an existing file or folder")
    if role is Role.FILE and not path.is_file():
        raise InputError(f"{path} is not a file; give the path of one")
    if role is Role.MODEL:
        return model_sha256(path)
    return file_sha256(path) if role is Role.FILE else tree_sha256(path)


def _role_in(annotation: object, metadata: tuple[object, ...] = ()) -> Role | None:
    """The role marked on a field, also inside ``X | None`` and ``list[X]``."""
    for item in (*metadata, *getattr(annotation, "__metadata__", ())):
        if isinstance(item, Role):
            return item
    for inner in getattr(annotation, "__args__", ()):
        if (role := _role_in(inner)) is not None:
            return role
    return None


def _describe(value: object, role: Role | None, prefix: str, inputs: dict[str, Any]) -> object:
    """A field's value as it counts in the key; `inputs` collects what was read from disk."""
    if isinstance(value, BaseModel):
        return describe_config(value, prefix, inputs)
    if isinstance(value, (list, tuple)):
        return [_describe(item, role, f"{prefix}[{i}]", inputs) for i, item in enumerate(value)]
    if isinstance(value, dict):
        return {str(k): _describe(v, role, f"{prefix}[{k}]", inputs) for k, v in sorted(value.items())}
    if isinstance(value, Path):
        if role in (Role.ARTIFACT, Role.FILE, Role.TREE, Role.MODEL):
            fingerprint = _fingerprint(role, value)
            inputs[prefix] = {"path": str(value), "sha256": fingerprint}
            return fingerprint
        return str(value)
    return value.value if isinstance(value, Enum) else value


def describe_config(config: BaseModel, prefix: str = "", inputs: dict[str, Any] | None = None) -> dict[str, object]:
    """A config as it counts in a key: paths of inputs replaced by their content, runtime fields left out."""
    inputs = {} if inputs is None else inputs
    described = {}
    for name, field in type(config).model_fields.items():
        role = _role_in(field.annotation, tuple(field.metadata))
        if role is not Role.RUNTIME:
            path = f"{prefix}.{name}" if prefix else name
            described[name] = _describe(getattr(config, name), role, path, inputs)
    if isinstance(config, StageConfig):
        described.update(config.further_inputs())
    return described


def artifact_key(config: StageConfig) -> str:
    """The name of the artifact that `config` makes: 16 hex digits over stage, version, settings and inputs."""
    described = [config.stage, config.stage_version, describe_config(config)]
    return json_sha256(described)[:KEY_LENGTH]


def artifact_directory(config: StageConfig, store: Path) -> Path:
    """Where `config`'s artifact lies, or will lie, in a store."""
    return Path(store) / config.stage / artifact_key(config)


def partial_directory(directory: Path) -> Path:
    """The working folder of an unfinished artifact: kept after an interruption, so that the stage can go on."""
    return directory.with_name(directory.name + ".partial")


@contextmanager
def _only_writer(directory: Path) -> Iterator[None]:
    """Hold the artifact's lock; the operating system lets go of it when the process ends, however it ends."""
    lock_path = directory.with_name(f".{directory.name}.lock")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with lock_path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArtifactBusyError(
                f"another process is making {directory} right now; wait for it, or stop it first"
            ) from None
        yield


def build(
    config: StageConfig,
    make: Callable[[Any, Path], dict[str, Any]],
    *,
    store: Path | None = None,
    output: Path | None = None,
) -> Path:
    """Make a stage's artifact unless it is there already.

    Args:
        config: the stage's settings.
        make: writes the artifact's files into the folder it is given (where it may find its own earlier,
            interrupted work) and returns a JSON summary: counts by status and whatever a reader asks first.
        store: the store's root; the artifact's folder is then named by its key.
        output: or an explicit folder, for use by hand.
    Returns: the finished artifact's folder.
    Raises: ArtifactBusyError: another process makes it. ArtifactError: `output` holds something else.
    """
    directory = output if output is not None else artifact_directory(config, store or Path("runs/store"))
    inputs: dict[str, Any] = {}
    key = json_sha256([config.stage, config.stage_version, describe_config(config, inputs=inputs)])[:KEY_LENGTH]
    if _is_reusable(directory, key):
        logger.info("%s: already complete at %s", config.stage, directory)
        return directory
    if int(os.environ.get("RANK", "0")) > 0:  # a further process of a torchrun: the first one keeps the books
        _join(directory, key, lambda folder: make(config, folder))
        return directory
    with _only_writer(directory):
        if _is_reusable(directory, key):  # made by another process while this one came here
            return directory
        started = time.time()
        with _disk_full_explained(directory):
            partial = _working_folder(directory, key)
            if not is_complete(partial):  # else it was killed between the manifest and the renaming
                summary = make(config, partial)
                _write_manifest(config, partial, key, inputs, summary, started)
            shutil.rmtree(partial / SCRATCH, ignore_errors=True)
            (partial / ".key").unlink()
            os.replace(partial, directory)
    logger.info("%s: done in %.1f s: %s", config.stage, time.time() - started, directory)
    return directory


@contextmanager
def _disk_full_explained(directory: Path) -> Iterator[None]:
    """Turn a full disk or quota into an error that says what to do; what is done so far stays."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(
            f"no space left while making {directory} ({error.strerror}); free some and run again, it goes on from there"
        ) from error


def _join(directory: Path, key: str, work: Callable[[Path], object]) -> None:
    """Work along in the working folder that the first process of a torchrun has opened."""
    note = partial_directory(directory) / ".key"
    deadline = time.monotonic() + SECONDS_TO_JOIN
    while not (note.is_file() and note.read_text() == key):
        if time.monotonic() > deadline:
            raise ArtifactError(f"the first process has not opened {note.parent} within {SECONDS_TO_JOIN:.0f} s")
        time.sleep(0.1)
    work(note.parent)


def _working_folder(directory: Path, key: str) -> Path:
    """The working folder, emptied if what lies in it was begun under other settings (an explicit `output`)."""
    partial = partial_directory(directory)
    note = partial / ".key"
    if is_complete(partial) and manifest_of(partial).get("key") == key:
        note.write_text(key)  # the last deed before the renaming is to remove it
    if partial.exists() and (not note.is_file() or note.read_text() != key):
        shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    note.write_text(key)
    return partial


def _is_reusable(directory: Path, key: str) -> bool:
    if not directory.exists():
        return False
    if not is_complete(directory):
        raise ArtifactError(f"{directory} exists but is not an artifact; choose another output or move it away")
    if manifest_of(directory)["key"] != key:
        raise ArtifactError(f"{directory} was made from other settings or inputs; choose another output or delete it")
    return True


def _write_manifest(
    config: StageConfig, directory: Path, key: str, inputs: dict[str, Any], summary: dict[str, Any], started: float
) -> None:
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


def write_text_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old or the new content, never half of it.

    Raises:
        IsADirectoryError: the path is a folder.
        InputError: it is a device or a pipe, which the file would replace (as root even `/dev/null`).
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is not a regular file and is not replaced by one; name another file")
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


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


def verify(directory: Path) -> list[str]:
    """Re-hash an artifact's files; returns one line for each that is missing, changed or not listed."""
    manifest = manifest_of(directory)
    listed = {file["name"]: file for file in manifest["files"]}
    present = {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_symlink() or not p.is_dir()}
    present -= {MANIFEST}
    damage = [f"{name}: missing" for name in sorted(listed.keys() - present)]
    damage += [f"{name}: not in the manifest" for name in sorted(present - listed.keys())]
    for name in sorted(listed.keys() & present):
        if reason := _damage(directory / name, listed[name]):
            damage.append(f"{name}: {reason}")
    return damage


def _damage(path: Path, listed: dict[str, Any]) -> str | None:
    """What is wrong with a file of an artifact, or None."""
    if not path.is_file():  # a pipe would be waited for, a link to nowhere cannot be read
        return "is no plain file"
    if path.stat().st_size != listed["size"]:
        return f"content changed: {path.stat().st_size} bytes, written were {listed['size']}"
    return None if file_sha256(path) == listed["sha256"] else "content changed"
