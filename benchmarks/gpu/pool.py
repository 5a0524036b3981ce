"""Commands side by side on one GPU, the most wanted one first, each started as soon as a place is free.

`flows.stages` deals a stage's artifacts out beforehand, which is fair where all are alike. Here runs differ in length
and time ends before they do, so that the order counts: the places are never empty, and what is begun is what is wanted.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

from datasets.runtime.config import StageConfig
from datasets.runtime.keys import artifact_directory
from datasets.runtime.manifests import is_complete

logger = logging.getLogger(__name__)


class StoppedError(Exception):
    """The time is over."""


class Pool:
    """Makes artifacts in a fixed number of places.

    Args:
        places: how many commands run at once.
        store: where the artifacts lie.
        make: makes one artifact; called in the places' threads.
    """

    def __init__(self, places: int, store: Path, make: Callable[[StageConfig], None]) -> None:
        self.store, self.make = store, make
        self._waiting: list[tuple[int, int, StageConfig, Path, Future[Path]]] = []
        self._futures: dict[Path, Future[Path]] = {}
        self._numbers, self._changed, self._stopped = itertools.count(), threading.Condition(), False
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(places)]
        for thread in self._threads:
            thread.start()

    def maker(self, priority: int) -> Callable[[Sequence[StageConfig]], list[Path]]:
        """What makes the artifacts of a step, before those of a larger `priority`; waits for all of them."""
        return lambda configs: [future.result() for future in [self.submit(priority, config) for config in configs]]

    def submit(self, priority: int, config: StageConfig) -> Future[Path]:
        """Have an artifact made; requested twice, it is made once."""
        folder = artifact_directory(config, self.store)
        with self._changed:
            future = self._futures.get(folder)
            if future is None:
                future = self._futures[folder] = Future()
                if is_complete(folder):
                    future.set_result(folder)
                elif self._stopped:
                    future.set_exception(StoppedError())
                else:
                    heapq.heappush(self._waiting, (priority, next(self._numbers), config, folder, future))
                    self._changed.notify()
            return future

    def stop(self) -> None:
        """Begin nothing more; who waits for what was not begun gets `StoppedError`."""
        with self._changed:
            self._stopped = True
            for *_, future in self._waiting:
                future.set_exception(StoppedError())
            self._waiting.clear()
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopped)
                if self._stopped:
                    return
                *_, config, folder, future = heapq.heappop(self._waiting)
            try:
                self.make(config)
                future.set_result(folder)
            except BaseException as error:  # handed to whoever asked for it
                future.set_exception(error)
