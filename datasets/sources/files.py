"""Where a data set's image files come from: an unpacked folder or a zip archive, read alike.

Nothing is ever unpacked to disk, so an archive's member names cannot reach outside it; links and names with ``..`` are
listed as what they are and never followed. Listing is sorted, so nothing depends on the file system's order.
"""

from __future__ import annotations

import errno
import functools
import os
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from datasets.runtime.errors import DatasetLayoutError, InputError, printable
from datasets.runtime.reading.names import is_file_name, is_safe_path
from datasets.runtime.regular_files import MAX_FILE_BYTES, IrregularFileError, read_regular
from datasets.runtime.remote.addresses import is_remote
from datasets.runtime.remote.folders import Listed, fetch_files, files_below, is_there

BOMB_BYTES, BOMB_RATIO = 1 << 20, 50
"""An archive member that unpacks to more bytes and to so many times its packed size is no JPEG, and is not unpacked."""
ENCRYPTED = 1
"""Bit of an archive member's flags."""


Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are the first column and row outside."""


def refuse_undecodable(folder: Path, name: str) -> None:
    """Refuse a file of a folder whose name is not UTF-8: neither Parquet nor JSON could hold it.

    Raises:
        DatasetLayoutError: such a name.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DatasetLayoutError(f"{folder}: the name of {printable(name)} is not UTF-8; rename it") from None


class UnreadableFileError(Exception):
    """One file of a source cannot be read; `status` names the reason in one word."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class SourceEntry:
    """A file of a source: its path below the source's root and, if it must not be read, why."""

    path: str
    refused: tuple[str, str] | None = None
    """Status and reason."""


class ImageSource:
    """Files below a folder or inside a zip; usable as a context manager, one per process."""

    def __init__(self, root: Path, prefix: str = "") -> None:
        """Open a source.

        Args:
            root: folder or zip file.
            prefix: the data set's own top folder inside `root`, as `find_prefix` gives it.

        Raises:
            DatasetLayoutError: if `root` is neither a folder nor a readable zip.
        """
        self.root, self.prefix = Path(root), prefix
        self.archive: zipfile.ZipFile | None = None
        self._members: list[tuple[str, zipfile.ZipInfo]] = []
        self._open()

    def _open(self) -> None:
        root = self.root
        if self._is_folder():
            return
        if self.root.exists() and not self.root.is_file():  # a pipe or a device would never end
            raise DatasetLayoutError(f"{root} is neither a folder nor a file; give the unpacked data set or its zip")
        try:
            self.archive = zipfile.ZipFile(self.root)
        except FileNotFoundError:
            raise DatasetLayoutError(f"{root} does not exist; give the unpacked data set or its zip") from None
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise DatasetLayoutError(f"{root} is neither a folder nor a readable zip archive ({error})") from None
        self._members = [(slashed(member.filename), member) for member in self.archive.infolist()]
        self._by_name = dict(self._members)

    def _is_folder(self) -> bool:
        if not is_remote(self.root):
            return self.root.is_dir()
        try:
            return is_there(self.root) == "folder"
        except InputError as error:
            raise DatasetLayoutError(str(error)) from None

    @functools.cached_property
    def _listed(self) -> Listed | None:
        """The files of a folder at an address, by path below the root; None of a local folder or an archive."""
        return files_below(self.root) if self.archive is None and is_remote(self.root) else None

    def _names(self) -> list[str]:
        """Paths below the root, of an archive or a folder at an address."""
        return list(self._listed) if self._listed is not None else [name for name, _ in self._members]

    def bring(self, paths: Iterable[str]) -> None:
        """Bring files of a folder at an address, several at a time, before they are read; else there is nothing to do.

        Args:
            paths: below the prefix.
        """
        if self._listed is not None:
            names = (self.prefix + path for path in paths)
            fetch_files(self.root, (name for name in names if name in self._listed), self._listed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.archive is not None:
            self.archive.close()

    def find_prefix(self, marker: str) -> str | None:
        """The folder, at most two levels down, that holds `marker`, a folder or file; '' is the root itself.

        Raises:
            DatasetLayoutError: several folders hold one; which is meant must be said.
        """
        local_folder = self.archive is None and self._listed is None
        found = self._folders_with(marker) if local_folder else self._archive_folders_with(marker)
        if not found:
            return None
        nearest = min(prefix.count("/") for prefix in found)
        candidates = sorted(prefix for prefix in found if prefix.count("/") == nearest)
        if len(candidates) > 1:
            names = ", ".join(printable(prefix.rstrip("/")) for prefix in candidates)
            raise DatasetLayoutError(f"{self.root} holds several data sets with '{marker}': {names}; give one of them")
        return candidates[0]

    def _folders_with(self, marker: str) -> set[str]:
        if (self.root / marker).exists():
            return {""}
        found = [*self.root.glob(f"*/{marker}"), *self.root.glob(f"*/*/{marker}")]
        return {f"{path.parent.relative_to(self.root)}/" for path in found}

    def _archive_folders_with(self, marker: str) -> set[str]:
        found = set()
        for name in self._names():
            parts = name.split("/")
            if marker in parts and ".." not in parts and parts.index(marker) <= 2:
                found.add("".join(part + "/" for part in parts[: parts.index(marker)]))
        return found

    def has_folder(self, folder: str) -> bool:
        """Whether `folder` (relative to the prefix) exists, be it empty."""
        if self.archive is None and self._listed is None:
            return (self.root / self.prefix / folder).is_dir()
        return any(name.startswith(f"{self.prefix}{folder}/") for name in self._names())

    def entries(self, folder: str = "") -> list[SourceEntry]:
        """All files below `folder` (relative to the prefix, '' for everything), sorted by path."""
        if self._listed is not None:
            start = f"{self.prefix}{folder}/" if folder else self.prefix
            found = [SourceEntry(name.removeprefix(self.prefix)) for name in self._listed if name.startswith(start)]
        else:
            found = self._folder_entries(folder) if self.archive is None else self._archive_entries(folder)
        return sorted(found, key=lambda entry: entry.path)

    def _folder_entries(self, folder: str) -> list[SourceEntry]:
        base = os.path.join(self.root, self.prefix)
        found = []

        def unreadable(error: OSError) -> None:
            if isinstance(error, FileNotFoundError):  # the wanted folder is not there, or a folder went away
                return
            path = os.path.relpath(error.filename, base)
            found.append(SourceEntry(path, ("unreadable", f"the folder cannot be listed: {error.strerror}")))

        for parent, folders, names in os.walk(os.path.join(base, folder), onerror=unreadable):
            inside = os.path.relpath(parent, base).replace(os.sep, "/")
            links = [name for name in folders if Path(parent, name).is_symlink()]
            for name in names + links:
                refused = ("link", "is a link to a folder, which is not followed") if name in links else None
                found.append(SourceEntry(name if inside == "." else f"{inside}/{name}", refused))
        return found

    def _archive_entries(self, folder: str) -> list[SourceEntry]:
        start = f"{self.prefix}{folder}/" if folder else self.prefix
        found = []
        occurrences = Counter(name for name, _ in self._members)
        for name, member in self._members:
            if name.endswith("/") or not name.startswith(start):
                continue
            path, refused = name.removeprefix(self.prefix), None
            if not is_safe_path(path):
                refused = "unsafe-path", "its name leads outside the archive"
            elif stat.S_ISLNK(member.external_attr >> 16):
                refused = "link", "is a link; only plain files are read from an archive"
            elif occurrences[name] > 1:
                refused = "duplicate", "the archive holds several files of this name"
            elif member.flag_bits & ENCRYPTED:
                refused = "encrypted", "is encrypted; unpack the archive with its password and give the folder"
            elif member.file_size > max(BOMB_BYTES, BOMB_RATIO * member.compress_size):
                refused = "bomb", f"unpacks from {member.compress_size} to {member.file_size} bytes, as no JPEG does"
            found.append(SourceEntry(path, refused))
        return found

    def unsafe_names(self) -> list[str]:
        """Names of archive members that lead outside it (absolute, or with ``..``); never read."""
        if self.archive is None:
            return []
        return sorted(printable(name) for name, _ in self._members if not is_safe_path(name))

    def read(self, path: str) -> bytes:
        """A file's bytes, by its path below the prefix.

        Raises:
            UnreadableFileError: with the status 'unreadable', 'truncated', 'too-large', 'not-a-file' or 'unsafe-path'.
        """
        if not is_safe_path(path):
            raise UnreadableFileError("unsafe-path", "its name leads outside")
        try:
            return self._read_folder(path) if self.archive is None else self._read_archive(self.archive, path)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise UnreadableFileError("truncated", f"corrupt in the archive: {error}") from None
        except (OSError, KeyError, RuntimeError, ValueError) as error:  # NotImplementedError is a RuntimeError
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise UnreadableFileError("unreadable", reason) from None

    def _read_folder(self, path: str) -> bytes:
        self.bring([path])
        try:
            return read_regular(Path(self.root, self.prefix, path), MAX_FILE_BYTES)
        except IrregularFileError as error:
            if error.errno == errno.EFBIG:
                raise UnreadableFileError("too-large", error.reason) from None
            raise UnreadableFileError("not-a-file", "is not a plain file") from None

    def _read_archive(self, archive: zipfile.ZipFile, path: str) -> bytes:
        member = self._by_name[self.prefix + path]
        if member.file_size > MAX_FILE_BYTES:
            raise UnreadableFileError("too-large", f"unpacks to {member.file_size} bytes, more than {MAX_FILE_BYTES}")
        with archive.open(member) as file:
            content = file.read(MAX_FILE_BYTES + 1)  # the archive's own figure may be a lie
        if len(content) > MAX_FILE_BYTES:
            raise UnreadableFileError("too-large", f"unpacks to more than {MAX_FILE_BYTES} bytes")
        return content


def slashed(name: str) -> str:
    """A path of an archive or table with ``/`` between its folders; some Windows programs write backslashes."""
    return name.replace("\\", "/")


Row = dict[str, Any]
"""A file of a data set as a row of the index, with the columns of `datasets.sources.index.SCHEMA`."""


@dataclass(frozen=True)
class Listing:
    """What a layout finds in a source."""

    rows: list[Row]
    """Index rows (`image_record`), not yet checked."""
    ignored: list[str]
    """Files that are none of the data set's."""
    notes: dict[str, object] = field(default_factory=dict)
    """What else a reader of the index's summary should know."""


IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
"""What image files' names end in, in any case; the one rule for indexes, tables, plain folders and pose files."""
SUFFIX_PATTERN = r"(?i:\.jpe?g|\.png){1,2}"
"""The same in a layout's pattern; some of Market-1501's names end in ``.jpg.jpg``."""

IGNORED_NAMES = frozenset({"thumbs.db", "desktop.ini", ".ds_store"})
"""Left behind by desktops; listed nowhere, counted in the index's summary."""

NOBODY = {"pid": -1, "camid": 0, "sequence": 0, "frame": 0, "role": "unknown"}
"""Identity fields of a file whose name says nothing."""


LONGEST_KEY = 89
"""Bytes of an image's key, so that every file that is made of the image has a name that a tar's header holds."""
NUMBERS = ("pid", "camid", "sequence", "frame")
MAX_NUMBER = 2**31 - 1


def is_ignored(path: str) -> bool:
    """Whether a file is no part of any data set: a desktop's, hidden, or macOS's archive shadow."""
    parts = path.split("/")
    return parts[-1].lower() in IGNORED_NAMES or any(
        part == "__MACOSX" or (part.startswith(".") and part != "..") for part in parts
    )


def is_image_name(name: str) -> bool:
    """Whether a file's name says that it is an image."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def image_key(name: str) -> str:
    """A file name without its suffix ``.jpg`` (or ``.jpg.jpg``, ``.jpeg``, ``.png``)."""
    while is_image_name(name):
        name = name.rpartition(".")[0]
    return name


def image_record(entry: SourceEntry, split: str, parsed: Row | None, problem: str) -> Row:
    """An index row before the file's bytes are looked at: status '' means still to be checked.

    A key or number that the index or the shards could not hold is 'bad-name' here, before any image is opened.

    Args:
        entry: the file.
        split: 'train', 'query' or 'gallery'.
        parsed: pid, camid, sequence, frame, role (and key) from the name; None if the name is not a proper one.
        problem: what is wrong where `parsed` is None, in a sentence.
    """
    path = printable(entry.path)
    name = path.rpartition("/")[2]
    row: Row = {"key": image_key(name), "path": path, "split": split, **NOBODY, "status": "", "error": ""}
    if entry.refused is not None:
        row["status"], row["error"] = entry.refused
    elif parsed is None or path != entry.path:
        row["status"], row["error"] = "bad-name", problem or "the name holds characters that cannot be shown"
    else:
        fields = {**row, **parsed}
        if (fault := _fault_of(fields)) is None:
            return fields
        row["status"], row["error"] = "bad-name", fault
    return row


def _fault_of(row: Row) -> str | None:
    """Why an image cannot be called by a row's key or numbers, in a sentence; None if it can."""
    key = row["key"]
    if len(key.encode()) > LONGEST_KEY:
        return f"its key '{key}' has more than the {LONGEST_KEY} bytes that a tar holds; use shorter names or paths"
    if "." in key or not is_file_name(key):
        return f"its key '{printable(key)}' is empty or has a dot, a slash or another character that no shard takes"
    for name in NUMBERS:
        if abs(row[name]) > MAX_NUMBER:
            return f"its {name} {row[name]} is larger than {MAX_NUMBER}"
    return None
