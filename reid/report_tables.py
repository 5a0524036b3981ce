"""The report's central figures: gain cards, charts by fraction, the table of all arms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from reid.benchmark import arm_rank
from reid.report_data import Arms, Gain, percent, points
from reid.report_figures import Chart, Line, Point, fraction_chart, gain_chart

COLUMNS = ("rank1", "rank5", "rank10", "map", "minp")
METRICS = {"rank1": "Rank-1", "map": "mAP"}


def interval(gain: Gain) -> str:
    """``−1.2 to +13.0``; empty without an interval."""
    if gain.low is None or gain.high is None:
        return ""
    return f"{points(gain.low)} to {points(gain.high)}"


def gain_cards(gains: Sequence[Gain], confidence: float) -> list[dict[str, Any]]:
    """One card a fraction: the gain in mAP, its interval, and both metrics before and after."""
    found = {(gain.fraction, gain.metric): gain for gain in gains}
    cards = []
    for fraction in sorted({gain.fraction for gain in gains}):
        gain, first = found.get((fraction, "map")), found.get((fraction, "rank1"))
        if gain is None:
            continue
        cards.append(
            {
                "fraction": fraction,
                "map_gain": points(gain.value),
                "sign": "" if not gain.certain else "up" if gain.value > 0 else "down",
                "map_interval": f"{100 * confidence:g} %: {interval(gain)}"
                if interval(gain)
                else "one run each: no interval",
                "map_before": _share(gain.before),
                "map_after": _share(gain.after),
                "rank1_before": _share(first.before) if first else "—",
                "rank1_after": _share(first.after) if first else "—",
            }
        )
    return cards


def _share(value: float) -> str:
    return f"{100 * value:.1f}" if np.isfinite(value) else "—"


def result_charts(statistics: pd.DataFrame, arms: Arms, gains: Sequence[Gain], protocol: str) -> list[Chart]:
    """mAP and Rank-1 by fraction for every arm of the headline's protocol, and the gains with their intervals."""
    chosen = statistics[statistics["protocol"] == protocol]
    charts = []
    for metric in ("map", "rank1"):
        lines = [
            Line(
                name=name,
                color=arms.color(name),
                points=_points(chosen[(chosen["arm"] == name) & (chosen["metric"] == metric)]),
            )
            for name in arms.names
            if (chosen["arm"] == name).any()
        ]
        charts.append(fraction_chart(METRICS[metric], lines, f"by-fraction-{metric}"))
    maps = [gain for gain in gains if gain.metric == "map"]
    if maps:
        dots = [Point(x=gain.fraction, value=gain.value, low=gain.low, high=gain.high) for gain in maps]
        charts.append(gain_chart("Gain in mAP", dots, "gain-map"))
    return charts


def _points(rows: pd.DataFrame) -> list[Point]:
    return [
        Point(x=float(row["fraction"]), value=100 * row["mean"], low=_finite(row["low"]), high=_finite(row["high"]))
        for row in rows.sort_values("fraction").to_dict("records")
    ]


def _finite(share: float) -> float | None:
    return 100 * float(share) if np.isfinite(share) else None


def arms_table(results: pd.DataFrame, gains: Sequence[Gain], arms: Arms) -> list[list[dict[str, Any]]]:
    """Rows of the table of all arms, grouped by fraction; the best mAP of each group is marked."""
    by_arm = {(gain.protocol, gain.fraction, gain.arm): gain for gain in gains if gain.metric == "map"}
    groups = []
    for fraction, rows in results.groupby("fraction"):
        means = rows.groupby(["protocol", "arm"])["map"].mean()
        group = []
        for (protocol, arm), members in sorted(
            rows.groupby(["protocol", "arm"]), key=lambda item: (item[0][0], arm_rank(item[0][1]))
        ):
            gain = by_arm.get((protocol, fraction, arm))
            group.append(
                {
                    "fraction": fraction, "arm": arm, "protocol": protocol, "color": arms.color(arm),
                    "runs": len(members),
                    "synthetic": _count(members, "synthetic_images"), "steps": _count(members, "steps"),
                    **{name: percent(members[name]) if name in members else "—" for name in COLUMNS},
                    "gain": points(gain.value) if gain else "", "interval": interval(gain) if gain else "",
                    "best": len(means) > 1 and means[(protocol, arm)] == means.max(),
                }
            )  # fmt: skip
        groups.append(group)
    return groups


def _count(rows: pd.DataFrame, name: str) -> str:
    if name not in rows or rows[name].isna().all():
        return "—"
    values = rows[name].dropna()
    return f"{values.iloc[0]:,.0f}" if values.nunique() == 1 else f"{values.min():,.0f}–{values.max():,.0f}"
