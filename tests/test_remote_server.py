"""Against an S3 server on loopback: kills, missing buckets and credentials, plain webdataset; commands as processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from datasets.runtime.manifests import manifest_of
from datasets.runtime.remote import copies, transfer
from datasets.runtime.remote.addresses import CACHE, spelled
from datasets.runtime.remote.transfer import RETRY_SECONDS
from tests import small_sets
from tests.conftest import REPOSITORY
from tests.remote_sets import at, contents, market, put_folder, shards_of
from tests.s3_server import KEYS, S3Server, s3_server

pytest.importorskip("moto")
pytest.importorskip("s3fs")


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("server"), "data") as server:
        yield server


@pytest.fixture
def server(running, tmp_path, monkeypatch) -> S3Server:
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    monkeypatch.setenv(RETRY_SECONDS, "60")
    monkeypatch.setattr(copies, "_confirmed", set())
    return running


def killed_at(request: int, function: str, server: S3Server, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Kill the server at one of the requests for a tar, start it again a moment later; returns what is asked for."""
    asked: list[str] = []
    original = getattr(transfer, function)

    def ask(storage: object, path: str, *rest: object) -> object:
        if path.endswith((".tar", ".jpg")):
            asked.append(path)
            if len(asked) == request:
                server.kill()
                threading.Timer(0.5, server.start).start()
        return original(storage, path, *rest)

    monkeypatch.setattr(transfer, function, ask)
    return asked


def test_a_server_that_is_killed_and_started_again_changes_no_byte(tmp_path, server, monkeypatch):
    root, csv = market(tmp_path)
    put_folder(root.parent, "s3://data/killed")
    local = shards_of(root, csv, tmp_path / "store")
    read = killed_at(5, "_read", server, monkeypatch)
    sent = killed_at(2, "_put", server, monkeypatch)
    remote = shards_of("s3://data/killed", csv, "s3://data/killed-store")
    assert len(read) > 5
    assert len(sent) > 2
    for here, there in zip(local, remote, strict=True):
        assert contents(there) == contents(here)
        name = spelled(there).removeprefix("s3://data/")
        assert {"manifest.json", *contents(here)} == {
            str(path.relative_to(server.folder / "data" / name))
            for path in (server.folder / "data" / name).rglob("*")
            if path.is_file()
        }


def test_plain_webdataset_reads_the_shards_through_fsspec(tmp_path, server):
    import fsspec
    import webdataset
    from webdataset.gopen import gopen_schemes

    shards = spelled(shards_of(*market(tmp_path), "s3://data/plain")[-1])
    index = json.loads((at(shards) / "index.json").read_text())
    urls = [f"{shards}/{shard['name']}" for shard in index["shards"]]
    gopen_schemes["s3"] = lambda url, mode="rb", bufsize=8192, **_: fsspec.open(url, mode).open()
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("__key__", "jpg", "json"))
    assert len(samples) == index["samples"]["train"]
    assert samples[0][1].size == (32, 64)
    read = "import fsspec, shutil, sys; shutil.copyfileobj(fsspec.open(sys.argv[1]).open(), sys.stdout.buffer)"
    pipes = [f"pipe:{sys.executable} -c '{read}' {url}" for url in urls[:1]]
    assert len(list(webdataset.WebDataset(pipes, shardshuffle=False))) == index["shards"][0]["samples"]


def run(*arguments: str, server: S3Server, tmp_path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {**server.environment, CACHE: str(tmp_path / "cache"), RETRY_SECONDS: "1", **variables}
    environment = {name: value for name, value in environment.items() if value}
    environment |= {"PYTHONPATH": str(REPOSITORY), "AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "datasets", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)


NOBODY = dict.fromkeys(KEYS, "")
FAILURES = {
    "no such folder": (["--root", "s3://data/nothing"], {}, "s3://data/nothing does not exist"),
    "no such bucket": (["--root", "s3://nobucket/x"], {}, "s3://nobucket/x does not exist"),
    "no bucket to write to": (["--root", "ROOT", "--store", "s3://nobucket/x"], {}, "there is no bucket of that name"),
    "no credentials": (["--root", "s3://data/nothing"], NOBODY, "no credentials were found"),
    "refused": (["--root", "s3://data/x"], {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "connection refused"),
}


@pytest.mark.parametrize("what", FAILURES)
def test_what_the_storage_refuses_is_one_line_and_exit_code_2(what, running, tmp_path):
    arguments, variables, message = FAILURES[what]
    root, _ = market(tmp_path)
    arguments = [str(root) if argument == "ROOT" else argument for argument in arguments]
    result = run("index", *arguments, server=running, tmp_path=tmp_path, **variables)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr.strip().splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert not any(secret in result.stderr for secret in KEYS.values())


def test_a_command_publishes_and_another_finds_it_made(server, tmp_path):
    root, _ = market(tmp_path)
    first = run("index", "--root", str(root), "--store", "s3://data/cli", server=server, tmp_path=tmp_path)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("s3://data/cli/index/")
    elsewhere = {CACHE: str(tmp_path / "another")}
    again = run("index", "--root", str(root), "--store", "s3://data/cli", server=server, tmp_path=tmp_path, **elsewhere)
    assert again.stdout == first.stdout
    assert "publish" not in again.stderr
    manifest = manifest_of(at(first.stdout.strip()))
    assert manifest["config"]["root"] == str(root)
    assert small_sets.MANIFEST in {name.rpartition("/")[2] for name in server.files()}
