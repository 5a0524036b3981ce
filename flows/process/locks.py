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
import stat
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import BinaryIO

from datasets.runtime.artifacts import try_lock
from datasets.runtime.atomic import open_plain
from datasets.runtime.errors import InputError
from datasets.runtime.reading.json_values import parse_object

DEVICES = Path("/dev")
POLL_SECONDS = 1.0
SECONDS_BETWEEN_LINES = 60.0
CREATION_TRIES, SECONDS_TO_SET_A_MODE = 20, 0.05
"""How often, and how long, a file that another user is just creating is waited for."""


@contextlib.contextmanager
def only_run(lock: Path, name: str, log: Callable[[str], None], still_wanted: Callable[[], None]) -> Generator[None]:
    """Hold a set of results; waits, and says for whom, while another run has it.

    Args:
        lock: the lock's file; it holds who has it.
        name: what this run is called.
        log: called with a line now and then while waiting.
        still_wanted: called often while waiting; raises to give up.
    """
    with _opened(lock) as file:
        waiting = {file.fileno(): lock}
        _wait_for(waiting, 1, lambda: f"waiting for {_holder(lock)}, which makes the same set", log, still_wanted)
        file.truncate(0)
        file.write(json.dumps({"run": name, "host": socket.gethostname(), "pid": os.getpid()}).encode())
        file.flush()
        yield


def _opened(lock: Path) -> BinaryIO:
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        return open_plain(lock, "rb+")
    except OSError as error:
        raise InputError(
            f"{lock} cannot be opened ({error.strerror}): name a store of your own, or ask its owner for write access"
        ) from None


def _holder(lock: Path) -> str:
    try:
        holder = parse_object(lock.read_bytes())
        return f"run '{holder['run']}' (process {holder['pid']} on {holder['host']})"
    except (OSError, ValueError, KeyError):
        return "another run"


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; torch stays unimported.

    CUDA counts the ones that are there: in a container that was given ``/dev/nvidia3`` alone, that one is 0.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [gpu.strip() for gpu in chosen.split(",") if gpu.strip() not in ("", "-1")]
    there = [path for path in DEVICES.glob("nvidia*") if path.name.removeprefix("nvidia").isdigit()]
    return [str(number) for number in range(len(there))]


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
        files: dict[int, Path] = {}
        for gpu in gpus:
            path = Path(tempfile.gettempdir(), f"imagpose-gpu-{gpu}.lock")
            files[file := open_for_all_users(path)] = path
            stack.callback(os.close, file)
        wanted = min(count, len(gpus))
        held = _wait_for(
            files, wanted, lambda: f"waiting for {wanted} of the GPUs {', '.join(gpus)}", log, still_wanted
        )
        chosen = ",".join(gpus[list(files).index(file)] for file in held)
        # 'cuda:1' counts among the visible ones, so these must stay as they are.
        yield {} if device.startswith("cuda:") else {"CUDA_VISIBLE_DEVICES": chosen}, held


def open_for_all_users(path: Path) -> int:
    """Open, or create, a lock's file that all users of the machine share; nothing is ever written to it.

    An existing file is opened without O_CREAT: in a folder such as /tmp Linux refuses that for another user's file
    (fs.protected_regular). No link is followed and no pipe waited for, as anybody may put one there.

    Returns:
        A file descriptor.

    Raises:
        InputError: what lies there cannot be used as a lock.
    """
    reason = "another user's file"
    for _ in range(CREATION_TRIES):
        try:
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):  # somebody was faster
                file = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
                os.fchmod(file, 0o644)  # whatever the umask: others must be able to open it
                return file
        except PermissionError as error:  # perhaps just created, and its mode not yet set
            reason = str(error.strerror)
            time.sleep(SECONDS_TO_SET_A_MODE)
        except OSError as error:
            reason = str(error.strerror)
            break
        else:
            if stat.S_ISREG(os.fstat(file).st_mode):
                return file
            os.close(file)
            reason = "no plain file"
            break
    raise InputError(
        f"{path}, the lock that shares GPUs out among the users of this machine, cannot be opened ({reason}); have it "
        "removed, or set TMPDIR to a folder of your own"
    )


def _wait_for(
    files: Mapping[int, Path],
    count: int,
    what: Callable[[], str],
    log: Callable[[str], None],
    still_wanted: Callable[[], None],
) -> list[int]:
    """Lock `count` of the files (descriptor -> path), all or none.

    So two runs that want several never wait for each other.
    """
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


def _lock_some(files: Mapping[int, Path], count: int) -> list[int]:
    held: list[int] = []
    for file, path in files.items():
        if len(held) < count and try_lock(file, path):
            held.append(file)
    return held
