"""One stage as a flow from the command line: what is wrong with its inputs is told before Prefect starts."""

from pathlib import Path

import pytest

from flows import __main__ as command
from flows import pipeline, single_stages
from flows.config import RegenerateConfig


@pytest.mark.parametrize("name", command.SINGLE_STAGES)
def test_every_stage_has_a_flow_of_its_name(name):
    assert getattr(single_stages, name.replace("-", "_")).name == name


def test_an_input_that_is_not_there_is_refused_with_exit_code_2(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "prepare_prefect", pytest.fail)
    arguments = ["--images", str(tmp_path), "--backend", "openpose-tiny", "--store", str(tmp_path)]
    assert command.main(["extract-poses", *arguments]) == 2
    assert f"{tmp_path} is not a finished artifact" in capsys.readouterr().err


def test_the_flow_gets_the_stages_config_and_the_store(tmp_path, capsys, monkeypatch):
    import contextlib

    from flows import regenerate

    calls = []
    monkeypatch.setattr(command, "prepare_prefect", lambda store: None)
    monkeypatch.setattr(command, "artifact_key", lambda config: "")
    monkeypatch.setattr(regenerate, "embedded", lambda store: contextlib.nullcontext())
    monkeypatch.setattr(single_stages, "extract_poses", lambda config, store: calls.append((config, store)) or "made")
    arguments = ["--images", "i", "--backend", "openpose", "--scales", "0.5,1", "--store", str(tmp_path)]
    assert command.main(["extract-poses", *arguments]) == 0
    ((config, store),) = calls
    assert config.model_dump(include={"images", "backend", "scales"}) == {
        "images": Path("i"),
        "backend": "openpose",
        "scales": [0.5, 1.0],
    }
    assert store == tmp_path
    assert capsys.readouterr().out.strip() == "made"


@pytest.mark.parametrize(
    ("preset", "csv", "stage"), [("demo", [], "extract-poses"), ("demo", ["a.csv"], "import-poses")]
)
def test_skeletons_come_from_files_where_some_are_given_and_else_from_the_presets_network(preset, csv, stage):
    config = RegenerateConfig(preset=preset)
    made = pipeline._poses(config, Path("index"), [Path(file) for file in csv])
    assert made.stage == stage


def test_a_presets_network_looks_at_rendered_people_too(tmp_path):
    (tmp_path / "market-annotation-train.csv").write_text("name:keypoints_y:keypoints_x\n")
    assert pipeline.keypoint_files(RegenerateConfig(preset="demo"), tmp_path) == []
    assert len(pipeline.keypoint_files(RegenerateConfig(preset="smoke"), tmp_path)) == 1
