"""The stage extract-poses: a row for every image, the same bytes however often it was stopped, known images reused."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datasets.miniature.config import MiniatureConfig
from datasets.miniature.render import make_miniature
from datasets.poses import extract as extract_poses
from datasets.poses.backends import OPENPOSE_TINY, POSE_BACKENDS
from datasets.poses.config import ExportPosesConfig, ExtractPosesConfig, ImportPosesConfig
from datasets.poses.csv_files import HEADER, format_pose_row, read_pose_csv
from datasets.poses.skeleton import missing_keypoints, present_joints
from datasets.poses.table import POSES_FILE, read_poses, run_export
from datasets.poses.tiny.estimator import MIN_SCORES, TinyPoseEstimator
from datasets.poses.tiny.network import save_network
from datasets.runtime.artifacts import build
from datasets.runtime.errors import InputError, WeightsError
from datasets.runtime.keys import artifact_key
from datasets.runtime.manifests import manifest_of
from datasets.sources.config import IndexConfig
from datasets.sources.index import read_index
from tests.small_sets import make, market_files, market_root, write_files
from tests.test_datasets_train_pose import random_network


@pytest.fixture
def market(tmp_path) -> ExtractPosesConfig:
    """A little Market-1501 of noise, and a network of random weights."""
    index = make(IndexConfig(root=market_root(tmp_path), workers=1), tmp_path / "store")
    (tmp_path / "network").mkdir()
    save_network(random_network(), tmp_path / "network", {})
    weights = tmp_path / "network" / "weights.safetensors"
    return ExtractPosesConfig(images=index, backend="openpose-tiny", weights=weights, workers=1, device="cpu")


@pytest.fixture(autouse=True)
def short_parts(monkeypatch):
    monkeypatch.setattr(extract_poses, "PART_IMAGES", 4)
    monkeypatch.setitem(POSE_BACKENDS._items, "openpose-tiny", replace(OPENPOSE_TINY, parts_alone=1))


def extract(config: ExtractPosesConfig, store: Path) -> Path:
    return build(config, extract_poses.make_extracted_poses, store=store)


def test_every_image_gets_a_row_with_backend_status_and_scores(market, tmp_path):
    artifact = extract(market, tmp_path / "store")
    images, poses = read_index(market.images), read_poses(artifact)
    assert poses["key"].tolist() == images["key"].tolist()
    assert set(poses["status"]) <= {"ok", "no-person"}
    assert set(poses["backend"]) == {"openpose-tiny"}
    for row in poses.itertuples():
        there = present_joints(row.keypoints)
        assert there.any() == (row.status == "ok")
        assert (row.keypoints[there, 2] >= MIN_SCORES[there] - 1e-3).all()
        np.testing.assert_array_equal(row.keypoints[~there], missing_keypoints()[~there])
    summary = manifest_of(artifact)["summary"]
    assert summary["looked_at"] == summary["images"] == len(images)
    assert sum(summary["statuses"].values()) == len(images)


def test_other_splits_are_missing_and_an_empty_one_is_refused(market, tmp_path):
    poses = read_poses(extract(market.model_copy(update={"splits": ["train"]}), tmp_path / "store"))
    splits = read_index(market.images)["split"]
    assert ((poses["status"] == "missing") == (splits != "train")).all()
    for folder in ("query", "bounding_box_test"):
        (tmp_path / "only" / folder).mkdir(parents=True)
    train = {name: content for name, content in market_files().items() if name.startswith("bounding_box_train")}
    only = make(IndexConfig(root=write_files(tmp_path / "only", train), workers=1), tmp_path / "store")
    config = market.model_copy(update={"images": only, "splits": ["query"]})
    with pytest.raises(InputError, match="no usable image in splits query"):
        extract(config, tmp_path / "store")


def test_a_stopped_extraction_goes_on_with_the_next_part_to_the_same_bytes(market, tmp_path, monkeypatch):
    whole = extract(market, tmp_path / "whole")
    write = extract_poses._Finder.write
    written: list[str] = []

    def stop_at_third(self, part, folder):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(part.name)
        return write(self, part, folder)

    monkeypatch.setattr(extract_poses._Finder, "write", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        extract(market, tmp_path / "stopped")

    def note(self, part, folder):
        written.append(part.name)
        return write(self, part, folder)

    monkeypatch.setattr(extract_poses._Finder, "write", note)
    stopped = extract(market, tmp_path / "stopped")
    assert sorted(set(written)) == sorted(written)  # no part twice
    assert (stopped / POSES_FILE).read_bytes() == (whole / POSES_FILE).read_bytes()
    assert sorted(path.name for path in stopped.iterdir()) == ["manifest.json", POSES_FILE]


def published(market: ExtractPosesConfig, tmp_path: Path, splits: list[str], *, broken: int = 0) -> Path:
    """An `import-poses` artifact with rows of some splits only, its last ones wrong."""
    images = read_index(market.images)
    images = images[images["split"].isin(splits)]
    joints = np.full((18, 3), (20.0, 30.0, 1.0), np.float32)
    rows = [format_pose_row(Path(path).name, joints) for path in images["path"]]
    rows[len(rows) - broken :] = [row.replace("[30,", "[thirty,") for row in rows[len(rows) - broken :]]
    (tmp_path / "published.csv").write_text("\n".join([HEADER, *rows]))
    return make(ImportPosesConfig(images=market.images, csv=[tmp_path / "published.csv"]), tmp_path / "store")


def test_published_skeletons_are_kept_and_the_network_looks_at_what_they_lack(market, tmp_path, monkeypatch):
    kept = published(market, tmp_path, ["train", "gallery"], broken=1)
    seen: list[int] = []
    estimate = TinyPoseEstimator.estimate
    monkeypatch.setattr(
        TinyPoseEstimator, "estimate", lambda self, images: seen.append(len(images)) or estimate(self, images)
    )
    both = extract(market.model_copy(update={"published": kept}), tmp_path / "store")
    images, old, new = read_index(market.images), read_poses(kept), read_poses(both)
    assert new["key"].tolist() == images["key"].tolist()
    good = (old["status"] == "ok").to_numpy()
    assert 0 < (~good).sum() == (images["split"] == "query").sum() + 1
    assert (new["backend"] == np.where(good, "published", "openpose-tiny")).all()
    np.testing.assert_array_equal(np.stack(new["keypoints"])[good], np.stack(old["keypoints"])[good])
    assert set(new.loc[~good, "status"]) <= {"ok", "no-person"}
    summary = manifest_of(both)["summary"]
    assert (summary["published"], summary["looked_at"]) == (good.sum(), sum(seen)) and sum(seen) == (~good).sum()

    alone = extract(market, tmp_path / "store")  # what the network has found is reused, and nothing published
    assert manifest_of(alone)["summary"]["reused"] == (~good).sum()
    assert set(read_poses(alone)["backend"]) == {"openpose-tiny"}


def test_published_skeletons_of_all_images_need_no_network_and_of_splits_unasked_for_stay(market, tmp_path):
    kept = published(market, tmp_path, ["train", "query", "gallery"])
    weights = market.model_copy(update={"published": kept, "weights": tmp_path / "published.csv"})  # no weights at all
    whole = extract(weights, tmp_path / "store")
    assert (read_poses(whole)["backend"] == "published").all()
    (tmp_path / "more").mkdir()
    wrong = published(market, tmp_path / "more", ["train"], broken=2)
    only = read_poses(extract(market.model_copy(update={"published": wrong, "splits": ["query"]}), tmp_path / "other"))
    train = (read_index(market.images)["split"] == "train").to_numpy()
    assert only["status"][train].tolist() == read_poses(wrong)["status"][train].tolist()
    assert (only["status"] == "not-a-number").sum() == 2


def test_published_skeletons_of_another_index_are_refused(market, tmp_path):
    kept = published(market, tmp_path, ["train", "query"])
    index = make(IndexConfig(root=market_root(tmp_path / "more", identities=5), workers=1), tmp_path / "store")
    other = market.model_copy(update={"published": kept, "images": index})
    with pytest.raises(InputError, match=r"differ in \d+ images, first \S+; give skeletons of this index"):
        extract(other, tmp_path / "store")


@pytest.mark.slow
def test_killed_at_any_moment_and_run_again_the_bytes_are_those_of_an_undisturbed_run(market, tmp_path):
    whole = extract(market, tmp_path / "whole")
    command = [
        sys.executable,
        "-m",
        "datasets",
        "extract-poses",
        "--images",
        str(market.images),
        "--backend",
        "openpose-tiny",
        "--weights",
        str(market.weights),
        "--workers",
        "2",
        "--output",
        str(tmp_path / "killed"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for seconds in np.random.default_rng(0).uniform(1.5, 6, 3):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert (tmp_path / "killed" / POSES_FILE).read_bytes() == (whole / POSES_FILE).read_bytes()


@pytest.mark.slow  # two processes load torch
def test_two_processes_give_the_bytes_of_one(market, tmp_path):
    one = extract(market, tmp_path / "one")
    two = extract(market.model_copy(update={"workers": 2}), tmp_path / "two")
    assert (one / POSES_FILE).read_bytes() == (two / POSES_FILE).read_bytes()
    assert artifact_key(market) == artifact_key(market.model_copy(update={"workers": 2}))


def test_images_that_an_earlier_artifact_looked_at_are_not_looked_at_again(market, tmp_path, monkeypatch):
    store = tmp_path / "store"
    first = extract(market, store)
    more = market_root(tmp_path / "more", identities=5)
    index = make(IndexConfig(root=more, workers=1), store)
    seen: list[int] = []
    estimate = TinyPoseEstimator.estimate
    monkeypatch.setattr(
        TinyPoseEstimator, "estimate", lambda self, images: seen.append(len(images)) or estimate(self, images)
    )
    second = extract(market.model_copy(update={"images": index}), store)
    shared = set(read_index(market.images)["sha256"]) & set(read_index(index)["sha256"])
    summary = manifest_of(second)["summary"]
    assert summary["reused"] == len(shared) > 0
    assert sum(seen) == summary["looked_at"] == len(read_index(index)) - len(shared)
    old, new = read_poses(first).set_index("key"), read_poses(second).set_index("key")
    hashes = read_index(index).set_index("key")["sha256"]
    old_hashes = {sha: key for key, sha in read_index(market.images).set_index("key")["sha256"].items()}
    for key in new.index[[hashes[key] in shared for key in new.index]]:
        np.testing.assert_array_equal(new.loc[key, "keypoints"], old.loc[old_hashes[hashes[key]], "keypoints"])

    save_network(random_network(seed=1), tmp_path / "network", {})  # other weights: nothing is reused
    third = extract(market.model_copy(update={"images": index}), store)
    assert manifest_of(third)["summary"]["reused"] == 0


def test_an_image_that_changed_since_it_was_indexed_is_refused(market, tmp_path):
    root = Path(manifest_of(market.images)["config"]["root"])
    image = next((root / "bounding_box_train").glob("*.jpg"))
    shutil.copyfile(next((root / "query").glob("*.jpg")), image)
    with pytest.raises(InputError, match="changed since it was indexed"):
        extract(market, tmp_path / "store")


def test_weights_that_are_not_there_are_refused(market, tmp_path):
    (tmp_path / "network" / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"config\.json is not a file"):
        extract(market, tmp_path / "other")


def test_the_packages_weights_count_in_the_key(market, tmp_path, monkeypatch):
    shipped = ExtractPosesConfig(images=market.images, backend="openpose-tiny")
    assert shipped.weights.is_file()
    monkeypatch.setitem(POSE_BACKENDS._items, "openpose-tiny", replace(OPENPOSE_TINY, weights=market.weights))
    assert artifact_key(ExtractPosesConfig(images=market.images, backend="openpose-tiny")) != artifact_key(shipped)


def test_extracted_skeletons_can_be_exported_as_a_published_file(market, tmp_path):
    artifact = extract(market, tmp_path / "store")
    run_export(ExportPosesConfig(images=market.images, poses=artifact, csv=tmp_path / "new" / "out.csv"))
    rows = read_pose_csv(tmp_path / "new" / "out.csv")
    poses = read_poses(artifact)
    assert {row.status for row in rows.values()} <= {"ok", "no-person"}
    assert len(rows) == len(poses)


def test_the_built_in_network_finds_rendered_people_that_it_never_saw(tmp_path):
    config = MiniatureConfig(
        train_identities=5, test_identities=0, images_per_identity=5, distractors=0, junk=0, seed=77, workers=1
    )
    root = build(config, make_miniature, store=tmp_path)
    index = make(IndexConfig(root=root, workers=1), tmp_path)
    poses = read_poses(extract(ExtractPosesConfig(images=index, backend="openpose-tiny", workers=1), tmp_path))
    true = {key: row.keypoints for file in root.rglob("*.csv") for key, row in read_pose_csv(file).items()}
    known = np.stack([true[key] for key in poses["key"]])
    found = np.stack(poses["keypoints"].to_list())
    there = present_joints(known)
    near = np.linalg.norm(found[..., :2] - known[..., :2], axis=-1) <= 0.05 * 128
    assert near[there].mean() > 0.85


def test_images_of_any_size_get_keypoints_in_their_own_pixels(tmp_path):
    save_network(random_network(), tmp_path, {})
    estimator = TinyPoseEstimator(tmp_path / "weights.safetensors")
    small = np.random.default_rng(0).integers(0, 256, (64, 32, 3), np.uint8)
    large = small.repeat(3, 0).repeat(3, 1)
    (one,), (three,) = (estimator.estimate([image]) for image in (small, large))
    np.testing.assert_allclose((one[..., :2] + 0.5) * 3, three[..., :2] + 0.5, atol=0.1)
    np.testing.assert_allclose(one[..., 2], three[..., 2], atol=0.02)
    assert len(estimator.estimate([small, large, small])) == 3
