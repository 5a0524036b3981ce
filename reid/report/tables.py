"""The report's central figures: charts by fraction, the gains, the table of all arms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from reid.arms import arm_rank
from reid.report.data import Arms, percent, points
from reid.report.figures import Chart, Line, Point, fraction_chart, gain_chart
from reid.report.gains import Comparison, Gain, dots, paired, sign, spoken_interval

WITH_SPREAD, MEANS = ("rank1", "map"), ("rank5", "rank10", "minp")
METRICS = {"rank1": "Rank-1", "map": "mAP"}


def result_charts(statistics: pd.DataFrame, arms: Arms, comparison: Comparison) -> list[Chart]:
    """Rank-1 and mAP by fraction for every arm of the headline's protocol, and the gains over each opponent."""
    chosen = statistics[statistics["protocol"] == comparison.protocol]
    results = comparison.results[comparison.results["protocol"] == comparison.protocol]
    charts = []
    for metric in ("map", "rank1"):
        lines = [
            Line(
                name=name,
                color=arms.color(name),
                points=_points(
                    chosen[(chosen["arm"] == name) & (chosen["metric"] == metric)], results[results["arm"] == name]
                ),
            )
            for name in arms.names
            if (chosen["arm"] == name).any()
        ]
        charts.append(fraction_chart(METRICS[metric], lines, f"by-fraction-{metric}"))
    return charts + gain_charts(comparison)


def gain_charts(comparison: Comparison) -> list[Chart]:
    """The gain in mAP over each opponent, on one scale."""
    found = {}
    for baseline in [comparison.reference, *comparison.controls]:
        if rows := [_gain_point(comparison, gain) for gain in comparison.against(baseline, "map")]:
            found[baseline] = rows
    ends = [v for rows in found.values() for p in rows for v in (p.value, p.low, p.high, *(p.band or ()), *p.dots)]
    ends = [0.0, *(value for value in ends if value is not None)]
    margin = 0.08 * (max(ends) - min(ends)) or 1.0
    span = (min(ends) - margin, max(ends) + margin)
    return [gain_chart(f"Gain over {name}", rows, f"gain-{name}", span) for name, rows in found.items()]


def _gain_point(comparison: Comparison, gain: Gain) -> Point:
    low, high = gain.interval or (None, None)
    single = paired(comparison.results, gain.protocol, gain.fraction, gain.arm, gain.baseline, gain.metric)
    return Point(x=gain.fraction, value=gain.value, low=low, high=high, band=gain.band, dots=dots(single))


def _points(rows: pd.DataFrame, results: pd.DataFrame) -> list[Point]:
    return [
        Point(
            x=float(row["fraction"]),
            value=100 * row["mean"],
            low=_finite(row["low"]),
            high=_finite(row["high"]),
            dots=dots(100 * results[results["fraction"] == row["fraction"]].set_index(["draw", "seed"])[row["metric"]]),
        )
        for row in rows.sort_values("fraction").to_dict("records")
    ]


def _finite(share: float) -> float | None:
    return 100 * float(share) if np.isfinite(share) else None


def arms_table(comparison: Comparison, arms: Arms) -> list[list[dict[str, Any]]]:
    """Rows of the table of all arms, grouped by fraction; the best mAP of each group is marked."""
    by_arm = {
        (gain.protocol, gain.fraction, gain.arm): gain
        for gain in comparison.gains
        if gain.metric == "map" and gain.baseline == comparison.reference
    }
    groups = []
    for fraction, rows in comparison.results.groupby("fraction"):
        means = rows.groupby(["protocol", "arm"])["map"].mean()
        members = sorted(rows.groupby(["protocol", "arm"]), key=lambda item: (item[0][0], arm_rank(item[0][1])))
        groups.append(
            [
                {
                    "fraction": fraction,
                    "arm": arm,
                    "protocol": protocol,
                    "color": arms.color(arm),
                    "best": len(means) > 1 and means[(protocol, arm)] == means.max(),
                    **_figures(cell),
                    **_gain(by_arm.get((protocol, fraction, arm)), arm == comparison.reference),
                }
                for (protocol, arm), cell in members
            ]
        )
    return groups


def _figures(cell: pd.DataFrame) -> dict[str, Any]:
    counts = {"real": "images", "synthetic": "synthetic_images", "steps": "steps"}
    return (
        {"runs": len(cell)}
        | {name: _count(cell, column) for name, column in counts.items()}
        | {name: percent(cell[name]) for name in WITH_SPREAD}
        | {name: percent(cell[name].mean()) if name in cell else "—" for name in MEANS}
    )


def _gain(gain: Gain | None, is_reference: bool) -> dict[str, str]:
    if gain is None:
        return {"gain": "reference" if is_reference else "—", "interval": "", "sign": ""}
    return {"gain": points(gain.value), "interval": spoken_interval(gain.interval), "sign": sign(gain)}


def _count(rows: pd.DataFrame, name: str) -> str:
    if name not in rows or rows[name].isna().all():
        return "—"
    values = rows[name].dropna()
    return f"{values.iloc[0]:,.0f}" if values.nunique() == 1 else f"{values.min():,.0f}–{values.max():,.0f}"
