"""Run a package's command as a guarded child process.

The child gets a session of its own, writes to a log file (never a pipe, which a dead reader would break), and its lines
are handed on as they come. Whatever ends the caller - a cancelled flow, a timeout, Ctrl-C, a crash - ends the child's
whole tree: SIGTERM, a grace period in which a trainer saves its checkpoint, SIGKILL. If the caller is killed outright,
the kernel tells the child (flows/tether.py).
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
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
LAST_LINES = 15
POLL_SECONDS = 0.1
GRACE_SECONDS = 60.0


class CommandError(RuntimeError):
    """A command ended with an exit code other than 0; carries its last lines."""

    def __init__(self, command: Sequence[str], exit_code: int, last_lines: Sequence[str], log: Path) -> None:
        said = "\n".join(f"    {line}" for line in last_lines) or "    (it said nothing)"
        super().__init__(f"{describe(command)} ended with exit code {exit_code}; its last lines (all: {log}):\n{said}")
        self.exit_code = exit_code


def describe(command: Sequence[str]) -> str:
    """A command as a person would type it, less the settings files."""
    words = ["python" if word == sys.executable else word for word in command]
    return " ".join(words[: words.index("--config")] if "--config" in words else words)


def run_command(
    command: Sequence[str],
    log: Path,
    on_line: Callable[[str], None],
    *,
    environment: Mapping[str, str] | None = None,
    grace_seconds: float = GRACE_SECONDS,
) -> None:
    """Run a command to its end; every line it writes goes to `log` and to `on_line`.

    Args:
        command: program and arguments; relative paths in them count from the project's root.
        log: receives standard output and error; its folder is made.
        on_line: called for each line, without the line end.
        environment: variables set on top of this process's.
        grace_seconds: between SIGTERM and SIGKILL when the call is interrupted.
    Raises: CommandError: exit code other than 0.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    last_lines: deque[str] = deque(maxlen=LAST_LINES)
    with log.open("wb") as output:
        process = _start(command, output.fileno(), environment)
    try:
        for line in _lines_until_end(process, log):
            last_lines.append(line)
            on_line(line)
    finally:
        end_tree(process, grace_seconds)
    if process.returncode != 0:
        raise CommandError(command, process.returncode, last_lines, log)


def _start(command: Sequence[str], output: int, environment: Mapping[str, str] | None) -> subprocess.Popen[bytes]:
    # -I -S: the shim needs nothing of site-packages and starts in 10 ms; what it becomes is not concerned.
    tethered = [sys.executable, "-I", "-S", str(PROJECT / "flows" / "tether.py"), str(os.getpid()), *command]
    return subprocess.Popen(
        tethered,
        cwd=PROJECT,  # so that `-m datasets` is ours wherever the flow was started
        env={**os.environ, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _lines_until_end(process: subprocess.Popen[bytes], log: Path) -> Iterator[str]:
    """The log's lines as they are written; ends with the process."""
    rest = b""
    with log.open("rb") as file:
        while True:
            ended = process.poll() is not None  # asked before reading, so that nothing written earlier is missed
            *whole, rest = (rest + file.read()).split(b"\n")
            for line in whole:
                yield line.decode(errors="replace").rstrip("\r")
            if ended:
                break
            if not whole:
                time.sleep(POLL_SECONDS)
    if rest:
        yield rest.decode(errors="replace")


def end_tree(process: subprocess.Popen[bytes], grace_seconds: float = GRACE_SECONDS) -> None:
    """End a child's process group; at once if it left nothing behind.

    SIGTERM first; SIGKILL to whoever is left after the grace period. A process that opened a session of its own is
    out of reach; none of our commands does.
    """
    group = process.pid
    _signal_group(group, signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    while _group_lives(process, group) and time.monotonic() < deadline:
        time.sleep(0.02)
    _signal_group(group, signal.SIGKILL)
    process.wait()


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
