"""An S3 server (moto) for the tests, whose objects outlive it: ``python tests/s3_server.py PORT FOLDER``.

moto keeps objects in memory. Here every change is also written below the folder, before it is answered, and what lies
there is loaded before the first request: a server that is killed and started again has lost nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

REGION = "us-east-1"
KEYS = {"AWS_ACCESS_KEY_ID": "testing-key-id", "AWS_SECRET_ACCESS_KEY": "testing-secret-5f2c"}


class S3Server:
    """The server as a process on loopback that can be killed and started again at the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs to find it."""
        return {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}", "AWS_DEFAULT_REGION": REGION}

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [sys.executable, __file__, str(self.port), str(self.folder)]
        with (self.folder.parent / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        until = time.monotonic() + 60
        while time.monotonic() < until and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.05)
        raise RuntimeError((self.folder.parent / "server.log").read_text()[-2000:])

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def make_bucket(self, name: str) -> None:
        (self.folder / name).mkdir(parents=True)

    def files(self) -> dict[str, bytes]:
        """Every object by bucket and key."""
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in paths}


@contextlib.contextmanager
def s3_server(folder: Path, bucket: str) -> Iterator[S3Server]:
    server = S3Server(folder / "s3")
    server.make_bucket(bucket)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def _serve(port: int, folder: Path) -> None:
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from moto.s3.models import s3_backends
    from werkzeug.serving import run_simple

    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    for bucket in sorted(path for path in folder.iterdir() if path.is_dir()):
        backend.create_bucket(bucket.name, REGION)
        for path in sorted(path for path in bucket.rglob("*") if path.is_file()):
            backend.put_object(bucket.name, str(path.relative_to(bucket)), path.read_bytes())
    run_simple(
        "127.0.0.1", port, _kept(DomainDispatcherApplication(create_backend_app), backend, folder), threaded=True
    )


def _kept(application: Any, backend: Any, folder: Path) -> Callable[[dict[str, Any], Any], Iterable[bytes]]:
    """The application with every change written below the folder before it is answered."""

    def run(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        answer = list(application(environ, start_response))
        bucket, _, key = unquote(environ["PATH_INFO"]).lstrip("/").partition("/")
        if environ["REQUEST_METHOD"] in ("PUT", "POST", "DELETE") and key and (folder / bucket).is_dir():
            _keep(backend.get_object(bucket, key), folder / bucket / key)
        return answer

    return run


def _keep(found: Any, path: Path) -> None:
    if found is None:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(found.value)
    os.replace(temporary, path)


if __name__ == "__main__":
    _serve(int(sys.argv[1]), Path(sys.argv[2]))
