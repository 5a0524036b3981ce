"""Run a package's command as a guarded child process.

The child gets a session of its own, writes to a log file (never a pipe, which a dead reader would break), and its lines
are handed on as they come. Whatever ends the caller - a cancelled flow, a timeout, Ctrl-C, a crash - ends the child's
whole tree: SIGTERM, a grace period in which a trainer saves its checkpoint, SIGKILL. If the caller is killed outright,
a small process between the two does the same (flows/process/tether.py).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datasets.runtime.atomic import open_plain

PROJECT = Path(__file__).resolve().parents[2]
LAST_LINES = 15
POLL_SECONDS = 0.1
GRACE_SECONDS = 10.0
"""Between SIGTERM and SIGKILL. A worker of Prefect's itself kills a cancelled flow after 30 s."""
KILLED_SECONDS = 5.0
"""Time for killed processes to disappear; it takes longer only if one hangs in a driver."""


class CommandError(RuntimeError):
    """A command ended with an exit code other than 0; carries its last lines."""

    def __init__(self, command: Sequence[str], exit_code: int, last_lines: Sequence[str], log: Path) -> None:
        said = "\n".join(f"    {line}" for line in last_lines) or "    (no output)"
        super().__init__(f"{describe(command)} ended with exit code {exit_code}; its last lines (all: {log}):\n{said}")
        self.exit_code = exit_code


def describe(command: Sequence[str]) -> str:
    """A command as a person would type it, without the settings files."""
    words = ["python" if word == sys.executable else word for word in command]
    return " ".join(words[: words.index("--config")] if "--config" in words else words)


@dataclass(frozen=True, kw_only=True)
class Guard:
    """Under what conditions commands run."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables set on top of this process's."""
    grace_seconds: float = GRACE_SECONDS
    """Between SIGTERM and SIGKILL when the call is interrupted, or another of the commands failed."""
    still_wanted: Callable[[], None] = lambda: None
    """Called several times a second; raises to stop the commands."""
    keep_open: Sequence[int] = ()
    """File descriptors that the commands inherit: locks that stay held as long as any of their processes lives."""


def run_commands(
    commands: Sequence[tuple[Sequence[str], Path]], on_line: Callable[[str], None], guard: Guard = Guard()
) -> None:
    """Run commands side by side, all to their end; every line one writes goes to its log and to `on_line`.

    Args:
        commands: program and arguments (relative paths count from the project's root), and the log file that receives
            standard output and error; its folder is made.
        on_line: called for each line, without the line end; of several commands each line begins with ``[N] ``, which
            one it is, from 1.
        guard: under what conditions they run.

    Raises:
        CommandError: one ended with an exit code other than 0; the others were stopped.
    """
    running: list[_Running] = []
    try:
        for number, (command, log) in enumerate(commands, 1):
            running.append(_Running(command, log, guard, f"[{number}] " if len(commands) > 1 else ""))
        while not _all_ended(running, on_line, guard):
            guard.still_wanted()
            time.sleep(POLL_SECONDS)
    finally:
        left = [child for child in running if not child.gone]
        for child in left:
            _signal_group(child.process.pid, signal.SIGTERM)  # all at once, so that they stop side by side
        for child in left:
            end_tree(child.process, guard.grace_seconds)
        for child in running:
            child.tail.file.close()
    for child in running:
        if child.failed:
            raise CommandError(child.command, child.process.returncode, child.last_lines, child.log)


def _all_ended(running: Sequence[_Running], on_line: Callable[[str], None], guard: Guard) -> bool:
    """Hand on what was written; whether there is nothing more to wait for: all ended, or one failed.

    What a command leaves behind ends with it, while others work on: hours later its number may be somebody else's.
    """
    ended = []
    for child in running:
        ended.append(child.process.poll() is not None)  # asked before reading: nothing written earlier is missed
        child.failed = child.process.returncode not in (None, 0)
        for line in child.tail.new_lines(at_end=ended[-1]):
            child.last_lines.append(line)
            on_line(child.mark + line)
        if ended[-1] and not (child.failed or child.gone):
            end_tree(child.process, guard.grace_seconds)
            child.gone = True
    return all(ended) or any(child.failed for child in running)


class Tail:
    """Reads a log that somebody writes, line by line."""

    def __init__(self, log: Path) -> None:
        self.file = log.open("rb")
        self._rest = b""

    def new_lines(self, *, at_end: bool) -> Iterator[str]:
        """Lines written since the last call; `at_end` also the last one if it has no line end."""
        if os.fstat(self.file.fileno()).st_size < self.file.tell():
            self.file.seek(0)  # the log was truncated
        *whole, self._rest = (self._rest + self.file.read()).split(b"\n")
        if at_end and self._rest:
            whole, self._rest = [*whole, self._rest], b""
        for line in whole:
            yield line.decode(errors="replace").rstrip("\r")


class _Running:
    """A started command and the place up to which its log was read."""

    def __init__(self, command: Sequence[str], log: Path, guard: Guard, mark: str = "") -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with open_plain(log, "wb") as output:
            self.process = _start(command, output.fileno(), guard)
        self.command, self.log, self.tail, self.mark = command, log, Tail(log), mark
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self.failed = False
        self.gone = False
        """Whether nobody of its group is left: its number is then never used again."""


def _start(command: Sequence[str], output: int, guard: Guard) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*tether(guard.grace_seconds), *command],
        cwd=PROJECT,  # so that `-m datasets` is ours wherever the flow was started
        env={**os.environ, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", **guard.environment},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=guard.keep_open,
    )


def tether(grace_seconds: float) -> list[str]:
    """What to write before a command so that it ends with this process."""
    # -I -S: it needs nothing of site-packages and starts in 10 ms; the command is not concerned.
    program = [sys.executable, "-I", "-S", str(PROJECT / "flows" / "process" / "tether.py")]
    return [*program, str(os.getpid()), str(grace_seconds)]


def end_tree(process: subprocess.Popen[bytes], grace_seconds: float = GRACE_SECONDS) -> None:
    """End a child's process group; at once if it left nothing behind.

    SIGTERM first; SIGKILL to whoever is left after the grace period. A process that opened a session of its own is
    out of reach; none of our commands does.
    """
    group = process.pid
    _signal_group(group, signal.SIGTERM)
    _wait_for_group(process, group, grace_seconds)
    _signal_group(group, signal.SIGKILL)
    process.wait()
    _wait_for_group(process, group, KILLED_SECONDS)


def _wait_for_group(process: subprocess.Popen[bytes], group: int, seconds: float) -> None:
    """Until nobody of a group is left, or so many seconds have passed."""
    deadline = time.monotonic() + seconds
    while _group_lives(process, group) and time.monotonic() < deadline:
        time.sleep(0.02)


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _group_lives(process: subprocess.Popen[bytes], group: int) -> bool:
    process.poll()  # reap the leader
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return any(state != "Z" for state in _group_states(group))


def _group_states(group: int) -> Iterator[str]:
    """Process states of a group's members, after proc(5); 'R' where there is no /proc.

    A grandchild whose parent died stays a zombie if process 1 reaps nobody, as in many containers: it is dead for us.
    """
    if not Path("/proc/self/stat").exists():
        yield "R"
        return
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, _, its_group = Path(entry.path, "stat").read_text().rpartition(")")[2].split()[:3]
                if int(its_group) == group:
                    yield state
