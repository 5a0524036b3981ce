"""What a node of a Ray cluster does with a command that `flows.process.cluster` has sent it."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

from datasets.runtime.command_line import BUSY
from flows.process.commands import CommandError, Guard, run_commands
from flows.process.locks import hold_gpus

SECONDS_FOR_THE_LOST = 120.0
"""How long a task that takes over from a lost node waits for that node's processes to release the artifact."""


def work(
    command: list[str],
    log: str,
    environment: Mapping[str, str],
    grace_seconds: float,
    mark: str,
    device: str,
    gpus: int,
) -> tuple[int, str]:
    """Run a command, guarded, on GPUs that are free here.

    Args:
        command: program and arguments; this node's own interpreter replaces the program.
        log: file in the shared store that receives what the command writes.
        environment: variables set on top of this process's.
        grace_seconds: time between SIGTERM and SIGKILL when the task is cancelled.
        mark: a file that only exists here if the store is shared.
        device: the stage's device.
        gpus: GPUs that the command needs.

    Returns:
        The command's exit code, and what is wrong with this node ('' if nothing is).
    """
    if not Path(mark).is_file():
        return (
            0,
            f"a node of the cluster does not see {Path(mark).parent}: put the store on a file system that all share",
        )
    deadline = time.monotonic() + SECONDS_FOR_THE_LOST
    command = [sys.executable, *command[1:]]  # the node's own interpreter
    while True:
        try:
            with hold_gpus(device, max(gpus, 1), lambda line: None, lambda: None) as (gpu_environment, locks):
                guard = Guard(
                    environment={**environment, **gpu_environment}, grace_seconds=grace_seconds, keep_open=locks
                )
                run_commands([(command, Path(log))], lambda line: None, guard)
        except CommandError as error:
            if error.exit_code != BUSY or time.monotonic() > deadline:
                return error.exit_code, ""
            time.sleep(1)
        else:
            return 0, ""
