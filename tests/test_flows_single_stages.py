"""One stage as a flow from the command line: what is wrong with its inputs is reported before Prefect starts."""

from pathlib import Path

import pytest
from prefect.exceptions import ParameterTypeError

from datasets.runtime.errors import InputError
from datasets.sources.config import IndexConfig
from flows import __main__ as command
from flows import single_stages
from flows.config import RegenerateConfig
from flows.material import Population
from flows.pipeline import Regeneration
from reid.config import TrainReidConfig
from tests.test_flows_pipeline import Notes, finish


@pytest.mark.parametrize("name", command.SINGLE_STAGES)
def test_every_stage_has_a_flow_of_its_name(name):
    assert getattr(single_stages, name.replace("-", "_")).name == name


@pytest.mark.parametrize("config", command.SINGLE_STAGES.values())
def test_its_form_begins_with_what_must_be_given(config):
    schema = config.model_json_schema()
    assert list(schema["properties"])[: len(schema["required"])] == schema["required"]


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


@pytest.mark.parametrize(("files", "stage"), [([], "extract-poses"), (["a.csv"], "import-poses")])
def test_skeletons_come_from_files_where_some_are_given_and_else_from_the_presets_network(tmp_path, files, stage):
    finish(tmp_path / "index", IndexConfig(root=tmp_path))
    keypoints = [tmp_path / file for file in files]
    for file in keypoints:
        file.touch()
    run = Notes(tmp_path / "store")
    people = Population(tmp_path, "market1501", keypoints)
    Regeneration(RegenerateConfig(preset="demo"), run).find_poses(tmp_path / "index", people)
    assert [config.stage for call in run.calls for config in call] == [stage]


@pytest.mark.parametrize(("preset", "count"), [("demo", 0), ("smoke", 1)])
def test_a_presets_network_looks_at_rendered_people_too(tmp_path, preset, count):
    config = RegenerateConfig(preset=preset)
    people = Regeneration(config, Notes(tmp_path)).render(config.miniature)
    assert len(people.keypoints) == count


def test_a_table_without_its_baseline_is_refused_before_any_training(tmp_path, monkeypatch):
    monkeypatch.setattr(single_stages, "_make", lambda *_: pytest.fail("something was made"))
    runs = [TrainReidConfig(shards=tmp_path, test_shards=tmp_path, arm="real+synthetic")]
    with pytest.raises(InputError, match=r"baseline 'rael' is none of the runs' arms real\+synthetic"):
        single_stages.benchmark_reid.fn(runs, baseline="rael")


@pytest.mark.parametrize(
    ("flow", "given"),
    [("benchmark_reid", {"runs": []}), ("train_imagpose", {"config": {"encoded": "e"}, "gpus": 0})],
)
def test_a_form_that_makes_no_sense_is_refused(flow, given):
    with pytest.raises(ParameterTypeError):
        getattr(single_stages, flow).validate_parameters(given)
