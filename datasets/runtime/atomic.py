"""Files in folders that others can write to: written whole or not at all, and never through a link that lies there.

A text or a copy is written beside its place under a name that nobody can guess, and renamed: a reader sees the old or
the new content, and a link that was planted at the place is replaced, not followed. Logs and locks, which must be
opened where they lie, are opened by `open_plain`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO, cast

from datasets.runtime.errors import InputError


def write_text_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old or the new content, never half of it.

    Raises:
        IsADirectoryError: the path is a folder.
        InputError: it is a device or a pipe, which the file would replace (as root even `/dev/null`).
    """
    write_bytes_atomically(path, text.encode())


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """`write_text_atomically` of bytes."""
    with _replacing(path) as file:
        file.write(content)


def copy_atomically(source: Path, target: Path) -> None:
    """Copy a file's bytes; `target` is replaced as by `write_text_atomically`."""
    with source.open("rb") as original, _replacing(target) as file:
        shutil.copyfileobj(original, file)


@contextlib.contextmanager
def _replacing(path: Path) -> Generator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends, and is deleted if it fails."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is not a regular file and is not replaced by one; name another file")
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:  # 'x' follows no link
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


FLAGS = {"rb": os.O_RDONLY, "ab": os.O_WRONLY | os.O_APPEND, "wb": os.O_WRONLY | os.O_TRUNC, "rb+": os.O_RDWR}
"""How a file is opened by the mode of `open_plain`."""


def open_plain(path: Path, mode: str = "rb") -> BinaryIO:
    """Open a regular file as `open` does; all modes but 'rb' make it where it is not there ('rb+' too).

    A link is followed where a file is read, and refused where it is written to. No pipe or device is waited for.

    Args:
        path: the file.
        mode: one of `FLAGS`.

    Raises:
        OSError: it cannot be opened.
        InputError: it is a pipe, a device or, to be written to, a link.
    """
    flags = FLAGS[mode] if mode == "rb" else FLAGS[mode] | os.O_CREAT | os.O_NOFOLLOW
    return cast(BinaryIO, os.fdopen(plain_descriptor(path, flags), mode))


def plain_descriptor(path: Path, flags: int) -> int:
    """A descriptor of a regular file.

    Raises:
        OSError: it cannot be opened.
        InputError: it is a pipe, a device or, with O_NOFOLLOW, a link.
    """
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ENXIO or (error.errno == errno.ELOOP and flags & os.O_NOFOLLOW):
            raise InputError(f"{path} is a link or a pipe, where a plain file belongs; remove it") from None
        raise
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise InputError(f"{path} is a pipe or a device, where a plain file belongs; remove it, or name another")
