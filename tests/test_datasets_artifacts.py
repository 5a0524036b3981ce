"""Artifacts: made once, whole or not at all, by one process at a time, and gone on with after every kind of end."""

from __future__ import annotations

import errno
import fcntl
import importlib.metadata
import logging
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest

from datasets.runtime import artifacts
from datasets.runtime.artifacts import WITHOUT_LOCKS, build, try_lock
from datasets.runtime.cards.write import made_by
from datasets.runtime.config import StageConfig
from datasets.runtime.errors import ArtifactBusyError, ArtifactError, InputError
from datasets.runtime.keys import artifact_directory, artifact_key, partial_directory
from datasets.runtime.manifests import (
    MANIFEST,
    PROJECT,
    SCRATCH,
    code_version,
    installed_versions,
    manifest_of,
    project_version,
)
from datasets.runtime.remote import copies, publishing
from datasets.runtime.remote.addresses import CACHE
from tests.remote_sets import at


class _Note(StageConfig):
    stage: ClassVar[str] = "note"
    package: ClassVar[str] = "tests"
    text: str = "x"


def make_note(config: _Note, directory: Path) -> dict[str, Any]:
    (directory / "note.txt").write_text(config.text)
    (directory / SCRATCH).mkdir()
    (directory / SCRATCH / "state").write_text("needed to resume only")
    return {"letters": len(config.text)}


def must_not_make(config: _Note, directory: Path) -> dict[str, Any]:
    raise AssertionError(f"{config} was made in {directory}, where nothing was to be made")


def killed(*_: object, **__: object) -> Any:
    raise KeyboardInterrupt


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def place(store: Path, config: _Note | None = None) -> tuple[Path, Path]:
    """Where an artifact will lie and where it is made."""
    directory = artifact_directory(config or _Note(), store)
    return directory, partial_directory(directory)


# Made once.


def test_an_artifact_is_its_files_and_a_manifest_and_is_made_once(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    directory = build(_Note(), make_note, store=tmp_path)
    assert directory == place(tmp_path)[0] and names(directory) == {"note.txt", MANIFEST}
    manifest = manifest_of(directory)
    assert (manifest["stage"], manifest["key"], manifest["summary"]) == ("note", directory.name, {"letters": 1})
    assert [file["name"] for file in manifest["files"]] == ["note.txt"]
    assert 0 <= manifest["seconds"] < 60
    assert names(directory.parent) == {
        directory.name,
        f".{directory.name}.lock",
        *(f"{directory.name}/{n}" for n in names(directory)),
    }
    assert build(_Note(), must_not_make, store=tmp_path) == directory
    made, found = caplog.messages[-2:]
    assert re.fullmatch(rf"note: done in \d\.\d s: {directory}", made)
    assert found == f"note: already complete at {directory}"


def test_files_that_are_neither_installed_nor_a_checkout_make_artifacts_too(tmp_path, monkeypatch):
    """As on a GPU machine without a network, to which the project's files are copied (docs/gpu.md)."""
    stated = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]

    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    def run(*_, **__):
        raise subprocess.CalledProcessError(128, "git")

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(subprocess, "run", run)
    functions = (code_version, project_version, installed_versions)
    for function in functions:
        function.cache_clear()
    try:
        assert manifest_of(build(_Note(), make_note, store=tmp_path))["code"] == stated
        assert made_by(_Note()) == f"imagpose-reid {stated}, stage note (version 1)"
    finally:
        for function in functions:
            function.cache_clear()


def test_a_store_not_named_is_in_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert build(_Note(), make_note) == Path("runs/store/note", artifact_key(_Note()))
    assert (tmp_path / "runs/store/note" / artifact_key(_Note()) / MANIFEST).is_file()


def test_a_named_output_holds_one_artifact_and_nothing_else_is_written_over(tmp_path):
    output = tmp_path / "deep" / "mine"
    assert build(_Note(), make_note, output=output, store=tmp_path / "store") == output
    assert build(_Note(), must_not_make, output=output) == output and not (tmp_path / "store").exists()
    with pytest.raises(ArtifactError, match=f"{output} was made from other settings or inputs; choose another"):
        build(_Note(text="y"), must_not_make, output=output)
    (tmp_path / "home").mkdir()
    with pytest.raises(ArtifactError, match="home exists but is not an artifact; choose another"):
        build(_Note(), must_not_make, output=tmp_path / "home")


@pytest.fixture
def memory(tmp_path, monkeypatch) -> Iterator[fsspec.AbstractFileSystem]:
    """A store in memory at memory://store, and an empty folder of copies."""
    monkeypatch.setenv(CACHE, str(tmp_path))
    monkeypatch.setattr(copies, "_confirmed", set())
    storage = fsspec.filesystem("memory")
    yield storage
    storage.store.clear()
    storage.pseudo_dirs[:] = [""]


def test_an_address_has_the_artifact_and_copies_of_one_that_was_removed_there_do_not_count(memory, monkeypatch):
    directory = build(_Note(), make_note, store=at("memory://store"))
    assert memory.cat(f"/store/note/{directory.name}/note.txt") == b"x"
    assert build(_Note(), must_not_make, store=at("memory://store")) == directory
    memory.rm(f"/store/note/{directory.name}", recursive=True)
    monkeypatch.setattr(copies, "_confirmed", set())
    build(_Note(), make_note, store=at("memory://store"))
    assert memory.cat(f"/store/note/{directory.name}/note.txt") == b"x"


def test_an_address_that_cannot_be_written_to_is_refused_before_any_work(memory, monkeypatch):
    def refuse(address: str) -> None:
        raise InputError(f"{address} is read-only")

    monkeypatch.setattr(publishing, "check_writable", refuse)
    with pytest.raises(InputError, match=r"^memory://store/note/.* is read-only"):
        build(_Note(), must_not_make, store=at("memory://store"))


# After an interruption.


def test_interrupted_work_lies_beside_its_place_and_is_gone_on_with(tmp_path):
    directory, partial = place(tmp_path)

    def half(config: _Note, folder: Path) -> dict[str, Any]:
        assert folder == partial
        (folder / "half.txt").write_text("half")
        raise KeyboardInterrupt

    def gone_on(config: _Note, folder: Path) -> dict[str, Any]:
        assert names(folder) == {".key", "half.txt"}
        return {}

    with pytest.raises(KeyboardInterrupt):
        build(_Note(), half, store=tmp_path)
    assert not directory.exists() and names(partial) == {".key", "half.txt"}
    assert names(build(_Note(), gone_on, store=tmp_path)) == {"half.txt", MANIFEST}
    assert not partial.exists()


@pytest.mark.parametrize("last", ["rmtree", "publish"])
def test_what_is_whole_but_not_yet_in_its_place_is_not_made_again(tmp_path, monkeypatch, last):
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(artifacts.shutil if last == "rmtree" else artifacts, last, killed)
        build(_Note(), make_note, store=tmp_path)
    assert names(build(_Note(), must_not_make, store=tmp_path)) == {"note.txt", MANIFEST}


@pytest.mark.parametrize("note", ["another", None])
def test_unfinished_work_of_other_settings_is_not_gone_on_with(tmp_path, note):
    partial = tmp_path / "mine.partial"
    (partial / "sub").mkdir(parents=True)
    (partial / "sub" / "old.txt").write_text("old")
    if note:
        (partial / ".key").write_text(note)
    assert names(build(_Note(), make_note, output=tmp_path / "mine")) == {"note.txt", MANIFEST}


def test_a_whole_artifact_of_other_settings_is_not_taken_for_this_one(tmp_path, monkeypatch):
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(artifacts, "publish", killed)
        build(_Note(text="old"), make_note, output=tmp_path / "mine")
    made = build(_Note(), make_note, output=tmp_path / "mine")
    assert (made / "note.txt").read_text() == "x" and manifest_of(made)["key"] == artifact_key(_Note())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_or_quota_is_told_with_the_way_out(tmp_path, number):
    def full(config: _Note, folder: Path) -> dict[str, Any]:
        raise OSError(number, os.strerror(number))

    reason = rf"no space left while making {place(tmp_path)[0]} \({os.strerror(number)}\)"
    with pytest.raises(InputError, match=f"{reason}; free some and run again: it resumes"):
        build(_Note(), full, store=tmp_path)


def test_another_error_of_the_disk_stays_what_it_is(tmp_path):
    def broken(config: _Note, folder: Path) -> dict[str, Any]:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output error") as error:
        build(_Note(), broken, store=tmp_path)
    assert error.value.errno == errno.EIO


# Several processes.


def test_one_process_at_a_time_makes_an_artifact(tmp_path):
    directory, _ = place(tmp_path)

    def second(config: _Note, folder: Path) -> dict[str, Any]:
        with pytest.raises(ArtifactBusyError, match=f"another process is making {directory} right now; wait"):
            build(_Note(), must_not_make, store=tmp_path)
        return make_note(config, folder)

    build(_Note(), second, store=tmp_path)
    with directory.with_name(f".{directory.name}.lock").open("rb") as lock:
        assert try_lock(lock.fileno(), tmp_path)


def test_what_another_process_finished_in_the_meantime_is_not_made_again(tmp_path, monkeypatch):
    real = artifacts.try_lock

    def the_other_was_faster(file: int, path: Path) -> bool:
        monkeypatch.setattr(artifacts, "try_lock", real)
        build(_Note(), make_note, store=tmp_path)
        return real(file, path)

    monkeypatch.setattr(artifacts, "try_lock", the_other_was_faster)
    assert build(_Note(), must_not_make, store=tmp_path) == place(tmp_path)[0]


@pytest.mark.parametrize("number", sorted(set(WITHOUT_LOCKS)))
def test_a_file_system_without_locks_is_told_with_the_way_out(tmp_path, monkeypatch, number):
    def flock(file: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    reason = rf"the file system of {tmp_path} has no locks \({os.strerror(number)}\).* local disk"
    with pytest.raises(InputError, match=reason):
        try_lock(0, tmp_path / "lock")


def test_a_further_process_of_a_training_works_where_the_first_one_has_opened_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    directory, partial = place(tmp_path)
    partial.mkdir(parents=True)
    (partial / ".key").write_text("of earlier settings")
    waits = []

    def first_process(seconds: float) -> None:
        waits.append(seconds)
        assert len(waits) < 10
        if len(waits) == 3:
            (partial / ".key").write_text(directory.name)

    worked = []
    monkeypatch.setattr(artifacts.time, "sleep", first_process)
    found = build(_Note(), lambda config, folder: worked.append((config, folder)), store=tmp_path)
    assert found == directory and worked == [(_Note(), partial)]
    assert len(waits) == 3 and 0 < max(waits) <= 1
    assert names(partial) == {".key"} and not directory.exists()  # the first process keeps the books


def test_a_further_process_does_not_wait_for_ever_for_the_first_one(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    seconds = iter(range(0, 10_000, 100))
    monkeypatch.setattr(artifacts.time, "monotonic", lambda: next(seconds))
    monkeypatch.setattr(artifacts.time, "sleep", lambda _: None)
    with pytest.raises(ArtifactError, match=rf"has not opened {place(tmp_path)[1]} within 300 s"):
        build(_Note(), must_not_make, store=tmp_path)
    assert next(seconds) == 500  # the end, then looks at 100, 200, 300, and 400, which is too late


def test_the_first_process_of_a_training_makes_the_artifact(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    assert (build(_Note(), make_note, store=tmp_path) / MANIFEST).is_file()
