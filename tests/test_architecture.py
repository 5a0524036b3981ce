"""The house's rules: who may import whom, what stays light, which packages must not be here."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

PACKAGES = ("datasets", "imagpose", "reid", "flows")
REPOSITORY = Path(__file__).resolve().parent.parent


def modules() -> list[str]:
    """All modules of the four packages, less those that run on import."""
    files = (path.relative_to(REPOSITORY) for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py"))
    names = {".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in files}
    return sorted(names)


def run_python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_the_import_contracts_hold():
    pytest.importorskip("importlinter")
    result = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr


CIRCLES_BEING_MENDED = ({"reid.config", "reid.training.backbones", "reid.training.model"},)
"""Known ones. The list only shrinks: nothing is added to it."""


def imports_of(module: str, known: set[str]) -> set[str]:
    """The modules of ours that a module names: on top, in functions, under TYPE_CHECKING, or as ``module:name``."""
    path = REPOSITORY / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    named: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            named |= (whole & known) or {node.module}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.count(":") == 1:
            named.add(node.value.partition(":")[0])
    return (named & known) - {module}


def circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """The strongly connected components of more than one module: each reaches all others of its component."""

    def reached(start: str) -> set[str]:
        found, waiting = set(), [start]
        while waiting:
            for module in graph[waiting.pop()] - found:
                found.add(module)
                waiting.append(module)
        return found

    reach = {module: reached(module) for module in graph}
    return {
        frozenset({module, *(other for other in reach[module] if module in reach[other])})
        for module in graph
        if module in reach[module]
    }


def test_circles_are_found():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": set(), "f": {"a"}}
    assert circles(graph) == {frozenset("abc")}


def test_no_import_circles():
    known = set(modules())
    found = circles({module: imports_of(module, known) for module in known})
    assert [sorted(circle) for circle in found if not any(circle <= former for former in CIRCLES_BEING_MENDED)] == []


def test_every_module_imports():
    code = f"import importlib\nprint(len([importlib.import_module(name) for name in {modules()!r}]))"
    assert int(run_python(code)) == len(modules()) > 50


def test_the_flows_and_all_configs_leave_torch_unloaded():
    code = (
        "import sys, flows.regenerate, flows.single_stages, flows.__main__\n"
        "import datasets.sources.config, datasets.poses.config, datasets.shards.config, datasets.miniature.config\n"
        "import imagpose.config, reid.config\n"
        "print([name for name in ('torch', 'torchvision', 'diffusers', 'transformers') if name in sys.modules])"
    )
    assert run_python(code) == "[]"


def test_the_command_line_of_the_flows_leaves_prefect_unloaded():
    assert run_python("import sys, flows.__main__; print('prefect' in sys.modules)") == "False"


def test_our_datasets_package_is_the_one_that_is_imported():
    specification = importlib.util.find_spec("datasets")
    assert Path(specification.origin).parent == REPOSITORY / "datasets"
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("datasets")


def test_libraries_do_not_take_our_package_for_hugging_faces():
    from accelerate.utils import is_datasets_available

    assert not is_datasets_available()


@pytest.mark.parametrize("name", ["load_dataset", "IterableDataset"])
def test_asking_our_package_for_hugging_faces_names_says_what_is_wrong(name):
    import datasets

    with pytest.raises(ImportError, match="own 'datasets' package"):
        getattr(datasets, name)


UNPICKLING = {
    "torch.load(": "weights_only=True",
    "np.load(": "allow_pickle=False",
    "import pickle": "",
    "pickle.load": "",
    "allow_pickle=True": "",
}


def test_nothing_unpickles():
    """``np.load(`` and ``torch.load(`` only on lines that say they take plain arrays."""
    found = [
        f"{path.relative_to(REPOSITORY)}: {line.strip()}"
        for package in PACKAGES
        for path in (REPOSITORY / package).rglob("*.py")
        for line in path.read_text().splitlines()
        for word, excuse in UNPICKLING.items()
        if word in line and not (excuse and excuse in line)
    ]
    assert found == []


def test_tracked_text_names_no_package_index():
    tracked = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True)
    if tracked.returncode != 0:
        pytest.skip("not a git checkout")
    words = ("extra-index" + "-url", "index" + "-url", "find" + "-links")
    suffixes = {".txt", ".toml", ".yaml", ".yml", ".cfg", ".ini", ".sh", ""}
    files = [REPOSITORY / name for name in tracked.stdout.split() if Path(name).suffix in suffixes]
    found = [path.name for path in files if path.is_file() and any(word in path.read_text() for word in words)]
    assert found == []


OURS = (*PACKAGES, "benchmarks")
LONGEST_FUNCTION, P90_FUNCTION, LONGEST_FILE, MOST_FILES, MOST_FORMATTER_SKIPS = 50, 23, 400, 15, 20
"""Lines, lines, lines, modules of a folder besides ``__init__.py``, lines kept from the formatter in the repository."""


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (REPOSITORY / folder).rglob("*.py"))


def function_lengths() -> dict[str, int]:
    """Lines of every function of the four packages, docstring included, by ``file:line name``."""
    return {
        f"{path.relative_to(REPOSITORY)}:{node.lineno} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in sources(*PACKAGES)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_functions_are_short():
    lengths = function_lengths()
    too_long = {name: lines for name, lines in lengths.items() if lines > LONGEST_FUNCTION}
    assert too_long == {}, f"over {LONGEST_FUNCTION} lines: {too_long}"
    p90 = float(np.percentile(list(lengths.values()), 90))
    longest = sorted(lengths.items(), key=lambda item: -item[1])[:20]
    assert p90 <= P90_FUNCTION, f"a tenth of the functions has {p90:g} lines or more; the longest: {longest}"


def test_files_are_no_longer_than_a_reader_keeps_in_mind():
    lengths = {str(path.relative_to(REPOSITORY)): len(path.read_text().splitlines()) for path in sources(*OURS)}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE} == {}


def test_no_folder_holds_more_modules_than_a_reader_oversees():
    modules_only = (path for path in sources(*OURS) if path.name != "__init__.py")
    sizes = Counter(str(path.parent.relative_to(REPOSITORY)) for path in modules_only)
    assert {folder: size for folder, size in sizes.items() if size > MOST_FILES} == {}


def test_every_folder_says_what_belongs_there():
    folders = {path.parent for path in sources(*OURS)}
    silent = [
        str(folder.relative_to(REPOSITORY))
        for folder in sorted(folders)
        if not (folder / "__init__.py").is_file()
        or not ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    ]
    assert silent == []


def test_the_formatter_lays_out_nearly_everything():
    mark = "# fmt: " + "skip"
    found = [
        f"{path.relative_to(REPOSITORY)}:{number}"
        for path in sources(*OURS, "tests")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if mark in line
    ]
    assert len(found) < MOST_FORMATTER_SKIPS, found
