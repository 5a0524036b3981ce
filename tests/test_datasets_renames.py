"""An old field name, from a flag or a file and at any depth, is answered in one line with the present name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import BaseModel, Field

from datasets.runtime.command_line import BAD_INPUT, Command, main
from datasets.runtime.config import Config
from datasets.runtime.renames import renamed_fields
from tests.test_docs import all_configs, models_in


class Optimizer(Config):
    renamed: ClassVar[Mapping[str, str]] = {"average_decay": "ema_decay"}

    ema_decay: float = 0.9
    """Decay of the averaged weights."""
    flip: bool = True
    """Flip images."""


class OvenSettings(Config):
    renamed: ClassVar[Mapping[str, str]] = {"mirrored": "flipped"}

    flipped: bool = True
    """Bake from both sides."""
    optimizer: Optimizer | None = None
    """How to heat."""


class Oven(OvenSettings):
    renamed: ClassVar[Mapping[str, str]] = {"cakes": "loaves"}

    loaves: int = Field(1, ge=1)
    """How many."""


COMMANDS = {"bake": Command(summary="Bakes.", config="tests.test_datasets_renames:Oven", run="builtins:id")}


@pytest.mark.parametrize(
    ("flag", "present"),
    [
        ("--cakes", "--loaves"),
        ("--no-mirrored", "--no-flipped"),
        ("--optimizer.average-decay", "--optimizer.ema-decay"),
        ("--optimizer.average_decay", "--optimizer.ema-decay"),
    ],
)
def test_an_old_flag_ends_in_one_line_with_the_present_one(flag: str, present: str, capsys) -> None:
    assert main("oven", COMMANDS, ["bake", f"{flag}=3"]) == BAD_INPUT
    assert capsys.readouterr().err == f"python -m oven bake: {flag} was renamed; use {present}\n"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"cakes": 3}, "cakes was renamed; use loaves"),
        ({"mirrored": True, "loaves": 2}, "mirrored was renamed; use flipped"),
        ({"optimizer": {"average_decay": 0.5}}, "optimizer.average_decay was renamed; use optimizer.ema_decay"),
    ],
)
def test_an_old_field_of_a_file_ends_in_one_line_with_the_present_one(content, line, capsys, tmp_path: Path) -> None:
    (tmp_path / "oven.json").write_text(json.dumps(content))
    assert main("oven", COMMANDS, ["bake", "--config", str(tmp_path / "oven.json")]) == BAD_INPUT
    assert capsys.readouterr().err == f"python -m oven bake: {line}\n"


def test_an_old_name_inside_a_flags_json_is_found_too(capsys) -> None:
    assert main("oven", COMMANDS, ["bake", "--optimizer", '{"average_decay": 0.5}']) == BAD_INPUT
    assert "optimizer.average_decay was renamed; use optimizer.ema_decay" in capsys.readouterr().err


def configs_below(config: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield config
    for field in config.model_fields.values():
        for inner in models_in(field.annotation):
            yield from configs_below(inner)


def test_every_present_name_is_a_field_and_no_old_name_is() -> None:
    configs = {inner for config in all_configs() for inner in configs_below(config)}
    assert len(configs) > 40
    for config in configs:
        for old, new in renamed_fields(config).items():
            assert new in config.model_fields and old not in config.model_fields, config
