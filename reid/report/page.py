"""``python -m reid report``: one self-contained HTML page, and its numbers as Markdown, about a whole regeneration.

Reads finished artifacts, needs no torch and no network, and gives the same bytes for the same inputs: no clock, no
random ids. What it was not handed is said in the page at the place where it would stand.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from datasets.runtime.manifests import is_complete, manifest_of
from reid.config import ReportConfig
from reid.report import text as report_text
from reid.report.cards import read_card
from reid.report.data import Arms, Run, costs, points, read_results, read_runs, read_statistics, with_ancestors
from reid.report.gains import Comparison, Gain, gain_cards, gain_rows, main_arm, read_gains, runs_heading
from reid.report.generated import GeneratedSet, pictures_section
from reid.report.headline import headline
from reid.report.sections import ranking_section, training_section
from reid.report.tables import arms_table, result_charts

logger = logging.getLogger(__name__)

MOST_BYTES = 5_000_000
"""A page that is larger is said to be; it is still written."""

SECTIONS = (
    ("result", "Result"),
    ("ranking", "Who profits"),
    ("pictures", "Pictures"),
    ("retrieval", "Retrieval"),
    ("training", "Training"),
    ("cost", "Cost"),
    ("protocol", "Protocol"),
    ("again", "Make it again"),
)


@dataclass
class Material:
    """Everything the page is made from, read once."""

    config: ReportConfig

    @cached_property
    def results(self) -> pd.DataFrame:
        """One row a run."""
        return read_results(self.config.benchmark)

    @cached_property
    def runs(self) -> list[Run]:
        """The re-ID runs."""
        return read_runs(self.config.runs)

    @cached_property
    def runs_by_fraction(self) -> dict[int, list[Run]]:
        """The runs of the headline's protocol."""
        groups: dict[int, list[Run]] = {}
        for run in self.runs:
            if run.protocol == self.protocol:
                groups.setdefault(run.fraction, []).append(run)
        return dict(sorted(groups.items()))

    @cached_property
    def benchmark_config(self) -> dict[str, Any]:
        """Baseline, confidence, resamples."""
        return manifest_of(self.config.benchmark, "benchmark")["config"]

    @cached_property
    def baseline(self) -> str:
        """The arm that the benchmark counts gains from."""
        return self.benchmark_config.get("baseline", "real")

    @cached_property
    def protocol(self) -> str:
        """The protocol of the headline: leak-free where there is one."""
        return "leak-free" if "leak-free" in set(self.results["protocol"]) else str(self.results["protocol"].iloc[0])

    @cached_property
    def arm(self) -> str | None:
        """The arm of the headline."""
        return main_arm(self.results, self.baseline)

    @cached_property
    def arms(self) -> Arms:
        """Names and colours."""
        return Arms(list(self.results["arm"].unique()))

    @cached_property
    def comparison(self) -> Comparison:
        """The headline's arm and whom it is held against."""
        gains: list[Gain] = read_gains(self.config.benchmark, self.results)
        return Comparison(
            results=self.results, gains=gains, protocol=self.protocol, arm=self.arm, baseline=self.baseline
        )

    @cached_property
    def images_manifest(self) -> dict[str, Any] | None:
        """Manifest of the image index."""
        return manifest_of(self.config.images) if self.config.images is not None else None

    @property
    def rendered(self) -> bool:
        """Whether the data set was rendered by this project and not photographed."""
        root = (self.images_manifest or {}).get("config", {}).get("root")
        return bool(root) and is_complete(Path(root)) and manifest_of(Path(root))["stage"] == "miniature"

    @staticmethod
    @cache
    def manifest(folder: Path) -> dict[str, Any]:
        """Manifest of an artifact."""
        return manifest_of(folder)

    @cached_property
    def manifests(self) -> list[dict[str, Any]]:
        """Manifests of every artifact handed in and of what they were made from, by the time they were begun."""
        config = self.config
        single = [path for path in (config.images, config.poses) if path is not None]
        folders = [*config.stages, *single, *config.generators, *config.synthetic, *config.runs, config.benchmark]
        return with_ancestors(folders, Path(config.benchmark).resolve().parent.parent)

    @cached_property
    def sets(self) -> list[GeneratedSet]:
        """The generated sets, by fraction."""
        sets = [GeneratedSet(directory=Path(d), manifest=manifest_of(d, "synthesize")) for d in self.config.synthetic]
        return sorted(sets, key=lambda item: (item.fraction, item.draw, item.manifest["key"]))


def make_report(config: ReportConfig, directory: Path) -> dict[str, Any]:
    """Write ``report.html``, ``report.md`` and ``results.csv``.

    Returns: headline sentence, size of the page in bytes, what was missing.
    Raises: ArtifactError: an artifact is of another stage, or the benchmark has no rows.
    """
    material = Material(config)
    page = page_context(material)
    html = _templates(escape=True).get_template("report.html.j2").render(page)
    (directory / "report.html").write_text(html, encoding="utf-8")
    markdown = _templates(escape=False).get_template("report.md.j2").render(page)
    (directory / "report.md").write_text(markdown, encoding="utf-8")
    material.results.to_csv(directory / "results.csv", index=False, lineterminator="\n")
    size = len(html.encode())
    if size > MOST_BYTES:
        logger.warning("report.html has %.1f MB; hand in fewer sets or runs for a smaller one", size / 1e6)
    sentence = page["headline"]["sentence"].replace("\N{NO-BREAK SPACE}", " ")
    return {"headline": sentence, "html_bytes": size, "missing": page["absent"]}


def page_context(material: Material) -> dict[str, Any]:
    """All that the templates show."""
    config, results = material.config, material.results
    confidence = float(material.benchmark_config.get("confidence", 0.95))
    statistics, comparison = read_statistics(config.benchmark), material.comparison
    parts: list[Callable[[Material], dict[str, Any]]] = [ranking_section, pictures_section, training_section]
    context: dict[str, Any] = {}
    for part in parts:
        context |= part(material)
    return context | {
        "title": config.title,
        "preset": config.preset,
        "sections": SECTIONS,
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
        "gain_runs": runs_heading(comparison.gains),
        "gain_caption": report_text.gain_caption(confidence),
        "table": arms_table(comparison, material.arms),
        "several_protocols": results["protocol"].nunique() > 1,
        "table_caption": report_text.table_caption(results, comparison, confidence),
        "papers": report_text.papers(results),
        "costs": costs(material.manifests),
        "protocol": report_text.protocol(
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


OPTIONAL = ("runs", "generators", "synthetic", "images", "poses", "model_cards", "resolved", "commands")
"""Fields without which something is missing from the page."""


def facts(material: Material) -> list[dict[str, str]]:
    """A few figures about data and runs, for the head of the page."""
    told = []
    if material.config.images is not None:
        told.append(("Data", data_set(material)))
        images = pd.read_parquet(
            Path(material.config.images) / "images.parquet", columns=["split", "pid", "camid", "status"]
        )
        images = images[images["status"] == "ok"]
        train = images[(images["split"] == "train") & (images["pid"] > 0)]
        told.append(("Training split", f"{len(train):,} images, {train['pid'].nunique():,} people"))
        query, gallery = (
            int((images["split"].eq(split) & images["pid"].ge(0)).sum()) for split in ("query", "gallery")
        )
        told.append(("Test", f"{query:,} queries, {gallery:,} gallery images"))
        told.append(("Cameras", str(images.loc[images["camid"] > 0, "camid"].nunique())))
    results = material.results
    told.append(("Protocol", ", ".join(sorted(results["protocol"].unique()))))
    told.append(("Draws × seeds", f"{results['draw'].nunique()} × {results['seed'].nunique()}"))
    told.append(("Runs", str(len(results))))
    return [{"name": name, "value": value} for name, value in told]


def data_set(material: Material) -> str:
    """Rendered people, or the name of the folder or archive."""
    if material.rendered:
        return "rendered people (python -m datasets miniature)"
    return Path(str(material.images_manifest["config"].get("root", ""))).name or "unnamed"


def _templates(*, escape: bool) -> jinja2.Environment:
    """The package's templates, found wherever it is installed; an undefined name is an error, not a blank."""
    folder = resources.files("reid.report") / "templates"

    def load(name: str) -> str | None:
        file = folder / name
        return file.read_text(encoding="utf-8") if file.is_file() else None

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(load),
        autoescape=escape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = markdown_cell
    environment.globals["points"] = points
    return environment


def markdown_cell(value: object) -> str:
    """A text that cannot break out of a Markdown table, start HTML or make a link."""
    text = " ".join(str(value).split())
    for char in "\\`*_[]<>|":
        text = text.replace(char, f"\\{char}" if char not in "<>" else {"<": "&lt;", ">": "&gt;"}[char])
    return text
