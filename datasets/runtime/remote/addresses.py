"""Addresses of remote files and folders, and the local paths that stand for them.

A config's field takes ``s3://bucket/store/encode/KEY`` and holds the path of its local copy, which lies below the cache
under a name that gives the address back. So every other module works with plain paths; `datasets.runtime.remote.copies`
brings a file when it is read. What is recorded and shown is the address. It never holds a secret: an address with a
user name or a query (as signed ones have) is refused, credentials come from the environment.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

from datasets.runtime.errors import InputError

CACHE = "IMAGPOSE_REID_CACHE"
"""Environment variable: the folder of local copies; ``~/.cache/imagpose-reid`` if not set."""
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "FSSPEC_S3_ENDPOINT_URL")
"""Environment variables that name an S3 server other than Amazon's; its copies lie apart."""
SCHEMES = ("s3", "gs", "https", "http", "memory")
READ_ONLY = ("https", "http")
PARTIAL = ".partial"
"""End of the name of a folder in which an artifact is being made: work on this machine, never a copy."""
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,3}(?!/)(.*)", re.DOTALL)


def path_of(value: object) -> object:
    """The local path that stands for an address, given as text or as a `Path` of it; anything else as it is.

    Raises:
        InputError: another scheme, or an address with a user name, a query or a part that names no folder.
    """
    if not isinstance(value, str | Path) or (match := _ADDRESS.fullmatch(str(value))) is None:
        return value
    scheme, rest = match[1].lower(), match[2].rstrip("/")
    shown = f"{scheme}://{_without_secrets(rest)}"
    if scheme == "file":
        return Path("/", rest)
    if scheme not in SCHEMES:
        raise InputError(f"{shown} begins with '{scheme}://', expected a local path or {', '.join(SCHEMES)}, file")
    if shown != f"{scheme}://{rest}":
        raise InputError(
            f"the address {shown} was given with a user name, a query or a fragment, which may be secrets and would be "
            "recorded; give it without, and credentials in the environment (docs/remote-data.md)"
        )
    parts = rest.split("/")
    if not rest.isprintable() or any(part in ("", ".", "..") or part.endswith(PARTIAL) for part in parts):
        raise InputError(f"{shown!r} has an empty part, '.', '..', '{PARTIAL}' or a control character; correct it")
    return copies_folder() / _folder_of(scheme) / Path(*parts)


def address_of(path: Path) -> str | None:
    """The address that a path stands for, or None if the path is only itself."""
    text, start = str(path), f"{copies_folder()}{os.sep}"
    if not text.startswith(start):
        return None
    folder, _, rest = text.removeprefix(start).partition(os.sep)
    if not rest or any(part.endswith(PARTIAL) for part in Path(rest).parts):
        return None
    return f"{folder.partition('-')[0]}://{rest}"


def is_remote(path: Path) -> bool:
    """Whether a path stands for an address."""
    return address_of(path) is not None


def local_only_problem(value: object) -> str | None:
    """Why a field's value, which may be a list of paths, is no local path; None if it is not of that kind."""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return next((problem for item in value if (problem := local_only_problem(item)) is not None), None)
    if isinstance(value, Path) and (match := _ADDRESS.fullmatch(str(value))) is not None:
        return f"{match[1]}://{_without_secrets(match[2])} is an address, but this takes a local path"
    return None


def spelled(path: Path) -> str:
    """A path as it is recorded: its address, or itself."""
    return address_of(path) or str(path)


def with_addresses(text: str) -> str:
    """A message with addresses in place of the paths of their copies, and without user names and queries in any."""
    folders = "|".join(SCHEMES)
    text = re.sub(rf"{re.escape(str(copies_folder()))}/({folders})(-[0-9a-f]{{8}})?/", r"\1://", text)
    return re.sub(r"(\w://)([^\s/@'\"]*@)?([^\s?'\"]*)(\?[^\s'\"]*)?", r"\1\3", text)


class AddressLines(logging.Formatter):
    """Log lines as `with_addresses` shows them."""

    def format(self, record: logging.LogRecord) -> str:
        """A record's line."""
        return with_addresses(super().format(record))


def copies_folder() -> Path:
    """Where copies lie, by scheme."""
    return cache_folder() / "copies"


def cache_folder() -> Path:
    """The folder of everything that belongs to the cache."""
    given = os.environ.get(CACHE) or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"),  # noqa: PTH111 - raises where there is no home
        "imagpose-reid",
    )
    return Path(os.path.abspath(given))  # noqa: PTH100 - links stay as they were given


def _folder_of(scheme: str) -> str:
    endpoint = next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), None)
    if scheme != "s3" or endpoint is None:
        return scheme
    return f"s3-{hashlib.sha256(endpoint.encode()).hexdigest()[:8]}"


def _without_secrets(rest: str) -> str:
    """Host and path of an address: no user name or password before, no query or fragment behind."""
    host, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    return f"{host.rpartition('@')[2]}{slash}{path}"
