"""Files read whole, and only regular ones: a pipe would never end, a device may be endless or do something when opened.

A name says nothing about what it names: in a folder that others can write to, ``0002_c1s1_000451_03.jpg`` may be a pipe
or a link to a device. Whatever reads a file that a user names or that a listing finds reads it by `read_regular`.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from datasets.runtime.errors import InputError

MAX_FILE_BYTES = 64 << 20
"""No photograph of a person, keypoint file or skeleton is larger."""


class IrregularFileError(InputError, OSError):
    """A path names a pipe, a device, a socket or a folder, or a file that is larger than what is read.

    Both an `InputError` (one line, exit code 2) and an `OSError` with `strerror` and `filename`, so that a reader's
    own ``except OSError`` says what it says of other files that cannot be read.
    """

    def __init__(self, number: int, reason: str, path: Path) -> None:
        OSError.__init__(self, number, reason, str(path))
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.filename} {self.strerror}"


def read_regular(path: Path, most_bytes: int = MAX_FILE_BYTES) -> bytes:
    """A regular file's bytes; links to regular files are followed.

    Args:
        path: the file.
        most_bytes: a larger file is refused without being read to its end.

    Raises:
        IrregularFileError: it is no regular file, or larger than `most_bytes`.
        OSError: it is not there or cannot be read.
    """
    _check_regular(os.stat(path), path)  # before it is opened: opening a device can already do something
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe put there since does not block
    with os.fdopen(descriptor, "rb") as file:
        _check_regular(os.fstat(descriptor), path)
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise IrregularFileError(errno.EFBIG, f"has more than {most_bytes >> 20} MiB", path)
    return content


def _check_regular(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, a device or a socket"
        raise IrregularFileError(errno.EINVAL, f"is no regular file but {kind}", path)
