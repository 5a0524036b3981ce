"""What a finished regeneration shows in Prefect: the Rank-1 table, pictures, the report, what was made anew."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact

from datasets.runtime.reading.names import code_span
from datasets.runtime.reading.tables import read_table
from flows.config import RegenerateConfig
from flows.pipeline import RegenerationResult
from flows.reid_arms import Unit
from flows.server.site import report_link
from flows.stages import copy_result

RUN_COLUMNS = ("fraction", "arm", "draw", "seed")
PERCENT_COLUMNS = {"rank1": "Rank-1", "map": "mAP", "rank5": "Rank-5"}
FURTHER_COLUMNS = {"images": "images", "synthetic_images": "synthetic", "steps": "steps", "protocol": "protocol"}
"""Last, because Prefect's page cuts a wide table off at the right."""
LARGEST_PICTURE = 1_500_000
"""Bytes of a picture that is put into an artifact; Prefect refuses the event of one of 6 MB."""


def publish(
    config: RegenerateConfig, result: RegenerationResult, stages: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    """Copy the report to its stable place and show the results in Prefect; returns where things lie."""
    folder = config.output_folder().absolute()
    report = copy_result(result.report / "report.html", folder)
    with contextlib.suppress(FileNotFoundError):
        copy_result(result.report / "report.md", folder)
    table = copy_result(table_file(result.benchmark), folder)
    of_preset = f"preset {config.preset}"
    markdown = (result.benchmark / "results.md").read_text()
    create_markdown_artifact(markdown, key="results", description=f"Rank-1 and mAP, {of_preset}")
    create_table_artifact(rank1_table(result.benchmark), key="rank-1", description=f"Every re-ID run, {of_preset}")
    create_markdown_artifact(report_note(report), key="report", description=f"The report, {of_preset}")
    show_stages(stages, of_preset)
    show_samples(result.synthetic, folder)
    return {"report": str(report), "table": str(table), "benchmark": str(result.benchmark)}


def table_file(benchmark: Path) -> Path:
    """The table to print: plain text where the benchmark wrote it, else Markdown."""
    plain = benchmark / "results.txt"
    return plain if plain.is_file() else benchmark / "results.md"


def rank1_table(benchmark: Path) -> list[dict[str, Any]]:
    """One row per re-ID run, percentages with one decimal."""
    rows = read_table(benchmark, "results.parquet").to_pylist()
    return [
        {name: row[name] for name in RUN_COLUMNS}
        | {title: f"{100 * row[name]:.1f}" for name, title in PERCENT_COLUMNS.items()}
        | {title: row[name] for name, title in FURTHER_COLUMNS.items() if name in row}
        for row in rows
    ]


def report_note(report: Path) -> str:
    """Where the report is, as a link that opens if the site serves its reports."""
    if (link := report_link(report)) is not None:
        return f"[{report.name}](<{link}>)\n\n{code_span(report)}"
    return (
        f"{code_span(report)}\n\nA browser opens no file from here. To get a link, serve the reports, for example with "
        "`python -m http.server --bind 127.0.0.1 --directory runs 4280`, and say where: "
        "`prefect variable set report_url http://127.0.0.1:4280`."
    )


def show_stages(stages: Sequence[Mapping[str, Any]], of_preset: str) -> None:
    """What each stage found and made, with the counts that its manifests give."""
    description = f"What this run found complete, what it made, and the work that took, {of_preset}"
    create_table_artifact([dict(row) for row in stages], key="stages", description=description)


def show_samples(synthetic: Mapping[Unit, Path], folder: Path) -> None:
    """Pictures of each synthetic set: sources, poses and results; copied beside the report, too."""
    for (fraction, draw), artifact in synthetic.items():
        sheet = artifact / "contact_sheet.png"
        if not sheet.is_file():
            continue
        name = f"samples-{fraction}-{draw}"
        copy = copy_result(sheet, folder, f"{name}.png")
        if sheet.stat().st_size <= LARGEST_PICTURE:
            picture = "data:image/png;base64," + base64.b64encode(sheet.read_bytes()).decode()
            create_image_artifact(picture, key=name, description=f"Synthetic images, {fraction} %, draw {draw}: {copy}")
        else:
            create_markdown_artifact(
                code_span(copy), key=name, description=f"Synthetic images, {fraction} %, draw {draw}"
            )
