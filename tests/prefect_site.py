"""A Prefect server, a work pool and a worker of a test's own, on a copy of this working tree (docs/prefect.md)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

PREFECT = str(Path(sys.executable).with_name("prefect"))


class Site:
    """Everything runs below `folder`; nothing listens but on the loopback interface."""

    def __init__(self, folder: Path, repository: Path) -> None:
        self.folder, self.clone = folder, folder / "clone"
        copy_tracked(repository, self.clone)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/api"
        others = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        self.environment = {
            **others,
            "PREFECT_HOME": str(folder / "home"),
            "PREFECT_API_URL": self.url,
            "DO_NOT_TRACK": "1",
            "PYTHONPATH": str(self.clone),
            "HF_HUB_OFFLINE": "1",
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *command: str) -> None:
        """Start a service: its output goes to NAME.log."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                cwd=self.clone,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start_server(self) -> None:
        self.start("server", PREFECT, "server", "start", "--no-ui", "--host", "127.0.0.1", "--port", str(self.port))
        wait_for(self.healthy, 300)

    def start_worker(self) -> None:
        self.start("worker", PREFECT, "worker", "start", "--pool", "cpu")

    def set_up(self) -> None:
        """The documented sequence, up to the worker."""
        self.start_server()
        for pool in ("cpu", "gpu"):
            self.call("work-pool", "create", pool, "--type", "process")
        self.call("automation", "create", "--from-file", "automations.yaml")
        self.call("--no-prompt", "deploy", "--all")
        self.start_worker()

    def tear_down(self) -> None:
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()

    def kill(self, name: str) -> None:
        self.processes[name].send_signal(signal.SIGKILL)
        self.processes[name].wait()

    def call(self, *arguments: str, code: int = 0) -> str:
        """One `prefect` command; returns what it said."""
        result = subprocess.run(
            [PREFECT, *arguments],
            cwd=self.clone,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert result.returncode == code, result.stdout + result.stderr
        return result.stdout + result.stderr

    def ask(self, method: str, path: str, **fields: Any) -> httpx.Response:
        """The answer; asked again, as Prefect's own client does, while the server's database is locked (503)."""
        for wait in (1, 2, 4, 8, 0):
            answer = httpx.request(method, f"{self.url}/{path}", timeout=60, **fields)
            if answer.status_code != 503:
                break
            time.sleep(wait)
        return answer

    def post(self, path: str, body: Any) -> httpx.Response:
        return self.ask("POST", path, json=body)

    def get(self, path: str) -> Any:
        return self.ask("GET", path).json()

    def healthy(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def deployment(self, name: str) -> str:
        return self.get(f"deployments/name/{name}")["id"]

    def submit(self, name: str, config: dict[str, Any]) -> httpx.Response:
        """Ask for a run of a deployment."""
        return self.post(f"deployments/{self.deployment(name)}/create_flow_run", {"parameters": {"config": config}})

    def run(self, name: str, config: dict[str, Any]) -> str:
        answer = self.submit(name, config)
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    def state(self, run: str) -> str:
        try:
            return self.get(f"flow_runs/{run}")["state"]["type"]
        except httpx.HTTPError:
            return "unknown"

    def artifact(self, key: str) -> dict[str, Any]:
        """The newest artifact of a key."""
        return self.get(f"artifacts/{key}/latest")

    def table(self, key: str) -> list[dict[str, Any]]:
        return json.loads(self.artifact(key)["data"])


def copy_tracked(repository: Path, target: Path) -> None:
    """What a fresh clone of this working tree would hold."""
    listed = subprocess.run(["git", "ls-files"], cwd=repository, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        if (repository / name).is_file() and not name.startswith("tests/"):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(repository / name, target / name)


def wait_for(condition: Callable[[], Any], seconds: float) -> Any:
    """Wait until something is true; returns it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s"
        time.sleep(0.1)
    return found


def processes_of(store: Path, word: str = "") -> list[int]:
    """Processes that work on a store and have `word` in their command, tethers and dead ones left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if f"--store {store}" in command and word in command and "tether.py" not in command and state != "Z":
                found.append(int(entry.name))
    return found
