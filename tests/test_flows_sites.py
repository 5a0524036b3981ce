"""Machines as people have them: a proxy, several users, file systems without locks, a server that is gone."""

from __future__ import annotations

import errno
import fcntl
import http.server
import os
import stat
import tempfile
import threading
import time
from pathlib import Path

import httpx
import pytest

from datasets.__main__ import COMMANDS
from datasets.runtime import artifacts
from datasets.runtime.command_line import main as packages_main
from datasets.runtime.errors import InputError
from flows.__main__ import main
from flows.process import locks
from flows.process.locks import hold_gpus, only_run, open_for_all_users
from flows.server.loopback import bypass_proxies_for_loopback
from flows.server.temporary import temporary_server
from tests.small_sets import market_root

DEAD = "http://127.0.0.1:9"


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(404 if self.path.startswith("/no") else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def local_server():
    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def proxied(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, DEAD)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")  # so that what is set is undone
        monkeypatch.delenv(name)


# Proxies.


def test_this_machine_is_reached_without_the_proxy(proxied, local_server):
    with pytest.raises(httpx.TransportError):
        httpx.get(local_server)
    bypass_proxies_for_loopback()
    assert httpx.get(local_server).status_code == 200
    with pytest.raises(httpx.TransportError):
        httpx.get("http://host.invalid/")  # all else still goes to the proxy


def test_what_the_user_exempts_from_the_proxy_stays_exempt(proxied, monkeypatch):
    monkeypatch.setenv("no_proxy", "intern.example, localhost")
    bypass_proxies_for_loopback()
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == "intern.example,localhost,127.0.0.1,::1"
    monkeypatch.setenv("NO_PROXY", "*")
    bypass_proxies_for_loopback()
    assert os.environ["no_proxy"] == "*"


# Servers.


def test_a_server_that_does_not_answer_is_told_in_one_line(monkeypatch, tmp_path, local_server):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    for address, said in (
        (f"{DEAD}/api", "no Prefect server answers at http://127.0.0.1:9/api"),
        (f"{local_server}/no", "answers, but not as Prefect's API"),
    ):
        with (
            temporary_settings({PREFECT_API_URL: address}),
            pytest.raises(InputError, match=said) as error,
            temporary_server(tmp_path / "server.log"),
        ):
            pass
        assert "unset it for a temporary server" in str(error.value) and "\n" not in str(error.value)
    with temporary_settings({PREFECT_API_URL: local_server}), temporary_server(tmp_path / "server.log"):
        pass


def test_bad_input_that_a_flow_meets_is_one_line_with_exit_code_2(monkeypatch, tmp_path, capsys):
    from flows import __main__, regenerate

    def refuse(_config: object) -> None:
        raise InputError("no Prefect server answers")

    monkeypatch.setattr(regenerate, "run_embedded", refuse)
    monkeypatch.setattr(__main__, "prepare_prefect", lambda store: None)
    command = ["regenerate", "--preset", "smoke", "--store", str(tmp_path / "s"), "--output", str(tmp_path / "o")]
    assert main(command) == 2
    assert capsys.readouterr().err == "python -m flows regenerate: no Prefect server answers\n"


# File systems without locks.


@pytest.fixture
def without_locks(monkeypatch):
    def flock(file: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_a_store_without_locks_is_refused_in_one_line_by_flows_and_commands(without_locks, tmp_path, capsys):
    root, store = market_root(tmp_path), tmp_path / "store"
    commands = [
        lambda: main(["regenerate", "--preset", "smoke", "--store", str(store), "--output", str(tmp_path / "out")]),
        lambda: packages_main("datasets", COMMANDS, ["index", "--root", str(root), "--store", str(store)]),
    ]
    for command in commands:
        assert command() == 2
        error = capsys.readouterr().err
        assert "has no locks (No locks available)" in error and error.count("\n") == 1
    with pytest.raises(InputError, match="has no locks"), only_run(store / "a.lock", "a", print, lambda: None):
        pass


def test_other_errors_of_a_lock_are_not_taken_for_a_file_system_without(monkeypatch, tmp_path):
    def flock(file: int, operation: int) -> None:
        raise OSError(errno.EIO, "disk")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="disk"):
        artifacts.try_lock(0, tmp_path)


def test_a_store_that_cannot_be_written_to_is_refused_before_any_work(monkeypatch, tmp_path, capsys):
    def refuse(**_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    command = ["regenerate", "--preset", "smoke", "--store", str(tmp_path), "--output", str(tmp_path)]
    assert main(command) == 2
    assert f"--store {tmp_path} cannot be written to (Permission denied)" in capsys.readouterr().err


# Several users of a machine.


@pytest.fixture
def strict_umask():
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_a_gpus_lock_is_open_to_all_users_whatever_the_umask(strict_umask, tmp_path):
    os.close(open_for_all_users(tmp_path / "gpu.lock"))
    assert stat.S_IMODE((tmp_path / "gpu.lock").stat().st_mode) == 0o644
    os.close(open_for_all_users(tmp_path / "gpu.lock"))


def test_an_existing_lock_is_opened_without_asking_for_its_creation(monkeypatch, tmp_path):
    """Linux refuses O_CREAT on another user's file in a folder such as /tmp."""
    (tmp_path / "gpu.lock").touch()
    real = os.open

    def protected(path: object, flags: int, *mode: int) -> int:
        if flags & os.O_CREAT and os.path.exists(path):  # noqa: PTH110 - path may be a descriptor's
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path, flags, *mode)

    monkeypatch.setattr(os, "open", protected)
    opened = open_for_all_users(tmp_path / "gpu.lock")
    assert os.path.samestat(os.fstat(opened), (tmp_path / "gpu.lock").stat())
    os.close(opened)


@pytest.mark.parametrize("what", ["link", "pipe", "folder", "closed file"])
def test_what_cannot_be_a_lock_is_refused_and_neither_followed_nor_waited_for(monkeypatch, tmp_path, what):
    path = tmp_path / "gpu.lock"
    if what == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    else:
        monkeypatch.setattr(locks, "SECONDS_TO_SET_A_MODE", 0)

        def refuse(*_: object) -> int:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(os, "open", refuse)
    started = time.monotonic()
    with pytest.raises(InputError, match=r"gpu.lock, the lock .* cannot be opened .* or set TMPDIR"):
        open_for_all_users(path)
    assert time.monotonic() - started < 5 and not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_a_second_user_waits_for_the_first_ones_gpu(strict_umask, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o1777)
        monkeypatch.setattr(locks.tempfile, "gettempdir", lambda: folder)
        with hold_gpus("cuda", 1, print, lambda: None):
            assert _as_nobody() == "waits"
        assert _as_nobody() == "held"


def _as_nobody() -> str:
    """What a process of another user comes to that wants the GPU."""

    def give_up() -> None:
        os._exit(17)

    child = os.fork()
    if child == 0:
        try:
            os.setgid(65534)
            os.setuid(65534)
            with hold_gpus("cuda", 1, lambda line: None, give_up):
                os._exit(18)
        finally:
            os._exit(19)
    _, status = os.waitpid(child, 0)
    return {17: "waits", 18: "held"}.get(os.waitstatus_to_exitcode(status), "failed")
