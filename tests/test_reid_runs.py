import io
import json
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from datasets.runtime.arrays.bootstrap import cluster_bootstrap
from datasets.runtime.artifacts import build
from datasets.runtime.command_line import main
from datasets.runtime.config import StageConfig
from datasets.runtime.errors import ArtifactError, InputError
from datasets.runtime.manifests import SCRATCH, is_complete, manifest_of
from datasets.sources.subsets import read_subset
from reid.__main__ import COMMANDS
from reid.benchmark.benchmark import make_benchmark, read_results
from reid.benchmark.statistics import t_interval
from reid.benchmark.tables import aligned
from reid.config import (
    AugmentationConfig,
    BatchConfig,
    BenchmarkConfig,
    CheckIdentityConfig,
    EvaluateReidConfig,
    LossConfig,
    NetworkConfig,
    RerankConfig,
    ScheduleConfig,
    TrainReidConfig,
)
from reid.data.images import ImageSet
from reid.data.training_set import fewest_first, refuse_leaking_generator, synthetic_cameras
from reid.evaluation.evaluate import make_evaluation, read_features
from reid.evaluation.identity_check import make_identity_check
from reid.training import train
from reid.training.train import make_run
from tests import small_sets

SMALL = {
    "network": NetworkConfig(backbone="test_resnet.r160_in1k", weights="none", height=32, width=16),
    "augmentation": AugmentationConfig(padding=1),
    "batch": BatchConfig(identities=4, images=4),
    "schedule": ScheduleConfig(steps=30, learning_rate=6e-3, decay="cosine"),
}


class ShardsConfig(StageConfig):
    stage: ClassVar[str] = "write-shards"
    package: ClassVar[str] = "tests"
    name: str


class SubsetsConfig(ShardsConfig):
    stage: ClassVar[str] = "select-subsets"


class SyntheticConfig(ShardsConfig):
    stage: ClassVar[str] = "synthesize"


def photo(pid, camid, rng):
    """A person in two colors before a camera's background, 32x16."""
    colors = np.random.default_rng(max(pid, 0)).integers(0, 256, (2, 3))
    image = np.full((32, 16, 3), 40 * camid, dtype=float)
    image[6:18, 4:12], image[18:30, 4:12] = colors
    return np.clip(image + rng.normal(0, 12, image.shape), 0, 255).astype(np.uint8)


def write_tar(folder, split, rows, rng):
    with tarfile.open(folder / f"{split}-00000.tar", "w") as tar:
        for key, pid, camid in rows:
            buffer = io.BytesIO()
            Image.fromarray(photo(pid, camid, rng)).save(buffer, "JPEG", quality=95)
            meta = json.dumps({"key": key, "pid": pid, "camid": camid, "split": split}).encode()
            for name, data in ((f"{key}.jpg", buffer.getvalue()), (f"{key}.json", meta)):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def rows_of(pids, images, prefix):
    return [(f"{prefix}{pid:04d}_c{1 + i % 3}_{i}", pid, 1 + i % 3) for pid in pids for i in range(images)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Shards of 8 people to train on and 8 to test on, a 50 % subset, a synthetic set of it."""
    store = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    train_rows = rows_of(range(1, 9), 6, "t")
    subset = [row for row in train_rows if int(row[0][-1]) < 3]

    def make_shards(_config, folder):
        write_tar(folder, "train", train_rows, rng)
        write_tar(folder, "query", rows_of(range(11, 19), 2, "q"), rng)
        nobody = [("g0000_c1_0", 0, 1), ("g0000_c2_0", 0, 2), ("g-1_c2_0", -1, 2)]
        write_tar(folder, "gallery", rows_of(range(11, 19), 4, "g") + nobody, rng)
        return {}

    def make_subsets(_config, folder):
        table = [(0, 50, row[0]) for row in subset] + [(1, 50, row[0]) for row in train_rows if int(row[0][-1]) > 2]
        pd.DataFrame(table, columns=["draw", "fraction", "key"]).to_parquet(folder / "subsets.parquet")
        return {}

    def make_other_subsets(_config, folder):
        table = [(0, 50, row[0]) for row in train_rows if int(row[0][-1]) > 2]
        pd.DataFrame(table, columns=["draw", "fraction", "key"]).to_parquet(folder / "subsets.parquet")
        return {}

    def make_synthetic(_config, folder):
        rows = rows_of(range(1, 9), 3, "s")
        write_tar(folder, "synthetic", rows, rng)
        table = pd.DataFrame(rows, columns=["key", "pid", "camid"])
        table.assign(status=["failed", *["ok"] * (len(rows) - 1)]).to_parquet(folder / "synthetic.parquet")
        return {}

    return {
        "store": store,
        "shards": build(ShardsConfig(name="shards"), make_shards, store=store),
        "subsets": build(SubsetsConfig(name="subsets"), make_subsets, store=store),
        "other subsets": build(SubsetsConfig(name="other"), make_other_subsets, store=store),
        "synthetic": build(SyntheticConfig(name="synthetic"), make_synthetic, store=store),
    }


def config_of(world, **changes):
    paths = {"shards": world["shards"], "test_shards": world["shards"], "subsets": world["subsets"], "fraction": 50}
    return TrainReidConfig(**paths | SMALL | changes)


@pytest.fixture(scope="module")
def runs(world):
    """Finished runs: two draws x {real, real+synthetic}."""
    return [
        build(
            config_of(world, draw=draw, arm=arm, synthetic=[world["synthetic"]] if "synthetic" in arm else []),
            make_run,
            store=world["store"],
        )
        for draw in (0, 1)
        for arm in ("real", "real+synthetic")
    ]


def test_a_run_learns_and_writes_all_that_the_table_and_the_report_need(runs):
    metrics = json.loads((runs[0] / "metrics.json").read_text())
    assert metrics["rank1"] > 0.5 and metrics["queries"] == 16 and metrics["junk"] == 1 and metrics["distractors"] == 2
    assert (metrics["images"], metrics["synthetic_images"], metrics["steps"]) == (24, 0, 30)
    assert metrics["weights"] == "from scratch"
    log = [json.loads(line) for line in (runs[0] / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == list(range(1, 31))
    assert log[-1]["loss"] < log[0]["loss"] / 2
    per_query = pd.read_parquet(runs[0] / "per_query.parquet")
    assert per_query.ap.mean() == pytest.approx(metrics["map"])
    ranked = pd.read_parquet(runs[0] / "ranked.parquet")
    first = ranked[ranked.right].groupby("query")["rank"].min()
    expected = per_query.set_index("query").first_rank
    assert (first == expected[first.index]).all()
    assert ranked.groupby("query").size().eq(10).all() and not ranked.gallery.str.startswith("g-1").any()
    assert not (runs[0] / SCRATCH).exists()


def test_a_run_with_synthetic_images_counts_only_the_usable_ones(runs):
    metrics = json.loads((runs[1] / "metrics.json").read_text())
    assert (metrics["images"], metrics["synthetic_images"], metrics["batch_synthetic"]) == (24, 23, 1)


def test_a_repeated_run_has_the_same_content(world, runs, tmp_path):
    again = build(config_of(world), make_run, store=tmp_path)
    assert manifest_of(again)["content_sha256"] == manifest_of(runs[0])["content_sha256"]


def test_an_interrupted_run_goes_on_and_ends_with_the_same_content(world, runs, tmp_path, monkeypatch):
    class KilledError(Exception):
        pass

    steps = []
    original = train.Trainer.train_step

    def dying(self, positions):
        steps.append(self.step)
        if len(steps) == 18:
            raise KilledError
        return original(self, positions)

    config = config_of(world, checkpoint_seconds=1e-9)
    monkeypatch.setattr(train.Trainer, "train_step", dying)
    with pytest.raises(KilledError):
        build(config, make_run, store=tmp_path)
    again = build(config, make_run, store=tmp_path)
    assert len(steps) == 18 + 30 - 17
    assert manifest_of(again)["content_sha256"] == manifest_of(runs[0])["content_sha256"]


def test_native_epochs_take_fewer_steps_on_fewer_images(world, tmp_path):
    schedule = ScheduleConfig(epochs=2, warmup_epochs=1)
    half = make_run(config_of(world, schedule=schedule), tmp_path)
    full = make_run(config_of(world, schedule=schedule, subsets=None, fraction=100), tmp_path)
    assert half["steps"] == 4 and full["steps"] == 4  # 3 or 6 images per person: one group of 4 each, 8 people / P 4
    pairs = BatchConfig(identities=4, images=2)
    third = make_run(config_of(world, schedule=schedule, subsets=None, fraction=100, batch=pairs), tmp_path)
    assert 8 < third["steps"] <= 12  # 3 groups of 2 each; the last few people may not fill a batch


def test_synthetic_images_and_several_processes_never_change_the_number_of_steps(world, tmp_path):
    schedule = ScheduleConfig(epochs=2, warmup_epochs=1)
    real = make_run(config_of(world, schedule=schedule), tmp_path)
    both = make_run(config_of(world, schedule=schedule, synthetic=[world["synthetic"]]), tmp_path)
    assert both["steps"] == real["steps"] == 4
    longer = make_run(config_of(world, schedule=schedule.model_copy(update={"times": 1.5})), tmp_path)
    assert longer["steps"] == 6


def test_a_killed_run_goes_on_from_its_checkpoint_and_ends_with_the_same_content(world, runs, tmp_path):
    config = config_of(world, checkpoint_seconds=1e-9)
    file = tmp_path / "run.json"
    file.write_text(config.model_dump_json())
    command = [sys.executable, "-m", "reid", "train", "--config", str(file), "--store", str(tmp_path)]
    root = Path(__file__).resolve().parent.parent
    child = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 180
    while not list(tmp_path.glob(f"train-reid/*.partial/{SCRATCH}/state-*")) and child.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait(10) == -signal.SIGKILL
    (partial,) = tmp_path.glob("train-reid/*.partial")
    assert list((partial / SCRATCH).glob("state-*"))
    again = build(config, make_run, store=tmp_path)
    assert manifest_of(again)["content_sha256"] == manifest_of(runs[0])["content_sha256"]


def test_a_run_can_start_from_another_ones_network(world, runs, tmp_path):
    still = ScheduleConfig(steps=1, learning_rate=1e-12, weight_decay=0)
    run = build(config_of(world, init_from=runs[0], schedule=still), make_run, store=tmp_path)
    before, after = load_file(runs[0] / "model.safetensors"), load_file(run / "model.safetensors")
    name = "backbone.layer1.0.conv1.weight"
    np.testing.assert_allclose(before[name], after[name], atol=1e-6)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["weights"] == "another run"
    assert (metrics["steps"], metrics["steps_before"]) == (31, 30)  # both halves count


def test_a_leak_free_run_does_not_start_from_a_network_that_has_seen_other_images_of_these_people(
    world, runs, tmp_path
):
    with pytest.raises(InputError, match=r"was trained on 50 %, draw 1 of the same images; this run may see 50 %, dr"):
        make_run(config_of(world, init_from=runs[2]), tmp_path)
    with pytest.raises(InputError, match="draw 0 of another list of the same images"):
        make_run(config_of(world, init_from=runs[0], subsets=world["other subsets"]), tmp_path)
    one = {"schedule": ScheduleConfig(steps=1)}
    assert make_run(config_of(world, init_from=runs[2], protocol="paper", **one), tmp_path)["protocol"] == "paper"
    whole = config_of(world, init_from=runs[2], subsets=None, fraction=100, **one)
    assert make_run(whole, tmp_path)["images"] == 48


def trained_generator(folder, world, encoded, name, **inputs):
    """A generator's manifest: trained on a subset of the encoded images, or on all of them."""
    (folder / name).mkdir()
    subset = {"subset": str(world["subsets"]), "fraction": 50, "draw": int(name[-1])} if name[-1].isdigit() else {}
    recorded = {"encoded": {"path": "gone", "sha256": encoded}} | {
        field: {"path": str(path), "sha256": manifest_of(path)["content_sha256"]} for field, path in inputs.items()
    }
    return small_sets.finish(folder / name, "train-imagpose", name, config=subset, inputs=recorded)


def test_a_set_whose_generator_has_seen_more_than_the_subset_is_refused_under_leak_free(world, tmp_path):
    """Sources and poses may all lie inside: what the generator learned from the other images is in its pictures."""
    keys = read_subset(world["subsets"], 50, 0)

    def refused(number, generator):
        (made := tmp_path / f"set-{number}").mkdir()
        given = {"path": str(generator), "sha256": manifest_of(generator)["content_sha256"]}
        inputs = {"encoded": {"path": "gone", "sha256": "e" * 64}, "generator": given}
        small_sets.finish(made, "synthesize", str(number), inputs=inputs)
        try:
            refuse_leaking_generator(made, keys)
        except InputError as error:
            return str(error)
        return ""

    own, other, whole = (
        trained_generator(tmp_path, world, "e" * 64, name) for name in ("of-draw-0", "of-draw-1", "whole")
    )
    foreign = trained_generator(tmp_path, world, "f" * 64, "of-other-people")
    assert refused(0, own) == ""
    assert refused(1, foreign) == ""
    assert "of-draw-1: 50 %, draw 1 of the training images" in refused(2, other)
    assert "whole: all of the training images" in refused(3, whole)
    assert "whole: all of" in refused(4, trained_generator(tmp_path, world, "e" * 64, "after-whole-0", init_from=whole))
    assert refused(5, trained_generator(tmp_path, world, "e" * 64, "after-others-0", init_from=foreign)) == ""


def test_a_test_set_without_any_match_is_refused_before_the_training(world, tmp_path, monkeypatch):
    """One camera: every query's person is in the gallery, but by the query's own camera alone."""
    monkeypatch.setattr(train.Trainer, "run", lambda *_: pytest.fail("trained"))
    rng = np.random.default_rng(3)
    for folder, start in (("query", 0), ("bounding_box_test", 2)):
        rows = [(f"{pid:04d}_c1s1_{start + i:06d}_01", pid, 1) for pid in (11, 12) for i in range(2)]
        write_folder(tmp_path / "set" / folder, rows, rng)
    with pytest.raises(InputError, match="no query has a match in the gallery under another camera"):
        make_run(config_of(world, test_shards=tmp_path / "set"), tmp_path)


def test_any_seed_that_the_settings_take_trains(world, tmp_path):
    last = config_of(world, seed=2**63 - 1, schedule=ScheduleConfig(steps=2))
    assert make_run(last, tmp_path)["seed"] == 2**63 - 1
    found = {train.seed_of_step(seed, step) for seed in (0, 2**32 - 1, 2**32, 2**63 - 1) for step in (0, 1)}
    assert len(found) == 8 and train.seed_of_step(3, 5) == 3 * 2**32 + 5 and max(found) < 2**64


def test_settings_that_would_fail_or_count_double_after_the_work_are_refused(world):
    with pytest.raises(ValueError, match=r"names .* twice; its images would count double"):
        config_of(world, synthetic=[world["synthetic"]] * 2)
    for wrong in ({"draw": 2**70}, {"network": {"height": 2**70}}, {"augmentation": {"padding": 2**70}}):
        with pytest.raises(ValueError, match="less than"):
            config_of(world, **wrong)


def test_evaluating_a_saved_network_gives_the_runs_own_figures(world, runs, tmp_path):
    found = build(EvaluateReidConfig(run=runs[0], test_shards=world["shards"]), make_evaluation, store=tmp_path)
    one, two = (json.loads((folder / "metrics.json").read_text()) for folder in (runs[0], found))
    assert {name: one[name] for name in two} == two


def test_re_ranked_figures_stand_beside_the_headline_and_do_not_change_it(world, runs, tmp_path):
    config = EvaluateReidConfig(run=runs[0], test_shards=world["shards"], rerank=RerankConfig(k1=3, k2=2))
    found = json.loads((build(config, make_evaluation, store=tmp_path) / "metrics.json").read_text())
    assert found["map"] == json.loads((runs[0] / "metrics.json").read_text())["map"]
    assert 0 < found["reranked_map"] <= 1 and "reranked_minp" in found


def test_features_from_a_file_are_tested_like_a_network(tmp_path):
    rows = [
        ("q1", "query", 7, 1, [1.0, 0.0]),
        ("g1", "gallery", 7, 2, [0.9, 0.1]),
        ("g2", "gallery", 8, 2, [0.0, 1.0]),
        ("g3", "gallery", 7, 1, [0.0, 1.0]),
        ("g4", "gallery", -1, 3, [1.0, 0.0]),
    ]
    file = tmp_path / "features.parquet"
    pd.DataFrame(rows, columns=["key", "split", "pid", "camid", "feature"]).to_parquet(file)
    found = build(EvaluateReidConfig(features=file), make_evaluation, store=tmp_path)
    metrics = json.loads((found / "metrics.json").read_text())
    assert (metrics["rank1"], metrics["map"], metrics["queries"], metrics["gallery"], metrics["junk"]) == (
        1,
        1,
        1,
        3,
        1,
    )
    assert pd.read_parquet(found / "ranked.parquet").gallery.tolist() == ["g1", "g2"]
    pd.DataFrame(rows[1:], columns=["key", "split", "pid", "camid", "feature"]).to_parquet(file)
    with pytest.raises(InputError, match="no features of split 'query'"):
        build(EvaluateReidConfig(features=file), make_evaluation, store=tmp_path)
    with pytest.raises(ValueError, match="either 'run' and 'test_shards', or 'features'"):
        EvaluateReidConfig()


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("pid", [7.0, None, 8.0], "pid nan is no whole number"),  # numpy makes -2**63 of it, and so somebody
        ("pid", [7.4, 7.0, 8.0], "pid 7.4 is no whole number"),
        ("pid", [2**63, 7, 8], "pid 9223372036854775808 is no whole number"),
        ("camid", [1.0, 2.0, float("inf")], "camid inf is no whole number"),
        ("key", ["a", "a", "b"], "key a stands twice"),
        ("key", ["a", None, "b"], "a row has no key"),
    ],
)
def test_labels_of_features_from_a_file_are_not_bent_into_numbers(tmp_path, column, values, words):
    table = {"key": ["a", "b", "c"], "split": "query", "pid": [7, 7, 8], "camid": 1, "feature": [[1.0, 0.0]] * 3}
    pd.DataFrame(table | {column: values}).to_parquet(tmp_path / "features.parquet")
    with pytest.raises(InputError, match=words):
        read_features(tmp_path / "features.parquet", "query")


def test_an_identity_check_by_the_real_run_decides_what_is_trained_on(world, runs, tmp_path):
    own = {"synthetic": world["synthetic"], "shards": world["shards"], "subsets": world["subsets"], "fraction": 50}
    config = CheckIdentityConfig(run=runs[0], keep=50, **own)
    check = build(config, make_identity_check, store=tmp_path)
    table = pd.read_parquet(check / "identity_check.parquet")
    assert table.columns[:5].tolist() == ["key", "id_score", "kept", "reject_reason", "scorer_sha256"]
    summary = manifest_of(check)["summary"]
    assert len(table) == 23 and 5 <= summary["kept"] <= 12 and table.id_score.between(-1, 1).all()
    assert pd.read_parquet(check / "identities.parquet").images.sum() == 23
    trained = make_run(
        config_of(world, synthetic=[world["synthetic"]], identity_check=[check], schedule=ScheduleConfig(steps=1)),
        tmp_path,
    )
    assert trained["synthetic_images"] == summary["kept"]


def test_a_judge_that_has_seen_more_is_refused(world, runs, tmp_path):
    own = {"synthetic": world["synthetic"], "shards": world["shards"], "subsets": world["subsets"], "fraction": 50}
    with pytest.raises(InputError, match="was trained on synthetic images"):
        make_identity_check(CheckIdentityConfig(run=runs[1], **own), tmp_path)
    with pytest.raises(InputError, match="a judge must know the same subset"):
        make_identity_check(CheckIdentityConfig(run=runs[2], **own), tmp_path)  # draw 1
    with pytest.raises(InputError, match="by another list of subsets than"):
        make_identity_check(CheckIdentityConfig(run=runs[0], **own | {"subsets": world["other subsets"]}), tmp_path)
    with pytest.raises(ValueError, match="fraction 50 needs 'subsets'"):
        CheckIdentityConfig(run=runs[0], **own | {"subsets": None})
    with pytest.raises(ValueError, match="1 identity checks for 0 synthetic sets"):
        config_of(world, identity_check=[tmp_path])


def write_folder(folder, rows, rng):
    folder.mkdir(parents=True)
    for key, pid, camid in rows:
        Image.fromarray(photo(pid, camid, rng)).save(folder / f"{key}.jpg", quality=95)


def test_training_from_folders_named_as_market1501_equals_training_from_shards(tmp_path):
    rng = np.random.default_rng(3)
    names = {pid: [(f"{pid:04d}_c{1 + i % 3}s1_{i:06d}_01", pid, 1 + i % 3) for i in range(4)] for pid in range(1, 9)}
    write_folder(tmp_path / "set" / "bounding_box_train", [r for pid in range(1, 5) for r in names[pid]], rng)
    write_folder(tmp_path / "set" / "query", [names[pid][0] for pid in range(5, 9)], rng)
    write_folder(tmp_path / "set" / "bounding_box_test", [r for pid in range(5, 9) for r in names[pid][1:]], rng)
    made = tmp_path / "made"
    write_folder(made, [(f"x{i}", 1 + i % 4, 1) for i in range(6)], rng)
    table = pd.DataFrame({"path": [f"x{i}.jpg" for i in range(6)], "pid": [1 + i % 4 for i in range(6)], "camid": 1})
    table.assign(status=["ok"] * 5 + ["failed"]).to_csv(made / "synthetic.csv", index=False)
    config = TrainReidConfig(
        shards=tmp_path / "set", test_shards=tmp_path / "set", synthetic=[made], **SMALL
    ).model_copy(update={"schedule": ScheduleConfig(steps=1)})
    metrics = make_run(config, tmp_path)
    assert (metrics["images"], metrics["synthetic_images"], metrics["queries"], metrics["gallery"]) == (16, 5, 4, 12)
    assert metrics["provenance"] == "unknown"  # the folder does not say what its images were made from
    table.assign(source_keys="0001_c1s1_000000_01 9999_c1s1_000000_01", target_pose_key="0001_c1s1_000000_01").to_csv(
        made / "synthetic.csv", index=False
    )
    with pytest.raises(InputError, match=r"made from 1 images outside the subset \(9999_c1s1"):
        make_run(config, tmp_path)
    with pytest.raises(InputError, match="holds no query images"):
        make_run(config.model_copy(update={"synthetic": [], "test_shards": made}), tmp_path)


def test_a_ratio_takes_synthetic_images_of_people_with_few_images_first(world, tmp_path):
    tables = [pd.DataFrame({"key": list("abcdef"), "pid": [1, 1, 1, 2, 2, 3], "camid": 1})]
    pids, camids = np.array([1, 1, 1, 2, 3, 3]), np.array([1, 2, 3, 1, 1, 1])
    real = ImageSet(keys=list("uvwxyz"), pixels=torch.zeros(6, 3, 2, 2, dtype=torch.uint8), pids=pids, camids=camids)
    # Person 2 has one image and gets one; then 2 and 3 have two, of one camera each; 1 has three.
    assert [sorted(fewest_first(tables, real, limit)[0].key) for limit in (1, 3, 4)] == [
        ["d"],
        list("def"),
        list("adef"),
    ]
    limited = make_run(
        config_of(world, synthetic=[world["synthetic"]], synthetic_images=5, schedule=ScheduleConfig(steps=1)), tmp_path
    )
    assert limited["synthetic_images"] == 5


def test_a_synthetic_image_counts_as_the_camera_that_is_asked_for():
    tables = [pd.DataFrame({"key": ["s"], "pid": [1], "camid": [1], "target_pose_key": ["b"]})]
    real = ImageSet(
        keys=["a", "b"],
        pixels=torch.zeros(2, 3, 2, 2, dtype=torch.uint8),
        pids=np.array([1, 2]),
        camids=np.array([1, 4]),
    )
    assert synthetic_cameras(tables, real, "pose") == {"s": 4}
    assert synthetic_cameras(tables, real, "own") == {"s": 5}
    with pytest.raises(InputError, match="the pose image of s is no real image here"):
        synthetic_cameras([tables[0].drop(columns="target_pose_key")], real, "pose")


def test_every_trick_can_be_turned_off(world, tmp_path):
    plain = config_of(
        world,
        network=SMALL["network"].model_copy(update={"bnneck": False, "last_stride": 2}),
        loss=LossConfig(triplet_weight=0, center_weight=0, label_smoothing=0),
        augmentation=AugmentationConfig(flip=0, padding=0, erasing=0),
        schedule=ScheduleConfig(steps=2),
    )
    assert make_run(plain, tmp_path)["steps"] == 2


def test_a_subset_that_is_not_there_is_named(world, tmp_path):
    with pytest.raises(InputError, match="no subset of 20 % in draw 0"):
        make_run(config_of(world, fraction=20), tmp_path)


def test_a_folder_without_test_images_is_named(world, tmp_path):
    with pytest.raises(InputError, match=r"holds no query-\*\.tar"):
        make_run(config_of(world, test_shards=world["synthetic"]), tmp_path)


def test_a_fraction_without_its_list_is_refused(world):
    with pytest.raises(ValueError, match="fraction 20 needs 'subsets'"):
        config_of(world, subsets=None, fraction=20)


# --- benchmark


def test_the_benchmark_writes_one_row_a_run_and_the_tables(world, runs, tmp_path):
    config = BenchmarkConfig(runs=runs, resamples=200)
    folder = build(config, make_benchmark, store=tmp_path)
    assert is_complete(folder)
    results = pd.read_parquet(folder / "results.parquet")
    assert results.arm.tolist() == ["real", "real", "real+synthetic", "real+synthetic"]
    gains = pd.read_parquet(folder / "gains.parquet").set_index("metric")
    by_hand = results[results.arm == "real+synthetic"]["map"].mean() - results[results.arm == "real"]["map"].mean()
    assert gains.value["map"] == pytest.approx(by_hand)
    assert gains.low["map"] <= gains.value["map"] <= gains.high["map"]
    assert gains.unit["map"] == "draw" and gains.pairs["map"] == 2
    statistics = pd.read_parquet(folder / "statistics.parquet")
    assert set(statistics.units) == {2}
    text = (folder / "results.txt").read_text()
    assert text.splitlines()[0].split() == ["fraction", "arm", "images", "synthetic", "steps", "Rank-1", "mAP"]
    markdown = (folder / "results.md").read_text()
    assert "behaves" in markdown or "read it as mAP" in markdown
    assert "Unknown provenance: `real+synthetic`" in markdown and "Not at equal steps" not in markdown
    assert "smallest visible gain" in markdown
    assert "from scratch" in markdown and "| Standard | 33.4 | 56.6 | 64.9 | 69.2 |" in markdown


def test_gains_are_also_counted_from_the_control_of_equal_steps(world, runs, tmp_path):
    schedule = SMALL["schedule"].model_copy(update={"times": 0.5})
    short = build(config_of(world, arm="real", draw=0, schedule=schedule), make_run, store=world["store"])
    long = build(config_of(world, arm="real-long", draw=0, seed=0), make_run, store=world["store"])
    folder = build(BenchmarkConfig(runs=[short, long, runs[1]], resamples=200), make_benchmark, store=tmp_path)
    gains = pd.read_parquet(folder / "gains.parquet")
    assert set(zip(gains.baseline, gains.arm, strict=True)) == {
        ("real", "real-long"),
        ("real", "real+synthetic"),
        ("real-long", "real"),
        ("real-long", "real+synthetic"),
    }
    markdown = (folder / "results.md").read_text()
    assert "Not at equal steps: `real+synthetic`, `real-long` took another number than `real`" in markdown
    assert "## Gain over `real-long`\n\nNot at equal steps: `real` took" in markdown


def test_one_run_per_arm_gives_no_interval_over_runs_and_says_so(runs, tmp_path):
    folder = build(BenchmarkConfig(runs=runs[:2], resamples=200), make_benchmark, store=tmp_path)
    assert pd.read_parquet(folder / "statistics.parquet")[["sd", "low", "high"]].isna().all().all()
    assert "One run per cell" in (folder / "results.md").read_text()


def test_a_baseline_alone_gives_a_table_without_gains(runs, tmp_path):
    folder = build(BenchmarkConfig(runs=runs[:1], resamples=200), make_benchmark, store=tmp_path)
    assert pd.read_parquet(folder / "gains.parquet").empty


def test_the_same_cell_twice_is_refused(world, runs, tmp_path):
    other = build(config_of(world, schedule=ScheduleConfig(steps=2)), make_run, store=tmp_path)
    with pytest.raises(InputError, match="two runs are the same cell"):
        read_results([runs[0], other])


def test_seeds_of_an_arm_with_another_network_are_not_averaged(world, runs):
    network = SMALL["network"].model_copy(update={"height": 48})
    other = config_of(world, seed=1, network=network, schedule=ScheduleConfig(steps=1))
    message = r"arm 'real' at 50 % have different networks \(test_resnet.r160_in1k 32x16 \(from scratch\), .* 48x16"
    with pytest.raises(InputError, match=message):
        read_results([runs[0], build(other, make_run, store=world["store"])])


def test_people_who_are_trained_and_tested_on_are_warned_about(tmp_path, caplog):
    rng = np.random.default_rng(3)
    for folder, start, camid in (("bounding_box_train", 0, 1), ("query", 4, 1), ("bounding_box_test", 4, 2)):
        rows = [(f"{p:04d}_c{camid}s1_{start + i:06d}_01", p, camid) for p in (1, 2, 3, 4) for i in range(2)]
        write_folder(tmp_path / "set" / folder, rows, rng)
    config = TrainReidConfig(shards=tmp_path / "set", test_shards=tmp_path / "set", **SMALL)
    make_run(config.model_copy(update={"schedule": ScheduleConfig(steps=1)}), tmp_path)
    assert "4 queried identities have training images under the same number (first: 1)" in caplog.text


def test_a_folder_that_is_no_run_is_refused(world):
    with pytest.raises(ArtifactError, match="expected 'train-reid'"):
        read_results([world["shards"]])


def test_students_interval_equals_the_textbook():
    low, high = t_interval([1.0, 2.0, 3.0], 0.95)
    assert (low, high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), abs=1e-5)
    assert np.isnan(t_interval([1.0], 0.95)).all()


def test_the_bootstrap_of_many_people_is_as_wide_as_theory_says():
    # 40 people with 10 equal queries each: the width is that of 40 values, not of 400.
    values = np.random.default_rng(0).normal(0, 1, 40)
    low, high = cluster_bootstrap(10 * values[:, None], np.full(40, 10), 0.95, 4000, seed=0)
    assert (high - low)[0] == pytest.approx(2 * 1.96 * values.std(ddof=0) / 40**0.5, rel=0.1)


def test_a_plan_is_printed_from_an_earlier_runs_table(runs, tmp_path, capsys):
    folder = build(BenchmarkConfig(runs=runs, resamples=200), make_benchmark, store=tmp_path)
    assert main("reid", COMMANDS, ["plan-runs", "--benchmark", str(folder), "--gain", "5"]) == 0
    text = capsys.readouterr().out
    assert "draws to halve" in text and "draws for 5" in text and "real+synthetic" in text
    assert main("reid", COMMANDS, ["plan-runs", "--benchmark", str(folder), "--arm", "zoo"]) == 2
    assert "the table has no gain of this arm; known: real+synthetic" in capsys.readouterr().err


def test_a_declared_comparison_that_was_not_run_is_named(runs, tmp_path):
    declared = [{"arm": "real-long", "over": "real"}, {"arm": "real+synthetic", "over": "real", "fractions": [50, 60]}]
    folder = build(BenchmarkConfig(runs=runs, resamples=100, comparisons=declared), make_benchmark, store=tmp_path)
    said = "Declared, but not run and not counted: real-long over real; real+synthetic over real at 60 %."
    assert said in (folder / "results.md").read_text()
    assert set(pd.read_parquet(folder / "gains.parquet").family) == {1}


def test_a_text_table_is_aligned():
    text = aligned(["arm", "mAP"], [["real", "7.5"], ["real+synthetic", "12.5"]], left={"arm"})
    assert text.splitlines() == [
        "arm              mAP",
        "--------------  ----",
        "real             7.5",
        "real+synthetic  12.5",
    ]


def test_every_command_names_a_stage_that_exists():
    from datasets.runtime.registry import load_name

    for name, command in COMMANDS.items():
        config = load_name(command.config)
        if issubclass(config, StageConfig):
            assert (config.command or config.stage) == name
        else:
            assert name in ("plan-runs", "history")
        assert callable(load_name(command.run))
