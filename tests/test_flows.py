"""The whole pipeline under Prefect on the smoke preset, twice; what Prefect itself needs."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from datasets.miniature.config import MiniatureConfig
from datasets.runtime import command_line
from datasets.runtime.artifacts import build
from datasets.runtime.errors import ArtifactBusyError
from datasets.runtime.manifests import MANIFEST
from datasets.runtime.verify import verify
from flows.process.commands import CommandError
from flows.server.output import StageOutput
from flows.stages import describe_made

pytestmark = pytest.mark.timeout(900)  # whichever test comes first waits for the run of all stages


def regenerate(repository: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``python -m flows regenerate --preset smoke`` with a store and a Prefect of its own."""
    command = [
        sys.executable,
        "-m",
        "flows",
        "regenerate",
        "--preset",
        "smoke",
        "--store",
        str(folder / "store"),
        "--output",
        str(folder / "smoke"),
        "--device",
        "cpu",
        *arguments,
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def first_run(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The smoke preset, run once: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("smoke")
    result = regenerate(Path(__file__).resolve().parent.parent, folder)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-6000:]
    return folder, result


def manifests(folder: Path) -> dict[str, float]:
    return {str(path): path.stat().st_mtime_ns for path in (folder / "store").glob(f"*/*/{MANIFEST}")}


def test_smoke_ends_with_the_table_and_the_reports_path(first_run):
    folder, result = first_run
    *table, empty, last = result.stdout.rstrip().splitlines()
    assert last == f"report: {folder / 'smoke' / 'report.html'}" and not empty
    text = "\n".join(table)
    assert "Rank-1" in text and "mAP" in text and "real+synthetic" in text
    assert "<html" in (folder / "smoke" / "report.html").read_text().lower()


def test_nothing_follows_the_report_on_the_screen_and_nothing_went_wrong(first_run):
    _, result = first_run
    *_, said_last = result.stderr.rstrip().splitlines()
    assert "Stopping temporary server" in said_last
    assert "Traceback" not in result.stderr and "Error" not in result.stderr


def test_progress_and_the_commands_lines_reach_the_screen(first_run):
    _, result = first_run
    assert re.search(r"progress [\w .%/+-]+: \d+/\d+", result.stderr)
    assert "1 made, 0 already complete" in result.stderr


def test_every_artifact_of_the_run_is_what_its_manifest_says(first_run):
    folder, _ = first_run
    finished = [Path(path).parent for path in manifests(folder)]
    assert len(finished) > 12
    assert [corruption for directory in finished for corruption in verify(directory)] == []
    assert not list((folder / "store").glob("*/*.partial"))


def test_nothing_is_pickled(first_run):
    folder, _ = first_run
    names = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert not names & {".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt"}
    for result in (folder / "store" / "prefect" / "storage").glob("*"):
        json.loads(result.read_text())


def test_a_second_run_recomputes_nothing_and_says_the_same(first_run, repository):
    folder, first = first_run
    before = manifests(folder)
    report = (folder / "smoke" / "report.html").read_bytes()
    before_cpu = resource.getrusage(resource.RUSAGE_CHILDREN)
    second = regenerate(repository, folder)
    after_cpu = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert second.returncode == 0
    assert after_cpu.ru_utime - before_cpu.ru_utime < 60  # processor seconds: the clock's depend on who else works here
    assert manifests(folder) == before
    assert (folder / "smoke" / "report.html").read_bytes() == report
    assert second.stdout.splitlines()[-1] == first.stdout.splitlines()[-1]
    assert "made, " not in second.stderr


def test_the_installed_versions_give_a_prefect_server():
    """FastAPI 0.155 and later fail right here; see docs/dependencies.md."""
    code = "import prefect.server.api.server as server; server.create_app(ephemeral=True); print('ok')"
    environment = {**os.environ, "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert result.stdout.strip().endswith("ok"), result.stderr


def test_a_commands_lines_keep_their_level_and_lose_their_own_clock(caplog):
    output = StageOutput("datasets index", logging.getLogger("test"))
    with caplog.at_level(logging.INFO):
        output("14:02:03 WARNING datasets.sources.index: 2 files are truncated")
        output("a traceback's line: no prefix")
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", "2 files are truncated"),
        ("INFO", "a traceback's line: no prefix"),
    ]


@pytest.mark.parametrize(
    "line", ["progress encode: 64/640 images, 20.1 images/s, ETA 0:28", "progress train 20 %: 5/80 steps, 1.0 steps/s"]
)
def test_progress_lines_update_one_progress_artifact(monkeypatch, line):
    import prefect.artifacts

    calls: list[tuple[str, float]] = []
    monkeypatch.setattr(
        prefect.artifacts, "create_progress_artifact", lambda progress, **_: calls.append(("new", progress)) or "id"
    )
    monkeypatch.setattr(
        prefect.artifacts, "update_progress_artifact", lambda artifact, progress: calls.append((artifact, progress))
    )
    output = StageOutput("datasets encode", logging.getLogger("test"))
    output(line)
    output(line)  # too soon after the first
    output.finish()
    assert [name for name, _ in calls] == ["new", "id"]
    assert 0 < calls[0][1] < 100 and calls[1][1] == 100


def test_progress_that_no_server_takes_fails_nothing(monkeypatch, caplog):
    import prefect.artifacts

    def refused(*_, **__):
        raise httpx.ConnectError("connection refused")

    monkeypatch.setattr(prefect.artifacts, "create_progress_artifact", refused)
    output = StageOutput("datasets encode", logging.getLogger("test"))
    with caplog.at_level(logging.INFO):
        output("progress encode: 64/640 images, 20.1 images/s, ETA 0:28")
    output.finish()
    assert "64/640" in caplog.text


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (CommandError(["stage"], 74, ["OSError: [Errno 5]"], Path("log")), True),
        (CommandError(["stage"], 75, ["another process"], Path("log")), True),
        (CommandError(["stage"], 2, ["no such file"], Path("log")), False),
        (CommandError(["stage"], -9, [], Path("log")), False),
        (OSError(errno.ESTALE, "stale file handle"), True),
        (httpx.ConnectError("connection refused"), True),
        (FileNotFoundError(errno.ENOENT, "no such file"), False),
    ],
    ids=["disk", "busy", "input", "killed", "network", "server", "absent"],
)
def test_only_what_may_pass_by_itself_is_tried_again(error, again):
    from prefect.states import exception_to_failed_state

    from flows.regenerate import may_pass

    async def ask() -> bool:
        return await may_pass(None, None, await exception_to_failed_state(error))

    assert asyncio.run(ask()) is again


@pytest.mark.parametrize(("code", "raised"), [(74, OSError(errno.EIO, "I/O error")), (75, ArtifactBusyError("busy"))])
def test_a_command_says_by_its_exit_code_that_another_try_may_help(code, raised, monkeypatch):
    def fail(*_):
        raise raised

    monkeypatch.setattr(command_line, "run_command", fail)
    commands = {"index": command_line.Command(summary="", config="", run="")}
    assert command_line.main("datasets", commands, ["index"]) == code


def test_the_table_of_stages_counts_what_was_made_anew(tmp_path):
    config = MiniatureConfig()
    folder = build(config, lambda _, __: {"shards_written": 2, "shards_reused": 7, "notes": ["x"]}, store=tmp_path)
    assert describe_made(folder) | {"seconds": 0} == {"seconds": 0, "shards_written": 2, "shards_reused": 7}
