"""What others plant in a shared store: links, pipes and files in our places are replaced or refused, never followed."""

import fcntl
import json
import os
import stat
from pathlib import Path
from typing import Any, ClassVar

import pytest

from datasets.runtime.artifacts import build
from datasets.runtime.atomic import FLAGS, copy_atomically, open_plain, write_bytes_atomically, write_text_atomically
from datasets.runtime.command_line import main
from datasets.runtime.config import StageConfig
from datasets.runtime.errors import ArtifactError, InputError
from datasets.runtime.keys import artifact_directory, partial_directory
from datasets.runtime.manifests import is_complete
from flows.process import locks
from flows.process.commands import run_commands
from flows.process.locks import hold_gpus, only_run
from flows.runs.results import copy_result
from flows.stages import write_config

SECRET = "what the link points at"


class _Note(StageConfig):
    stage: ClassVar[str] = "note"
    package: ClassVar[str] = "tests"
    text: str = "x"


def _make(config: _Note, directory: Path) -> dict[str, Any]:
    (directory / "note.txt").write_text(config.text)
    return {}


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_text(SECRET)
    return path


def plant(place: Path, kind: str, victim: Path) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    if kind == "link":
        place.symlink_to(victim)
    elif kind == "link to nowhere":
        place.symlink_to(victim.with_name("nowhere"))
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.mkdir()
    return place


KINDS = ["link", "link to nowhere", "pipe"]


def untouched(victim: Path) -> bool:
    return victim.read_text() == SECRET and not victim.with_name("nowhere").exists()


# Written whole: a link is replaced.

WRITERS = {
    "text": lambda path: write_text_atomically(path, "new"),
    "bytes": lambda path: write_bytes_atomically(path, b"new"),
    "copy": lambda path: copy_atomically(path.with_name("source"), path),
    "result": lambda path: copy_result(path.with_name("source"), path.parent, path.name),
}


@pytest.mark.parametrize("kind", ["link", "link to nowhere"])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_link_where_a_file_is_written_is_replaced_and_its_target_untouched(tmp_path, victim, writer, kind):
    (tmp_path / "source").write_text("new")
    path = plant(tmp_path / "report.html", kind, victim)
    WRITERS[writer](path)
    assert untouched(victim) and not path.is_symlink() and path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~_umask()
    assert not list(tmp_path.glob(".*.tmp"))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("writer", WRITERS)
def test_a_pipe_where_a_file_is_written_is_refused_and_not_waited_for(tmp_path, victim, writer):
    (tmp_path / "source").write_text("new")
    path = plant(tmp_path / "report.html", "pipe", victim)
    with pytest.raises(InputError, match="is not a regular file"):
        WRITERS[writer](path)


def test_a_result_that_is_a_link_to_equal_bytes_becomes_a_file(tmp_path, victim):
    source = tmp_path / "source" / "report.html"
    source.parent.mkdir()
    source.write_text(SECRET)
    target = plant(tmp_path / "out" / "report.html", "link", victim)
    assert copy_result(source, target.parent) == target and not target.is_symlink()
    before = target.stat().st_mtime_ns
    copy_result(source, target.parent)
    assert target.stat().st_mtime_ns == before


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(TypeError):
        write_bytes_atomically(path, "no bytes")  # type: ignore[arg-type]
    assert [item.name for item in tmp_path.iterdir()] == ["a"] and path.read_text() == "old"


def test_a_planted_config_is_replaced(tmp_path, victim):
    path = write_config(_Note(), tmp_path / "store")
    path.unlink()
    plant(path, "link", victim)
    assert write_config(_Note(), tmp_path / "store") == path
    assert untouched(victim) and json.loads(path.read_text()) == {"text": "x"}


# Opened where they lie: a link is refused.


@pytest.mark.parametrize("kind", [*KINDS, "folder"])
@pytest.mark.parametrize("mode", [mode for mode in FLAGS if mode != "rb"])
def test_a_log_or_lock_is_no_link_pipe_or_folder(tmp_path, victim, mode, kind):
    path = plant(tmp_path / "x.lock", kind, victim)
    with pytest.raises((InputError, IsADirectoryError)):
        open_plain(path, mode)
    assert untouched(victim)


@pytest.mark.parametrize("mode", FLAGS)
def test_a_plain_file_is_opened_as_open_does(tmp_path, mode):
    path = tmp_path / "x"
    if mode == "rb":
        with pytest.raises(FileNotFoundError):
            open_plain(path, mode)
        path.write_bytes(b"ab")
    else:
        open_plain(path, mode).close()
        assert path.read_bytes() == b""
        path.write_bytes(b"ab")
        with open_plain(path, mode) as file:
            file.write(b"c")
    assert path.read_bytes() == {"rb": b"ab", "ab": b"abc", "wb": b"c", "rb+": b"cb"}[mode]


@pytest.mark.parametrize("kind", KINDS)
def test_the_lock_of_a_set_of_results_is_not_followed(tmp_path, victim, kind):
    lock = plant(tmp_path / "locks" / "demo.lock", kind, victim)
    with pytest.raises(InputError, match=r"demo\.lock"), only_run(lock, "run", print, lambda: None):
        pass
    assert untouched(victim)


def test_a_lock_that_holds_anything_names_another_run(tmp_path):
    for content in (b"", b"[]", b"[" * 100_000, b"\xff", b'{"run": 1}'):
        (tmp_path / "x.lock").write_bytes(content)
        assert locks._holder(tmp_path / "x.lock") == "another run"


def test_a_gpus_lock_is_not_followed(tmp_path, victim, monkeypatch):
    monkeypatch.setattr(locks.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    plant(tmp_path / "imagpose-gpu-0.lock", "link to nowhere", victim)
    with pytest.raises(InputError, match=r"imagpose-gpu-0\.lock"), hold_gpus("auto", 1, print, lambda: None):
        pass
    assert untouched(victim)


def test_a_commands_log_is_not_written_through_a_link(tmp_path, victim):
    log = plant(tmp_path / "logs" / "a.log", "link", victim)
    with pytest.raises(InputError, match=r"a\.log is a link"):
        run_commands([(["true"], log)], print)
    assert untouched(victim)


# Artifacts.


@pytest.mark.parametrize("kind", KINDS)
def test_an_artifacts_lock_is_not_followed(tmp_path, victim, kind):
    directory = artifact_directory(_Note(), tmp_path / "store")
    plant(directory.with_name(f".{directory.name}.lock"), kind, victim)
    with pytest.raises(InputError, match=r"\.lock is a (link|pipe)"):
        build(_Note(), _make, store=tmp_path / "store")
    assert untouched(victim)


@pytest.mark.parametrize("kind", [*KINDS, "file"])
def test_a_working_folder_that_is_none_is_told_before_any_work(tmp_path, victim, kind):
    partial = partial_directory(artifact_directory(_Note(), tmp_path / "store"))
    if kind == "file":
        partial.parent.mkdir(parents=True)
        partial.write_text("x")
    else:
        plant(partial, kind, victim)
    with pytest.raises(ArtifactError, match=r"\.partial is not a folder, but where this artifact is made; remove it"):
        build(_Note(), _make, store=tmp_path / "store")
    assert untouched(victim)


def test_a_working_folder_that_is_a_link_to_a_folder_is_not_emptied(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").write_text(SECRET)
    partial = partial_directory(artifact_directory(_Note(), tmp_path / "store"))
    partial.parent.mkdir(parents=True)
    partial.symlink_to(tmp_path / "home")
    with pytest.raises(ArtifactError, match="is not a folder"):
        build(_Note(), _make, store=tmp_path / "store")
    assert (tmp_path / "home" / "letter").read_text() == SECRET


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["note.txt", ".key", "deep/er/note.txt"])
def test_a_link_inside_a_working_folder_is_refused_and_named(tmp_path, victim, kind, name):
    directory = artifact_directory(_Note(), tmp_path / "store")
    partial = partial_directory(directory)
    partial.mkdir(parents=True)
    (partial / ".key").write_text(directory.name)
    if name == ".key":
        (partial / ".key").unlink()
    planted = plant(partial / name, kind, victim)
    with pytest.raises(ArtifactError) as error:
        build(_Note(), _make, store=tmp_path / "store")
    assert str(planted) in str(error.value) and "\n" not in str(error.value) and untouched(victim)


def test_a_link_to_nowhere_at_the_artifacts_own_place_is_told_before_any_work(tmp_path, victim):
    plant(artifact_directory(_Note(), tmp_path / "store"), "link to nowhere", victim)
    made = []
    with pytest.raises(ArtifactError, match="is a link to nowhere; remove it"):
        build(_Note(), lambda *_: made.append(1), store=tmp_path / "store")
    assert not made


def test_an_honest_store_is_built_and_locked_as_before(tmp_path):
    directory = build(_Note(), _make, store=tmp_path / "store")
    assert is_complete(directory)
    with (directory.with_name(f".{directory.name}.lock")).open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_command_tells_a_planted_working_folder_in_one_line_with_exit_code_2(tmp_path, victim, capsys, kind):
    from datasets.__main__ import COMMANDS
    from datasets.miniature.config import MiniatureConfig

    config = MiniatureConfig(train_identities=4, test_identities=2)
    partial = partial_directory(artifact_directory(config, tmp_path))
    partial.parent.mkdir()
    partial.write_text("x") if kind == "file" else partial.symlink_to(victim)
    arguments = ["miniature", "--train-identities", "4", "--test-identities", "2", "--store", str(tmp_path)]
    assert main("datasets", COMMANDS, arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1 and untouched(victim)
