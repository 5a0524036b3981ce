"""One run per set and per GPU, by locks that no killed process leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from flows.process import locks
from flows.process.commands import Guard, run_commands
from flows.process.locks import hold_gpus, only_run, visible_gpus


def run_command(command, log, on_line, guard=None):
    run_commands([(command, log)], on_line, guard or Guard())


class GivenUpError(Exception):
    pass


def give_up() -> None:
    raise GivenUpError


@pytest.fixture
def gpus(tmp_path, monkeypatch):
    """A machine with GPUs 0 and 1, and locks of its own."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(locks.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(locks, "POLL_SECONDS", 0.02)


def test_a_second_run_of_a_set_waits_and_says_for_whom(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "POLL_SECONDS", 0.02)
    lines: list[str] = []
    entered = threading.Event()

    def second() -> None:
        with only_run(tmp_path / "locks" / "demo.lock", "second", lines.append, lambda: None):
            entered.set()

    with only_run(tmp_path / "locks" / "demo.lock", "demo, brave-lion", lines.append, lambda: None):
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.3)
    thread.join(timeout=10)
    assert entered.is_set()
    (line,) = lines
    assert "run 'demo, brave-lion'" in line and str(os.getpid()) in line


def test_a_waiting_run_can_be_cancelled(tmp_path):
    lock = tmp_path / "demo.lock"
    second = only_run(lock, "second", lambda line: None, give_up)
    with only_run(lock, "first", print, lambda: None), pytest.raises(GivenUpError), second:
        pass


def test_two_jobs_get_different_gpus_and_a_third_waits(gpus):
    with hold_gpus("auto", 1, print, give_up) as (first, _), hold_gpus("cuda", 1, print, give_up) as (second, _):
        assert {first["CUDA_VISIBLE_DEVICES"], second["CUDA_VISIBLE_DEVICES"]} == {"0", "1"}
        with pytest.raises(GivenUpError), hold_gpus("auto", 1, lambda line: None, give_up):
            pass


def test_a_job_that_wants_both_gpus_holds_none_while_it_waits(gpus):
    with hold_gpus("auto", 1, print, give_up):
        with pytest.raises(GivenUpError), hold_gpus("auto", 2, lambda line: None, give_up):
            pass
        with hold_gpus("auto", 1, print, give_up) as (other, _):
            assert other == {"CUDA_VISIBLE_DEVICES": "1"}


def test_a_job_on_the_cpu_or_without_gpus_takes_none(gpus, monkeypatch):
    with hold_gpus("cpu", 1, print, give_up) as nothing:
        assert nothing == ({}, [])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []
    with hold_gpus("auto", 1, print, give_up) as nothing:
        assert nothing == ({}, [])


def test_gpus_are_counted_as_cuda_counts_them(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(locks, "DEVICES", tmp_path)
    assert visible_gpus() == []
    for name in ("nvidia3", "nvidiactl", "nvidia-uvm", "nvidia-caps", "null"):
        (tmp_path / name).touch()
    assert visible_gpus() == ["0"]
    (tmp_path / "nvidia11").touch()
    assert visible_gpus() == ["0", "1"]


def test_a_gpu_that_is_named_is_the_one_that_is_held(gpus):
    with hold_gpus("cuda:1", 1, print, give_up) as (environment, held):
        assert environment == {} and len(held) == 1  # 'cuda:1' counts among the visible ones
        with hold_gpus("auto", 1, print, give_up) as (other, _):
            assert other == {"CUDA_VISIBLE_DEVICES": "0"}


def test_a_gpu_is_held_until_the_last_process_of_the_command_is_gone(gpus, tmp_path):
    survivor = tmp_path / "survivor"
    code = (
        "import pathlib, subprocess, sys; child = subprocess.Popen([sys.executable, '-c', 'import time; "
        "time.sleep(600)'], close_fds=False, start_new_session=True); "
        f"pathlib.Path({str(survivor)!r}).write_text(str(child.pid))"
    )
    with hold_gpus("cuda:0", 1, print, give_up) as (_, held):
        run_command([sys.executable, "-c", code], tmp_path / "x.log", print, Guard(keep_open=held))
    try:
        with pytest.raises(GivenUpError), hold_gpus("cuda:0", 1, lambda line: None, give_up):
            pass
    finally:
        os.kill(int(survivor.read_text()), 9)
    deadline = time.monotonic() + 10
    with hold_gpus("cuda:0", 1, print, lambda: give_up() if time.monotonic() > deadline else None):
        pass


def test_the_locks_of_a_killed_process_are_free(tmp_path, repository):
    code = (
        "import sys, time; from pathlib import Path; from flows.process.locks import only_run; "
        f"lock = only_run(Path({str(tmp_path / 'a.lock')!r}), 'killed', print, lambda: None); "
        "lock.__enter__(); print('held', flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], cwd=repository, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(GivenUpError), only_run(tmp_path / "a.lock", "next", lambda line: None, give_up):
        pass
    holder.kill()
    holder.wait()
    with only_run(tmp_path / "a.lock", "next", print, give_up):
        pass
