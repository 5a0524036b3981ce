"""A measurement in a fresh process, so that its peak memory is its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

MEGABYTE = 1000 * 1000


def memory_mb(name: str) -> float:
    """A figure of this process from Linux in MB: 'VmRSS' now, 'VmHWM' the peak since `forget_peak`."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) * 1024 / MEGABYTE


def forget_peak() -> float:
    """Start the peak anew; returns the memory in use now, in MB."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory_mb("VmRSS")


def in_a_process(function: Callable[..., dict[str, Any]], *arguments: object) -> dict[str, Any]:
    """What `function` returns when a fresh process runs it.

    Raises:
        RuntimeError: the process ended without an answer.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"{function.__name__} ended with exit code {process.exitcode} and no answer") from None
    finally:
        process.join()


def _answer(sender: Any, function: Callable[..., dict[str, Any]], arguments: tuple[object, ...]) -> None:
    sender.send(function(*arguments))
