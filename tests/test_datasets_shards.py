"""Image shards: the same bytes every time, also after kills, beside other writers and on a full disk."""

import errno
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from datasets.__main__ import COMMANDS
from datasets.poses.config import ImportPosesConfig
from datasets.poses.table import read_poses
from datasets.runtime.command_line import main
from datasets.runtime.errors import ArtifactBusyError, InputError
from datasets.runtime.keys import artifact_directory
from datasets.runtime.manifests import MANIFEST, is_complete, manifest_of
from datasets.shards import reuse, write
from datasets.shards.config import WriteShardsConfig
from datasets.shards.encoded import keypoints_from_json
from datasets.shards.reuse import earlier_artifacts
from datasets.shards.tars import LONGEST_NAME
from datasets.shards.write import plan_shards, read_shard_index, sample_json, shard_ends
from datasets.sources.config import IndexConfig
from datasets.sources.files import LONGEST_KEY
from datasets.sources.index import read_index
from tests.small_sets import finish, jpeg, make, market_files, pose_csv, write_files

SPLITS = ["train", "query", "gallery"]


def prepare(
    folder: Path,
    files: dict[str, bytes],
    *,
    images_per_shard: int = 10,
    splits: list[str] = SPLITS,
    posed: dict[str, bytes] | None = None,
) -> WriteShardsConfig:
    """Index and poses of `files`, and the config that shards them; `posed`: more files that have poses."""
    store = folder / "store"
    index = make(IndexConfig(root=write_files(folder / "set", files), workers=1), store)
    poses = make(ImportPosesConfig(images=index, csv=[pose_csv(folder, posed or files)]), store)
    return WriteShardsConfig(images=index, poses=poses, splits=splits, images_per_shard=images_per_shard)


def contents(directory: Path) -> dict[str, bytes]:
    """Files of an artifact; its manifest holds times and is left out."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != MANIFEST}


def samples_of(tar: Path) -> dict[str, dict[str, bytes]]:
    samples: dict[str, dict[str, bytes]] = {}
    with tarfile.open(tar) as file:
        for member in file:
            key, _, kind = member.name.partition(".")
            samples.setdefault(key, {})[kind] = file.extractfile(member).read()
    return samples


def test_a_sample_is_the_sources_bytes_and_what_is_known_of_them(tmp_path):
    config = prepare(tmp_path, market_files())
    directory = make(config, tmp_path / "store")
    samples = samples_of(directory / "query-00000.tar")
    assert list(samples) == ["1001_c1s1_000000_00", "1002_c1s1_000000_00", "1003_c1s1_000000_00"]
    source = tmp_path / "set" / "query" / "1001_c1s1_000000_00.jpg.jpg"
    assert samples["1001_c1s1_000000_00"]["jpg"] == source.read_bytes()
    sample = json.loads(samples["1001_c1s1_000000_00"]["json"])
    pose = read_poses(config.poses).set_index("key").loc["1001_c1s1_000000_00", "keypoints"]
    np.testing.assert_array_equal(keypoints_from_json(sample["keypoints"]), pose)
    assert (sample["pid"], sample["camid"], sample["split"], sample["role"]) == (1001, 1, "query", "person")
    assert (sample["width"], sample["height"]) == (32, 64)
    nobody = json.loads(samples_of(directory / "gallery-00000.tar")["0000_c1s1_000000_02"]["json"])
    assert nobody["keypoints"] == [[None, None, 0.0]] * 18 and nobody["role"] == "distractor"


def test_an_identity_never_spans_two_shards_and_every_image_is_in_exactly_one(tmp_path):
    config = prepare(tmp_path, market_files(identities=11, images=4))
    directory = make(config, tmp_path / "store")
    shards = read_shard_index(directory)["shards"]
    assert [shard["samples"] for shard in shards if shard["split"] == "train"] == [8, 8, 20, 8]
    where: dict[tuple[str, int], set[str]] = {}
    keys = []
    for shard in shards:
        samples = samples_of(directory / shard["name"])
        assert len(samples) == shard["samples"]
        keys += samples
        for key in samples:
            where.setdefault((shard["split"], key.split("_")[0]), set()).add(shard["name"])
    assert all(len(names) == 1 for names in where.values())
    assert sorted(keys) == sorted(read_index(config.images)["key"])


def test_a_change_moves_only_the_ends_within_its_reach():
    rng = np.random.default_rng(0)
    for _ in range(200):
        pids, counts = np.sort(rng.permutation(2000)[:300]), rng.integers(1, 30, 300)
        ends = shard_ends(pids, counts, 200)
        sizes = np.diff([0, *ends])
        assert ends[-1] == counts.sum() and sizes.max() <= 400 + 30 and sizes.min() >= 100
        grown = counts.copy()
        grown[rng.integers(300)] += 50
        assert len(shards_of(pids, grown) - shards_of(pids, counts)) <= 3


def shards_of(pids: np.ndarray, counts: np.ndarray) -> set[tuple[tuple[int, int], ...]]:
    people, ends = list(zip(pids.tolist(), counts.tolist(), strict=True)), np.cumsum(counts)
    edges = np.searchsorted(ends, [0, *shard_ends(pids, counts, 200)], side="right")
    return {tuple(people[start:stop]) for start, stop in itertools.pairwise(edges)}


def test_plain_webdataset_reads_the_shards(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    directory = make(prepare(tmp_path, market_files()), tmp_path / "store")
    shards = sorted(str(path) for path in directory.glob("train-*.tar"))
    pipeline = webdataset.WebDataset(shards, shardshuffle=False).decode("pil").to_tuple("__key__", "jpg", "json")
    read = {key: (image.size, info["pid"]) for key, image, info in pipeline}
    assert len(read) == 12 and read["0003_c2s1_000100_01"] == ((32, 64), 3)


def test_equal_input_gives_equal_bytes_whatever_the_dates_and_the_file_system_order(tmp_path):
    files = market_files()
    first = contents(make(prepare(tmp_path / "a", files), tmp_path / "a" / "store"))
    backwards = dict(reversed(files.items()))
    time.sleep(0.01)
    assert contents(make(prepare(tmp_path / "b", backwards), tmp_path / "b" / "store")) == first


def test_a_changed_or_vanished_image_is_refused_and_named(tmp_path):
    config = prepare(tmp_path, market_files())
    path = tmp_path / "set" / "bounding_box_train" / "0002_c1s1_000000_01.jpg"
    path.write_bytes(jpeg(77))
    with pytest.raises(InputError, match=r"0002_c1s1_000000_01.jpg .* changed since it was indexed"):
        make(config, tmp_path / "store")
    path.unlink()
    with pytest.raises(InputError, match=r"0002_c1s1_000000_01.jpg .* cannot be read any more"):
        make(config, tmp_path / "store")


def test_a_data_set_that_has_moved_is_read_from_its_new_place(tmp_path):
    config = prepare(tmp_path, market_files())
    (tmp_path / "set").rename(tmp_path / "moved")
    with pytest.raises(InputError, match="does not exist"):
        make(config, tmp_path / "store")
    moved = config.model_copy(update={"root": tmp_path / "moved"})
    assert artifact_directory(moved, tmp_path) == artifact_directory(config, tmp_path)
    assert is_complete(make(moved, tmp_path / "store"))


def test_poses_of_another_index_are_refused(tmp_path):
    config = prepare(tmp_path, market_files())
    files = market_files(identities=5)
    larger = make(IndexConfig(root=write_files(tmp_path / "larger", files), workers=1), tmp_path / "store")
    with pytest.raises(InputError, match="lacks 3 of 36 images"):
        make(config.model_copy(update={"images": larger}), tmp_path / "store")


def test_a_split_without_images_is_refused(tmp_path):
    config = prepare(tmp_path, market_files(test_identities=1))
    images = read_index(config.images)
    with pytest.raises(InputError, match="no usable image in split 'query'"):
        from datasets.shards.write import _join

        _join(images[images["split"] != "query"], read_poses(config.poses), config)


def _without(files: dict[str, bytes], pid: int, images: int | None = None) -> dict[str, bytes]:
    """The files less some images (or all) of one training identity."""
    gone = [name for name in sorted(files) if name.startswith(f"bounding_box_train/{pid:04d}_")][:images]
    return {name: content for name, content in files.items() if name not in gone}


MIDDLE = 30
CHANGES = {
    "an image is added": lambda files: {**files, f"bounding_box_train/{MIDDLE:04d}_c6s1_009999_01.jpg": jpeg(4242)},
    "an image is removed": lambda files: _without(files, MIDDLE, 1),
    "an image is changed": lambda files: {**files, f"bounding_box_train/{MIDDLE:04d}_c1s1_000000_01.jpg": jpeg(4242)},
    "an identity is added": lambda files: {**files, f"bounding_box_train/{MIDDLE:04d}_c6s1_009999_01.jpg": jpeg(4242)},
    "an identity is removed": lambda files: _without(files, MIDDLE),
}
"""What happens to one of 60 identities in the middle of a set."""


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_in_the_middle_writes_only_the_shard_it_touches(tmp_path, change):
    files = market_files(identities=60, images=2)
    if change == "an identity is added":
        files = _without(files, MIDDLE)
    changed = CHANGES[change](files)
    first = make(
        prepare(tmp_path, files, splits=["train"], images_per_shard=16, posed=files | changed), tmp_path / "store"
    )
    assert manifest_of(first)["summary"]["shards_written"] >= 6
    shutil.rmtree(tmp_path / "set")
    config = prepare(tmp_path, changed, splits=["train"], images_per_shard=16, posed=files | changed)
    second = make(config, tmp_path / "store")
    summary = manifest_of(second)["summary"]
    assert (summary["shards_written"], summary["shards_reused"]) == (1, summary["shards"] - 1)
    assert contents(second) == contents(make(config, tmp_path / "fresh"))


def test_a_corrupt_shard_of_an_earlier_artifact_is_not_reused(tmp_path):
    files = market_files(identities=12, images=4)
    config = prepare(tmp_path, files, splits=["train"])
    first = make(config, tmp_path / "store")
    good = contents(first)
    (first / "train-00000.tar").write_bytes(b"corrupt")
    second = make(config.model_copy(update={"splits": ["train", "query"]}), tmp_path / "store")
    assert manifest_of(second)["summary"]["shards_reused"] == 4
    assert (second / "train-00000.tar").read_bytes() == good["train-00000.tar"]


@pytest.mark.parametrize("splits", [[], ["train", "query", "train"]])
def test_a_split_twice_or_none_at_all_is_refused_before_any_shard_is_written(tmp_path, splits):
    with pytest.raises(ValidationError, match="splits must be one or more, each once"):
        WriteShardsConfig(images=tmp_path, poses=tmp_path, splits=splits)


def test_a_shard_of_another_version_of_the_stage_is_not_taken_over(tmp_path):
    (tmp_path / "old").mkdir()
    finish(tmp_path / "old", "write-shards", stage_version=WriteShardsConfig.stage_version - 1)
    config = WriteShardsConfig(images=tmp_path, poses=tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reuse, "read_index_file", lambda *_: {})
        assert list(earlier_artifacts(tmp_path / "new", config)) == []
        finish(tmp_path / "old", "write-shards", stage_version=WriteShardsConfig.stage_version)
        assert list(earlier_artifacts(tmp_path / "new", config)) == [(tmp_path / "old", {})]


def test_a_key_that_no_tar_can_hold_is_refused_before_work(tmp_path, monkeypatch):
    (tmp_path / f"{'x' * 89}.jpg").write_bytes(jpeg(1))
    (tmp_path / "set.csv").write_text(f"path,pid,camid,split\n{'x' * 89}.jpg,1,1,train\n")
    index = make(IndexConfig(root=tmp_path / "set.csv", layout="table", workers=1), tmp_path / "store")
    poses = make(
        ImportPosesConfig(images=index, csv=[pose_csv(tmp_path, {f"{'x' * 89}.jpg": b""})]), tmp_path / "store"
    )
    monkeypatch.setattr(write, "LONGEST_KEY", 88)  # such an index comes from an earlier version only
    with pytest.raises(InputError, match="longer than the 88 bytes"):
        make(WriteShardsConfig(images=index, poses=poses), tmp_path / "store")


def test_every_file_made_of_an_image_with_the_longest_key_has_a_name_that_a_tar_holds():
    assert LONGEST_KEY + len(".tokens.npy") == LONGEST_NAME


NURSERY = """
import os, sys
from pathlib import Path
from datasets.runtime.artifacts import build
from datasets.shards.config import WriteShardsConfig
from datasets.shards.write import make_shards
config = WriteShardsConfig.model_validate_json(Path(sys.argv[1]).read_text())
for store in sys.stdin:
    pid = os.fork()
    if pid == 0:
        build(config, make_shards, store=Path(store.strip()))
        os._exit(0)
    print(pid, flush=True)
    os.waitpid(pid, 0)
    print("ended", flush=True)
"""
"""Starts one child per line, so that the libraries are imported once for ten kills."""


def test_killed_at_ten_random_moments_and_run_again_the_set_is_byte_identical(tmp_path, repository):
    config = prepare(tmp_path, market_files(identities=30, images=4), images_per_shard=12, splits=["train"])
    (tmp_path / "config.json").write_text(config.model_dump_json())
    started = time.monotonic()
    undisturbed = contents(make(config, tmp_path / "undisturbed"))
    seconds = time.monotonic() - started
    rng = random.Random(0)
    interrupted = 0
    command = [sys.executable, "-c", NURSERY, str(tmp_path / "config.json")]
    with subprocess.Popen(command, cwd=repository, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as nursery:
        for trial in range(10):
            store = tmp_path / f"killed-{trial}"
            nursery.stdin.write(f"{store}\n")
            nursery.stdin.flush()
            child = int(nursery.stdout.readline())
            time.sleep(rng.uniform(0, seconds))
            os.kill(child, signal.SIGKILL)
            assert nursery.stdout.readline() == "ended\n"
            directory = artifact_directory(config, store)
            interrupted += not is_complete(directory)
            assert is_complete(directory) or not directory.exists()
            assert contents(make(config, store)) == undisturbed
            shutil.rmtree(store)
        nursery.stdin.close()
    assert interrupted >= 1  # the kills really hit the work


def test_an_interrupted_run_keeps_its_finished_shards_and_clears_what_was_half_written(tmp_path, monkeypatch):
    config = prepare(tmp_path, market_files(identities=12, images=4), splits=["train"])
    from datasets.shards import write as shards

    real, calls = shards.write_tar, []

    def fails_at_the_third(path, members):
        calls.append(path.name)
        if len(calls) == 3:
            path.write_bytes(b"half")
            raise KeyboardInterrupt
        real(path, members)

    monkeypatch.setattr(shards, "write_tar", fails_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        make(config, tmp_path / "store")
    monkeypatch.setattr(shards, "write_tar", real)
    directory = make(config, tmp_path / "store")
    summary = manifest_of(directory)["summary"]
    assert (summary["shards_kept"], summary["shards_written"]) == (2, 3)
    assert contents(directory) == contents(make(config, tmp_path / "other"))


def test_a_full_disk_is_told_in_one_line_and_the_next_run_goes_on(tmp_path, monkeypatch, capsys):
    config = prepare(tmp_path, market_files(identities=12, images=4), splits=["train"])
    (tmp_path / "config.json").write_text(config.model_dump_json())
    flags = ["write-shards", "--config", str(tmp_path / "config.json"), "--store", str(tmp_path / "store")]
    real, calls = os.fsync, []

    def full_at_the_second(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr("datasets.shards.tars.os.fsync", full_at_the_second)
    assert main("datasets", COMMANDS, flags) == 2
    assert "no space left while making" in capsys.readouterr().err
    assert not is_complete(artifact_directory(config, tmp_path / "store"))
    assert main("datasets", COMMANDS, flags) == 0
    directory = artifact_directory(config, tmp_path / "store")
    assert manifest_of(directory)["summary"]["shards_kept"] == 1
    assert contents(directory) == contents(make(config, tmp_path / "other"))


def test_a_second_writer_is_refused_while_the_first_one_works(tmp_path, monkeypatch):
    config = prepare(tmp_path, market_files(), splits=["train"])
    from datasets.shards import write as shards

    real = shards.write_tar

    def tries_again_inside(path, members):
        with pytest.raises(ArtifactBusyError, match="another process is making"):
            make(config, tmp_path / "store")
        real(path, members)

    monkeypatch.setattr(shards, "write_tar", tries_again_inside)
    assert is_complete(make(config, tmp_path / "store"))


def rows_of(counts: dict[int, int]) -> pd.DataFrame:
    """Rows of a split with so many images per pid, in no order."""
    names = [(pid, f"{pid}_{image}") for pid, count in counts.items() for image in range(count)]
    rows = pd.DataFrame(names, columns=["pid", "key"])
    rows = rows.assign(split="train", camid=1, role="person", width=1, height=1, sha256="", crop=None)
    rows = rows.assign(keypoints=[np.full((18, 3), np.nan, np.float32)] * len(rows))
    return rows.sample(frac=1, random_state=0, ignore_index=True)


def fingerprints(counts: dict[int, int]) -> set[str]:
    return {plan.fingerprint for plan in plan_shards(rows_of(counts), "train", 40)}


def test_shards_have_half_to_twice_the_wanted_size_and_whole_identities_in_order():
    rng = np.random.default_rng(0)
    counts = dict(zip(range(1, 301), rng.integers(1, 9, 300).tolist(), strict=True))
    plans = plan_shards(rows_of(counts), "train", 40)
    sizes = [len(plan.images) for plan in plans]
    assert all(20 <= size < 80 + 8 for size in sizes[:-1]) and 28 <= np.mean(sizes) <= 52
    assert [plan.name for plan in plans] == [f"train-{i:05d}.tar" for i in range(len(plans))]
    found = [pid for plan in plans for pid in plan.images["pid"].drop_duplicates()]
    assert found == sorted(counts)
    nobody = next(plans[0].images.itertuples())
    assert json.loads(sample_json(nobody))["keypoints"][0] == [None, None, 0.0]


def test_a_changed_or_new_person_makes_nearly_always_one_shard_anew_and_never_many():
    rng = np.random.default_rng(0)
    counts = {int(pid): int(count) for pid, count in zip(range(2, 602, 2), rng.integers(1, 9, 300), strict=True)}
    known = fingerprints(counts)
    people = rng.permutation(300)[:6]
    more = [len(fingerprints({**counts, 2 * int(p) + 2: counts[2 * int(p) + 2] + 1}) - known) for p in people]
    new = [len(fingerprints({**counts, 2 * int(p) + 3: 5}) - known) for p in people]
    assert len(known) > 25 and np.mean(more + new) < 1.5 and max(more + new) <= 4
