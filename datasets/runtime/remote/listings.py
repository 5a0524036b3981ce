"""Folders at an address that are no artifacts: what lies in them is what the storage lists."""

from __future__ import annotations

from pathlib import Path

from datasets.runtime.errors import InputError
from datasets.runtime.hashing import json_sha256
from datasets.runtime.reading.names import is_safe_path
from datasets.runtime.remote.addresses import address_of, is_remote
from datasets.runtime.remote.copies import fetch_all
from datasets.runtime.remote.transfer import Facts, listing


def listed_files(folder: Path) -> dict[str, Facts]:
    """The files below a remote folder by their names, sorted.

    Raises:
        RemoteError: the storage cannot be reached or refuses, or has no listings (http).
        InputError: a name that leads out of the folder.
    """
    address = address_of(folder)
    if address is None:
        raise ValueError(f"{folder} is a local folder")
    found = {name: facts for name, facts in listing(address).items() if not name.endswith("/")}
    if unsafe := [name for name in found if not is_safe_path(name) or "//" in name]:
        raise InputError(f"{address} holds {unsafe[0]!r}, whose name leads out of it or has an empty part; rename it")
    return found


def listed_sha256(folder: Path) -> str:
    """Fingerprint of a remote folder by names, sizes and the storage's stamps (ETag)."""
    return json_sha256([[name, facts.size, facts.stamp] for name, facts in listed_files(folder).items()])


def fetch_listed(folder: Path) -> Path:
    """The same path, after bringing every file below it; copies of files that are gone are removed, work is not."""
    if address_of(folder) is None:
        return folder
    names = listed_files(folder)
    for path in [path for path in folder.rglob("*") if path.is_file() and is_remote(path)]:
        if str(path.relative_to(folder)) not in names:
            path.unlink(missing_ok=True)
    fetch_all((folder / name, None, None) for name in names)
    return folder
