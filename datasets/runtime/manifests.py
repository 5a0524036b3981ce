"""The manifest of an artifact: what was made, from what, by which versions, and the hash of every file.

It is written last: a folder that has one is complete.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import platform
import subprocess
import time
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, Field, ValidationError

from datasets.runtime.atomic import write_text_atomically
from datasets.runtime.config import StageConfig
from datasets.runtime.errors import ArtifactError
from datasets.runtime.hashing import file_sha256, json_sha256
from datasets.runtime.reading.json_values import read_object
from datasets.runtime.reading.names import is_safe_path
from datasets.runtime.remote.addresses import is_remote, path_of
from datasets.runtime.remote.copies import discard, fetched, is_file
from datasets.runtime.remote.listings import fetch_listed

MANIFEST = "manifest.json"
LOGS = "logs"
"""Folder of an artifact for what differs from run to run (times, progress pictures): verified, but not counted in its
content hash, so that an equal retraining re-does nothing downstream."""
SCRATCH = ".scratch"
"""Folder of an unfinished artifact for what is needed only to resume after an interruption (training states); `build`
deletes it once the manifest is written."""
README_FILE, CROISSANT_FILE, SAMPLES_FILE = "README.md", "croissant.json", "samples.parquet"
CARD_FILES = frozenset({README_FILE, CROISSANT_FILE, SAMPLES_FILE})
"""Files of an artifact that only describe it: verified, but not counted in its content hash, so that another wording
re-does nothing downstream. The manifest says of each file whether it counts, as earlier ones counted ``README.md``."""
DISTRIBUTION = "imagpose-reid"
PROJECT = Path(__file__).resolve().parents[2]
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


class _Recorded(dict[str, Any]):
    """What a manifest records by name; a name that it lacks is an error of the artifact, not of the reader."""

    def __init__(self, values: dict[str, Any], path: Path) -> None:
        super().__init__(values)
        self.path = path

    def __missing__(self, name: str) -> Any:
        raise ArtifactError(f"{self.path} records no '{name}'; delete the folder and run its stage again")


def _below(name: str) -> str:
    if not name or not is_safe_path(name):
        raise ValueError("leads outside the artifact's folder")
    return name


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Form(BaseModel):
    """Checks what a manifest holds; further fields are left alone."""

    model_config = ConfigDict(strict=True)


class _Input(_Form):
    path: str
    sha256: str


class _File(_Form):
    name: Annotated[str, AfterValidator(_below)]
    size: int = Field(ge=0)
    sha256: Sha256
    counted: bool = True


class _Manifest(_Form):
    stage: str
    stage_version: int
    key: str = Field(min_length=1)
    content_sha256: Sha256
    summary: dict[str, Any]
    config: dict[str, Any]
    inputs: dict[str, _Input]
    files: Annotated[list[_File], FailFast()]
    started: datetime = Field(strict=False)
    seconds: float
    versions: dict[str, str]


def is_complete(directory: Path) -> bool:
    """Whether a folder, or the address that it stands for, is a finished artifact."""
    return is_file(Path(directory) / MANIFEST)


def finished_beside(directory: Path) -> list[Path]:
    """Finished artifacts in the folder of another one, sorted; of a store at an address those that are here already."""
    return sorted(path for path in directory.parent.iterdir() if path != directory and (path / MANIFEST).is_file())


def manifest_of(directory: Path, stage: str | Sequence[str] | None = None) -> dict[str, Any]:
    """The manifest of a finished artifact.

    Args:
        stage: the stage that it must belong to, or several of which it may be any; None: any at all.

    Raises:
        ArtifactError: if there is none, it is none of this project's, or it belongs to another stage than `stage`.
    """
    path = Path(directory) / MANIFEST
    try:
        manifest = _read(path)
        _Manifest.model_validate(manifest)
        manifest |= {name: _Recorded(manifest[name], path) for name in ("summary", "config", "inputs")}
    except FileNotFoundError:
        raise ArtifactError(
            f"{directory} is not a finished artifact (no {MANIFEST}); run the stage that makes it"
        ) from None
    except (ValueError, OSError) as error:
        raise ArtifactError(
            f"{path} cannot be read ({_reason(error)}); delete the folder and run its stage again"
        ) from None
    expected = [stage] if isinstance(stage, str) else stage
    if expected is not None and manifest["stage"] not in expected:
        named = " or ".join(f"'{name}'" for name in expected)
        raise ArtifactError(f"{directory} is an artifact of stage '{manifest['stage']}', expected {named}")
    return manifest


def _read(path: Path) -> dict[str, Any]:
    """A manifest's values; one that came from an address is compared with the hash that it holds of itself.

    Raises:
        ValueError, OSError: it cannot be read.
    """
    manifest = read_object(fetched(path))
    if is_remote(path) and not _is_whole(manifest):
        discard(path)
        manifest = read_object(fetched(path))
        if not _is_whole(manifest):
            raise ValueError("it has other content than when it was written")
    return manifest


def _is_whole(manifest: dict[str, Any]) -> bool:
    rest = {name: value for name, value in manifest.items() if name != "own_sha256"}
    return manifest.get("own_sha256") in (None, json_sha256(rest))  # those of earlier versions have none


class RecordedForm(BaseModel):
    """What a reader takes from a summary or log; subclasses name its values and types, further ones are left alone."""

    model_config = ConfigDict(strict=True, frozen=True)


Form = TypeVar("Form", bound=RecordedForm)


def summary_of(manifest: dict[str, Any], form: type[Form]) -> Form:
    """What a reader takes from the summary of an artifact.

    Raises:
        ArtifactError: a value is absent or of another type.
    """
    return recorded_values(dict(manifest["summary"]), form, f"the summary in a manifest of stage '{manifest['stage']}'")


def recorded_values(values: dict[str, Any], form: type[Form], where: str) -> Form:
    """What a reader takes from a JSON object of an artifact; `where` names it in the error.

    Raises:
        ArtifactError: a value is absent or of another type.
    """
    try:
        return form.model_validate(values)
    except ValidationError as error:
        raise ArtifactError(f"{where} is not of its form ({_reason(error)}); make the artifact again") from None


def recorded_path(manifest: dict[str, Any], name: str) -> Path:
    """A path that an artifact's config records.

    Raises:
        ArtifactError: it records none by that name.
    """
    value = manifest["config"][name]
    if not isinstance(value, str) or not value or "\0" in value:
        raise ArtifactError(f"a manifest of stage '{manifest['stage']}' records no path as '{name}'; make it again")
    return local_path(value)


def input_path(manifest: dict[str, Any], name: str) -> Path:
    """The path of an input, by the field that named it.

    Raises:
        ArtifactError: the artifact has no such input.
    """
    return local_path(manifest["inputs"][name]["path"])


def local_path(recorded: str) -> Path:
    """The path to read by what a manifest or config records, which may be an address."""
    return Path(str(path_of(recorded)))


def _reason(error: Exception) -> str:
    """What is wrong with a manifest; of one that is none, its first wrong field."""
    if not isinstance(error, ValidationError):
        return " ".join(str(error).split())
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def model_sha256(folder: Path) -> str:
    """Fingerprint of a saved model's folder by its files' content; a finished artifact's is in its manifest.

    A model card (``*.md``) does not count: rewording one must not train anything again.
    """
    if is_complete(folder):
        return manifest_of(folder)["content_sha256"]
    fetch_listed(folder)
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
        _listed(directory, path)
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path not in (directory / ".key", directory / MANIFEST)
        if path.relative_to(directory).parts[0] != SCRATCH
    ]
    manifest = {
        "stage": config.stage,
        "stage_version": config.stage_version,
        "key": key,
        "content_sha256": content_sha256(files),
        "summary": summary,
        "config": config.model_dump(mode="json"),
        "inputs": inputs,
        "files": files,
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "seconds": round(time.time() - started, 3),
        "code": code_version(),
        "versions": installed_versions(),
    }
    manifest = json.loads(json.dumps(manifest))  # as a reader sees it: keys that are numbers become text, and sort so
    manifest["own_sha256"] = json_sha256(manifest)
    write_text_atomically(directory / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def _listed(directory: Path, path: Path) -> dict[str, Any]:
    name = str(path.relative_to(directory))
    listed = {"name": name, "size": path.stat().st_size, "sha256": file_sha256(path)}
    return listed | ({"counted": False} if name in CARD_FILES else {})


def content_sha256(files: Iterable[Mapping[str, Any]]) -> str:
    """An artifact's content hash, over the names and hashes of those of its files that count.

    Args:
        files: as its manifest lists them.
    """
    return json_sha256([[file["name"], file["sha256"]] for file in files if _counts(file)])


def _counts(file: Mapping[str, Any]) -> bool:
    only_describes = file["name"] in CARD_FILES and not file.get("counted", True)
    return not only_describes and not file["name"].startswith(f"{LOGS}/")


@functools.cache
def code_version() -> str:
    """The commit of this checkout, with ``-dirty`` where files differ from it; the version without one."""
    command = ["git", "-C", str(PROJECT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return project_version()


@functools.cache
def project_version() -> str:
    """The installed version, or the one that the files themselves state: they run without being installed, too."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


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
