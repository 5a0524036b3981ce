"""Prefect's temporary server for a single run, with its output in a file.

Prefect starts one itself when no server is configured, but lets it write to the terminal, where its messages on
shutdown would follow the table that a regeneration ends with. Nor would it end with a regeneration that is killed.
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
from collections.abc import Generator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
from prefect.client.orchestration import get_client
from prefect.events.worker import EventsWorker
from prefect.logging import get_logger
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from datasets.runtime.atomic import open_plain
from datasets.runtime.errors import InputError
from flows.process.commands import tether

logger = get_logger("regenerate")

SECONDS_TO_ANSWER = 10.0
"""Time for a server that somebody else runs to answer at all."""


@contextlib.contextmanager
def temporary_server(log: Path) -> Generator[None]:
    """Run Prefect's temporary server inside the block, unless PREFECT_API_URL names a server.

    Args:
        log: what the server writes is appended to it; its folder is made.

    Raises:
        InputError: the server that PREFECT_API_URL names does not answer, or the temporary one did not start in time.
    """
    if (address := PREFECT_API_URL.value()) is not None:
        _check_answers(address)
        yield
        return
    from prefect.server.api.server import SubprocessASGIServer

    logger.info("starting Prefect's temporary server; its log: %s", log)
    server = SubprocessASGIServer()
    try:
        with _output_to(log), own_session():
            _start(server, log)
        if (process := server.server_process) is not None:
            subprocess.Popen([*tether(5.0), "--end", str(process.pid)], start_new_session=True)
        yield
    finally:
        for worker in (APILogWorker, EventsWorker):  # send pending logs and events while the server still runs
            worker.drain_all(timeout=10)
        server.stop()


def _check_answers(address: str) -> None:
    """Ask the server for its health, once.

    Raises:
        InputError: nobody answers, or not Prefect.
    """
    way_out = "start it, correct PREFECT_API_URL, or unset it for a temporary server"
    with (
        temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
        get_client(sync_client=True, httpx_settings={"timeout": SECONDS_TO_ANSWER}) as client,
    ):
        error = client.api_healthcheck()
    if isinstance(error, httpx.HTTPStatusError) and error.response.status_code == HTTPStatus.NOT_FOUND:
        raise InputError(f"{address} answers, but not as Prefect's API (does its address end in /api?); {way_out}")
    if isinstance(error, (httpx.TransportError, httpx.InvalidURL)):
        raise InputError(f"no Prefect server answers at {address} ({error}); {way_out}")


def _start(server: Any, log: Path) -> None:
    try:
        server.start()
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"Prefect's temporary server did not start ({reason}); its log says why: {log}") from error


@contextlib.contextmanager
def own_session() -> Generator[None]:
    """Let what Prefect's server module starts inside the block lead a session of its own.

    Else Ctrl-C and a SIGTERM to this process's group would end the server first, and the run, which has to tell it how
    it ended, would retry for minutes and stay 'Running'. Prefect has no setting for it.
    """
    from prefect.server.api import server

    class InOwnSession:
        Popen = functools.partial(subprocess.Popen, start_new_session=True)

        def __getattr__(self, name: str) -> object:
            return getattr(subprocess, name)

    kept = server.subprocess
    server.subprocess = InOwnSession()  # pyrefly: ignore[bad-assignment]
    try:
        yield
    finally:
        server.subprocess = kept


@contextlib.contextmanager
def _output_to(log: Path) -> Generator[None]:
    """Let a process that is started inside the block inherit `log` as its standard output and error."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = {number: os.dup(number) for number in (1, 2)}
    with open_plain(log, "ab") as file:
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
