"""Which gain the report is about: the arm with synthetic images against a fair one, and against each control.

The fair opponent is `real-long`, which takes as many optimisation steps; where it was not run it is the benchmark's
baseline. Figures and intervals are those of the benchmark's ``gains.parquet``; nothing is estimated here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reid.benchmark.benchmark import arm_rank
from reid.benchmark.statistics import units_of
from reid.report.data import points

LONG, PRETRAINED = "real-long", "real-pretrained"

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Gain:
    """What an arm adds to another one at one fraction, in points, with the intervals that the benchmark has."""

    protocol: str
    fraction: int
    arm: str
    baseline: str
    metric: str
    value: float
    before: float = float("nan")
    after: float = float("nan")
    people: Interval | None = None
    """Bootstrap over the test identities."""
    runs: Interval | None = None
    """Student's over draws, or over the seeds of the one draw."""
    unit: str = "none"
    """What `runs` is over: 'draw', 'seed' or 'none'."""
    units: int = 1
    """How many draws or seeds."""
    smallest_visible: float | None = None
    """Half the width of `interval`: a smaller true gain could not have been told from none."""

    @property
    def interval(self) -> Interval | None:
        """The one that decides whether a gain is shown: over draws where there are several, else over people."""
        return self.runs if self.unit == "draw" and self.runs is not None else self.people

    @property
    def over(self) -> str:
        """What `interval` is over."""
        return self.runs_name if self.interval is self.runs and self.runs is not None else "the test identities"

    @property
    def runs_name(self) -> str:
        """``5 draws``."""
        return f"{self.units} {self.unit}{'s' if self.units != 1 else ''}"

    @property
    def certain(self) -> bool:
        """Whether `interval` excludes zero."""
        return excludes_zero(self.interval)


def excludes_zero(interval: Interval | None) -> bool:
    """Whether both ends lie on one side; an unknown interval excludes nothing."""
    return interval is not None and (interval[0] > 0 or interval[1] < 0)


def spoken_interval(interval: Interval | None) -> str:
    """``−1.2 to +13.0``; empty for an unknown one."""
    return f"{points(interval[0])} to {points(interval[1])}" if interval is not None else ""


def main_arm(results: pd.DataFrame, baseline: str) -> str | None:
    """The arm of the headline: real+synthetic, or else the first other one that has synthetic images."""
    names = [name for name in results["arm"].unique() if name != baseline]
    if "real+synthetic" in names:
        return "real+synthetic"
    augmented = results[(results["arm"] != baseline) & (results["synthetic_images"] > 0)]["arm"]
    return min(augmented, key=arm_rank, default=None)


def read_gains(directory: Path, results: pd.DataFrame) -> list[Gain]:
    """Every arm's gain in mAP and Rank-1 over the baseline and over each control, in points."""
    table = pd.read_parquet(Path(directory) / "gains.parquet")
    rows = table[table["metric"].isin(["map", "rank1"])].to_dict("records") if len(table) else []
    gains = []
    for row in rows:
        people, runs = _interval(row["low"], row["high"]), _interval(row["draw_low"], row["draw_high"])
        pairs = paired(results, row["protocol"], int(row["fraction"]), row["arm"], row["baseline"], row["metric"])
        decisive = runs if row["unit"] == "draw" and runs else people
        gains.append(
            Gain(
                protocol=row["protocol"],
                fraction=int(row["fraction"]),
                arm=row["arm"],
                baseline=row["baseline"],
                metric=row["metric"],
                value=100 * row["value"],
                before=row["before"],
                after=row["after"],
                people=people,
                runs=runs,
                unit=row["unit"],
                units=len(units_of(pairs)[1]) if len(pairs) else 1,
                smallest_visible=(decisive[1] - decisive[0]) / 2 if decisive else None,
            )
        )
    return sorted(gains, key=lambda g: (g.protocol, arm_rank(g.baseline), g.fraction, arm_rank(g.arm), g.metric))


def _interval(low: float, high: float) -> Interval | None:
    return (100 * float(low), 100 * float(high)) if np.isfinite(low) and np.isfinite(high) else None


def paired(results: pd.DataFrame, protocol: str, fraction: int, arm: str, baseline: str, metric: str) -> pd.Series:
    """An arm's differences to another one, in points, by the (draw, seed) that both have."""
    cell = results[(results["protocol"] == protocol) & (results["fraction"] == fraction)]
    after, before = (cell[cell["arm"] == name].set_index(["draw", "seed"])[metric] for name in (arm, baseline))
    return (100 * (after - before)).dropna()


def dots(values: pd.Series) -> list[float]:
    """The single draws (seeds averaged), or the seeds of the one draw; none where there is only one."""
    if not len(values):
        return []
    unit, found = units_of(values)
    return [] if unit == "none" else [float(value) for value in found]


@dataclass
class Comparison:
    """The arm that the page is about, and the arms that it is held against."""

    results: pd.DataFrame
    gains: list[Gain]
    protocol: str
    arm: str | None
    baseline: str
    """The benchmark's."""

    @cached_property
    def reference(self) -> str:
        """The arm of the headline's comparison: `real-long` where it was run at every fraction, else the baseline."""
        fractions = {gain.fraction for gain in self.against(self.baseline)}
        long = {gain.fraction for gain in self.against(LONG)}
        return LONG if long and long >= fractions else self.baseline

    @cached_property
    def headline(self) -> list[Gain]:
        """The arm's gains over the reference, mAP and Rank-1."""
        return self.against(self.reference)

    @property
    def controls(self) -> list[str]:
        """Other arms that the gain is known over: the objection of other people's pictures first."""
        found = {gain.baseline for gain in self.gains if gain.arm == self.arm and gain.protocol == self.protocol}
        return sorted(found - {self.reference}, key=lambda name: (name != PRETRAINED, arm_rank(name)))

    def against(self, baseline: str, metric: str | None = None) -> list[Gain]:
        """The arm's gains over another one in the headline's protocol, by fraction."""
        return [
            gain
            for gain in self.gains
            if (gain.arm, gain.protocol, gain.baseline) == (self.arm, self.protocol, baseline)
            and metric in (None, gain.metric)
        ]

    def steps(self, arm: str) -> dict[int, tuple[int, int]]:
        """Fraction -> optimisation steps of an arm's own run, and of the run that it goes on from."""
        rows = self.results[(self.results["arm"] == arm) & (self.results["protocol"] == self.protocol)]
        before = rows["steps_before"] if "steps_before" in rows else pd.Series(0, rows.index)
        told = pd.DataFrame({"all": rows["steps"], "before": before}).groupby(rows["fraction"]).mean().round()
        return {
            int(fraction): (int(row["all"] - row["before"]), int(row["before"])) for fraction, row in told.iterrows()
        }


def gain_cards(comparison: Comparison, confidence: float) -> list[dict[str, Any]]:
    """One card a fraction: the gain in mAP over the reference with its intervals, and both metrics before and after."""
    first = {gain.fraction: gain for gain in comparison.headline if gain.metric == "rank1"}
    pretrained = {gain.fraction: gain for gain in comparison.against(PRETRAINED, "map")}
    cards = []
    for gain in comparison.headline:
        if gain.metric != "map":
            continue
        rank1, other = first.get(gain.fraction), pretrained.get(gain.fraction)
        cards.append(
            {
                "fraction": gain.fraction,
                "reference": gain.baseline,
                "map_gain": points(gain.value),
                "sign": sign(gain),
                "intervals": intervals(gain, confidence),
                "map": f"{share(gain.before)} → {share(gain.after)} %",
                "rank1": f"{share(rank1.before)} → {share(rank1.after)} %" if rank1 else "—",
                "pretrained": points(other.value) if other and comparison.reference != PRETRAINED else "",
                "pretrained_interval": spoken_interval(other.interval) if other else "",
            }
        )
    return cards


def sign(gain: Gain) -> str:
    """Colour of a gain: 'up' or 'down' only where its interval excludes zero."""
    return "" if not gain.certain else "up" if gain.value > 0 else "down"


def intervals(gain: Gain, confidence: float) -> list[dict[str, str]]:
    """Both intervals in words, the decisive one first."""
    told = [(gain.runs_name, gain.runs), ("test people", gain.people)]
    if gain.unit != "draw":
        told.reverse()
    level = f"{100 * confidence:g} % over"
    return [{"name": f"{level} {name}", "value": spoken_interval(found)} for name, found in told if found is not None]


def gain_rows(comparison: Comparison) -> list[list[dict[str, str]]]:
    """The table of the arm's gain over each opponent, grouped by opponent."""
    groups = []
    for baseline in [comparison.reference, *comparison.controls]:
        first = {gain.fraction: gain for gain in comparison.against(baseline, "rank1")}
        group = [
            {
                "fraction": f"{gain.fraction} %",
                "over": baseline,
                "sign": sign(gain),
                "steps": f"{sum(comparison.steps(baseline)[gain.fraction]):,}",
                "before": share(gain.before),
                "after": share(gain.after),
                "gain": points(gain.value),
                "runs": spoken_interval(gain.runs) or "—",
                "people": spoken_interval(gain.people) or "—",
                "rank1": points(first[gain.fraction].value) if gain.fraction in first else "—",
                "rank1_interval": spoken_interval(first[gain.fraction].interval) if gain.fraction in first else "",
                "visible": f"{gain.smallest_visible:.1f}" if gain.smallest_visible is not None else "—",
            }
            for gain in comparison.against(baseline, "map")
        ]
        groups.append(group)
    return [group for group in groups if group]


def runs_heading(gains: Sequence[Gain]) -> str:
    """Heading of the column of intervals over runs."""
    names = list(dict.fromkeys(gain.runs_name for gain in gains if gain.runs is not None))
    return " / ".join(names)


def share(value: float) -> str:
    """0.256 -> 25.6."""
    return f"{100 * value:.1f}" if np.isfinite(value) else "—"
