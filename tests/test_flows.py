"""The whole pipeline under Prefect on the smoke preset, twice; what Prefect itself needs."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import time
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
from flows.server.stage_table import stage_rows, total_row
from flows.server.temporary import own_session
from flows.stages import describe_made
from tests.prefect_site import wait_for

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


def test_each_of_several_trainers_has_a_progress_of_its_own(monkeypatch, caplog):
    import prefect.artifacts

    calls: list[tuple[str, float]] = []

    def create(progress: float, *, key: str, **_: object) -> str:
        calls.append((key, progress))
        return key

    monkeypatch.setattr(prefect.artifacts, "create_progress_artifact", create)
    monkeypatch.setattr(prefect.artifacts, "update_progress_artifact", lambda key, done: calls.append((key, done)))
    output = StageOutput("imagpose train", logging.getLogger("test"), "market")
    with caplog.at_level(logging.INFO):
        output("[1] 14:02:03 WARNING imagpose.training: slow disk")
        output("[1] progress train: 20/80 images, 1.0 images/s")
        output("[2] progress train: 40/80 images, 1.0 images/s")
    output.finish()
    first, second = (f"progress-imagpose-train-process-{number}-market" for number in (1, 2))
    assert calls == [(first, 25.0), (second, 50.0), (first, 100.0), (second, 100.0)]
    assert (caplog.records[0].levelname, caplog.records[0].message) == ("WARNING", "[1] slow disk")


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
    name = f"miniature/{folder.name}"
    rows = stage_rows(
        "datasets miniature, other people", {"folders": [str(folder), str(folder)], "made": [str(folder)]}
    )
    assert [row["artifact"] for row in rows] == [name]
    assert rows[0]["stage"] == "datasets miniature, other people"
    assert rows[0]["counts"] == "2 shards written, 7 shards reused" and rows[0]["time"].endswith(" s")
    (found,) = stage_rows("datasets miniature", {"folders": [str(folder)], "made": []})
    assert found["artifact"] == "1 already complete"
    assert total_row([name, "index/gone"], tmp_path)["artifact"] == "1 artifacts of this run"


def test_the_temporary_server_is_out_of_reach_of_a_signal_to_the_runs_group():
    from prefect.server.api import server

    code = "import os; print(os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid())"
    with own_session():
        child = server.subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.communicate()[0].split() == ["True", "True"]
    assert server.subprocess is subprocess


@pytest.mark.slow
def test_sigterm_to_the_whole_group_ends_a_run_as_fast_as_to_itself_alone(tmp_path, repository):
    command = [sys.executable, "-m", "flows", "regenerate", "--preset", "smoke", "--device", "cpu"]
    command += ["--store", str(tmp_path / "store"), "--output", str(tmp_path / "out")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    with (tmp_path / "log").open("wb") as log:
        run = subprocess.Popen(command, cwd=repository, env=environment, stdout=log, stderr=log, start_new_session=True)
    wait_for(lambda: list((tmp_path / "store").glob("*/*/manifest.json")), 600)
    started = time.monotonic()
    os.killpg(run.pid, signal.SIGTERM)
    run.wait(timeout=60)
    assert time.monotonic() - started < 10
    with contextlib.closing(sqlite3.connect(tmp_path / "store/prefect/prefect.db")) as database:
        states = database.execute("select state_type from flow_run").fetchall()
    assert states and all(state[0] not in ("RUNNING", "PENDING") for state in states)
