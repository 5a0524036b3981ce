"""The map stages of a regeneration on a Ray cluster: a task for each command, which runs guarded on some node.

A setting (`ray: ADDRESS`) and the optional extra `[ray]` are all it takes; the store and this project must lie under
the same paths on every machine, which each task checks before it works. A unit is an artifact, or a share of one (some
shards of an encoding, a split of the poses), never an image. Tasks of a node that is lost run on another; what their
commands had finished lies in the store, so they resume from there.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

from datasets.runtime.atomic import open_plain
from datasets.runtime.errors import InputError
from flows.process.commands import LAST_LINES, PROJECT, CommandError, Guard, Tail

POLL_SECONDS = 0.2


def run_on_cluster(
    address: str,
    commands: Sequence[tuple[Sequence[str], Path]],
    on_line: Callable[[str], None],
    guard: Guard,
    *,
    device: str = "cpu",
    gpus: int = 0,
) -> None:
    """Run commands on the nodes of a Ray cluster, all to their end; like `flows.process.commands.run_commands`.

    Args:
        address: of the cluster: 'auto', HOST:PORT or ray://HOST:PORT.
        device: the stage's device; a task that may use GPUs takes `gpus` of the resource GPU.

    Raises:
        CommandError: one ended with an exit code other than 0; the others were stopped.
        InputError: Ray is not installed, does not answer, or a node sees another store.
    """
    ray = _connect(address)
    there = int(ray.cluster_resources().get("GPU", 0))
    if device.startswith("cuda") and there < gpus:
        raise InputError(f"device '{device}': the cluster has {there} GPUs; a task needs {gpus}")
    gpus = min(gpus, there)
    folder = commands[0][1].parent
    folder.mkdir(parents=True, exist_ok=True)
    with _mark(folder) as mark:
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(_node_function())
        environment = dict(guard.environment)
        running: dict[Any, _Remote] = {}
        try:
            for command, log in commands:
                open_plain(log, "ab").close()
                arguments = (list(command), str(log), environment, guard.grace_seconds, str(mark), device, gpus)
                running[task.remote(str(PROJECT), *arguments)] = _Remote(command, log)
            _wait(ray, running, on_line, guard)
        finally:
            _stop(ray, list(running), guard.grace_seconds)


class _Remote:
    """A command on some node, and the log it writes to the shared store."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.command, self.log, self.tail = command, log, Tail(log)
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)

    def read(self, on_line: Callable[[str], None], *, at_end: bool = False) -> None:
        for line in self.tail.new_lines(at_end=at_end):
            self.last_lines.append(line)
            on_line(line)


def _wait(ray: Any, running: dict[Any, _Remote], on_line: Callable[[str], None], guard: Guard) -> None:
    while running:
        ended, _ = ray.wait(list(running), num_returns=1, timeout=POLL_SECONDS)
        for remote in running.values():
            remote.read(on_line)
        guard.still_wanted()
        for task in ended:
            remote = running.pop(task)
            exit_code, problem = ray.get(task)
            remote.read(on_line, at_end=True)
            if problem:
                raise InputError(problem)
            if exit_code:
                raise CommandError(remote.command, exit_code, remote.last_lines, remote.log)


def _stop(ray: Any, tasks: list[Any], grace_seconds: float) -> None:
    """Interrupt what still runs and wait until its processes are gone."""
    for task in tasks:
        ray.cancel(task, force=False)
    if tasks:
        ray.wait(tasks, num_returns=len(tasks), timeout=grace_seconds + 5)


def _connect(address: str) -> Any:
    try:
        import ray
    except ImportError:
        raise InputError(
            "ray is not installed: pip install -c constraints.txt -e '.[ray]', or leave 'ray' out"
        ) from None
    if ray.is_initialized():
        return ray
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _check_reachable(address)
        ray.init(address=address, log_to_driver=False, configure_logging=False, namespace="imagpose")
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"ray {address}: no cluster answers there ({error})") from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray's own would crash on a cancellation
    return ray


def _check_reachable(address: str) -> None:
    """Raise OSError if nothing listens at an address with a port: Ray would retry for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


@contextlib.contextmanager
def _mark(folder: Path) -> Generator[Path]:
    """A file of an unguessable name that a node can only see if it has the same store."""
    mark = folder / f".shared-{secrets.token_hex(8)}"
    mark.touch()
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)


def _node_function() -> Callable[..., tuple[int, str]]:
    """What a node runs. Ray sends the code of a nested function; the node imports the project itself."""

    def on_node(project: str, *arguments: Any) -> tuple[int, str]:
        import pathlib
        import sys

        if not pathlib.Path(project, "flows", "process", "node.py").is_file():
            return 0, f"{project} is not on every node of the cluster: install the project under the same path"
        if project not in sys.path:
            sys.path.insert(0, project)
        from flows.process.node import work

        return work(*arguments)

    return on_node
