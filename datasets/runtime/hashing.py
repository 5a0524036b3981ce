"""SHA-256 of files, folders and JSON values."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_sha256(value: object) -> str:
    """SHA-256 of a JSON value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def tree_sha256(root: Path) -> str:
    """Fingerprint of a folder by names, sizes and modification times; a file is taken by its content."""
    if root.is_file():
        return file_sha256(root)
    rows = []
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            try:
                status = os.stat(path)
            except OSError:
                status = os.lstat(path)  # a link to nowhere counts by itself
            rows.append([os.path.relpath(path, root), status.st_size, status.st_mtime_ns])
    return json_sha256(sorted(rows))
