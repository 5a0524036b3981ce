"""README and docs say what is there: files, names, commands with their flags, links, deployments, make targets."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import types
import typing
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from datasets.runtime.registry import load_name
from flows.__main__ import SINGLE_STAGES
from flows.alerts import AlertsConfig
from flows.config import RegenerateConfig
from flows.test_time.one_network import OneNetworkConfig

REPOSITORY = Path(__file__).resolve().parent.parent
FRONT = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES = [*FRONT, *sorted((REPOSITORY / "docs").glob("*.md"))]
FOLDERS = ("datasets", "imagpose", "reid", "flows", "benchmarks", "tests", "docs")
FILES = {path.relative_to(REPOSITORY).as_posix() for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*.*")}
NAMES = {name.rpartition("/")[2] for name in FILES}
CODE = re.compile(r"^```.*?^```$|^    \S[^\n]*$|`[^`\n]+(?:\n[^`\n]+)?`", re.MULTILINE | re.DOTALL)
"""Fenced blocks, indented lines, and inline code, which may be broken over two lines."""
PACKAGES = "datasets|imagpose|reid|flows|benchmarks"
OWN = {"store": None, "output": None, "config": None, "help": None}
"""Options that every command has."""

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@cache
def code_of(page: Path) -> list[str]:
    """What a page shows as code, without its marks."""
    found = []
    for match in CODE.finditer(page.read_text()):
        text = match.group()
        block = text.startswith("```")
        found.append("\n".join(text.splitlines()[1:-1]) if block else " ".join(text.strip("`").split()) + "\n")
    return found


@cache
def commands_of(page: Path) -> list[list[str]]:
    """Every ``python -m PACKAGE COMMAND ...`` (or ``torchrun ... -m``) of a page, split as a shell splits it."""
    found = []
    for text in code_of(page):
        for line in text.replace("\\\n", " ").splitlines():
            for command in re.split(r"[;|]\s|&&", line.partition(" # ")[0]):
                match = re.search(
                    r"(?:python|torchrun)\b.*? -m (datasets|imagpose|reid|flows|benchmarks)\b(.*)", command
                )
                if match:
                    lexer = shlex.shlex(match.group(2).replace("...", ""), posix=True, punctuation_chars=False)
                    lexer.whitespace_split = True
                    found.append([match.group(1), *lexer])
    return found


def config_of(package: str, command: str) -> type[BaseModel] | None:
    """The config class of a package's command; None if there is no such command."""
    if package == "flows":
        whole = {"regenerate": RegenerateConfig, "direct": RegenerateConfig, "alerts": AlertsConfig}
        whole["test-time"] = OneNetworkConfig
        return {**whole, **SINGLE_STAGES}.get(command)
    commands = importlib.import_module(f"{package}.__main__").COMMANDS
    return load_name(commands[command].config) if command in commands else None


def has_field(model: type[BaseModel], flag: str) -> bool:
    """Whether ``outer.inner`` (dashes as on the command line) is a field of a config; a mapping takes any name."""
    name, _, rest = flag.replace("-", "_").partition(".")
    if name not in model.model_fields:
        return False
    if not rest:
        return True
    inner = models_in(model.model_fields[name].annotation)
    return any(has_field(candidate, rest) for candidate in inner)


def models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is not None:
        for argument in typing.get_args(annotation):
            yield from models_in(argument)


def wrong_in(command: list[str]) -> str | None:
    """What is wrong with a command, or None."""
    package, *words = command
    if not words or not re.fullmatch(r"[a-z_][a-z_-]*", words[0]):
        return None  # "python -m reid COMMAND", or a list of all of them
    if package == "benchmarks":  # their configs lie beside code that imports torch, so names only
        known = importlib.import_module("benchmarks.__main__")
        return None if words[0] in {*known.BENCHMARKS, *known.COMMANDS} else f"no benchmark {words[0]}"
    if len(words) > 1 and config_of(package, f"{words[0]} {words[1]}") is not None:
        words = [f"{words[0]} {words[1]}", *words[2:]]
    config = config_of(package, words[0])
    if config is None:
        return f"no command {package} {words[0]}"
    for word in words[1:]:
        flag = word.removeprefix("--").partition("=")[0]
        if word.startswith("--") and flag not in OWN and not has_field(config, flag.removeprefix("no-")):
            return f"python -m {package} {words[0]} has no --{flag}"
    return None


@each_page
def test_every_command_and_flag_exists(page: Path) -> None:
    assert [wrong for command in commands_of(page) if (wrong := wrong_in(command))] == []


def test_the_pages_show_commands_at_all() -> None:
    assert sum(len(commands_of(page)) for page in PAGES) > 60


@each_page
def test_every_bare_flag_is_a_field_of_some_command(page: Path) -> None:
    """Flags that the text names alone, as in `--images-per-shard`."""
    alone = {m.group(1) for text in code_of(page) if (m := re.match(r"--([a-z][a-z.-]+)(?:[ =].*)?$", text.strip()))}
    assert {flag for flag in alone - OTHER_PEOPLES_FLAGS if flag not in OWN and not known_flag(flag)} == set()


OTHER_PEOPLES_FLAGS = {"limit"}
"""Of Prefect's and torchrun's commands."""


def known_flag(flag: str) -> bool:
    return any(has_field(config, flag.removeprefix("no-")) for config in all_configs())


@cache
def all_configs() -> list[type[BaseModel]]:
    found: list[type[BaseModel]] = [RegenerateConfig, OneNetworkConfig]
    for package in ("datasets", "imagpose", "reid"):
        commands = importlib.import_module(f"{package}.__main__").COMMANDS
        found += [load_name(command.config) for command in commands.values()]
    return found


@each_page
def test_every_nested_field_exists(page: Path) -> None:
    """Fields that the text names as in `batch.synthetic`; with a star, some field must begin so."""
    pattern = re.compile(r"(?<![\w./:-])([a-z_]+\.[a-z_.]+\*?)(?![\w/(])")
    named = {text.strip() for text in code_of(page) if pattern.fullmatch(text.strip())}
    named = {name for name in named if name.rpartition(".")[2] not in ENDINGS}
    nested = {
        field
        for config in all_configs()
        for field, info in config.model_fields.items()
        if any(models_in(info.annotation))
    }
    assert {name for name in named if name.partition(".")[0] in nested and not known_field(name)} == set()


ENDINGS = {"csv", "html", "json", "jsonl", "lst", "md", "onnx", "parquet", "png", "py", "safetensors", "txt", "yaml"}
"""Of files, which look like nested fields."""


def known_field(name: str) -> bool:
    if not name.endswith("*"):
        return known_flag(name)
    outer, _, start = name.rstrip("*").partition(".")
    return any(
        field.startswith(start)
        for config in all_configs()
        if outer in config.model_fields
        for inner in models_in(config.model_fields[outer].annotation)
        for field in inner.model_fields
    )


@each_page
def test_every_named_file_of_the_repository_exists(page: Path) -> None:
    # Not part of a longer path (`runs/store/reid/...`), of a URL, or a module's name.
    pattern = re.compile(
        rf"(?<![\w./-])((?:{PACKAGES}|tests|docs)/[\w./*{{}},-]*|[\w-]+\.(?:yaml|toml|txt|md|py))(?![\w/])"
    )
    named = {name for text in code_of(page) for name in pattern.findall(text)}
    absent = {name for name in named if not there(name.rstrip(".")) and name not in NOT_IN_THE_REPOSITORY}
    assert absent == set()


NOT_IN_THE_REPOSITORY = {
    "ablation.md",
    "comparison.md",
    "scores.md",
    "results.md",
    "report.md",
    "test_time.txt",
    "README.md",  # written by stages
    "train_stage1.py",
    "train_stage2.py",
    "train_end2end.py",  # of the official code
    "list_eval_partition.txt",
    "list_val.txt",  # of data sets
    "tests/datasets/",
    "utils.py",  # named as what must not be there
    "flip.py",  # the reader's own, as are the next two
    "shop.py",
    "shop_networks.py",
}


def there(name: str) -> bool:
    """A file or folder by its path, a glob of them, or a module by its bare file name (in one of the packages)."""
    if "{" in name:
        start, _, rest = name.partition("{")
        names, _, end = rest.partition("}")
        return all(there(start + middle + end) for middle in names.split(","))
    if "*" in name:
        return any(REPOSITORY.glob(name))
    return (REPOSITORY / name).exists() or name in NAMES


@each_page
def test_every_dotted_name_exists(page: Path) -> None:
    pattern = re.compile(r"(?<![\w./-])(?:datasets|imagpose|reid|flows)(?:\.[A-Za-z_]\w*)+")
    named = {name for text in code_of(page) for name in pattern.findall(text)}
    assert {name for name in named if not is_name(name)} == set()


def is_name(name: str) -> bool:
    """Whether a dotted name is a module, or something that a module defines or imports; nothing is imported."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        module = REPOSITORY.joinpath(*parts[:end])
        file = module.with_suffix(".py") if module.with_suffix(".py").is_file() else module / "__init__.py"
        if file.is_file():
            return end == len(parts) or parts[end] in names_in(file)
    return False


@cache
def names_in(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                found.add(node.name)
            case ast.ImportFrom() | ast.Import():
                found |= {alias.asname or alias.name for alias in node.names}
            case ast.Assign():
                found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                found.add(name)
    return found


@each_page
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    assert [link for link in links if not link.startswith(("http://", "https://")) and not leads(page, link)] == []


def leads(page: Path, link: str) -> bool:
    name, _, anchor = link.partition("#")
    target = page.parent / name if name else page
    return target.is_file() and (not anchor or anchor in headings(target))


@cache
def headings(page: Path) -> set[str]:
    """A page's headings, as links name them."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_page_is_linked_from_the_readme() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    assert [page.name for page in PAGES if page.parent.name == "docs" and f"docs/{page.name}" not in readme] == []


def test_the_file_map_names_every_module() -> None:
    """docs/architecture.md has a line for each file, alone or with others; a new file wants one there."""
    page = (REPOSITORY / "docs" / "architecture.md").read_text()
    file_map = page[page.index("## File map") :]
    mapped = re.findall(r"`([\w./*]+\.py|[\w./]+/)`", file_map)
    absent = {
        file
        for file in FILES
        if file.endswith(".py")
        and Path(file).name not in BORING
        and not any(fnmatch(file, f"{name}*") for name in mapped)
    }
    assert absent == set()


BORING = {"__init__.py", "__main__.py"}


@each_page
def test_every_deployment_and_make_target_exists(page: Path) -> None:
    text = page.read_text()
    deployments = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]
    names = {f"{item['entrypoint'].rpartition('.')[2].replace('_', '-')}/{item['name']}" for item in deployments}
    asked = set(re.findall(r"deployment run '([\w-]+/[\w-]+)'", text))
    targets = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    made = {match.group(1) for code in code_of(page) for match in re.finditer(r"(?:^|[;&] ?)make ([a-z]+)", code, re.M)}
    assert asked - names == set()
    assert made - targets == set()


@each_page
def test_no_page_names_a_package_registry_or_a_machine_of_ours(page: Path) -> None:
    assert re.findall(r"(?i)index[-]url|\.internal\b|/work/|artifactory|nexus|/root/", page.read_text()) == []


def test_the_readme_is_short_and_shows_pictures() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    assert len(readme.splitlines()) < 200
    assert len(re.findall(r"!\[[^\]]+\]\(docs/images/", readme)) >= 1


def test_the_readmes_figures_stand_in_the_results() -> None:
    """A row of the README's table is a row of docs/results.md, or made of figures from there."""
    readme = (REPOSITORY / "README.md").read_text()
    table = readme[readme.index("## Results") : readme.index("## Pictures")]
    results = (REPOSITORY / "docs" / "results.md").read_text()
    figures = re.findall(r"(?<![\w.])[+-]?\d+\.\d+", table)
    assert len(figures) > 8
    assert [figure for figure in figures if figure not in results] == []
