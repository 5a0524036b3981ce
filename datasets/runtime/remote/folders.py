"""Whole folders and files at an address, brought before a library opens them by their path: models, pose files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from datasets.runtime.errors import InputError
from datasets.runtime.manifests import LOGS, MANIFEST, is_complete, manifest_of
from datasets.runtime.remote.addresses import address_of
from datasets.runtime.remote.copies import fetch_all, is_file
from datasets.runtime.remote.listings import fetch_listed, listed_files
from datasets.runtime.remote.transfer import is_folder

Listed = Mapping[str, tuple[int | None, str | None]]
"""Files of a folder by name: size and SHA-256, each None where nobody says it."""


def fetch_folder(folder: Path) -> Path:
    """The same path, after bringing all that lies below it; a local folder is left alone.

    Raises:
        RemoteError: the storage cannot be reached or refuses, or a file is not as its manifest lists it.
    """
    if address_of(folder) is None:
        return folder
    if not is_complete(folder):
        return fetch_listed(folder)
    files = [file for file in manifest_of(folder)["files"] if not file["name"].startswith(f"{LOGS}/")]
    fetch_all((folder / file["name"], file["size"], file["sha256"]) for file in files)
    return folder


def fetch_tree(path: Path) -> Path:
    """The same path, after bringing the file or folder that it stands for.

    Raises:
        InputError: there is neither.
    """
    return path if is_there(path) == "file" else fetch_folder(path)


def is_there(path: Path) -> str:
    """'file' or 'folder'; a file at an address is brought.

    Raises:
        InputError: there is neither.
    """
    address = address_of(path)
    if address is None:
        if not path.exists():
            raise InputError(f"{path} does not exist; give the path of an existing file or folder")
        return "folder" if path.is_dir() else "file"
    if is_complete(path):
        return "folder"
    if is_file(path):
        return "file"
    if is_folder(address):
        return "folder"
    raise InputError(f"{address} does not exist; give the address of an existing file or folder")


def files_below(folder: Path) -> Listed:
    """The files of a remote folder, an artifact's as its manifest lists them."""
    if not is_complete(folder):
        return {name: (facts.size, None) for name, facts in listed_files(folder).items()}
    listed: dict[str, tuple[int | None, str | None]] = {
        file["name"]: (file["size"], file["sha256"]) for file in manifest_of(folder)["files"]
    }
    return dict(sorted({**listed, MANIFEST: (None, None)}.items()))


def fetch_files(folder: Path, names: Iterable[str], listed: Listed) -> None:
    """Bring some of a folder's files, several at a time."""
    fetch_all((folder / name, *_expected(listed, name)) for name in names)


def _expected(listed: Listed, name: str) -> tuple[int | None, str | None]:
    size, sha256 = listed.get(name, (None, None))
    return size, sha256
