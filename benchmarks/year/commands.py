"""The commands of a week, each as the person or the timer who looks after the data set would run it."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from benchmarks.year.data import set_date_of_new
from benchmarks.year.plan import NAME, Week
from datasets.runtime.manifests import PROJECT
from datasets.runtime.registry import EXTENSIONS
from datasets.store.records import CLOCK

DATA, POOL, STORE, RESULTS = "data", "pool", "runs/store", f"runs/{NAME}"
"""Folders below the year's own."""


class FailedCommandError(RuntimeError):
    """A command ended with an exit code other than 0."""


@dataclass(frozen=True)
class Cost:
    """What a week took."""

    seconds: float
    cpu: float


def run_week(folder: Path, week: Week, keep_runs: int, older_than: float) -> Cost:
    """Forget whoever has withdrawn consent, regenerate, prune; all dated as the week is.

    Raises:
        FailedCommandError: one of the commands failed.
    """
    started, before = time.time(), _cpu()
    if week.leaving is not None:
        said = _run(folder, week.date, "datasets", "store", "forget", *_store(), "--pid", str(week.leaving), "--remove")
        _remove_named_pages(said)
    poses = ",".join(f"{POOL}/market-annotation-{part}.csv" for part in ("train", "test"))
    data = ("--root", DATA, "--poses", poses, "--device", "cpu", "--store", STORE)
    _run(folder, week.date, "flows", "direct", "--preset", NAME, *data)
    set_date_of_new(folder / "runs", started, week.date)
    limits = ("--keep-runs", str(keep_runs), "--older-than", str(older_than))
    _run(folder, week.date, "datasets", "store", "prune", *_store(), *limits, "--remove")
    return Cost(time.time() - started, _cpu() - before)


def _remove_named_pages(said: str) -> None:
    """Look at the pages that `store forget` cannot tell about, as it says to; here each shows everybody."""
    for line in said.splitlines():
        if line.startswith("look at "):
            shutil.rmtree(line.removeprefix("look at ").rpartition(": its artifacts")[0])


def last_words(folder: Path, week: Week) -> str:
    """What `reid history` prints, and `verify` says of the whole store; its page is written to ``history.html``.

    Raises:
        FailedCommandError: something in the store is corrupt, or the history cannot be shown.
    """
    _run(folder, week.date, "datasets", "verify", "--artifacts", STORE)
    return _run(
        folder, week.date, "reid", "history", "--history", f"{RESULTS}/history.parquet", "--html", "history.html"
    )


def _store() -> tuple[str, str]:
    return "--store", STORE


def _run(folder: Path, date: datetime, package: str, *arguments: str) -> str:
    command = [sys.executable, "-m", package, *arguments]
    own = {CLOCK: date.isoformat(), EXTENSIONS: "benchmarks.year.preset", "PYTHONPATH": str(PROJECT)}
    result = subprocess.run(command, cwd=folder, env=os.environ | own, capture_output=True, text=True)
    if result.returncode:
        words = " ".join([package, *arguments])
        raise FailedCommandError(f"python -m {words}: exit code {result.returncode}\n{result.stderr[-3000:]}")
    return result.stdout


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
