"""Tar files of samples: written so that equal content gives equal bytes, read without the cost of `tarfile`.

A sample is a run of members with one key: ``KEY.jpg`` (or ``.png``), ``KEY.json``. Only what this project writes is
read: regular files under USTAR headers (POSIX.1-1988). Everything else (links, folders, GNU or PAX extensions, a wrong
checksum, a missing end) is refused with the file's name and the byte where it stands, so no corrupt tar is half read in
silence.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Collection, Container, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO

from datasets.runtime.errors import ArtifactError, printable
from datasets.runtime.reading.names import is_file_name

BLOCK = tarfile.BLOCKSIZE
READ_AHEAD = 1 << 20
MAGIC = b"ustar\x0000"
REGULAR = (b"0", b"\0")
END = bytes(BLOCK)
LONGEST_NAME = tarfile.LENGTH_NAME
"""Bytes of a member's name, its kind included."""
LARGEST_SAMPLE = 256 << 20
"""Bytes of a sample's members together; the largest real ones, tokens of DINOv2-G at 512x352, have 6 MB."""

IMAGE_KINDS = ("jpg", "png")
"""Kinds of the member that is a sample's image: the source's own bytes, whichever of the two formats they are in."""
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class CorruptTarError(ArtifactError):
    """A tar file that this project did not write, or that was corrupted since."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a member's content lies in its file, in bytes."""

    offset: int
    size: int


def write_tar(path: Path, members: Iterator[tuple[str, bytes]]) -> None:
    """Write a tar whose bytes depend on names and contents alone, and wait until the disk has it."""
    with path.open("wb", buffering=READ_AHEAD) as file:
        for name, content in members:
            header = tarfile.TarInfo(name)  # date, owner and mode are fixed
            header.size = len(content)
            file.write(header.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict"))
            file.write(content)
            file.write(bytes(-len(content) % BLOCK))
        file.write(2 * END)
        file.write(bytes(-file.tell() % tarfile.RECORDSIZE))
        file.flush()
        os.fsync(file.fileno())


def image_kind(content: bytes) -> str:
    """The kind of the member that holds an image file's bytes."""
    return "png" if content.startswith(PNG_SIGNATURE) else "jpg"


def image_of(members: Mapping[str, bytes]) -> bytes:
    """A sample's image, as its file's bytes.

    Raises:
        KeyError: the sample has none.
    """
    for kind in IMAGE_KINDS:
        if kind in members:
            return members[kind]
    raise KeyError(f"no {' or '.join(IMAGE_KINDS)}")


def read_samples(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Samples in file order: (key, {kind: content}), kind being what follows the first dot (``jpg``, ``latent.npy``).

    Raises:
        CorruptTarError: see above.
    """
    with _opened(path) as file:
        for key, entries in groupby(_entries(path, file, lambda _: file.read(BLOCK)), itemgetter(0)):
            members = {}
            for _, kind, place in entries:
                members[kind] = file.read(place.size)
                file.read(-place.size % BLOCK)
            yield key, members


def locate_samples(path: Path, read: Collection[str]) -> Iterator[tuple[str, dict[str, Place], dict[str, bytes]]]:
    """Samples in file order without their large parts: (key, {kind: place}, {kind: content} of the kinds in `read`).

    Only headers and the wanted contents are read from the disk.

    Raises:
        CorruptTarError: see above.
    """
    with _opened(path) as file:
        descriptor = file.fileno()
        for key, entries in groupby(_entries(path, file, lambda at: os.pread(descriptor, BLOCK, at)), itemgetter(0)):
            places = {kind: place for _, kind, place in entries}
            contents = {kind: os.pread(descriptor, at.size, at.offset) for kind, at in places.items() if kind in read}
            yield key, places, contents


def read_chosen(path: Path, keys: Container[str]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The samples of some keys, in file order, as `read_samples` gives them; of the others only headers are read.

    Raises:
        CorruptTarError: see above.
    """
    with _opened(path) as file:
        for key, places, _ in locate_samples(path, ()):
            if key in keys:
                yield key, {kind: os.pread(file.fileno(), at.size, at.offset) for kind, at in places.items()}


def _opened(path: Path) -> BinaryIO:
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise CorruptTarError(f"{path} is no regular file; make its folder again")
    try:
        return path.open("rb", buffering=READ_AHEAD)
    except OSError as error:
        raise CorruptTarError(f"{path} cannot be read ({error.strerror}); make its folder again") from None


def _entries(path: Path, file: BinaryIO, header_at: Callable[[int], bytes]) -> Iterator[tuple[str, str, Place]]:
    """Key, kind and place of each member in file order; samples with a kind twice or of too many bytes are refused.

    A file that shrinks while it is read ends without its mark, before its last sample is given.
    """
    key, kinds, total, offset = "", set(), 0, 0
    end = os.fstat(file.fileno()).st_size
    while (entry := _entry(header_at(offset), path, offset, end)) is not None:
        base, kind, size = entry
        if base != key:
            key, kinds, total = base, set(), 0
        if kind in kinds:
            raise _corrupt(path, offset, f"'{key}.{kind}' occurs twice")
        total += size
        if total > LARGEST_SAMPLE:
            raise _corrupt(path, offset, f"sample '{key}' has more than {LARGEST_SAMPLE} bytes")
        kinds.add(kind)
        yield key, kind, Place(offset + BLOCK, size)
        offset += BLOCK + size + -size % BLOCK


def _entry(header: bytes, path: Path, offset: int, end: int) -> tuple[str, str, int] | None:
    """Key, kind and size of the member under a header; None at the archive's end.

    Args:
        header: a block.
        path: the tar.
        offset: where the header stands in it.
        end: the tar's size: a member that claims to reach beyond is refused before memory is taken for it.
    """
    if header == END:
        return None
    if len(header) < BLOCK:
        raise _corrupt(path, offset, "the file ends without the mark that ends a tar")
    if header[257:265] != MAGIC:
        raise _corrupt(path, offset, "this is no USTAR header")
    try:
        stated, size = int(header[148:156].rstrip(b"\0 "), 8), int(header[124:136].rstrip(b"\0 "), 8)
        name = header[:100].partition(b"\0")[0].decode()
    except ValueError:
        raise _corrupt(path, offset, "a name or number cannot be read") from None
    if sum(header) - sum(header[148:156]) + 8 * ord(" ") != stated:
        raise _corrupt(path, offset, "the header's checksum is wrong")
    if header[156:157] not in REGULAR or header[345] != 0 or size < 0:
        raise _corrupt(path, offset, f"'{name}' is a link, a folder or has a long name; only plain files are read")
    key, _, kind = name.partition(".")
    if not (key and kind and is_file_name(name)):
        raise _corrupt(path, offset, f"'{printable(name)}' is not named as a sample's file (KEY.jpg, KEY.json)")
    if offset + BLOCK + size + -size % BLOCK > end or size > LARGEST_SAMPLE:
        reason = "is cut off" if size <= LARGEST_SAMPLE else f"claims {size} bytes, more than {LARGEST_SAMPLE}"
        raise _corrupt(path, offset, f"'{name}' {reason}")
    return key, kind, size


def _corrupt(path: Path, offset: int, what: str) -> CorruptTarError:
    return CorruptTarError(f"{path}, byte {offset}: {what}; it is corrupt or was made elsewhere: make it again")
