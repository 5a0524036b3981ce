"""Local copies of remote files: brought on first use, checked, kept until room is needed.

    CACHE/copies/s3/BUCKET/KEY        the file
    CACHE/notes/s3/BUCKET/KEY.note    size, stamp and SHA-256 of what was brought; its date is that of the last use
    CACHE/incoming/                   files that are being brought
    CACHE/locks/                      so that of several processes one brings a file, and the others wait

A file that a manifest lists is taken when it has the listed SHA-256, and the storage is not asked. Any other is
compared with the storage once in a process, by size and stamp (ETag). A copy appears under its name only when it is
whole. Copies that were used least recently are removed when there are more bytes than the limit; one that was used
within `IN_USE_SECONDS` never is, so the limit is passed where a job reads more than that at a time. Files without a
note (an artifact that is being made here) are never touched.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from datasets.runtime.errors import InputError
from datasets.runtime.remote.addresses import address_of, cache_folder, copies_folder
from datasets.runtime.remote.transfer import Facts, RemoteError, download, facts_of

logger = logging.getLogger(__name__)

CACHE_GB = "IMAGPOSE_REID_CACHE_GB"
"""Environment variable: how many gigabytes (1e9 bytes) of copies are kept; 50 if not set."""
IN_USE_SECONDS = 300.0
"""A copy that was asked for so recently is not removed: it may be about to be opened."""
TRIES = 3
"""Downloads of a file that arrives with other bytes than listed."""
AT_A_TIME = 16
"""Small files that are brought side by side."""
LOCKS = 256

NOTE = ".note"
INCOMING = "incoming"
LEFTOVER_SECONDS = 86_400.0
"""A file that is being brought and was not written to for so long was left behind by a process that was killed."""

_confirmed: set[tuple[str, str]] = set()
"""Paths and stamps that the storage has confirmed to this process."""
_room = threading.Lock()
_since_look = float("inf")
"""Bytes brought since the cache's size was last looked at."""


@dataclass(frozen=True)
class Note:
    """What is known of a copy."""

    size: int
    stamp: str
    sha256: str


def fetched(path: Path, size: int | None = None, sha256: str | None = None) -> Path:
    """The same path, after bringing the file that it stands for; a path that is only itself is left alone.

    Args:
        size, sha256: of the file, where a manifest lists it.

    Raises:
        FileNotFoundError: there is no such file.
        RemoteError: the storage cannot be reached or refuses, or the bytes are not as listed.
    """
    address = address_of(path)
    if address is None or _is_usable(path, address, sha256):
        return path
    with _locked(path):
        if not _is_usable(path, address, sha256):
            _bring(path, address, Facts(size, "") if sha256 is not None else _facts_now(path, address), sha256)
    return path


def fetch_all(files: Iterable[tuple[Path, int | None, str | None]]) -> None:
    """`fetched` of many small files, several at a time."""
    waiting = [file for file in files if address_of(file[0]) is not None]
    if not waiting:
        return
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for future in [pool.submit(fetched, *file) for file in waiting]:
            future.result()


def is_file(path: Path) -> bool:
    """Whether a path, or the address that it stands for, is a file; it is brought."""
    if address_of(path) is None:
        return path.is_file()
    try:
        return fetched(path).is_file()
    except FileNotFoundError:
        return False


def discard(path: Path) -> None:
    """Remove a copy, so that the next use brings it again."""
    if address_of(path) is not None:
        for place in (_note_path(path), path):
            with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                place.unlink()


def discard_folder(folder: Path) -> None:
    """Remove all copies below a folder."""
    if address_of(folder) is not None:
        for place in (folder, _note_path(folder).with_suffix("")):
            shutil.rmtree(place, ignore_errors=True)


def note_of(path: Path) -> Note | None:
    """What is known of the copy at a path."""
    try:
        return Note(**json.loads(_note_path(path).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def write_note(path: Path, note: Note) -> None:
    """Remember what was brought to, or published from, a path."""
    place = _note_path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".{secrets.token_hex(8)}.tmp")
    temporary.write_text(json.dumps(asdict(note)))
    os.replace(temporary, place)


def _is_usable(path: Path, address: str, sha256: str | None) -> bool:
    """Whether the copy can be taken as it is; that marks it as used.

    It is marked before it is looked at: `evict` takes the note away first, and puts it back if it was marked since.
    """
    try:
        os.utime(_note_path(path))
        note = note_of(path)
        if note is None or path.stat().st_size != note.size:
            return False
    except FileNotFoundError:
        return False
    if sha256 is not None:
        return note.sha256 == sha256
    if (str(path), note.stamp) in _confirmed:
        return True
    facts = _facts_now(path, address)
    if facts.size not in (None, note.size) or facts.stamp != note.stamp or not facts.stamp:
        return False
    _confirmed.add((str(path), note.stamp))
    return True


def _facts_now(path: Path, address: str) -> Facts:
    if (facts := facts_of(address)) is None:
        discard(path)
        raise FileNotFoundError(errno.ENOENT, "is not there", address)
    return facts


def _bring(path: Path, address: str, facts: Facts, sha256: str | None) -> None:
    """Download until the bytes are as they should be, and let the copy appear."""
    _make_room(facts.size or 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = cache_folder() / INCOMING / f"{secrets.token_hex(8)}.tmp"  # whoever lists the copies must not meet it
    temporary.parent.mkdir(exist_ok=True)
    try:
        note = _download_as_listed(address, temporary, facts, sha256)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    write_note(path, note)
    _confirmed.add((str(path), facts.stamp))


def _download_as_listed(address: str, target: Path, facts: Facts, sha256: str | None) -> Note:
    for attempt in range(1, TRIES + 1):
        size, found = download(address, target, facts.size)
        if facts.size in (None, size) and sha256 in (None, found):
            return Note(size, facts.stamp, found)
        what = "another SHA-256" if facts.size in (None, size) else f"{size} bytes, not {facts.size}"
        logger.warning("%s arrived with %s than listed (try %d of %d)", address, what, attempt, TRIES)
    raise RemoteError(f"{address} arrived {TRIES} times with other bytes than are listed; publish it again")


def _note_path(path: Path) -> Path:
    inside = path.relative_to(copies_folder())
    return cache_folder() / "notes" / inside.with_name(f"{inside.name}{NOTE}")


@contextmanager
def _locked(path: Path) -> Generator[None]:
    """Hold the lock of a file; a few locks serve all of them, and a thread never holds two."""
    from filelock import FileLock

    number = int(hashlib.sha256(str(path).encode()).hexdigest(), 16) % LOCKS
    place = cache_folder() / "locks" / f"{number:02x}.lock"
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place):
        yield


def _make_room(incoming: int) -> None:
    """Look at the cache's size now and then, and remove what was not used for longest."""
    global _since_look
    with _room:
        limit = _limit()
        _since_look += incoming
        if _since_look < limit / 16:
            return
        _since_look = 0
        evict(limit - incoming)


def evict(limit: float) -> None:
    """Remove copies, least recently used first, until no more than `limit` bytes are left."""
    _remove_leftovers()
    notes = cache_folder() / "notes"
    found = []
    for place in notes.rglob(f"*{NOTE}"):
        copy = copies_folder() / place.relative_to(notes).with_name(place.name.removesuffix(NOTE))
        with suppress(OSError):
            found.append((place.stat().st_mtime, copy.stat().st_size if copy.exists() else 0, place, copy))
    total = sum(size for _, size, _, _ in found)
    for used, size, place, copy in sorted(found, key=lambda item: item[0]):
        if total <= limit or time.time() - used < IN_USE_SECONDS:
            break
        if _remove_unused(place, copy, used):
            total -= size


def _remove_leftovers() -> None:
    for path in (cache_folder() / INCOMING).glob("*.tmp"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > LEFTOVER_SECONDS:
                path.unlink()


def _remove_unused(place: Path, copy: Path, used: float) -> bool:
    """Remove a copy unless it was used since; its note goes first, so that a reader sees it as gone."""
    aside = place.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        os.replace(place, aside)
        if aside.stat().st_mtime > used:
            os.replace(aside, place)
            return False
        copy.unlink(missing_ok=True)
        aside.unlink()
    except OSError:
        return False
    return True


def _limit() -> float:
    given = os.environ.get(CACHE_GB, "50")
    try:
        if (limit := float(given)) > 0:
            return limit * 1e9
    except ValueError:
        pass
    raise InputError(f"{CACHE_GB} is '{given}'; give a number of gigabytes above 0")
