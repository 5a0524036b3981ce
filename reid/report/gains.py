"""Which gain the report is about: the arm with synthetic images against a fair one, and against each control.

The fair opponent is `real-long`, which takes as many optimization steps; where it was not run it is the benchmark's
baseline. Figures and intervals are those of the benchmark's ``gains.parquet``; nothing is estimated here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from datasets.runtime.errors import ArtifactError
from datasets.runtime.reading.tables import read_table
from reid.arms import REAL_LONG, REAL_PRETRAINED, REAL_SYNTHETIC, arm_rank
from reid.benchmark.statistics import units_of
from reid.benchmark.tables import shares_of_variance
from reid.report.data import points

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
    interval: Interval | None = None
    """Over new draws and new test identities together; of these images only where there is one draw."""
    band: Interval | None = None
    """The same at the level at which the intervals of all declared comparisons hold together."""
    people: Interval | None = None
    """Over test identities alone: for these trained networks."""
    runs: Interval | None = None
    """Over draws alone, or over the seeds of the one draw: for these test identities."""
    unit: str = "none"
    """What runs are counted by: 'draw', 'seed' (of the one draw) or 'none' (one run)."""
    units: int = 1
    """How many draws or seeds."""
    test_people: int = 0
    declared: bool = True
    family: int = 1
    """How many comparisons were declared."""
    freedom: float = float("nan")
    """Degrees of freedom of `interval`."""
    origins: Mapping[str, float] = field(default_factory=dict)
    """Shares of the variance, in [0, 1]: draws, seeds, people, interplay."""

    @property
    def scope(self) -> str:
        """What `interval` is over."""
        return SCOPES[self.unit]

    @property
    def runs_name(self) -> str:
        """``5 draws``."""
        return f"{self.units} {self.unit}{'s' if self.units != 1 else ''}"

    @property
    def certain(self) -> bool:
        """Whether `interval` excludes zero."""
        return excludes_zero(self.interval)

    @property
    def stands(self) -> str:
        """Where the gain (or loss) excludes zero: 'both' alone and in the band, 'alone', or 'no'."""
        if not self.certain:
            return "no"
        return "both" if excludes_zero(self.band) else "alone"


SCOPES = {
    "draw": "new draws and new test identities",
    "seed": "new trainings and new test identities, for these images",
    "none": "new test identities, for these images and trained networks",
}


def excludes_zero(interval: Interval | None) -> bool:
    """Whether both ends lie on one side; an unknown interval excludes nothing."""
    return interval is not None and (interval[0] > 0 or interval[1] < 0)


def spoken_interval(interval: Interval | None) -> str:
    """``−1.2 to +13.0``; empty for an unknown one."""
    return f"{points(interval[0])} to {points(interval[1])}" if interval is not None else ""


def main_arm(results: pd.DataFrame, baseline: str) -> str | None:
    """The arm of the headline: real+synthetic, or else the first other one that has synthetic images."""
    names = [name for name in results["arm"].unique() if name != baseline]
    if REAL_SYNTHETIC.name in names:
        return REAL_SYNTHETIC.name
    augmented = results[(results["arm"] != baseline) & (results["synthetic_images"] > 0)]["arm"]
    return min(augmented, key=arm_rank, default=None)


def read_gains(directory: Path) -> list[Gain]:
    """Every arm's gain in mAP and Rank-1 over the baseline and over each control, in points.

    Raises:
        ArtifactError: the table is of an earlier version.
    """
    table = read_table(directory, "gains.parquet").to_pandas()
    if len(table) and "band_low" not in table:
        raise ArtifactError(f"{directory} has no 'band_low': it is of an earlier version; run 'reid benchmark' again")
    rows = table[table["metric"].isin(["map", "rank1"])].itertuples() if len(table) else []
    found = [_gain(row) for row in rows]
    return sorted(found, key=lambda g: (g.protocol, arm_rank(g.baseline), g.fraction, arm_rank(g.arm), g.metric))


def _gain(row: Any) -> Gain:
    return Gain(
        protocol=row.protocol,
        fraction=int(row.fraction),
        arm=row.arm,
        baseline=row.baseline,
        metric=row.metric,
        value=100 * row.value,
        before=row.before,
        after=row.after,
        interval=_interval(row.low, row.high),
        band=_interval(row.band_low, row.band_high),
        people=_interval(row.people_low, row.people_high),
        runs=_interval(row.runs_low, row.runs_high),
        unit=row.unit,
        units=int(row.units),
        test_people=int(row.people),
        declared=bool(row.declared),
        family=int(row.family),
        freedom=float(row.freedom),
        origins=shares_of_variance(row),
    )


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
    """The arm that the report is about, and the arms that it is held against."""

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
        long = {gain.fraction for gain in self.against(REAL_LONG.name)}
        return REAL_LONG.name if long and long >= fractions else self.baseline

    @cached_property
    def headline(self) -> list[Gain]:
        """The arm's gains over the reference, mAP and Rank-1."""
        return self.against(self.reference)

    @property
    def controls(self) -> list[str]:
        """Other arms that the gain is known over: the objection of other people's pictures first."""
        found = {gain.baseline for gain in self.gains if gain.arm == self.arm and gain.protocol == self.protocol}
        return sorted(found - {self.reference}, key=lambda name: (name != REAL_PRETRAINED.name, arm_rank(name)))

    def against(self, baseline: str, metric: str | None = None) -> list[Gain]:
        """The arm's gains over another one in the headline's protocol, by fraction."""
        return [
            gain
            for gain in self.gains
            if (gain.arm, gain.protocol, gain.baseline) == (self.arm, self.protocol, baseline)
            and metric in (None, gain.metric)
        ]

    def steps(self, arm: str) -> dict[int, tuple[int, int]]:
        """Fraction -> optimization steps of an arm's own run, and of the run that it is initialized from."""
        rows = self.results[(self.results["arm"] == arm) & (self.results["protocol"] == self.protocol)]
        before = rows["steps_before"] if "steps_before" in rows else pd.Series(0, rows.index)
        entries = pd.DataFrame({"all": rows["steps"], "before": before}).groupby(rows["fraction"]).mean().round()
        return {
            int(fraction): (int(row["all"] - row["before"]), int(row["before"])) for fraction, row in entries.iterrows()
        }


def gain_cards(comparison: Comparison, confidence: float) -> list[dict[str, Any]]:
    """One card a fraction: the gain in mAP over the reference with its intervals, and both metrics before and after."""
    first = {gain.fraction: gain for gain in comparison.headline if gain.metric == "rank1"}
    pretrained = {gain.fraction: gain for gain in comparison.against(REAL_PRETRAINED.name, "map")}
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
                "pretrained": points(other.value) if other and comparison.reference != REAL_PRETRAINED.name else "",
                "pretrained_interval": spoken_interval(other.interval) if other else "",
            }
        )
    return cards


def sign(gain: Gain) -> str:
    """Color of a gain: 'up' or 'down' only where its interval excludes zero."""
    return "" if not gain.certain else "up" if gain.value > 0 else "down"


def intervals(gain: Gain, confidence: float) -> list[dict[str, str]]:
    """All intervals in words, the one that decides first."""
    level = f"{100 * confidence:g} % over"
    entries = [(f"{level} {gain.scope}", gain.interval)]
    if gain.declared and gain.family > 1:
        entries.append((f"all {gain.family} comparisons together", gain.band))
    if gain.unit != "none":
        entries += [(f"{level} the {gain.runs_name} alone", gain.runs), (f"{level} test identities alone", gain.people)]
    return [{"name": name, "value": spoken_interval(found)} for name, found in entries if found is not None]


def shown_gains(comparison: Comparison) -> list[Gain]:
    """The gains of the table below: the arm's over the reference and each control."""
    return [gain for name in (comparison.reference, *comparison.controls) for gain in comparison.against(name)]


def gain_rows(comparison: Comparison) -> list[list[dict[str, str]]]:
    """The table of the arm's gain over each opponent, grouped by opponent."""
    groups = []
    for baseline in [comparison.reference, *comparison.controls]:
        first = {gain.fraction: gain for gain in comparison.against(baseline, "rank1")}
        steps = comparison.steps(baseline)
        group = [
            _gain_row(gain, first.get(gain.fraction), sum(steps[gain.fraction]))
            for gain in comparison.against(baseline, "map")
        ]
        groups.append(group)
    return [group for group in groups if group]


def _gain_row(gain: Gain, rank1: Gain | None, steps: int) -> dict[str, str]:
    return {
        "fraction": f"{gain.fraction} %",
        "over": gain.baseline,
        "sign": sign(gain),
        "steps": f"{steps:,}",
        "before": share(gain.before),
        "after": share(gain.after),
        "gain": points(gain.value),
        "interval": spoken_interval(gain.interval) or "—",
        "band": spoken_interval(gain.band) or "—",
        "stands": gain.stands,
        "runs": spoken_interval(gain.runs) or "—",
        "people": spoken_interval(gain.people) or "—",
        "rank1": points(rank1.value) if rank1 else "—",
        "rank1_interval": spoken_interval(rank1.interval) if rank1 else "",
    }


def runs_heading(gains: Sequence[Gain]) -> str:
    """Heading of the column of intervals over runs alone."""
    names = list(dict.fromkeys(gain.runs_name for gain in gains if gain.runs is not None))
    return " / ".join(names)


def share(value: float) -> str:
    """0.256 -> 25.6."""
    return f"{100 * value:.1f}" if np.isfinite(value) else "—"
