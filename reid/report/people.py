"""The gain person by person: who wins, who loses, how many of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from reid.report.data import ReidRun, per_query, points
from reid.report.figures import Chart, identity_chart
from reid.report.material import Material
from reid.report.pictures.embed import SourceImages
from reid.report.text import identity_caption

SHOWN = 5
"""Winners, and losers, whose pictures are shown at each fraction."""


def people_section(material: Material) -> dict[str, Any]:
    """A chart a fraction, and the people who win and lose most."""
    gains: dict[int, pd.Series] = {}
    shown = []
    for fraction, runs in material.runs_by_fraction.items():
        before, after = (
            [run for run in runs if run.arm == name] for name in (material.comparison.reference, material.arm)
        )
        if len(changed := identity_gains(before, after)):
            gains[fraction] = changed
            if material.images is not None:
                shown.append({"fraction": fraction} | winners_and_losers(changed, after[0], material.images))
    return {
        "identity_charts": _identity_charts(gains),
        "identity_caption": identity_caption(material.comparison),
        "identity_people": shown,
    }


def identity_gains(before: Sequence[ReidRun], after: Sequence[ReidRun]) -> pd.Series:
    """Change of each test identity's mean AP, in points, over the draws and seeds that two arms share."""
    common = {(run.draw, run.seed) for run in before} & {(run.draw, run.seed) for run in after}
    tables = [[per_query(run) for run in runs if (run.draw, run.seed) in common] for runs in (before, after)]
    means = [
        pd.concat(found).groupby("pid")["ap"].mean() if any(map(len, found)) else pd.Series(dtype=float)
        for found in tables
    ]
    return (100 * (means[1] - means[0])).dropna()


def winners_and_losers(gains: pd.Series, run: ReidRun, images: SourceImages, most: int = SHOWN) -> dict[str, Any]:
    """Pictures and gains of those whom synthesis helps most, and of those whom it harms most.

    Args:
        gains: points by pid.
        run: any run of the test set, for the people's queries.
        images: the data set.
        most: of each.
    """
    queries = per_query(run).sort_values("query").groupby("pid")["query"].first()
    ordered = gains.rename_axis("pid").reset_index(name="gain").sort_values(["gain", "pid"], ascending=[False, True])
    up, down = ordered[ordered["gain"] > 0].head(most), ordered[ordered["gain"] < 0].tail(most)[::-1]
    return {
        name: [
            {"picture": images.picture(queries[row.pid]), "note": f"{points(row.gain)}"} for row in rows.itertuples()
        ]
        for name, rows in (("winners", up), ("losers", down))
    }


def _identity_charts(gains: Mapping[int, pd.Series]) -> list[Chart]:
    """One a fraction, all on one scale."""
    ends = [float(value) for found in gains.values() for value in (found.min(), found.max())]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    span = (low - 0.05 * (high - low) - 1, high + 0.05 * (high - low) + 1)
    return [
        identity_chart(
            f"{fraction} % of the real images", found.to_list(), f"identities-{fraction}", _identity_words(found), span
        )
        for fraction, found in gains.items()
    ]


def _identity_words(gains: pd.Series) -> str:
    shown = gains.round(1)
    up, down = int((shown > 0).sum()), int((shown < 0).sum())
    same = len(shown) - up - down
    return f"{up} of {len(gains)} win, {down} lose, {same} stay; the median is {points(float(gains.median()))} points."
