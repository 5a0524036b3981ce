"""Lists of paths on the command line: a comma between paths, or in the name of one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datasets.__main__ import COMMANDS
from datasets.poses.config import ImportPosesConfig
from datasets.runtime.command_line import main, parse_config
from flows.config import RegenerateConfig
from imagpose.config import GenerateConfig
from tests.small_sets import market_files, market_root, pose_lines

NAMES = ("a,b.csv", "c.csv", "[old].csv", "12", "true", "x, y, z.csv", "a")


@pytest.fixture
def here(tmp_path, monkeypatch):
    for name in NAMES:
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "paths"),
    [
        (["--csv", "a,b.csv"], ["a,b.csv"]),
        (["--csv=a,b.csv"], ["a,b.csv"]),
        (["--csv", "a,b.csv,c.csv"], ["a,b.csv", "c.csv"]),
        (["--csv", "c.csv,x, y, z.csv,a"], ["c.csv", "x, y, z.csv", "a"]),
        (["--csv", "c.csv,a"], ["c.csv", "a"]),
        (["--csv", "c.csv", "--csv", "a,b.csv"], ["c.csv", "a,b.csv"]),
        (["--csv", "missing.csv,c.csv"], ["missing.csv", "c.csv"]),
        (["--csv", '["a,b.csv"]'], ["a,b.csv"]),
        (["--csv", "[old].csv"], ["[old].csv"]),
        (["--csv", "12"], ["12"]),
        (["--csv", "true,c.csv"], ["true", "c.csv"]),
    ],
)
def test_a_comma_belongs_to_the_path_where_such_a_file_is_there(here, arguments, paths):
    config = parse_config(ImportPosesConfig, ["--images", ".", *arguments], "program")
    assert config.csv == [Path(path) for path in paths]


@pytest.mark.parametrize(
    "name", ["josé.csv", "日本.csv", "😀.csv", 'a "quoted".csv', "back\\slash.csv", "two\nlines.csv"]
)
def test_a_path_in_a_list_keeps_every_character_of_its_name(name):
    given = ["--images", ".", "--csv", name, "--csv", f"{name},other.csv"]
    assert parse_config(ImportPosesConfig, given, "program").csv == [Path(name), Path(name), Path("other.csv")]
    generate = ["--source", name, "--pose", json.dumps([name])]
    config = parse_config(GenerateConfig, generate, "program")
    assert config.source == config.pose == (Path(name),)
    given = ["--preset", "demo", "--root", ".", "--poses", name, "--synthetic", f"theirs={name}"]
    config = parse_config(RegenerateConfig, given, "program")
    assert config.poses == [Path(name)] and config.synthetic == {"theirs": Path(name)}


def test_a_list_of_paths_inside_other_settings_knows_the_rule_too(here):
    given = ["--preset", "market-small", "--root", ".", "--poses", "a,b.csv", "--fractions", "20,60"]
    config = parse_config(RegenerateConfig, given, "program")
    assert config.poses == [Path("a,b.csv")] and config.fractions == [20, 60]


@pytest.mark.parametrize(
    ("value", "arms"),
    [
        ("pidm=/data/a,b", {"pidm": "/data/a,b"}),
        ("pidm=a/{fraction}-{draw},cfld=b", {"pidm": "a/{fraction}-{draw}", "cfld": "b"}),
        ("pidm=a,b,cfld=c=d", {"pidm": "a,b", "cfld": "c=d"}),
        ('{"pidm": "a,b"}', {"pidm": "a,b"}),
    ],
)
def test_a_comma_belongs_to_the_path_of_another_generators_images(here, value, arms):
    config = parse_config(RegenerateConfig, ["--preset", "demo", "--synthetic", value], "program")
    assert config.synthetic == {name: Path(path) for name, path in arms.items()}


def test_a_pose_file_with_a_comma_is_imported(tmp_path, capsys):
    root, store = market_root(tmp_path), str(tmp_path / "store")
    assert main("datasets", COMMANDS, ["index", "--root", str(root), "--workers", "1", "--store", store]) == 0
    images = capsys.readouterr().out.strip()
    file = tmp_path / "poses, new.csv"
    file.write_text("\n".join(pose_lines(market_files())) + "\n")
    assert main("datasets", COMMANDS, ["import-poses", "--images", images, "--csv", str(file), "--store", store]) == 0
