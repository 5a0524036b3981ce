"""Guarded child processes: output, failure, and the end of the whole tree however the caller ends."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.process.commands import CommandError, Guard, run_commands

TRAINER = """
import os, pathlib, signal, subprocess, sys, time
folder = pathlib.Path(sys.argv[1])
loaders = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) for _ in range(2)]
folder.joinpath("pids").write_text(" ".join(str(p) for p in [os.getpid(), *(l.pid for l in loaders)]))
def save(*_):
    folder.joinpath("checkpoint").write_text("saved")
    sys.exit(143)
signal.signal(signal.SIGTERM, signal.SIG_IGN if "--stubborn" in sys.argv else save)
print("training", flush=True)
time.sleep(600)
"""


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds: float = 15.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def pids_in(folder: Path) -> list[int]:
    return [int(pid) for pid in (folder / "pids").read_text().split()]


def run_command(command, log, on_line, guard=None):
    run_commands([(command, log)], on_line, guard or Guard())


def test_lines_of_both_streams_arrive_in_order_and_are_kept_in_the_log(tmp_path):
    code = "import sys; print('one'); print('two', file=sys.stderr); sys.stdout.write('no newline')"
    lines: list[str] = []
    run_command([sys.executable, "-u", "-c", code], tmp_path / "logs" / "x.log", lines.append)
    assert lines == ["one", "two", "no newline"]
    assert (tmp_path / "logs" / "x.log").read_text() == "one\ntwo\nno newline"


def test_a_failure_names_the_command_its_exit_code_and_its_last_lines(tmp_path):
    code = "print(*range(100), sep='\\n'); raise SystemExit(3)"
    with pytest.raises(CommandError, match="exit code 3") as raised:
        run_command([sys.executable, "-c", code], tmp_path / "x.log", lambda line: None)
    assert raised.value.exit_code == 3
    assert "    99" in str(raised.value) and "    84" not in str(raised.value)
    assert str(tmp_path / "x.log") in str(raised.value)


@pytest.mark.skipif(not stat.S_ISCHR(os.stat(os.devnull).st_mode), reason="this machine's /dev/null is no device")
def test_the_command_runs_in_a_session_of_its_own_without_standard_input(tmp_path):
    code = "import os, sys; print(os.getsid(0) == os.getpgid(0) == os.getppid(), repr(sys.stdin.read()))"
    lines: list[str] = []
    run_command([sys.executable, "-c", code], tmp_path / "x.log", lines.append)
    assert lines == ["True ''"]


@pytest.mark.parametrize("flags", [[], ["--stubborn"]], ids=["saves", "ignores-SIGTERM"])
def test_an_interrupted_call_ends_the_whole_tree(tmp_path, flags):
    class Cancelled(BaseException):
        pass

    def cancel_at_first_line(line):
        raise Cancelled

    script = tmp_path / "trainer.py"
    script.write_text(TRAINER)
    with pytest.raises(Cancelled):
        run_command(
            [sys.executable, str(script), str(tmp_path), *flags],
            tmp_path / "x.log",
            cancel_at_first_line,
            Guard(grace_seconds=1.0),
        )
    assert not any(alive(pid) for pid in pids_in(tmp_path))
    assert (tmp_path / "checkpoint").exists() == (not flags)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_the_trainer_saves_and_ends_when_its_caller_is_killed_outright(tmp_path, repository):
    script = tmp_path / "trainer.py"
    script.write_text(TRAINER)
    code = (
        "import sys; from pathlib import Path; from flows.process.commands import run_commands; "
        f"command = [sys.executable, {str(script)!r}, {str(tmp_path)!r}]; "
        f"run_commands([(command, Path({str(tmp_path / 'x.log')!r}))], print)"
    )
    caller = subprocess.Popen([sys.executable, "-c", code], cwd=repository)
    try:
        assert wait_until(lambda: (tmp_path / "pids").exists() and len(pids_in(tmp_path)) == 3)
        assert wait_until(lambda: "training" in (tmp_path / "x.log").read_text())
    finally:
        os.kill(caller.pid, signal.SIGKILL)
        caller.wait()
    trainer, *loaders = pids_in(tmp_path)
    assert wait_until(lambda: not alive(trainer))
    assert (tmp_path / "checkpoint").exists()
    assert wait_until(lambda: not any(alive(pid) for pid in loaders))


def test_commands_run_side_by_side_and_one_that_fails_stops_the_others(tmp_path: Path) -> None:
    waits_for_the_other = "import pathlib, sys, time; here, there = map(pathlib.Path, sys.argv[1:]); here.touch()\n"
    waits_for_the_other += "while not there.exists(): time.sleep(0.01)\nprint('met', here.name)"
    first, second = tmp_path / "first", tmp_path / "second"
    lines: list[str] = []
    run_commands(
        [
            ([sys.executable, "-c", waits_for_the_other, str(first), str(second)], tmp_path / "1.log"),
            ([sys.executable, "-c", waits_for_the_other, str(second), str(first)], tmp_path / "2.log"),
        ],
        lines.append,
    )
    assert sorted(lines) == ["[1] met first", "[2] met second"]  # each says whose it is
    started = time.monotonic()
    with pytest.raises(CommandError, match="exit code 3"):
        run_commands(
            [
                ([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "3.log"),
                ([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "4.log"),
            ],
            lines.append,
        )
    assert time.monotonic() - started < 20


def test_what_stands_between_ends_as_the_command_does(tmp_path):
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(CommandError, match="exit code -9"):
        run_command([sys.executable, "-c", code], tmp_path / "x.log", lambda line: None)


def test_a_run_that_is_no_longer_wanted_ends_its_command(tmp_path):
    class SuspendedError(Exception):
        pass

    def suspended():
        raise SuspendedError

    started = time.monotonic()
    with pytest.raises(SuspendedError):
        code = [sys.executable, "-c", "import time; time.sleep(60)"]
        run_command(code, tmp_path / "x.log", lambda line: None, Guard(still_wanted=suspended))
    assert time.monotonic() - started < 15


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's /proc")
def test_a_server_that_others_started_ends_with_us(tmp_path, repository):
    code = (
        "import subprocess, sys, time; from flows.process.commands import tether; "
        "server = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True); "
        "subprocess.Popen([*tether(2.0), '--end', str(server.pid)], start_new_session=True); "
        "print(server.pid, flush=True); time.sleep(600)"
    )
    caller = subprocess.Popen([sys.executable, "-c", code], cwd=repository, stdout=subprocess.PIPE, text=True)
    server = int(caller.stdout.readline())
    assert alive(server)
    os.kill(caller.pid, signal.SIGKILL)
    caller.wait()
    assert wait_until(lambda: not alive(server))


def test_the_number_of_a_command_that_has_ended_is_not_signaled_hours_later(tmp_path, monkeypatch):
    ended, signaled = [], []
    kill = os.killpg

    def noted(group, number):
        signaled.append((len(ended), group, number))
        kill(group, number)

    monkeypatch.setattr(os, "killpg", noted)
    first, second = "print('first')", "import time; time.sleep(1); print('second')"
    commands = [([sys.executable, "-c", code], tmp_path / f"{code[:9]}.log") for code in (first, second)]
    run_commands(commands, lambda line: ended.append(line) if "second" in line else None)
    last = {group for ends, group, number in signaled if ends and number == signal.SIGTERM}
    assert len(ended) == 1 and len(last) == 1  # the second's own alone


def test_what_a_command_leaves_behind_ends_with_it_and_not_with_the_others(tmp_path):
    sleeper = (
        "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid)"
    )
    pids = []

    def on_line(line):
        if line.startswith("[1] "):
            pids.append(int(line.removeprefix("[1] ")))

    waits = "import os, sys, time\nfor _ in range(200):\n    time.sleep(0.05)\n"
    waits += f"    if os.path.exists({str(tmp_path / 'go')!r}): break\nelse: sys.exit(3)"

    def still_wanted():
        if pids and not alive(pids[0]):
            (tmp_path / "go").touch()

    commands = [
        ([sys.executable, "-c", code], tmp_path / f"{number}.log") for number, code in enumerate((sleeper, waits))
    ]
    run_commands(commands, on_line, Guard(still_wanted=still_wanted))
    assert pids and (tmp_path / "go").exists()
