"""What a finished regeneration shows in Prefect: the Rank-1 table, pictures, the report, what was made anew."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact
from prefect.runtime import flow_run

from datasets.runtime.reading.names import code_span
from datasets.runtime.reading.tables import read_table
from flows.config import RegenerateConfig
from flows.material import RegenerationResult
from flows.runs.finished import keep_run
from flows.runs.overrides import variant
from flows.server.automations import emit_alerts
from flows.server.site import report_link
from reid.config import HistoryEntry
from reid.history.compare import changes

RUN_COLUMNS = ("fraction", "arm", "draw", "seed")
PERCENT_COLUMNS = {"rank1": "Rank-1", "map": "mAP", "rank5": "Rank-5"}
FURTHER_COLUMNS = {"images": "images", "synthetic_images": "synthetic", "steps": "steps", "protocol": "protocol"}
"""Last, because Prefect's page cuts a wide table off at the right."""
LARGEST_PICTURE = 1_500_000
"""Bytes of a picture that is put into an artifact; Prefect refuses the event of one of 6 MB."""


def publish(
    config: RegenerateConfig, result: RegenerationResult, stages: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    """Keep the report in a folder of its own and show the results in Prefect; returns where things lie."""
    run = keep_run(config, result, str(flow_run.id))
    if run.kept.new:
        emit_alerts(run.history, str(run.report))
    artifacts = Artifacts(config)
    markdown = (result.benchmark / "results.md").read_text(encoding="utf-8")
    artifacts.markdown("results", markdown, "Rank-1 and mAP")
    artifacts.table("rank-1", rank1_table(result.benchmark), "Every re-ID run")
    artifacts.markdown("report", report_note(run.report), "The report")
    artifacts.table("history", history_table(run.history), "Every regeneration with another result than the one before")
    artifacts.table("stages", stages, "What this run found complete, what it made, and the work that took")
    for name in run.samples:
        artifacts.picture(Path(name).stem, run.kept.folder / name, "Synthetic images")
    return run.paths() | {"benchmark": str(result.benchmark)}


class Artifacts:
    """Prefect's artifacts of one regeneration; their keys name its preset, so that presets do not replace each other.

    Args:
        config: its settings.
    """

    def __init__(self, config: RegenerateConfig) -> None:
        parts = [config.preset, variant(config)]
        self._suffix = re.sub(r"[^a-z0-9]+", "-", "-".join(part for part in parts if part).lower()).strip("-")
        self._of_preset = f"preset {config.preset}" + (f" with other settings ({parts[1]})" if parts[1] else "")

    def key(self, name: str) -> str:
        """``report-market``; of other settings than the preset's ``report-market-1a2b3c4d``."""
        return f"{name}-{self._suffix}"

    def markdown(self, name: str, text: str, description: str) -> None:
        """A text."""
        create_markdown_artifact(text, key=self.key(name), description=f"{description}, {self._of_preset}")

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], description: str) -> None:
        """A table."""
        create_table_artifact(
            [dict(row) for row in rows], key=self.key(name), description=f"{description}, {self._of_preset}"
        )

    def picture(self, name: str, path: Path, description: str) -> None:
        """A picture; where it is too large for Prefect, the path to it."""
        if path.stat().st_size > LARGEST_PICTURE:
            self.markdown(name, code_span(path), description)
            return
        picture = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
        create_image_artifact(picture, key=self.key(name), description=f"{description}, {self._of_preset}: {path}")


def rank1_table(benchmark: Path) -> list[dict[str, Any]]:
    """One row per re-ID run, percentages with one decimal."""
    rows = read_table(benchmark, "results.parquet").to_pylist()
    return [
        {name: row[name] for name in RUN_COLUMNS}
        | {title: f"{100 * row[name]:.1f}" for name, title in PERCENT_COLUMNS.items()}
        | {title: row[name] for name, title in FURTHER_COLUMNS.items() if name in row}
        for row in rows
    ]


def history_table(entries: Sequence[HistoryEntry], most: int = 60) -> list[dict[str, Any]]:
    """A row for each of the last regenerations, newest first."""
    rows = [
        {"date": entry.finished[:10], "training images": entry.counts.get("training images", 0)}
        | {f"gain at {gain.fraction} %": f"{gain.value:+.1f}" for gain in entry.headline()}
        | {"changed": "; ".join(changes(before, entry)) if before else "", "report": entry.pages}
        for before, entry in zip([None, *entries], entries, strict=False)
    ]
    return rows[: -most - 1 : -1]


def report_note(report: Path) -> str:
    """Where the report is, as a link that opens if the site serves its reports."""
    if (link := report_link(report)) is not None:
        return f"[{report.name}](<{link}>)\n\n{code_span(report)}"
    return (
        f"{code_span(report)}\n\nA browser opens no file from here: open it on that machine, or copy it. A report on "
        "real data shows photographs of people, so serve reports only behind a login, and then say where: variable "
        "`report_url` (docs/prefect.md)."
    )
