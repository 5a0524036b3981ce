"""Test time in a regeneration and for one network: who draws what, which networks are tested how."""

from __future__ import annotations

from pathlib import Path

import pytest

from datasets.runtime.keys import artifact_directory
from datasets.shards.config import EncodeConfig
from flows.config import RegenerateConfig
from flows.pipeline import Regeneration
from imagpose.config import DrawPosesConfig, SynthesizeConfig, TrainGeneratorConfig
from reid.config import BenchmarkConfig, EvaluateReidConfig, TrainReidConfig
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
