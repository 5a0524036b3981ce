"""A study's scores as a page to read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datasets.runtime.errors import printable
from datasets.runtime.reading.names import code_span

FIGURES = {"r2g": "R2G", "g2r": "G2R", "jab": "Jab"}
TASKS = {"real": "real or generated?", "best": "which is best?"}
SOURCES = {
    "Fleiss' kappa": "everybody answered everything; Fleiss 1971",
    "Krippendorff's alpha": "nominal, as answers are missing; Krippendorff 2011",
}


def markdown(scores: Mapping[str, Any]) -> str:
    """The scores as Markdown; names of generators and files stand in it as code."""
    raters = scores["raters"]
    lines = [
        "# User study",
        "",
        f"{_raters(len(raters))}, {scores['complete_raters']} of whom answered all {scores['items']} questions; "
        f"{sum(rater['answers'] for rater in raters):,} answers. Page {scores['pack'][:16]}.",
        "",
        "| generator | " + " | ".join(FIGURES.values()) + " |",
        "|---|" + "---|" * len(FIGURES),
    ]
    for row in scores["generators"]:
        cells = [name_cell(row["generator"]), *(_share(row[figure]) for figure in FIGURES)]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "R2G: real pictures taken for generated, among this generator's. G2R: its pictures taken for real. Jab: votes "
        f"that its picture is the best. In brackets {scores['confidence'] * 100:g} % intervals (Wilson) and answers. "
        "They take every answer as independent, so they are too narrow where few people or few pictures give many "
        "answers.",
        "",
        "## Agreement",
        "",
        *(f"- {TASKS[task]}: {_agreement(found)}" for task, found in scores["agreement"].items()),
        "",
        "## Raters",
        "",
        "| file | answers |",
        "|---|---:|",
        *(f"| {name_cell(rater['file'])} | {rater['answers']} of {scores['items']} |" for rater in raters),
    ]
    return "\n".join(lines) + "\n"


def name_cell(name: str) -> str:
    """A name in a cell of a table: shown as it is, whatever Markdown or HTML is in it."""
    return code_span(printable(name)).replace("|", "\\|")


def _share(figure: Mapping[str, Any]) -> str:
    if not figure["answers"]:
        return "—"
    low, high = figure["interval"]
    return f"{figure['share']:.1%} ({low:.1%} to {high:.1%}; {figure['hits']} of {figure['answers']})"


def _agreement(found: Mapping[str, Any]) -> str:
    if not found["items"]:
        return "not asked"
    if found["raters"] < 2:
        return f"{_raters(found['raters'])}, so nothing to compare"
    if not found["compared"]:
        return f"{_raters(found['raters'])}, no two of whom answered the same question, so nothing to compare"
    value = "not defined, all chose the same" if found["value"] is None else f"{found['value']:.3f}"
    items = f"{found['items']} items"
    if found["compared"] < found["items"]:
        items += f", {found['compared']} of them answered by two or more"
    return f"{found['measure']} {value} ({_raters(found['raters'])}, {items}; {SOURCES[found['measure']]})"


def _raters(count: int) -> str:
    return f"{count} rater" if count == 1 else f"{count} raters"
