"""Objects that a module from outside adds: looked up by name, refused by name, listed in --help and in a form."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field, ValidationError

from datasets.runtime.command_line import parse_config
from datasets.runtime.config import Config
from datasets.runtime.errors import InputError
from datasets.runtime.registry import EXTENSIONS, Registry


@dataclass(frozen=True)
class Fruit:
    name: str


FRUIT = Registry("fruit", Fruit("apple"), Fruit("pear"))


class Basket(Config):
    first: Annotated[str, FRUIT] = "apple"
    """What lies on top."""
    others: list[Annotated[str, FRUIT]] = []
    """What lies below."""
    weight: int
    """Of the whole, in grams."""


def test_a_field_takes_registered_names_only_and_says_which():
    assert Basket(weight=1, others=["pear"]).others == ["pear"]
    for wrong in ({"first": "stone"}, {"others": ["stone"]}):
        with pytest.raises(ValidationError, match="'stone' is no fruit; known: 'apple', 'pear'"):
            Basket(weight=1, **wrong)


def test_a_name_stands_for_one_object():
    plum = Fruit("plum")
    basket = Registry("fruit", plum)
    assert basket.register(plum) is plum
    with pytest.raises(ValueError, match="already"):
        basket.register(Fruit("plum"))


def test_the_form_and_the_help_list_the_names_and_the_help_begins_with_what_is_required(capsys):
    assert Basket.model_json_schema()["properties"]["others"]["items"]["enum"] == ["apple", "pear"]
    with pytest.raises(SystemExit):
        parse_config(Basket, ["--help"], "test")
    said = " ".join(capsys.readouterr().out.split())
    assert "What lies below. One of: apple, pear." in said
    assert said.index("--weight int Of the whole") < said.index("--first str What lies on top. One of: apple, pear.")


def test_a_module_from_outside_is_imported_before_a_registry_is_looked_into(tmp_path: Path, repository: Path):
    (tmp_path / "orchard.py").write_text("import kiosk\nkiosk.FRUIT.register(kiosk.Fruit('fig'))\n")
    (tmp_path / "kiosk.py").write_text(
        "from dataclasses import dataclass\n"
        "from datasets.runtime.registry import Registry\n"
        "@dataclass\nclass Fruit:\n    name: str\n"
        "FRUIT = Registry('fruit')\n"
    )
    environment = {"PYTHONPATH": f"{repository}:{tmp_path}", EXTENSIONS: "orchard"}
    command = [sys.executable, "-c", "import kiosk; print(list(kiosk.FRUIT))"]
    assert subprocess.run(command, env=environment, capture_output=True, text=True).stdout == "['fig']\n"


def test_a_module_that_cannot_be_imported_is_named_with_the_way_out(monkeypatch):
    monkeypatch.setenv(EXTENSIONS, "no_such_module")
    with pytest.raises(InputError, match=r"cannot import 'no_such_module'.*PYTHONPATH"):
        list(FRUIT)
    with pytest.raises(InputError, match="cannot import"):  # at every look, not at the first one only
        len(FRUIT)


def test_an_empty_name_is_no_choice():
    with pytest.raises(ValidationError, match="is no fruit"):
        Basket(weight=1, first="")


def test_bounds_beside_a_registry_still_hold():
    class Bowl(Config):
        fruits: list[Annotated[str, FRUIT]] = Field(min_length=1)

    with pytest.raises(ValidationError, match="at least 1"):
        Bowl(fruits=[])
