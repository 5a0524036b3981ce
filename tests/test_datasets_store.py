"""What a store keeps, what may leave it, and who has seen a person."""

from __future__ import annotations

import fcntl
import json
import os
import time
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest

from datasets.__main__ import COMMANDS
from datasets.runtime.command_line import BUSY, main
from datasets.runtime.manifests import MANIFEST
from datasets.shards.reuse import take_over
from datasets.sources.index import QUERY_IN_GALLERY
from datasets.store import forget
from datasets.store.inventory import Inventory
from datasets.store.records import LOCKS, RunRecord, now, write_record

DAYS = 86_400
NO_HASH = "0" * 64


def artifact(
    store: Path, name: str, *inputs: str, days: float = 60, config: dict[str, object] | None = None, **named: str
) -> Path:
    """A finished artifact as a stage leaves it, made from others of the store, so many days ago."""
    folder = store / name
    folder.mkdir(parents=True)
    stage, key = name.split("/")
    made_from = {f"runs[{place}]": item for place, item in enumerate(inputs)} | named
    manifest = {
        "stage": stage,
        "stage_version": 1,
        "key": key,
        "content_sha256": NO_HASH,
        "summary": {},
        "config": config or {},
        "inputs": {field: {"path": f"/moved/{item}", "sha256": ""} for field, item in made_from.items()},
        "files": [{"name": "data", "size": 1000, "sha256": NO_HASH}],
        "started": "2026-01-03T01:00:00+00:00",
        "seconds": 1.0,
        "versions": {},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest))
    then = time.time() - days * DAYS
    os.utime(folder / MANIFEST, (then, then))
    return folder


def result(store: Path, number: int, *, days: float = 60, preset: str = "market", **fields: object) -> RunRecord:
    """A week: an index, a benchmark made from it, a report made from that, and the run's record."""
    names = [f"index/{number}", f"benchmark/{number}", f"report/{number}"]
    for name, source in zip(names, [None, *names], strict=False):
        artifact(store, name, *([source] if source else []), days=days)
    then = now() - timedelta(days=days)
    settings = {"finished": True, "report": names[2], "artifacts": names, "preset": preset} | fields
    return write_record(RunRecord(run=f"run-{number}", started=then, used=then, **settings), store)


def store_command(*arguments: str) -> int:
    return main("datasets", COMMANDS, ["store", *arguments])


def left(store: Path) -> set[str]:
    return {f"{path.parent.name}/{path.name}" for path in store.glob("*/[0-9a-z]*") if path.is_dir()}


def test_what_only_old_results_need_leaves_and_nothing_before_it_was_asked_for(tmp_path, capsys):
    for number in range(4):
        result(tmp_path, number, days=100 - number)
    before = left(tmp_path)
    assert store_command("prune", "--store", str(tmp_path), "--keep-runs", "2") == 0
    assert "would remove report/0" in capsys.readouterr().out and left(tmp_path) == before
    assert store_command("prune", "--store", str(tmp_path), "--keep-runs", "2", "--remove") == 0
    assert left(tmp_path) == {f"{stage}/{n}" for stage in ("index", "benchmark", "report") for n in (2, 3)}
    assert "6 artifacts, 6.0 kB, removed; 6 kept" in capsys.readouterr().out


def test_another_presets_results_and_what_is_young_with_its_ancestors_stay(tmp_path):
    for number in range(3):
        result(tmp_path, number, days=100 - number)
    result(tmp_path, 7, days=300, preset="demo")
    artifact(tmp_path, "encode/9", "index/0", days=1)
    store_command("prune", "--store", str(tmp_path), "--keep-runs", "1", "--remove")
    assert left(tmp_path) >= {"index/7", "report/7", "report/2", "encode/9", "index/0"}
    assert "index/1" not in left(tmp_path) and "report/0" not in left(tmp_path)


def test_a_run_that_works_or_can_be_resumed_keeps_its_artifacts_and_its_unfinished_work(tmp_path):
    result(tmp_path, 1, days=90)
    artifact(tmp_path, "index/5")
    (tmp_path / "train-imagpose/6.partial").mkdir(parents=True)
    (tmp_path / "train-imagpose/7.partial").mkdir()
    for name in ("6", "7"):
        os.utime(tmp_path / f"train-imagpose/{name}.partial", (0, 0))
    then = now() - timedelta(days=50)
    names = ["index/5", "train-imagpose/6"]
    write_record(RunRecord(run="open", preset="market", started=then, used=then, artifacts=names), tmp_path)
    store_command("prune", "--store", str(tmp_path), "--remove")
    assert {"index/5", "train-imagpose/6.partial"} <= left(tmp_path)
    assert "train-imagpose/7.partial" not in left(tmp_path)  # an orphan
    result(tmp_path, 2, days=40)  # the next week's run finished: nobody will resume that one
    store_command("prune", "--store", str(tmp_path), "--remove")
    assert "train-imagpose/6.partial" not in left(tmp_path)


def test_a_run_that_holds_its_lock_keeps_everything_it_uses_however_old(tmp_path):
    artifact(tmp_path, "index/5", days=900)
    then = now() - timedelta(days=800)
    record = RunRecord(run="open", preset="market", started=then, used=then, artifacts=["index/5"], lock="a.lock")
    write_record(record, tmp_path)
    result(tmp_path, 1, days=20)
    with (tmp_path / LOCKS / "a.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        store_command("prune", "--store", str(tmp_path), "--remove")
        assert "index/5" in left(tmp_path)
    store_command("prune", "--store", str(tmp_path), "--remove")
    assert "index/5" not in left(tmp_path)


def test_work_that_a_process_is_doing_right_now_stays(tmp_path):
    (tmp_path / "encode/1.partial").mkdir(parents=True)
    os.utime(tmp_path / "encode/1.partial", (0, 0))
    with (tmp_path / "encode/.1.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        store_command("prune", "--store", str(tmp_path), "--remove")
    assert "encode/1.partial" in left(tmp_path)


def test_the_same_result_again_does_not_push_an_older_one_out(tmp_path):
    result(tmp_path, 1, days=90)
    latest = result(tmp_path, 2, days=80)
    for again in range(5):
        write_record(latest.model_copy(update={"run": f"again-{again}"}), tmp_path)
    store_command("prune", "--store", str(tmp_path), "--keep-runs", "2", "--remove")
    assert {"report/1", "report/2"} <= left(tmp_path)


def test_results_of_before_there_were_records_are_kept_by_their_report(tmp_path):
    artifact(tmp_path, "index/1", days=200)
    artifact(tmp_path, "report/1", "index/1", days=200, config={"preset": "market"})
    artifact(tmp_path, "index/2", days=300)
    artifact(tmp_path, "report/2", "index/2", days=300, config={"preset": "market"})
    store_command("prune", "--store", str(tmp_path), "--keep-runs", "1", "--remove")
    assert left(tmp_path) == {"index/1", "report/1"}


def test_artifacts_are_listed_with_size_age_and_who_needs_them(tmp_path, capsys):
    result(tmp_path, 1, days=10)
    assert store_command("--store", str(tmp_path)) == 0
    lines = capsys.readouterr().out.splitlines()
    (index,) = [line for line in lines if line.startswith("index/1 ")]
    assert "1.0 kB" in index and "10.0 d" in index and "needed by 1 benchmark, 1 runs, last market" in index
    assert lines[-1].startswith("3 artifacts, 3.0 kB")
    assert Inventory(tmp_path).with_ancestors(["report/1"]) == {"report/1", "benchmark/1", "index/1"}


@pytest.mark.parametrize("command", [["prune", "--older-than", "0"], ["forget", "--pid", "1"]])
def test_nothing_leaves_while_a_manifest_cannot_be_read_for_nobody_knows_what_it_needs(tmp_path, capsys, command):
    result(tmp_path, 1)
    (artifact(tmp_path, "encode/2", "index/1") / MANIFEST).write_text("{")
    before = left(tmp_path)
    assert store_command("--store", str(tmp_path)) == 0  # it can still be listed
    assert store_command(*command, "--store", str(tmp_path), "--remove") == 2
    assert f"{tmp_path}/encode/2" in capsys.readouterr().err and left(tmp_path) == before


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """A store with two training people and one test person, two images each; subsets take image a of each."""
    rows = [(f"{pid}{letter}", pid, "query" if pid == 3 else "train") for pid in (1, 2, 3) for letter in "ab"]
    index = artifact(tmp_path, "index/1", config={"root": "/data/Market"})
    pd.DataFrame(rows, columns=["key", "pid", "split"]).to_parquet(index / "images.parquet")
    subsets = artifact(tmp_path, "select-subsets/1", images="index/1")
    keys = [(0, 50, "1a"), (0, 50, "2a"), (0, 100, "1a"), (0, 100, "1b"), (0, 100, "2a"), (0, 100, "2b")]
    pd.DataFrame(keys, columns=["draw", "fraction", "key"]).to_parquet(subsets / "subsets.parquet")
    artifact(tmp_path, "write-shards/1", images="index/1", config={"splits": ["train"]})
    artifact(tmp_path, "write-shards/2", images="index/1", config={"splits": ["query", "gallery"]})
    artifact(tmp_path, "encode/1", shards="write-shards/1")
    subset = {"subset": "/moved/select-subsets/1", "draw": 0}
    for key, fraction in (("1", 50), ("2", 100)):
        inputs = {"encoded": "encode/1", "subset": "select-subsets/1"}
        artifact(tmp_path, f"train-imagpose/{key}", config=subset | {"fraction": fraction}, **inputs)
    artifact(tmp_path, "train-imagpose/3", encoded="encode/9", init_from="train-imagpose/2")
    return tmp_path


def named(out: str) -> set[str]:
    return {line.split()[2] for line in out.splitlines() if line.startswith("would remove")}


def test_a_test_person_was_not_seen_by_any_generator(people, capsys):
    store_command("forget", "--store", str(people), "--pid", "3")
    assert named(capsys.readouterr().out) == {"index/1", "write-shards/2"}


def test_an_image_outside_a_subset_was_not_seen_by_its_generator_but_by_what_went_on_from_another(people, capsys):
    store_command("forget", "--store", str(people), "--key", "2b")
    seen = {"index/1", "select-subsets/1", "write-shards/1", "encode/1", "train-imagpose/2", "train-imagpose/3"}
    assert named(capsys.readouterr().out) == seen


def test_forgetting_removes_what_has_seen_the_person_and_the_pages_that_show_it(people, capsys):
    pages = people / "runs-of-market/2026-11-27-1"
    pages.mkdir(parents=True)
    (pages.parent / "latest").symlink_to(pages.name)
    artifact(people, "report/1", "train-imagpose/1")
    for run in "12":  # the second one changed nothing, so its pages are those of the first
        record = RunRecord(run=run, started=now(), used=now(), finished=True, report="report/1", pages=pages)
        write_record(record, people)
    assert store_command("forget", "--store", str(people), "--pid", "1", "--remove") == 0
    assert left(people) & {"index/1", "encode/1", "train-imagpose/1", "report/1"} == set()
    assert "write-shards/2" in left(people)
    assert not pages.exists() and not (pages.parent / "latest").is_symlink()
    assert capsys.readouterr().out.count(f"remove {pages}") == 1


def test_pages_go_before_the_artifacts_that_tell_whom_they_show(people, monkeypatch):
    pages = people / "runs-of-market/2026-11-27-1"
    pages.mkdir(parents=True)
    artifact(people, "report/1", "train-imagpose/1")
    record = RunRecord(run="1", started=now(), used=now(), finished=True, report="report/1", pages=pages)
    write_record(record, people)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(forget, "remove", killed)
    assert store_command("forget", "--store", str(people), "--pid", "1", "--remove") == 130
    assert not pages.exists() and "report/1" in left(people)


def test_a_person_of_another_data_set_with_the_same_number_is_left_alone(people, capsys):
    duke = artifact(people, "index/7", config={"root": "/data/DukeMTMC"})
    pd.DataFrame([("d", 1, "train")], columns=["key", "pid", "split"]).to_parquet(duke / "images.parquet")
    for root in ("DukeMTMC", "/data/DukeMTMC"):
        store_command("forget", "--store", str(people), "--pid", "1", "--root", root)
        assert named(capsys.readouterr().out) == {"index/7"}


def test_a_data_set_that_no_index_is_of_is_refused_and_not_answered_with_nobody(people, capsys):
    assert store_command("forget", "--store", str(people), "--pid", "1", "--root", "Markt") == 2
    assert "/data/Market" in capsys.readouterr().err


def test_an_image_that_is_a_query_and_in_the_gallery_is_found_in_both(people, capsys):
    index = artifact(people, "index/7")
    rows = [("q", 9, "gallery"), (f"q{QUERY_IN_GALLERY}", 9, "query")]
    pd.DataFrame(rows, columns=["key", "pid", "split"]).to_parquet(index / "images.parquet")
    artifact(people, "write-shards/7", images="index/7", config={"splits": ["query"]})
    store_command("forget", "--store", str(people), "--key", "q")
    assert named(capsys.readouterr().out) == {"index/7", "write-shards/7"}


def test_a_comparison_of_poses_whose_table_has_an_indexs_name_does_not_stop_the_search(people, capsys):
    comparison = artifact(people, "compare-poses/1", images="index/1")
    pd.DataFrame([("1a", "train")], columns=["key", "split"]).to_parquet(comparison / "images.parquet")
    assert store_command("forget", "--store", str(people), "--pid", "1") == 0
    assert {"index/1", "compare-poses/1"} <= named(capsys.readouterr().out)


@pytest.mark.parametrize("name", ["index/10", "store/index/1", "index/1/"])
def test_a_name_to_keep_under_which_nothing_lies_is_refused_before_anything_leaves(tmp_path, capsys, name):
    artifact(tmp_path, "index/1")
    assert store_command("prune", "--store", str(tmp_path), "--keep", name, "--remove") == 2
    assert f"--keep {name} names no artifact" in capsys.readouterr().err and left(tmp_path) == {"index/1"}


def test_nobody_is_forgotten_while_a_run_is_at_work(people, capsys):
    record = RunRecord(run="1", started=now(), used=now(), lock="a.lock")
    write_record(record, people)
    with (people / LOCKS / "a.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert store_command("forget", "--store", str(people), "--pid", "1", "--remove") == BUSY
    assert "index/1" in left(people)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prune", "--keep-runs", "0"], "keep_runs"),
        (["forget"], "nobody to forget"),
        (["--store", "none"], "store's root"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert store_command(*arguments) == 2
    assert said in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_a_shard_that_is_taken_over_needs_no_room_of_its_own(tmp_path):
    shard = artifact(tmp_path, "encode/1") / "a.tar"
    shard.write_bytes(b"")
    manifest = json.loads((shard.parent / MANIFEST).read_text())
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    (shard.parent / MANIFEST).write_text(
        json.dumps(manifest | {"files": [{"name": "a.tar", "size": 0, "sha256": empty}]})
    )
    assert take_over(shard, tmp_path / "b.tar")
    if (tmp_path / "b.tar").stat().st_ino != shard.stat().st_ino:
        pytest.skip("this file system clones files; a clone's blocks cannot be told here")
    assert shard.stat().st_nlink == 2
