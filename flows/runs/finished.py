"""What a finished regeneration leaves, under Prefect or without: report, table, pictures, a row in the history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flows.config import RegenerateConfig
from flows.material import RegenerationResult
from flows.reid_arms import Unit
from flows.runs.history import remember
from flows.runs.overrides import regenerate_command
from flows.runs.results import KeptResults, keep_results
from reid.config import HistoryEntry

REPORT = "report.html"


@dataclass(frozen=True)
class FinishedRun:
    """Where the results of a regeneration are."""

    kept: KeptResults
    table: str
    """Name of the table to print."""
    samples: list[str]
    """Names of the contact sheets."""
    history: list[HistoryEntry]
    """This and the earlier regenerations of the same settings, oldest first."""

    @property
    def report(self) -> Path:
        """The report, at the place that always shows this one."""
        return self.kept.folder / REPORT

    def paths(self) -> dict[str, str]:
        """`report` and `table` of this run, and `latest`: the path that always shows the newest report."""
        latest, table = self.kept.latest / REPORT, self.kept.folder / self.table
        return {"report": str(self.report), "latest": str(latest), "table": str(table)}


def keep_run(config: RegenerateConfig, result: RegenerationResult, run: str) -> FinishedRun:
    """Keep what people look at, and remember the run.

    Args:
        config: its settings.
        result: its artifacts.
        run: its id.
    """
    table, samples = table_file(result.benchmark), sample_sheets(result.synthetic)
    files = {name: result.report / name for name in (REPORT, "report.md", "results.csv")}
    files["test_time.txt"] = result.benchmark / "test_time.txt"
    files = {name: path for name, path in files.items() if name == REPORT or path.is_file()}
    about = {
        "command": regenerate_command(config),
        "report": artifact_name(result.report),
        "benchmark": artifact_name(result.benchmark),
    }
    kept = keep_results(config, {**files, table.name: table, **samples}, run, about)
    return FinishedRun(kept, table.name, list(samples), remember(config, result, run, kept.folder))


def artifact_name(folder: Path) -> str:
    """``STAGE/KEY`` of an artifact in the store."""
    return f"{folder.parent.name}/{folder.name}"


def table_file(benchmark: Path) -> Path:
    """The table to print: plain text where the benchmark wrote it, else Markdown."""
    plain = benchmark / "results.txt"
    return plain if plain.is_file() else benchmark / "results.md"


def sample_sheets(synthetic: Mapping[Unit, Path]) -> dict[str, Path]:
    """Contact sheets of the synthetic sets (sources, poses and results), by the names that the copies get."""
    sheets = {f"samples-{fraction}-{draw}.png": folder for (fraction, draw), folder in synthetic.items()}
    paths = {name: folder / "contact_sheet.png" for name, folder in sheets.items()}
    return {name: path for name, path in paths.items() if path.is_file()}
