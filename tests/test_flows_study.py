"""The preset `study`: what it asks for, and the whole of it at the size of a toy, every stage in this process."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from datasets.miniature.config import MiniatureConfig
from datasets.runtime.manifests import is_complete
from flows.config import RegenerateConfig
from flows.pipeline import Regeneration
from flows.preflight import check
from flows.presets import BUILT_IN, BUILT_IN_PEOPLE
from imagpose.config import SynthesizeConfig, TrainGeneratorConfig, TrainImageEncoderConfig, TrainVaeConfig
from reid.config import TrainReidConfig
from tests.in_process import maker
from tests.test_flows_pipeline import Notes

ARMS = ["real-long", "real-pretrained", "real+synthetic", "pretrained+synthetic"]


@pytest.fixture
def built_in(tmp_path) -> dict[str, Path]:
    """Folders that stand for the built-in models where nothing is loaded."""
    for name in ("vae", "image_encoder", "generator"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    return {name: tmp_path / name for name in ("vae", "image_encoder", "generator")}


def test_the_study_is_the_demo_with_controls_on_people_of_its_own():
    study, demo = RegenerateConfig(preset="study"), RegenerateConfig(preset="demo")
    check(study)
    assert (study.fractions, study.draws, study.seeds, study.arms) == ([20, 40], 5, [0, 1], ARMS)
    same = ("train", "synthesize", "encode", "reid", "vae", "image_encoder", "generator", "extract_poses", "subsets")
    assert [name for name in same if getattr(study, name) != getattr(demo, name)] == []
    assert len({study.miniature.seed, demo.miniature.seed, study.pretrain.population.seed}) == 3
    assert study.miniature.train_identities == demo.miniature.train_identities
    assert (study.benchmark.baseline, study.benchmark.controls) == ("real-long", ["real-pretrained"])
    assert study.generator == BUILT_IN and study.pretrain.population == BUILT_IN_PEOPLE


def test_it_trains_ten_generators_and_eighty_networks_but_no_built_in_model_again(tmp_path, built_in):
    run = Notes(tmp_path / "store")
    result = Regeneration(RegenerateConfig(preset="study", **built_in), run).make()
    assert run.of(TrainVaeConfig) == run.of(TrainImageEncoderConfig) == []
    generators, sets, runs = run.of(TrainGeneratorConfig), run.of(SynthesizeConfig), run.of(TrainReidConfig)
    assert {config.init_from for config in generators} == {built_in["generator"]}
    assert len(generators) == len(sets) == 10 and all(config.subset is not None for config in generators)
    cells = {(config.arm, config.fraction, config.draw, config.seed) for config in runs if config.arm != "pretraining"}
    assert len(cells) == len(result.runs) == len(ARMS) * 2 * 5 * 2 == 80
    pretrainings = [config for config in runs if config.arm == "pretraining"]
    assert [(config.seed, config.schedule.steps) for config in pretrainings] == [(0, 1500), (1, 1500)]
    assert {config.schedule.steps * config.schedule.times for config in runs if config not in pretrainings} == {300}
    rates = {config.arm: config.schedule.learning_rate for config in runs}
    assert {round(10 * rates[arm], 9) for arm in ("real-pretrained", "pretrained+synthetic")} == {rates["real-long"]}
    assert (
        len([call for call in run.calls if type(call[0]) is TrainReidConfig]) == 2
    )  # those that are initialized from another run, after the others


def test_other_people_are_rendered_only_where_an_arm_goes_on_from_them(tmp_path, built_in):
    run = Notes(tmp_path / "store")
    Regeneration(RegenerateConfig(preset="study", arms=["real-long", "real+synthetic"], **built_in), run).make()
    assert [config.seed for config in run.of(MiniatureConfig)] == [RegenerateConfig(preset="study").miniature.seed]


@pytest.mark.slow
def test_a_toy_study_runs_from_rendering_to_the_gains_over_every_control(tmp_path):
    people = {"train_identities": 3, "images_per_identity": 4, "distractors": 0, "junk": 0}
    config = RegenerateConfig(
        preset="study",
        draws=2,
        fractions=[40],
        workers=1,
        device="cpu",
        miniature={**people, "test_identities": 6},
        pretrain={"population": people, "reid_steps": 3},
        train={"steps": 1, "batch_size": 1, "warmup_steps": 0, "sample_steps": 1},
        synthesize={"steps": 1, "showcase": 0},
        reid={"schedule": {"steps": 2}},
        benchmark={"resamples": 100},
    )
    result = Regeneration(config, maker(tmp_path)).make()
    assert is_complete(result.report) and len(result.runs) == 4 * 2 * 2
    table = pd.read_parquet(result.benchmark / "gains.parquet").query("metric == 'map'").set_index(["baseline", "arm"])
    asked = [
        ("real-long", "real+synthetic"),
        ("real-pretrained", "real+synthetic"),
        ("real-pretrained", "pretrained+synthetic"),
    ]
    for pair in asked:
        row = table.loc[pair]
        assert (row.unit, row.pairs) == ("draw", 4)
        assert row.low <= row["value"] <= row.high
    results = pd.read_parquet(result.benchmark / "results.parquet").set_index("arm")
    assert set(results.loc["real-pretrained"].steps_before) == {3} and set(results.loc["real-pretrained"].steps) == {6}
    assert (results.loc["pretrained+synthetic"].synthetic_images > 0).all()
