"""The fuzz run finds what it looks for: each kind of failure, planted, is caught; our readers pass."""

from __future__ import annotations

import random
import time

import pytest

from benchmarks.fuzzing import driver
from benchmarks.fuzzing.targets import TARGETS, Store, _read_pictures, forge
from datasets.runtime.errors import ArtifactError, InputError
from datasets.sources import files
from datasets.sources.index import read_index, write_index


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("fuzzing") / "root")


@pytest.fixture(scope="module")
def watch(store):
    watch = driver.Watch(store.root)
    yield watch
    watch.on = False


def run(action, store, watch):
    def target(draw, store):
        del draw
        action(store)

    driver.one_input(target, None, store, watch)


FAILURES = {
    "read outside": (lambda store: (store.root / "outside" / "secret").read_bytes(), driver.EscapeError),
    "read by a link": (
        lambda store: (store.root / "link").symlink_to("outside") or (store.root / "link" / "secret").read_bytes(),
        driver.EscapeError,
    ),
    "write outside": (lambda store: (store.root.parent / "new").write_text("x"), driver.EscapeError),
    "delete outside": (lambda store: (store.root / "outside" / "gone").unlink(missing_ok=True), driver.EscapeError),
    "undocumented": (lambda store: {}["x"], KeyError),
    "hang": (lambda store: time.sleep(5), driver.HangError),
    "endless": (lambda store: [None for _ in iter(int, 1)], driver.HangError),
    "memory": (lambda store: bytearray(random.randbytes(1) * (120 << 20)), MemoryError),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_each_kind_of_failure_is_caught(store, watch, monkeypatch, kind):
    if kind in ("hang", "endless"):
        monkeypatch.setattr(driver, "MOST_SECONDS", 0.2)
        monkeypatch.setattr(driver, "MOST_WAITING", 0.5)
    monkeypatch.setattr(driver, "MOST_MB", 60)
    driver.limit_time()
    action, error = FAILURES[kind]
    with pytest.raises(error):
        run(action, store, watch)


def test_what_is_documented_or_stays_inside_is_no_failure(store, watch):
    ran = []

    def refuse(store):
        ran.append("refused")
        raise InputError("no")

    run(refuse, store, watch)
    inside = store.root / "store" / "x"
    run(lambda store: ran.append(inside.write_text("x")), store, watch)
    assert ran == ["refused", 1] and inside.read_text() == "x"


@pytest.mark.parametrize("name", TARGETS)
def test_the_readers_pass_a_few_inputs_of_each_target(store, watch, monkeypatch, name):
    monkeypatch.setattr(driver, "INPUTS_A_ROUND", 3)
    driver.limit_time()
    count, problem = driver.run_round(name, TARGETS[name], store, watch, 0)
    assert count >= 3 and problem == ""


def test_a_reader_that_follows_any_name_is_found(store, watch, monkeypatch):
    def read(store):
        folder = store.copy(store.index)
        rows = read_index(folder, usable=False).assign(path="../outside/secret", status="ok")
        write_index(rows, folder)
        forge(folder)
        _read_pictures(folder)

    with pytest.raises(ArtifactError, match="leads out of the data set"):
        read(store)
    monkeypatch.setattr("datasets.sources.index.is_safe_path", lambda name: True)
    run(read, store, watch)  # the source itself refuses the name
    monkeypatch.setattr(files, "is_safe_path", lambda name: True)
    with pytest.raises(driver.EscapeError, match="outside/secret"):
        run(read, store, watch)
