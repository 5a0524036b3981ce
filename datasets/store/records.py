"""Which runs a store has seen: a file ``runs/RUN.json`` for each, so that pruning knows what results need.

A run names the artifacts that it is about to use before it looks whether they are there, under the store's lock. So
what it finds complete stays, also while the store is pruned.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from datasets.runtime.atomic import open_plain, write_text_atomically
from datasets.runtime.config import Config
from datasets.runtime.errors import InputError

RUNS = "runs"
"""Folder of the records, below the store."""
LOCKS = "locks"
CLOCK = "IMAGPOSE_REID_NOW"
"""Environment variable that stands in for the machine's clock, to rehearse a year in an hour (`python -m benchmarks
year`). Never set it where real results are kept."""


class RunRecord(Config):
    """A regeneration, finished or not."""

    run: str
    """Its id."""
    preset: str = ""
    variant: str = ""
    """Stands for settings other than the preset's own."""
    started: datetime
    used: datetime
    """When it last asked for an artifact."""
    finished: bool = False
    lock: str = ""
    """Name of the lock in ``locks/`` that it holds while it lives."""
    report: str = ""
    """The report's artifact, once it is finished."""
    artifacts: list[str] = []
    """``STAGE/KEY`` of everything that it uses."""
    pages: Path | None = None
    """The folder that keeps a copy of its report."""


def clock() -> float:
    """Seconds since the epoch, by the clock that runs are dated and the store is pruned by.

    Raises:
        InputError: the environment variable `CLOCK` holds no time with its zone.
    """
    if not (given := os.environ.get(CLOCK)):
        return time.time()
    try:
        moment = datetime.fromisoformat(given)
        if moment.tzinfo is None:
            raise ValueError
    except ValueError:
        raise InputError(f"{CLOCK} is '{given}', no time with its zone such as 2027-01-04T05:00:00+00:00") from None
    return moment.timestamp()


def now() -> datetime:
    """The time by `clock`, to the second, in UTC."""
    return datetime.fromtimestamp(clock(), UTC).replace(microsecond=0)


def write_record(record: RunRecord, store: Path) -> RunRecord:
    """Write or replace a run's record; waits while the store is pruned."""
    with store_lock(store, fcntl.LOCK_SH):
        path = store / RUNS / f"{record.run}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(path, record.model_dump_json(indent=1) + "\n")
    return record


def read_records(store: Path) -> list[RunRecord]:
    """All records, oldest first.

    Raises:
        InputError: one of them cannot be read.
    """
    records = []
    for path in sorted((store / RUNS).glob("*.json")):
        try:
            records.append(RunRecord.model_validate_json(path.read_text(encoding="utf-8")))
        except (OSError, ValidationError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is no record of a run ({type(error).__name__}); mend or delete it") from None
    return sorted(records, key=lambda record: (record.started, record.run))


def is_running(record: RunRecord, store: Path) -> bool:
    """Whether an unfinished run still holds its lock: it, or the one that took over from it, is at work."""
    path = store / LOCKS / record.lock
    return not record.finished and bool(record.lock) and is_locked(path) and _holder(path) in ("", record.run)


def _holder(lock: Path) -> str:
    """The last word of the name of the run that holds a lock: its id; empty if the lock does not say."""
    with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
        return str(json.loads(lock.read_text())["run"]).split()[-1]
    return ""


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock on a file."""
    if not path.is_file():
        return False
    with open_plain(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextlib.contextmanager
def store_lock(store: Path, kind: int) -> Generator[None]:
    """Hold the store's lock: shared (LOCK_SH) to name what is used, exclusive (LOCK_EX) to remove."""
    path = store / LOCKS / ".store.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_plain(path, "rb+") as file:
        fcntl.flock(file, kind)
        yield
