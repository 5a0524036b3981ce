"""The files of a finished artifact, as they are read: only what its manifest lists, with the bytes that it lists.

Whoever reads a file of an artifact asks here for its path. A name that leads outside, a file that is missing, planted
or a link, and bytes that were changed since are refused before anything is made of them. A file's SHA-256 is compared
once in a process, before the file is first read: 0.05 s for Market-1501, whose pictures take 10 s to decode.
`CHECK_HASHES` switches that off, and sizes are then compared alone.
"""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets.runtime.errors import ArtifactError, InputError
from datasets.runtime.hashing import file_sha256
from datasets.runtime.manifests import manifest_of
from datasets.runtime.reading.json_values import read_object
from datasets.runtime.remote.addresses import is_remote
from datasets.runtime.remote.copies import discard, fetched

CHECK_HASHES = "IMAGPOSE_REID_CHECK_HASHES"
"""Environment variable: 0 reads artifacts without comparing hashes; 1, as if it were not set, compares them."""
AGAIN = "run 'python -m datasets verify' on it, then delete it and make it again"

_compared: set[tuple[object, ...]] = set()
"""Files whose bytes were found to be those of their manifest: path, inode, size, time of change, SHA-256."""


def artifact_file(directory: Path, name: str, stage: str | None = None) -> Path:
    """The path of a file of a finished artifact, checked.

    Args:
        directory: the artifact.
        name: the file's name below it.
        stage: the stage that the artifact must be of.

    Raises:
        ArtifactError: no such artifact, not listed in its manifest, or not as listed.
        InputError: the environment variable `CHECK_HASHES` is neither 0 nor 1.
    """
    listed = {file["name"]: file for file in manifest_of(directory, stage)["files"]}
    if name not in listed:
        raise ArtifactError(f"{directory} holds no {name}, by its manifest; {AGAIN}")
    return _checked(Path(directory), listed[name])


def artifact_files(directory: Path, pattern: str, stage: str | None = None) -> list[Path]:
    """The paths of an artifact's files whose names match a pattern, sorted and checked as by `artifact_file`."""
    return list(each_artifact_file(directory, pattern, stage))


def each_artifact_file(directory: Path, pattern: str, stage: str | None = None) -> Iterator[Path]:
    """The same, one after the other: a file is checked, and one at an address brought, when its turn comes."""
    files = [file for file in manifest_of(directory, stage)["files"] if fnmatch.fnmatchcase(file["name"], pattern)]
    for file in sorted(files, key=lambda file: file["name"]):
        yield _checked(Path(directory), file)


def read_json(directory: Path, name: str, stage: str | None = None) -> dict[str, Any]:
    """The object that a JSON file of a finished artifact holds.

    Raises:
        ArtifactError: see `artifact_file`; or it is no JSON object.
    """
    path = artifact_file(directory, name, stage)
    try:
        return read_object(path)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read ({' '.join(str(error).split())}); {AGAIN}") from None


def _checked(directory: Path, listed: dict[str, Any]) -> Path:
    """The path of a listed file, which is compared with what is listed; from an address it is brought before."""
    path = directory / listed["name"]
    if not is_remote(path):
        return _compared_file(path, listed)
    try:
        try:
            return _compared_file(fetched(path, listed["size"], listed["sha256"]), listed)
        except ArtifactError:  # the copy went bad on this disk
            discard(path)
            return _compared_file(fetched(path, listed["size"], listed["sha256"]), listed)
    except FileNotFoundError:
        raise ArtifactError(f"{path} is not there, though its manifest lists it; publish the artifact again") from None


def _compared_file(path: Path, listed: dict[str, Any]) -> Path:
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise ArtifactError(f"{path} is a link, a folder or a device, where a plain file belongs; {AGAIN}")
        if status.st_size != listed["size"]:
            raise ArtifactError(f"{path} has {status.st_size} bytes, {listed['size']} by its manifest; {AGAIN}")
        state = (str(path), status.st_ino, status.st_size, status.st_mtime_ns, listed["sha256"])
        if state in _compared or not _hashes_are_compared():
            return path
        if file_sha256(path) != listed["sha256"]:
            raise ArtifactError(f"{path} has other bytes than its manifest says; {AGAIN}")
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror}); {AGAIN}") from None
    _compared.add(state)
    return path


def _hashes_are_compared() -> bool:
    value = os.environ.get(CHECK_HASHES, "1")
    if value not in ("0", "1"):
        raise InputError(f"{CHECK_HASHES} is '{value}'; set it to 1 (compare hashes) or 0 (sizes alone), or not at all")
    return value == "1"
