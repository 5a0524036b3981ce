"""What only one run may have at a time: a regeneration's set of results, and a GPU.

Both are locks on files, which the operating system releases when the last process that holds them ends, however it
ends: nothing is left behind by a run that was killed, and no server needs to know. They hold between runs of any kind
on a machine (workers of several pools, `python -m flows` by hand), the set's lock also between machines that share the
store over a file system with locks, such as NFS 4. Prefect's own limits (prefect.yaml) queue runs before they get here.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

POLL_SECONDS = 1.0
SECONDS_BETWEEN_LINES = 60.0


@contextlib.contextmanager
def only_run(lock: Path, name: str, log: Callable[[str], None], still_wanted: Callable[[], None]) -> Generator[None]:
    """Hold a set of results; waits, and says for whom, while another run has it.

    Args:
        lock: the lock's file; it holds who has it.
        name: what this run is called.
        log: called with a line now and then while waiting.
        still_wanted: called often while waiting; raises to give up.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+") as file:
        _wait_for(
            [file.fileno()], 1, lambda: f"waiting for {_holder(lock)}, which makes the same set", log, still_wanted
        )
        file.truncate(0)
        file.write(json.dumps({"run": name, "host": socket.gethostname(), "pid": os.getpid()}))
        file.flush()
        yield


def _holder(lock: Path) -> str:
    try:
        holder = json.loads(lock.read_text())
        return f"run '{holder['run']}' (process {holder['pid']} on {holder['host']})"
    except (OSError, ValueError, KeyError):
        return "another run"


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; torch stays unimported."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [gpu.strip() for gpu in chosen.split(",") if gpu.strip() not in ("", "-1")]
    numbers = (path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia*"))
    return sorted((number for number in numbers if number.isdigit()), key=int)


@contextlib.contextmanager
def hold_gpus(
    device: str, count: int, log: Callable[[str], None], still_wanted: Callable[[], None]
) -> Generator[tuple[dict[str, str], list[int]]]:
    """Hold `count` GPUs that no other run of this machine has; waits until so many are free.

    Args:
        device: a config's device; 'cpu' needs none, 'auto' none where there is none, 'cuda:1' that very one.
        count: how many.

    Returns:
        Environment for the commands (CUDA_VISIBLE_DEVICES), and file descriptors that they must inherit, so that the
        GPUs stay held as long as any of their processes lives.
    """
    gpus = [] if device == "cpu" else visible_gpus()
    if device.startswith("cuda:"):
        gpus = gpus[int(device[5:]) :][:1]
    if not gpus:
        yield {}, []
        return
    with contextlib.ExitStack() as stack:
        # One folder for all users of the machine; anybody may open the file, nothing is written to it.
        names = [Path(tempfile.gettempdir(), f"imagpose-gpu-{gpu}.lock") for gpu in gpus]
        files = [os.open(name, os.O_RDONLY | os.O_CREAT, 0o666) for name in names]
        for file in files:
            stack.callback(os.close, file)
        wanted = min(count, len(gpus))
        held = _wait_for(
            files, wanted, lambda: f"waiting for {wanted} of the GPUs {', '.join(gpus)}", log, still_wanted
        )
        chosen = ",".join(gpus[files.index(file)] for file in held)
        # 'cuda:1' counts among the visible ones, so these must stay as they are.
        yield {} if device.startswith("cuda:") else {"CUDA_VISIBLE_DEVICES": chosen}, held


def _wait_for(
    files: Sequence[int],
    count: int,
    what: Callable[[], str],
    log: Callable[[str], None],
    still_wanted: Callable[[], None],
) -> list[int]:
    """Lock `count` of the files, all or none, so that two runs that want several never wait for each other."""
    last_line = -SECONDS_BETWEEN_LINES
    while len(held := _lock_some(files, count)) < count:
        for file in held:
            fcntl.flock(file, fcntl.LOCK_UN)
        still_wanted()
        if time.monotonic() - last_line >= SECONDS_BETWEEN_LINES:
            last_line = time.monotonic()
            log(what())
        time.sleep(POLL_SECONDS)
    return held


def _lock_some(files: Sequence[int], count: int) -> list[int]:
    held: list[int] = []
    for file in files:
        if len(held) < count:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held.append(file)
    return held
