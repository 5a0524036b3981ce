"""SIGTERM finishes the step in hand: an event that all processes of a training see after the same step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import cast

import torch
from torch import distributed


class StopRequest:
    """Whether some process was asked to stop; all processes must ask after every step, and get the same answer."""

    def __init__(self) -> None:
        self.event = threading.Event()
        several = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
        # a group of its own on the CPU: asking through the GPUs' would make every step wait for the device
        group = distributed.new_group(backend="gloo") if several else None
        self.group = cast("distributed.ProcessGroup | None", group)  # of all processes, so none is left outside

    def agreed(self) -> bool:
        """Whether any process was asked to; a signal reaches them at different steps."""
        if self.group is None:
            return self.event.is_set()
        flag = torch.tensor([int(self.event.is_set())])
        distributed.all_reduce(flag, distributed.ReduceOp.MAX, group=self.group)
        return bool(flag.item())


@contextmanager
def stop_on_sigterm() -> Generator[StopRequest, None, None]:
    """A request that SIGTERM makes, so that the step in hand is finished and saved before the process ends."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # signals can be handled there only
        yield request
        return
    before = signal.signal(signal.SIGTERM, lambda *_: request.event.set())
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, before)
