"""Prefect's temporary server for a single run, with its output in a file.

Prefect starts one itself when no server is configured, but lets it write to the terminal, where its messages on
shutdown would follow the table that a regeneration ends with. Nor would it end with a regeneration that is killed.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

from prefect.events.worker import EventsWorker
from prefect.logging import get_logger
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL

from flows.process.commands import tether

logger = get_logger("regenerate")


@contextlib.contextmanager
def temporary_server(log: Path) -> Generator[None]:
    """Run Prefect's temporary server inside the block, unless PREFECT_API_URL names a server.

    Args:
        log: what the server writes is appended to it; its folder is made.

    Raises:
        RuntimeError: the server did not start in time.
    """
    if PREFECT_API_URL.value() is not None:
        yield
        return
    from prefect.server.api.server import SubprocessASGIServer

    logger.info("starting Prefect's temporary server; its log: %s", log)
    server = SubprocessASGIServer()
    try:
        with _output_to(log):
            server.start()
        if (process := server.server_process) is not None:
            subprocess.Popen([*tether(5.0), "--end", str(process.pid)], start_new_session=True)
        yield
    finally:
        for worker in (APILogWorker, EventsWorker):  # send pending logs and events while the server still runs
            worker.drain_all(timeout=10)
        server.stop()


@contextlib.contextmanager
def _output_to(log: Path) -> Generator[None]:
    """Let a process that is started inside the block inherit `log` as its standard output and error."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = {number: os.dup(number) for number in (1, 2)}
    with log.open("ab") as file:
        try:
            for number in kept:
                os.dup2(file.fileno(), number)
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, copy in kept.items():
                os.dup2(copy, number)
                os.close(copy)
