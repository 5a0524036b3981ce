"""``python -m benchmarks fuzzing``: a fuzz run of a given time, in a child process that may fail in any way.

``FUZZ_SECONDS`` (60 if not set) is how long, ``FUZZ_SEED`` where it starts, ``FUZZ_LOG`` a file that the lines are
added to. Each round asks hypothesis for some inputs of each target, with a seed of its own; a failure is shrunk and
printed with the seed that makes it again. Looked for: a file written or read outside the store, more than 10 s of
processor time (or a minute) or 2 GiB for one input, an exception that is not documented, and the death of the process.
"""

from __future__ import annotations

import faulthandler
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from benchmarks.isolated import forget_peak, memory_mb
from datasets.runtime.errors import InputError
from datasets.sources.files import UnreadableFileError

DOCUMENTED = (InputError, UnreadableFileError)
MOST_SECONDS, MOST_WAITING, MOST_MB = 10, 60, 2 * 1024**3 / 1e6
INPUTS_A_ROUND = 40
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGING = {"os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}


class EscapeError(Exception):
    """Something outside the store was opened or changed."""


class HangError(Exception):
    """One input took too long."""


class Watch:
    """Refuses whatever leaves a folder, while it is on."""

    def __init__(self, root: Path) -> None:
        self.root, self.on, self.escapes = str(root.resolve()), False, list[str]()
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on or not (event == "open" or event in CHANGING):
            return
        if event in CHANGING and isinstance(arguments[-1], int) and arguments[-1] >= 0 and event != "os.truncate":
            return  # a name below an open folder, as shutil.rmtree deletes
        for place in arguments[: 2 if event in ("os.rename", "os.link", "os.symlink") else 1]:
            if isinstance(place, str | bytes | Path) and self._escapes(event, os.fsdecode(place), arguments):
                self.escapes.append(f"{event} {os.fsdecode(place)!r}")

    def _escapes(self, event: str, place: str, arguments: tuple[Any, ...]) -> bool:
        path = os.path.realpath(place)
        if path.startswith(f"{self.root}/outside") or path == "/etc/passwd":
            return True
        if "/.hypothesis" in path:  # its own notes, which it writes while it draws
            return False
        changes = event != "open" or (isinstance(arguments[2], int) and arguments[2] & WRITING)
        return bool(changes) and not path.startswith((f"{self.root}/", "/dev/null", "/proc/"))


def one_input(target: Callable[..., None], draw: Callable[..., Any], store: Any, watch: Watch) -> None:
    """Run a target once under all limits.

    Raises:
        EscapeError, HangError, MemoryError: a limit was passed.
        Exception: what the target let through.
    """
    forget_peak()
    watch.escapes.clear()
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)  # of processor time: other work may share the cores
    signal.setitimer(signal.ITIMER_REAL, MOST_WAITING)
    faulthandler.dump_traceback_later(2 * MOST_WAITING, exit=True)  # for what never comes back to Python
    before = memory_mb("VmRSS")
    try:
        watch.on = True
        target(draw, store)
    except DOCUMENTED:
        pass
    finally:
        watch.on = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
    if watch.escapes:
        raise EscapeError(watch.escapes[0])
    if (peak := memory_mb("VmHWM")) - before > MOST_MB:
        raise MemoryError(f"{peak - before:.0f} MB for one input")


def limit_time() -> None:
    """Let the timers of `one_input` raise in this process."""

    def too_long(*_: object) -> None:
        raise HangError("took too long for one input")

    signal.signal(signal.SIGALRM, too_long)
    signal.signal(signal.SIGPROF, too_long)


def run_round(name: str, target: Callable[..., None], store: Any, watch: Watch, number: int) -> tuple[int, str]:
    """Some inputs of a target; returns how many, and the shrunk failure in words ('' if there is none)."""
    count = 0

    @seed(number)
    @settings(
        max_examples=INPUTS_A_ROUND,
        deadline=None,
        database=None,
        print_blob=False,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def check(data: st.DataObject) -> None:
        nonlocal count
        count += 1
        one_input(target, data.draw, store, watch)

    try:
        check()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        shown = "".join(traceback.format_exception(error))[-3000:]
        return count, f"{name}, FUZZ_SEED={number}: {type(error).__name__}: {error}\n{shown}"
    return count, ""


def work(seconds: float, first: int) -> int:
    """Fuzz in this process; returns 1 if anything was found."""
    from benchmarks.fuzzing.targets import TARGETS, Store

    limit_time()
    warnings.simplefilter("ignore")
    counts: Counter[str] = Counter()
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        store, watch = Store(Path(folder) / "root"), Watch(Path(folder) / "root")
        end, number = time.monotonic() + seconds, first
        while time.monotonic() < end:
            for name, target in TARGETS.items():
                count, problem = run_round(name, target, store, watch, number)
                counts[name] += count
                if problem and problem.splitlines()[0].partition(": ")[2] not in found:
                    found[problem.splitlines()[0].partition(": ")[2]] = problem
                    print(problem, flush=True)
            number += 1
    print(
        f"{sum(counts.values()):,} inputs ({', '.join(f'{n}: {c:,}' for n, c in counts.items())}), "
        f"rounds {first} to {number - 1}, {len(found)} failures",
        flush=True,
    )
    return bool(found)


def main() -> int:
    """Run the child and tell how it ended; returns the exit code."""
    seconds = float(os.environ.get("FUZZ_SECONDS", "60"))
    first = int(os.environ.get("FUZZ_SEED", str(random.randrange(10**6))))
    started = time.monotonic()
    command = [
        sys.executable,
        "-c",
        "import sys; from benchmarks.fuzzing.driver import work; sys.exit(work(float(sys.argv[1]), int(sys.argv[2])))",
        str(seconds),
        str(first),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    text = (
        f"{done.stdout.rstrip()}\nexit code {done.returncode} after {time.monotonic() - started:.0f} s, seed {first}\n"
    )
    print(text)
    if log := os.environ.get("FUZZ_LOG"):
        with Path(log).open("a") as file:
            file.write(text)
    return int(done.returncode != 0)
