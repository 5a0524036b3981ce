"""What is asked of remote storage, with retries: facts of an object, its bytes, a listing, an upload.

fsspec's implementations do the work (s3fs, gcsfs, its own for http); they are imported when an address is first used.
Errors that may pass are tried again with growing pauses. Others, and those that did not pass, are one line that names
the address and never quotes a library's message, in which a signed request could stand.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from datasets.runtime.errors import InputError
from datasets.runtime.remote.addresses import READ_ONLY
from datasets.runtime.remote.failures import may_pass, problem_of, reason_of, root_of

logger = logging.getLogger(__name__)

RETRY_SECONDS = "IMAGPOSE_REID_RETRY_SECONDS"
"""Environment variable: how long a request that fails is tried again; 120 if not set."""
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 15.0
PART_BYTES = 32 << 20
"""Bytes of one request; a file that breaks off goes on at the part in hand."""
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "http": "aiohttp", "https": "aiohttp", "memory": "fsspec"}
"""What fsspec needs for a scheme."""
INSTALL = "pip install -e '.[remote]' in the project's folder"

T = TypeVar("T")


class RemoteError(InputError):
    """Remote storage cannot be reached, refuses, or gives other bytes than it should."""


@dataclass(frozen=True)
class Facts:
    """What storage says of an object."""

    size: int | None
    stamp: str
    """ETag, or what else changes with the content; empty if the storage says nothing."""


def facts_of(address: str) -> Facts | None:
    """Size and stamp of an object; None if there is none of that name (a folder is none).

    Raises:
        RemoteError: see above.
    """
    try:
        found = _asked(address, lambda storage, path: storage.info(path))
    except FileNotFoundError:
        return None
    return None if found["type"] == "directory" else _facts(found)


def is_folder(address: str) -> bool:
    """Whether anything lies below an address; False over http, which cannot tell.

    Raises:
        RemoteError: see above.
    """
    try:
        return _asked(address, lambda storage, path: storage.info(path))["type"] == "directory"
    except FileNotFoundError:
        return False


def listing(address: str) -> dict[str, Facts]:
    """All objects below an address, by their names below it, sorted.

    Raises:
        RemoteError: see above; http has no listings.
    """
    if address.partition(":")[0] in READ_ONLY:
        raise RemoteError(f"{address}: http has no listings; give a finished artifact, or the address of a zip or file")

    def find(storage: Any, path: str) -> dict[str, Facts]:
        top = f"{storage._strip_protocol(path)}/"
        found = storage.find(path, detail=True)
        return {name.removeprefix(top): _facts(item) for name, item in sorted(found.items()) if name.startswith(top)}

    try:
        return _asked(address, find)
    except FileNotFoundError:
        raise RemoteError(f"{address} does not exist; give the address of an existing folder") from None


def download(address: str, target: Path, size: int | None) -> tuple[int, str]:
    """Write an object's bytes to a new file, part by part; returns their number and SHA-256.

    Args:
        size: as the storage or a manifest gives it; None: in one request.

    Raises:
        FileNotFoundError: there is no such object.
        RemoteError: see above.
    """
    digest, start = hashlib.sha256(), 0
    with target.open("wb") as file:
        while size is None or start < size:
            limits = None if size is None else (start, min(start + PART_BYTES, size))
            part = _asked(address, lambda storage, path, limits=limits: _read(storage, path, limits))
            file.write(part)
            digest.update(part)
            start += len(part)
            if limits is None or start < limits[1]:  # all of it, or it was cut off
                break
        file.flush()
        os.fsync(file.fileno())
    return start, digest.hexdigest()


def upload(source: Path, address: str) -> Facts:
    """Put a file's bytes at an address; returns what the storage then says of it.

    Raises:
        RemoteError: see above.
    """
    try:
        return _asked(address, lambda storage, path: _put(storage, path, source))
    except FileNotFoundError:
        raise _no_bucket(address) from None


def check_writable(address: str) -> None:
    """Write an empty object at an address and remove it, so that no hours of work end in a refusal.

    Raises:
        RemoteError: see above.
    """
    if address.partition(":")[0] in READ_ONLY:
        raise RemoteError(f"{address} can be read but not written to; give a store at s3:// or gs://, or a local one")
    try:
        _asked(address, lambda storage, path: storage.pipe_file(path, b""))
    except FileNotFoundError:
        raise _no_bucket(address) from None
    try:
        _asked(address, lambda storage, path: storage.rm_file(path))
    except (RemoteError, FileNotFoundError):
        logger.info("%s may be written but not removed; it stays, empty", address)


def _no_bucket(address: str) -> RemoteError:
    return RemoteError(f"{address} cannot be written: there is no bucket of that name; create it, or name another")


def _read(storage: Any, path: str, limits: tuple[int, int] | None) -> bytes:
    if limits is None:
        return storage.cat_file(path)
    start, end = limits
    part = storage.cat_file(path, start=start, end=end)
    return part if len(part) <= end - start else part[start:end]  # a server that knows no ranges sends all of it


def _put(storage: Any, path: str, source: Path) -> Facts:
    storage.put_file(str(source), path)
    facts = _facts(storage.info(path))
    if facts.size != source.stat().st_size:
        raise OSError(f"{facts.size} bytes arrived")
    return facts


def _facts(found: dict[str, Any]) -> Facts:
    names = ("ETag", "etag", "md5Hash", "Content-MD5", "LastModified", "Last-Modified", "mtime", "created")
    return Facts(found.get("size"), next((str(found[name]) for name in names if found.get(name)), ""))


def _asked(address: str, ask: Callable[[Any, str], T]) -> T:
    """The answer to a request, which is made again while its errors may pass.

    Raises:
        FileNotFoundError: there is no such object.
        RemoteError: anything else.
    """
    storage, path = _storage_of(address)
    until, pause = None, FIRST_PAUSE
    while True:
        try:
            return ask(storage, path)
        except Exception as raised:  # whatever four libraries raise: sorted here, and a defect goes on as it is
            error = root_of(raised)
            if isinstance(error, FileNotFoundError):
                raise FileNotFoundError(errno.ENOENT, "is not there", address) from None
            if not may_pass(error):
                if (problem := problem_of(error)) is None:
                    raise
                raise RemoteError(f"{address}: {problem}") from None
            until = until or time.monotonic() + _retry_seconds()
            if time.monotonic() + pause > until:
                advice = "check the network and the address, or run again later"
                raise RemoteError(f"{address} cannot be reached ({reason_of(error)}); {advice}") from None
            logger.warning("%s: %s; again in %.1f s", address, reason_of(error), pause)
        time.sleep(pause * random.uniform(0.8, 1.2))  # so that many readers do not come back at once
        pause = min(2 * pause, LONGEST_PAUSE)


def _storage_of(address: str) -> tuple[Any, str]:
    """Fsspec's file system and the path in it; fsspec keeps one for each process."""
    import fsspec

    scheme, _, rest = address.partition("://")
    try:
        storage = fsspec.filesystem(scheme, **_options(scheme))
    except ImportError:
        raise RemoteError(f"{address}: {PACKAGES[scheme]} is not installed; {INSTALL}") from None
    except Exception as error:
        if (problem := problem_of(error)) is None:
            raise
        raise RemoteError(f"{address}: {problem}") from None
    if scheme == "s3":
        storage.retries = 1  # `_asked` does it, and says so
    return storage, f"{scheme}://{quote(rest, safe='/:%@!$&()*+,;=~') if scheme in READ_ONLY else rest}"


def _options(scheme: str) -> dict[str, Any]:
    options: dict[str, Any] = {"use_listings_cache": False}
    if scheme == "s3":
        options["config_kwargs"] = {"retries": {"total_max_attempts": 1}, "connect_timeout": 10, "read_timeout": 60}
    if scheme in READ_ONLY:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)
        options["client_kwargs"] = {"timeout": timeout, "trust_env": True}
    return options if scheme != "memory" else {}


def _retry_seconds() -> float:
    given = os.environ.get(RETRY_SECONDS, "120")
    try:
        if (seconds := float(given)) >= 0:  # not NaN, which no waiting would ever reach
            return seconds
    except ValueError:
        pass
    raise InputError(f"{RETRY_SECONDS} is '{given}'; give a number of seconds from 0")
