"""The report's ranked lists: the same queries before and after synthetic images, chosen by rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from datasets.runtime.reading.tables import read_table
from reid.report.data import ReidRun, per_query, points
from reid.report.material import Material
from reid.report.pictures.embed import SourceImages, ranked_pictures


def retrieval_section(material: Material) -> dict[str, Any]:
    """The same queries ranked by the baseline and by the network that also saw synthetic images."""
    images = material.images
    nothing = {"retrievals": [], "retrieval_lead": ""}
    if images is None:
        return nothing | {"retrieval_missing": "Ranked lists need the image index (field ‘images’)."}
    for fraction, runs in material.runs_by_fraction.items():
        pair = _run_pair(runs, material.comparison.reference, material.arm)
        if pair is not None:
            lead = (
                f"Queries ranked by two networks trained on {fraction} % of the real images: arm “{pair[0].arm}” and "
                f"arm “{pair[1].arm}” (draw {pair[0].draw}, seed {pair[0].seed}). Chosen by rule, not by eye: the "
                "query that gains most average precision (AP), the next of another person, the one in the middle, and "
                "the one that loses most. Single queries illustrate; the charts above count all of them."
            )
            found = retrievals(pair[0], pair[1], images, material)
            return {
                "retrievals": found,
                "retrieval_lead": lead,
                "retrieval_missing": "No query has a match in both runs.",
            }
    return nothing | {
        "retrieval_missing": "Ranked lists need a run of both arms at the same fraction, draw and seed (field ‘runs’)."
    }


def _run_pair(runs: Sequence[ReidRun], baseline: str, arm: str | None) -> tuple[ReidRun, ReidRun] | None:
    """The first draw and seed for which both arms have ranked lists."""
    if arm is None:
        return None
    found = {(r.arm, r.draw, r.seed): r for r in runs if (r.directory / "ranked.parquet").is_file()}
    for run in runs:
        before, after = found.get((baseline, run.draw, run.seed)), found.get((arm, run.draw, run.seed))
        if before and after:
            return before, after
    return None


def retrievals(before: ReidRun, after: ReidRun, images: SourceImages, material: Material) -> list[dict[str, Any]]:
    """A few queries with both ranked lists: from the top, the middle and the bottom of the changes."""
    tables = [per_query(run).set_index("query") for run in (before, after)]
    ranked = [
        read_table(run.directory, "ranked.parquet").to_pandas().sort_values(["query", "rank"])
        for run in (before, after)
    ]
    change = (tables[1]["ap"] - tables[0]["ap"]).dropna().rename("change").reset_index()
    change["pid"] = change["query"].map(tables[0]["pid"])
    change = change.sort_values(["change", "query"], ascending=[False, True], ignore_index=True)
    shown = []
    for why, query in chosen_queries(change):
        lines = [
            _ranked_line(run, table, answers, query, images, material)
            for run, table, answers in zip((before, after), tables, ranked, strict=True)
        ]
        shown.append({"title": why, "query": images.picture(query), "lines": lines})
    return shown


def chosen_queries(change: pd.DataFrame) -> list[tuple[str, str]]:
    """Which queries to show, from ``query, pid, change`` sorted by descending change.

    The one that gains most, the next best of another person, the one in the middle, the one that loses most.
    """
    if change.empty:
        return []
    last, others = len(change) - 1, change.index[change["pid"] != change["pid"].iloc[0]]
    names = {last // 2: "In the middle", last: "At the bottom", 0: "At the top"}
    if len(others):
        names.setdefault(int(others[0]), "Next of another person")
    if change["change"].iloc[-1] < 0:
        names[last] = "Loses most"
    if change["change"].iloc[0] > 0:
        names[0] = "Gains most"
    return [
        (f"{names[place]}: AP {points(100 * change['change'].iloc[place])} points", str(change["query"].iloc[place]))
        for place in sorted(names)
    ]


def _ranked_line(
    run: ReidRun, table: pd.DataFrame, ranked: pd.DataFrame, query: str, images: SourceImages, material: Material
) -> dict[str, Any]:
    rows = ranked[ranked["query"] == query].head(10)
    return {
        "arm": run.arm,
        "color": material.arms.color(run.arm),
        "note": f"AP {100 * table.at[query, 'ap']:.0f} %, first right answer at rank {table.at[query, 'first_rank']}"
        f", {table.at[query, 'matches']} right in the gallery",
        "pictures": ranked_pictures(images, rows["gallery"], rows["right"]),
    }
