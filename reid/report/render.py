"""``python -m reid report``: one self-contained HTML report, and its numbers as Markdown, about a whole regeneration.

Reads finished artifacts, needs no torch and no network, and gives the same bytes for the same inputs: no clock, no
random ids. What it was not handed is said in the report at the place where it would stand.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from datasets.runtime.manifests import manifest_of
from datasets.runtime.reading.names import code_block
from datasets.sources.index import read_index
from reid.config import ReportConfig
from reid.report import text as report_text
from reid.report.at_test_time import test_time_section
from reid.report.cards import read_card
from reid.report.data import costs, points, read_statistics
from reid.report.gains import gain_cards, gain_rows, runs_heading, shown_gains
from reid.report.headline import headline
from reid.report.material import Material
from reid.report.people import people_section
from reid.report.pictures.generated import pictures_section
from reid.report.pictures.retrieval import retrieval_section
from reid.report.plan import plan_section
from reid.report.protocol import protocol
from reid.report.sections import ranking_section, training_section
from reid.report.since import since_before
from reid.report.tables import arms_table, result_charts

logger = logging.getLogger(__name__)

MOST_BYTES = 5_000_000
"""A report that is larger is said to be; it is still written."""

TEST_TIME = "test-time"
"""The section that stands only where something was tried at test time, which is nobody's default."""
SECTIONS = (
    ("result", "Result"),
    (TEST_TIME, "At test time"),
    ("ranking", "Who profits"),
    ("pictures", "Pictures"),
    ("retrieval", "Retrieval"),
    ("training", "Training"),
    ("cost", "Cost"),
    ("protocol", "Protocol"),
    ("again", "Make it again"),
)


def make_report(config: ReportConfig, directory: Path) -> dict[str, Any]:
    """Write ``report.html``, ``report.md`` and ``results.csv``.

    Returns:
        headline sentence, size of the report in bytes, what was missing.

    Raises:
        ArtifactError: an artifact is of another stage, or the benchmark has no rows.
    """
    material = Material(config)
    report = report_context(material)
    html = templates(escape=True).get_template("report.html.j2").render(report)
    (directory / "report.html").write_text(html, encoding="utf-8")
    markdown = templates(escape=False).get_template("report.md.j2").render(report)
    (directory / "report.md").write_text(markdown, encoding="utf-8")
    material.results.to_csv(directory / "results.csv", index=False, lineterminator="\n")
    size = len(html.encode())
    if size > MOST_BYTES:
        logger.warning("report.html has %.1f MB; hand in fewer sets or runs for a smaller one", size / 1e6)
    sentence = report["headline"]["sentence"].replace("\N{NO-BREAK SPACE}", " ")
    return {"headline": sentence, "html_bytes": size, "missing": report["absent"]}


def report_context(material: Material) -> dict[str, Any]:
    """All that the templates show."""
    config, results, confidence = material.config, material.results, material.confidence
    statistics, comparison = read_statistics(config.benchmark), material.comparison
    context: dict[str, Any] = {}
    for part in PARTS:
        context |= part(material)
    return context | {
        "title": config.title,
        "preset": config.preset,
        "sections": [section for section in SECTIONS if section[0] != TEST_TIME or context["treated"]],
        "headline": headline(comparison, confidence, rendered=material.rendered),
        "cards": gain_cards(comparison, confidence),
        "words": report_text.WORDS,
        "facts": facts(material),
        "arms": material.arms.legend(),
        "arm_list": report_text.arm_list(material.arms, comparison),
        "main_arm": material.arm or "",
        "reference": comparison.reference,
        "result_lead": report_text.result_lead(results),
        "result_charts": result_charts(statistics, material.arms, comparison),
        "result_caption": report_text.result_caption(statistics, confidence),
        "set_up": report_text.set_up(results),
        "gain_rows": gain_rows(comparison),
        "gain_runs": runs_heading(shown_gains(comparison)),
        "gain_caption": report_text.gain_caption(confidence, shown_gains(comparison)),
        "table": arms_table(comparison, material.arms),
        "several_protocols": results["protocol"].nunique() > 1,
        "table_caption": report_text.table_caption(results, comparison, confidence),
        "papers": report_text.papers(results),
        "costs": costs(material.manifests),
        "protocol": protocol(
            comparison, material.benchmark_config, [item.manifest["config"] for item in material.sets]
        ),
        "model_cards": [read_card(path) for path in config.model_cards],
        "commands": config.commands,
        "resolved": json.dumps(config.resolved, indent=2, ensure_ascii=False) if config.resolved else "",
        "versions": sorted(manifest_of(config.benchmark).get("versions", {}).items()),
        "provenance": [
            {"stage": m["stage"], "key": m["key"], "content": m["content_sha256"][:16]} for m in material.manifests
        ],
        "absent": [name for name in OPTIONAL if not getattr(config, name)],
    }


PARTS: tuple[Callable[[Material], dict[str, Any]], ...] = (
    plan_section,
    test_time_section,
    ranking_section,
    people_section,
    pictures_section,
    retrieval_section,
    training_section,
    since_before,
)
"""What makes the sections' material."""
OPTIONAL = ("runs", "generators", "synthetic", "images", "poses", "model_cards", "resolved", "commands")
"""Fields without which something is missing from the report."""


def facts(material: Material) -> list[dict[str, str]]:
    """A few figures about data and runs, for the head of the report."""
    entries = []
    if material.config.images is not None:
        entries.append(("Data", data_set(material)))
        images = read_index(material.config.images)
        train = images[(images["split"] == "train") & (images["pid"] > 0)]
        entries.append(("Training split", f"{len(train):,} images, {train['pid'].nunique():,} people"))
        query, gallery = (
            int((images["split"].eq(split) & images["pid"].ge(0)).sum()) for split in ("query", "gallery")
        )
        entries.append(("Test", f"{query:,} queries, {gallery:,} gallery images"))
        entries.append(("Cameras", str(images.loc[images["camid"] > 0, "camid"].nunique())))
    results = material.results
    entries.append(("Protocol", ", ".join(sorted(results["protocol"].unique()))))
    entries.append(("Draws × seeds", f"{results['draw'].nunique()} × {results['seed'].nunique()}"))
    entries.append(("Runs", str(len(results))))
    return [{"name": name, "value": value} for name, value in entries]


def data_set(material: Material) -> str:
    """Rendered people, or the name of the folder or archive."""
    if material.rendered:
        return "rendered people (python -m datasets miniature)"
    config = (material.images_manifest or {}).get("config", {})
    return Path(str(config.get("root", ""))).name or "unnamed"


def templates(*packages: str, escape: bool) -> jinja2.Environment:
    """The report's templates, found wherever it is installed; an undefined name is an error, not a blank.

    Args:
        packages: further packages whose ``templates`` are looked through first.
        escape: whether what is filled in is escaped for HTML.
    """
    folders = [resources.files(package) / "templates" for package in (*packages, "reid.report")]

    def load(name: str) -> str | None:
        files = (folder / name for folder in folders)
        return next((file.read_text(encoding="utf-8") for file in files if file.is_file()), None)

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(load),
        autoescape=escape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = markdown_cell
    environment.filters["code_block"] = code_block
    environment.globals["points"] = points  # pyrefly: ignore[unsupported-operation]  # any value may be a global
    return environment


def markdown_cell(value: object) -> str:
    """A text that cannot break out of a Markdown table, start HTML or make a link."""
    text = " ".join(str(value).split())
    for char in "\\`*_[]<>|":
        text = text.replace(char, f"\\{char}" if char not in "<>" else {"<": "&lt;", ">": "&gt;"}[char])
    return text
