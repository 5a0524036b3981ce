"""Files that a reader sees whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from datasets.runtime.errors import InputError


def write_text_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old or the new content, never half of it.

    Raises:
        IsADirectoryError: the path is a folder.
        InputError: it is a device or a pipe, which the file would replace (as root even `/dev/null`).
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is not a regular file and is not replaced by one; name another file")
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
