"""Test time in a regeneration and for one network: who draws what, which networks are tested how."""

from __future__ import annotations

from pathlib import Path

import pytest

from datasets.poses.config import ExtractPosesConfig, ImportPosesConfig
from datasets.runtime.errors import InputError
from datasets.runtime.keys import artifact_directory
from datasets.shards.config import EncodeConfig, WriteShardsConfig
from flows.__main__ import prepare
from flows.config import RegenerateConfig
from flows.pipeline import Regeneration
from flows.stages import StageResult
from flows.test_time import one_network
from flows.test_time.one_network import OneNetworkConfig, treat_network
from imagpose.config import BUILT_IN, DrawPosesConfig, SynthesizeConfig, TrainGeneratorConfig
from reid.config import BenchmarkConfig, EvaluateReidConfig, TrainReidConfig
from tests import small_sets
from tests.test_flows_pipeline import Notes, models

__all__ = ["models"]  # the fixture


def made(tmp_path: Path, models: dict[str, Path], **changes: object) -> Notes:
    run = Notes(tmp_path / "store")
    Regeneration(RegenerateConfig(**{"preset": "demo", "fractions": [20, 60], **models, **changes}), run).make()
    return run


def test_by_default_nothing_is_tried_at_test_time(tmp_path, models):
    run = made(tmp_path, models)
    assert run.of(DrawPosesConfig) == run.of(EvaluateReidConfig) == []
    assert len(run.of(EncodeConfig)) == 1
    (benchmark,) = run.of(BenchmarkConfig)
    assert benchmark.evaluations == []


def test_each_subsets_generator_draws_the_test_images_in_poses_of_that_subset(tmp_path, models):
    run = made(tmp_path, models, test_time={"poses": 3})
    generators = {c.fraction: artifact_directory(c, run.store) for c in run.of(TrainGeneratorConfig)}
    training, of_tests = run.of(EncodeConfig)
    assert (training.flipped, of_tests.flipped) == (True, False)
    drawn = run.of(DrawPosesConfig)
    assert [(c.fraction, c.pose_policy) for c in drawn] == [
        (fraction, policy) for fraction in (20, 60) for policy in ("reconstruction", "standard")
    ]
    settings = RegenerateConfig(preset="demo").synthesize
    for config in drawn:
        assert config.generator == generators[config.fraction]
        assert config.encoded == artifact_directory(of_tests, run.store)
        assert config.training == artifact_directory(training, run.store)
        assert (config.poses, config.steps, config.guidance) == (3, settings.steps, settings.guidance)
        assert config.pose_backend is None and config.protocol == "leak-free"
    assert [len(call) for call in run.calls if type(call[0]) is DrawPosesConfig] == [4]  # one command for all


def test_every_network_is_tested_with_its_own_subsets_pictures_and_trained_only_once(tmp_path, models):
    run = made(tmp_path, models, test_time={}, seeds=[0, 1])
    sets = {(c.fraction, c.pose_policy): artifact_directory(c, run.store) for c in run.of(DrawPosesConfig)}
    networks = {artifact_directory(c, run.store): c for c in run.of(TrainReidConfig)}
    tested = run.of(EvaluateReidConfig)
    assert [config.run for config in tested] == list(networks) and len(networks) == 8
    for config in tested:
        fraction = networks[config.run].fraction
        entries = {entry.name: entry for entry in config.centralize}
        assert entries["centralized"].images == sets[fraction, "standard"]
        assert entries["reconstruction"].images == sets[fraction, "reconstruction"]
        assert (entries["flips"].control, entries["crops"].control) == ("flip", "crops")
        assert config.nfc is not None and config.rerank is not None
        assert config.test_shards == networks[config.run].test_shards
    (benchmark,) = run.of(BenchmarkConfig)
    assert benchmark.evaluations == [artifact_directory(config, run.store) for config in tested]
    plain = made(tmp_path, models, seeds=[0, 1])
    assert [artifact_directory(c, run.store) for c in plain.of(TrainReidConfig)] == list(networks)


def test_test_images_that_published_files_lack_are_looked_at_where_they_are_drawn_in_their_own_poses(tmp_path, models):
    root = small_sets.market_root(tmp_path)
    csv = tmp_path / "poses.csv"
    csv.write_text("name:keypoints_y:keypoints_x\n")
    data = {"root": root, "poses": [csv], "test_time": {"poses": 3}}
    run = made(tmp_path, models, **data)
    (published,), (completed,) = run.of(ImportPosesConfig), run.of(ExtractPosesConfig)
    assert completed.published == artifact_directory(published, run.store)
    assert (completed.backend, completed.splits) == ("openpose-tiny", ["query", "gallery"])
    train, test, drawn = run.of(WriteShardsConfig)
    assert train.poses == test.poses == completed.published  # networks and generators stay those without test time
    assert drawn.poses == artifact_directory(completed, run.store)
    assert run.of(EncodeConfig)[1].shards == artifact_directory(drawn, run.store)
    for changes in ({"complete_poses": None}, {"treatments": ["centralized"]}):
        run = made(tmp_path, models, **{**data, "test_time": changes})
        assert not run.of(ExtractPosesConfig) and len(run.of(WriteShardsConfig)) == 2


def test_treatments_and_arms_can_be_chosen_and_flips_need_no_generator(tmp_path, models):
    chosen = {"treatments": ["flips", "nfc"], "arms": ["real"]}
    run = made(tmp_path, models, test_time=chosen, arms=["real"])
    assert run.of(DrawPosesConfig) == run.of(TrainGeneratorConfig) == []
    tested = run.of(EvaluateReidConfig)
    assert [entry.name for entry in tested[0].centralize] == ["flips"] and tested[0].rerank is None
    both = made(tmp_path, models, test_time=chosen)
    assert len(both.of(EvaluateReidConfig)) == 2 < len(both.of(TrainReidConfig))


def test_the_whole_set_gets_a_generator_where_its_networks_test_images_are_drawn(tmp_path, models):
    run = made(tmp_path, models, fractions=[60, 100], test_time={"treatments": ["centralized"]})
    assert [config.fraction for config in run.of(TrainGeneratorConfig)] == [60, 100]
    assert [config.fraction for config in run.of(SynthesizeConfig)] == [60]
    assert [config.fraction for config in run.of(DrawPosesConfig)] == [60, 100]
    assert len(run.of(EvaluateReidConfig)) == len(run.of(TrainReidConfig)) == 3


def test_what_cannot_be_tried_is_refused_before_any_work():
    for changes, message in (
        ({"arms": ["real-long"]}, "test_time.arms: 'real-long' is none of the arms real, real\\+synthetic"),
        ({"treatments": ["zoom"]}, "treatments"),
        ({"treatments": ["nfc", "nfc"]}, "treatments must be distinct"),
        ({"poses": 9}, "poses"),
    ):
        with pytest.raises(ValueError, match=message):
            RegenerateConfig(preset="demo", test_time=changes)


# --- one network ----------------------------------------------------------------


@pytest.fixture
def network(tmp_path, monkeypatch) -> tuple[Path, Notes]:
    """A finished run on 60 % of its images, and a runner that only takes notes."""
    packed = {"images": str(tmp_path / "index"), "poses": str(tmp_path / "poses"), "images_per_shard": 7}
    for name, stage, settings in (
        ("index", "index", {}),
        ("poses", "extract-poses", {}),
        ("shards", "write-shards", packed),
        ("test", "write-shards", packed),
        ("subsets", "select-subsets", {}),
    ):
        (tmp_path / name).mkdir()
        small_sets.finish(tmp_path / name, stage, name, config=settings)
    config = {"arm": "real", "fraction": 60, "draw": 1, "subsets": str(tmp_path / "subsets")}
    config |= {"shards": str(tmp_path / "shards"), "test_shards": str(tmp_path / "test")}
    (tmp_path / "run").mkdir()
    run = small_sets.finish(tmp_path / "run", "train-reid", "run", config=config)
    notes = Notes(tmp_path / "store")

    def fake_stages(configs, store, *, resources):
        folders = notes(configs)
        if type(configs[0]) is BenchmarkConfig:
            (folders[0] / "test_time.txt").write_text("the table\n")
        return StageResult(folders, folders)

    monkeypatch.setattr(one_network, "run_stages", fake_stages)
    return run, notes


def test_one_trained_network_is_enough_to_know_its_images_its_subset_and_its_table(network, tmp_path):
    run, notes = network
    text = treat_network(OneNetworkConfig(run=run, poses=3, store=tmp_path / "store"))
    of_tests, training = notes.of(EncodeConfig)
    assert (of_tests.shards, training.shards) == (tmp_path / "test", tmp_path / "shards")
    assert of_tests.vae == BUILT_IN / "vae" and not of_tests.flipped
    for config in notes.of(DrawPosesConfig):
        assert (config.subset, config.fraction, config.draw) == (tmp_path / "subsets", 60, 1)
        assert (config.generator, config.sampler, config.steps, config.poses) == (BUILT_IN, "ddim", 6, 3)
    (tested,) = notes.of(EvaluateReidConfig)
    assert (tested.run, tested.test_shards) == (run, tmp_path / "test")
    assert [entry.name for entry in tested.centralize] == ["flips", "crops", "reconstruction", "centralized"]
    assert [entry.weight for entry in tested.centralize] == [1, 1, 0.5, 0.5]
    (table,) = notes.of(BenchmarkConfig)
    assert table.runs == [run] and len(table.evaluations) == 1 and table.baseline == "real"
    assert text.startswith("\nthe table\n\ntables: ")


def test_a_networks_test_images_that_published_files_lack_are_looked_at_first(network, tmp_path, caplog):
    run, notes = network
    small_sets.finish(tmp_path / "poses", "import-poses", "poses")
    treat_network(OneNetworkConfig(run=run, poses=3, store=tmp_path / "store"))
    (completed,), (packed,) = notes.of(ExtractPosesConfig), notes.of(WriteShardsConfig)
    assert (completed.images, completed.published) == (tmp_path / "index", tmp_path / "poses")
    assert (packed.poses, packed.images_per_shard) == (artifact_directory(completed, notes.store), 7)
    assert packed.splits == ["query", "gallery"]
    assert notes.of(EncodeConfig)[0].shards == artifact_directory(packed, notes.store)
    (tested,) = notes.of(EvaluateReidConfig)
    assert tested.test_shards == tmp_path / "test"  # the network is tested on the very images as before

    notes.calls.clear()
    (tmp_path / "index" / "manifest.json").unlink()
    treat_network(OneNetworkConfig(run=run, poses=3, store=tmp_path / "store"))
    assert notes.of(EncodeConfig)[0].shards == tmp_path / "test"
    assert "images without a skeleton are not drawn again" in caplog.text


def test_a_field_of_the_drawing_leaves_the_others_as_they_were(network):
    run, _ = network
    config = OneNetworkConfig(run=run, drawing={"seed": 3}, encode={"view_height": 64})
    assert (config.drawing.seed, config.drawing.sampler, config.drawing.steps) == (3, "ddim", 6)
    assert (config.encode.view_height, config.encode.flipped) == (64, False)


def test_without_a_generator_nothing_is_encoded_or_drawn(network, tmp_path):
    run, notes = network
    treat_network(OneNetworkConfig(run=run, treatments=["flips", "reranked"], store=tmp_path / "store"))
    assert [call[0].stage for call in notes.calls] == ["evaluate-reid", "benchmark"]


def test_images_that_are_gone_are_asked_for(network, tmp_path):
    run, _ = network
    (tmp_path / "test" / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"test is no finished 'datasets write-shards'; .* --test-shards FOLDER"):
        treat_network(OneNetworkConfig(run=run, store=tmp_path / "store"))


def test_training_images_that_are_gone_are_asked_for_before_any_work(network, tmp_path):
    run, notes = network
    small_sets.finish(tmp_path / "poses", "import-poses", "poses")
    (tmp_path / "shards" / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"shards is no finished 'datasets write-shards'; .* --training FOLDER"):
        treat_network(OneNetworkConfig(run=run, store=tmp_path / "store"))
    assert notes.calls == []


def test_the_command_refuses_a_folder_that_is_no_generator(network, tmp_path):
    run, _ = network
    with pytest.raises(ValueError, match=r"has no vae/config.json; give a folder that 'imagpose train' made"):
        prepare("test-time", ["--run", str(run), "--generator", str(tmp_path), "--store", str(tmp_path / "store")])
