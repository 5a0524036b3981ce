"""What a newcomer and GitHub read first: citation, workflow, hooks, templates; and that there is no license."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = ("datasets", "imagpose", "reid", "flows")
PYTHONS = ["3.11", "3.12", "3.13"]
TEMPLATES = sorted((REPOSITORY / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def read_yaml(name: str) -> Any:
    return yaml.safe_load((REPOSITORY / name).read_text())


def lint_commands() -> list[list[str]]:
    """The programs that `make lint` runs, with their arguments."""
    recipe = re.search(r"^lint: .*\n((?:\t.+\n)+)", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    return [shlex.split(line.replace("$(BIN)/", "")) for line in recipe[1].splitlines()]


def test_the_citation_has_the_projects_version_and_the_three_papers() -> None:
    citation = read_yaml("CITATION.cff")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert citation["version"] == project["version"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    cited = [(paper["authors"][0]["family-names"], paper["year"]) for paper in citation["references"]]
    assert cited == [("Shen", 2024), ("Luo", 2019), ("Zheng", 2015)]


def test_no_file_claims_a_licence_until_the_owner_chooses_one() -> None:
    """When one is chosen: this test, the sentence in the README and the one in docs/ethics.md go."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert not {"license", "license-files"} & project.keys()
    assert not [line for line in project.get("classifiers", []) if "License" in line]
    assert not {"license", "license-url"} & read_yaml("CITATION.cff").keys()
    assert [path.name for path in REPOSITORY.glob("*") if re.match(r"(?i)licen[cs]e|copying", path.name)] == []
    assert (REPOSITORY / "README.md").read_text().count("no license yet") == 1


def test_the_workflow_lints_and_tests_on_every_python_and_may_only_read() -> None:
    workflow = read_yaml(".github/workflows/ci.yml")
    (job,) = workflow["jobs"].values()
    assert job["strategy"]["matrix"]["python-version"] == PYTHONS
    commands = [step["run"].split()[:2] for step in job["steps"] if "run" in step]
    assert commands == [["make", "lint"], ["make", "test"]]
    assert workflow["permissions"] == {"contents": "read"}


def test_pyproject_asks_for_the_oldest_python_that_the_workflow_tests() -> None:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert settings["project"]["requires-python"] == f">={PYTHONS[0]}"
    assert settings["tool"]["ruff"]["target-version"] == "py" + PYTHONS[0].replace(".", "")
    assert settings["tool"]["pyrefly"]["python-version"].startswith(PYTHONS[0])


def test_the_hooks_are_what_make_lint_runs() -> None:
    hooks = [hook for repo in read_yaml(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    programs = [shlex.split(hook["entry"].replace(".venv/bin/", "")) for hook in hooks]
    assert [words[:2] for words in programs] == [words[:2] for words in lint_commands()]
    assert {repo["repo"] for repo in read_yaml(".pre-commit-config.yaml")["repos"]} == {"local"}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_says_that_it_is_typed(package: str) -> None:
    assert (REPOSITORY / package / "py.typed").is_file()
    wheel = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert package in wheel["packages"]


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_issue_templates_are_forms_that_github_takes(template: Path) -> None:
    form = yaml.safe_load(template.read_text())
    if template.stem == "config":
        assert isinstance(form["blank_issues_enabled"], bool)
        return
    assert {"name", "description", "body"} <= form.keys()
    fields = [item for item in form["body"] if item["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields) > 0
    assert all(field["attributes"]["label"] for field in fields)


def test_there_are_templates_for_bugs_features_and_data() -> None:
    assert {path.stem for path in TEMPLATES} == {"bug", "config", "data", "feature"}
