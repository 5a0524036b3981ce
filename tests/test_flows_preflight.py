"""What a regeneration refuses before any work, and whether its messages name settings that there are."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

from datasets.runtime.command_line import parse_config
from datasets.runtime.registry import load_name
from datasets.runtime.renames import models_in
from datasets.sources.config import IndexConfig, IndexSettings
from flows.__main__ import main
from flows.alerts import AlertsConfig
from flows.config import RegenerateConfig
from flows.pipeline import Regeneration
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
