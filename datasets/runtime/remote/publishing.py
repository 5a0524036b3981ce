"""A finished artifact put at the address of its store: its files first, its manifest last.

So an artifact whose upload was cut off has no manifest there and counts as unfinished. What was uploaded before is
remembered with the stamp that the storage gave it, and is not sent again if the storage still says the same.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from datasets.runtime.hashing import file_sha256
from datasets.runtime.manifests import MANIFEST, manifest_of
from datasets.runtime.progress import Progress
from datasets.runtime.remote.addresses import address_of
from datasets.runtime.remote.copies import Note, discard_folder, note_of, write_note
from datasets.runtime.remote.transfer import check_writable, facts_of, upload

logger = logging.getLogger(__name__)


def check_publishable(directory: Path) -> None:
    """Refuse an address that cannot be written to; for a local folder nothing is done.

    Raises:
        RemoteError: no credentials, no bucket, access denied, http, or no connection.
    """
    if (address := address_of(directory)) is not None:
        check_writable(f"{address}.writable")


def publish(made: Path, directory: Path) -> None:
    """Put the artifact in `made` at the address that `directory` stands for, and let it be there as its copy.

    Where `directory` is a local folder, `made` only becomes it.

    Args:
        made: a folder with a manifest.
        directory: where it shall be.

    Raises:
        RemoteError: see `datasets.runtime.remote.transfer`; the next try goes on where this one ended.
    """
    if address_of(directory) is None:
        os.replace(made, directory)
        return
    files = manifest_of(made)["files"]
    progress = Progress(logger, "publish", sum(file["size"] for file in files) or 1, "bytes")
    for file in files:
        _put(made, directory, file["name"], file["sha256"])
        progress.update(file["size"])
    _put(made, directory, MANIFEST, file_sha256(made / MANIFEST))
    notes = {name: note_of(directory / name) for name in [file["name"] for file in files] + [MANIFEST]}
    discard_folder(directory)
    os.replace(made, directory)
    for name, note in notes.items():
        if note is not None:
            write_note(directory / name, note)


def _put(made: Path, directory: Path, name: str, sha256: str) -> None:
    address, known = f"{address_of(directory)}/{name}", note_of(directory / name)
    if known is not None and known.sha256 == sha256 and known.stamp and name != MANIFEST:
        facts = facts_of(address)
        if facts is not None and (facts.size, facts.stamp) == (known.size, known.stamp):
            return
    facts = upload(made / name, address)
    write_note(directory / name, Note((made / name).stat().st_size, facts.stamp, sha256))
