"""Artifacts: finished folders named by the hash of what they were made from.

A stage is a frozen config and a function ``make(config, directory) -> summary``. `build` runs it in a working folder
beside the final name, writes ``manifest.json`` last, and renames the folder when it is whole. So a folder that has a
manifest is complete, a second run does nothing, and an interrupted stage finds its own half-done work again.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import stat
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datasets.runtime.atomic import open_plain
from datasets.runtime.config import StageConfig
from datasets.runtime.errors import ArtifactBusyError, ArtifactError, InputError
from datasets.runtime.keys import artifact_directory, artifact_key_and_inputs, partial_directory
from datasets.runtime.manifests import SCRATCH, is_complete, manifest_of, write_manifest
from datasets.runtime.remote.addresses import is_remote
from datasets.runtime.remote.publishing import check_publishable, publish

logger = logging.getLogger(__name__)

SECONDS_TO_JOIN = 300.0
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
"""What flock says on file systems that have none."""


def build(
    config: StageConfig,
    make: Callable[[Any, Path], dict[str, Any]],
    *,
    store: Path | None = None,
    output: Path | None = None,
) -> Path:
    """Make a stage's artifact unless it is there already.

    Args:
        config: the stage's settings.
        make: writes the artifact's files into the folder it is given (where it may find its own earlier,
            interrupted work) and returns a JSON summary: counts by status and whatever a reader asks first.
        store: the store's root; the artifact's folder is then named by its key. Where it stands for an address, the
            artifact is made here and then published there.
        output: or an explicit folder, for use by hand.

    Returns:
        The finished artifact's folder.

    Raises:
        ArtifactBusyError: another process makes it.
        ArtifactError: `output` holds something else.
    """
    directory = output if output is not None else artifact_directory(config, store or Path("runs/store"))
    key, inputs = artifact_key_and_inputs(config)
    if _is_reusable(directory, key):
        logger.info("%s: already complete at %s", config.stage, directory)
        return directory
    if int(os.environ.get("RANK", "0")) > 0:  # a further process of a torchrun: the first one keeps the books
        _join(directory, key, lambda folder: make(config, folder))
        return directory
    with _only_writer(directory):
        if _is_reusable(directory, key):  # made by another process while this one came here
            return directory
        check_publishable(directory)
        started = time.time()
        with _disk_full_explained(directory):
            partial = _working_folder(directory, key)
            if not is_complete(partial):  # else it was killed between the manifest and the renaming
                summary = make(config, partial)
                write_manifest(config, partial, key, inputs, summary, started)
            shutil.rmtree(partial / SCRATCH, ignore_errors=True)
            (partial / ".key").unlink()
            publish(partial, directory)
    logger.info("%s: done in %.1f s: %s", config.stage, time.time() - started, directory)
    return directory


def _is_reusable(directory: Path, key: str) -> bool:
    if is_remote(directory) and not is_complete(directory):
        return False  # whatever lies here are copies of an artifact that was removed there
    if not directory.exists():
        if directory.is_symlink():  # the finished folder could not be renamed to it
            raise ArtifactError(f"{directory} is a link to nowhere; remove it")
        return False
    if not is_complete(directory):
        raise ArtifactError(f"{directory} exists but is not an artifact; choose another output or move it away")
    if manifest_of(directory)["key"] != key:
        raise ArtifactError(f"{directory} was made from other settings or inputs; choose another output or delete it")
    return True


@contextmanager
def _only_writer(directory: Path) -> Generator[None]:
    """Hold the artifact's lock; the operating system lets go of it when the process ends, however it ends."""
    lock_path = directory.with_name(f".{directory.name}.lock")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with open_plain(lock_path, "rb+") as lock:
        if not try_lock(lock.fileno(), lock_path):
            raise ArtifactBusyError(f"another process is making {directory} right now; wait for it, or stop it first")
        yield


def try_lock(file: int, path: Path) -> bool:
    """Lock an open file for this process and those that inherit it; False where another process has it.

    Args:
        file: descriptor.
        path: its path, for the error.

    Raises:
        InputError: its file system has no locks, without which two runs would write to one artifact.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        raise InputError(
            f"the file system of {path.parent} has no locks ({error.strerror}), which keep two runs apart; take a "
            "folder on a local disk, or mount this one with locks"
        ) from None
    return True


@contextmanager
def _disk_full_explained(directory: Path) -> Generator[None]:
    """Turn a full disk or quota into an error that says what to do; what is done so far stays."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(
            f"no space left while making {directory} ({error.strerror}); free some and run again: it resumes there"
        ) from error


def _join(directory: Path, key: str, work: Callable[[Path], object]) -> None:
    """Run the stage in the working folder that the first process of a torchrun has opened."""
    note = partial_directory(directory) / ".key"
    deadline = time.monotonic() + SECONDS_TO_JOIN
    while not (note.is_file() and note.read_text() == key):
        if time.monotonic() > deadline:
            raise ArtifactError(f"the first process has not opened {note.parent} within {SECONDS_TO_JOIN:.0f} s")
        time.sleep(0.1)
    work(note.parent)


def _working_folder(directory: Path, key: str) -> Path:
    """The working folder, emptied if what lies in it was begun under other settings (an explicit `output`)."""
    partial = partial_directory(directory)
    _refuse_planted(partial)
    note = partial / ".key"
    if is_complete(partial) and manifest_of(partial).get("key") == key:
        note.write_text(key)  # it was removed, but the folder not yet renamed
    if partial.exists() and (not note.is_file() or note.read_text() != key):
        shutil.rmtree(partial)
    partial.mkdir(exist_ok=True)
    note.write_text(key)
    return partial


def _refuse_planted(partial: Path) -> None:
    """Refuse a working folder that is none, or holds what no stage puts there and would be written through.

    Raises:
        ArtifactError: it is a file or a link, or there is a link, a pipe or a device in it.
    """
    try:
        if not stat.S_ISDIR(partial.lstat().st_mode):
            raise ArtifactError(f"{partial} is not a folder, but where this artifact is made; remove it")
    except FileNotFoundError:
        return
    for parent, folders, files in os.walk(partial):
        for name in folders + files:
            mode = os.lstat(os.path.join(parent, name)).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise ArtifactError(
                    f"{os.path.join(parent, name)} is a link, a pipe or a device, which no stage makes: another one "
                    f"has put it there; delete {partial}"
                )
