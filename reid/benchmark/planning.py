"""``python -m reid plan-runs``: how many draws, seeds or test identities would make a gain's interval narrow enough.

Read from the variances that an earlier run's table recorded. They are estimates from few draws themselves, so a plan is
an order of magnitude and not a promise.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from datasets.runtime.errors import ArtifactError, InputError
from datasets.runtime.manifests import manifest_of
from datasets.runtime.reading.tables import read_table
from reid.benchmark.intervals import FEWEST_PEOPLE, Variances, student_quantile
from reid.benchmark.tables import ORIGINS, aligned, shares_of_variance, signed_points
from reid.config import BenchmarkConfig, PlanRunsConfig

logger = logging.getLogger(__name__)

MOST = 10_000
"""Of draws, seeds or people: a plan that needs more is none."""
NEEDED = ("variance_draws", "variance_seeds", "variance_people", "variance_interplay", "freedom", "units", "people")


@dataclass(frozen=True, kw_only=True)
class Design:
    """How much is run: draws of the subset, seeds on each, test identities."""

    draws: int
    seeds: float
    people: int


@dataclass(frozen=True, kw_only=True)
class Components:
    """Variance of one draw, one training, one person, and of one training's luck with one person (squared shares).

    NaN: it cannot be estimated from the runs at hand.
    """

    draw: float
    seed: float
    person: float
    interplay: float
    unit: str
    """What runs are counted by: with one draw the intervals are of its images alone."""

    def variances(self, design: Design) -> Variances:
        """What the variances would be under a design."""
        draws, seeds, people = design.draws, design.seeds, design.people
        interplay = np.nan_to_num(self.interplay) / (draws * seeds * people)
        alone = np.nan_to_num(self.draw) / draws + np.nan_to_num(self.seed) / (draws * seeds)
        return Variances(
            people=np.asarray(self.person / people + interplay),
            runs=np.asarray(alone + interplay) if self.unit != "none" else np.asarray(0.0),
            interplay=np.asarray(interplay),
            people_count=people,
            units={"draw": draws, "seed": round(seeds), "none": 1}[self.unit],
        )


def read_components(row: pd.Series) -> tuple[Components, Design]:
    """Variance components of a row of ``gains.parquet``, and the design they come from."""
    design = Design(draws=int(row["draws"]), seeds=float(row["seeds"]), people=int(row["people"]))
    runs = design.draws * design.seeds
    return Components(
        draw=row["variance_draws"] * design.draws,
        seed=row["variance_seeds"] * runs,
        person=row["variance_people"] * design.people,
        interplay=row["variance_interplay"] * runs * design.people,
        unit=row["unit"],
    ), design


def half_width(components: Components, design: Design, confidence: float) -> float:
    """Half the interval that is to be expected, as a share."""
    return float(components.variances(design).half_width(confidence))


def visible(components: Components, design: Design, confidence: float, power: float) -> float:
    """The true gain whose interval would exclude zero in a share `power` of such studies."""
    variances = components.variances(design)
    reach = variances.critical(confidence) + student_quantile(2 * power - 1, variances.freedom)
    return float(reach * np.sqrt(variances.total))


def fewest(enough: Callable[[int], bool], least: int) -> int | None:
    """The smallest number from `least` on that is enough, by doubling and halving; None beyond `MOST`."""
    if enough(least):
        return least
    low, high = least, min(2 * least, MOST)
    while not enough(high):
        if high >= MOST:
            return None
        low, high = high, min(2 * high, MOST)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What would make one gain's interval narrower; numbers in points. None: not by this alone, or not known."""

    protocol: str
    fraction: int
    arm: str
    baseline: str
    half: float
    visible: float
    """The gain that such a study finds as often as requested."""
    shares: dict[str, float]
    """Of the variance: draws, seeds, people, interplay; in [0, 1], NaN where unknown."""
    freedom: float
    unit: str
    design: Design
    draws_to_halve: int | None
    seeds_to_halve: int | None
    people_to_halve: int | None
    draws_for_gain: int | None


def plan_gain(row: pd.Series, confidence: float, gain: float, power: float) -> Plan | None:
    """The plan of a row of ``gains.parquet``; None where it has no interval.

    Args:
        row: a gain with its variances.
        confidence: of the intervals.
        gain: a true gain in points.
        power: how often it should be found.
    """
    components, now = read_components(row)
    half = half_width(components, now, confidence)
    if not math.isfinite(half):
        return None

    def narrower(name: str, value: int) -> bool:
        return half_width(components, replace(now, **{name: value}), confidence) <= half / 2

    def finds(draws: int) -> bool:
        return visible(components, replace(now, draws=draws), confidence, power) <= gain / 100

    several, seeds = components.unit == "draw", not math.isnan(components.seed)
    return Plan(
        protocol=row["protocol"],
        fraction=int(row["fraction"]),
        arm=row["arm"],
        baseline=row["baseline"],
        half=100 * half,
        visible=100 * visible(components, now, confidence, power),
        shares=dict.fromkeys(ORIGINS, math.nan) | shares_of_variance(row),
        freedom=float(row["freedom"]),
        unit=components.unit,
        design=now,
        draws_to_halve=fewest(lambda n: narrower("draws", n), now.draws) if several else None,
        seeds_to_halve=fewest(lambda n: narrower("seeds", n), max(2, round(now.seeds))) if seeds else None,
        people_to_halve=fewest(lambda n: narrower("people", n), max(FEWEST_PEOPLE, now.people)),
        draws_for_gain=fewest(finds, 2) if several else None,
    )


def read_plans(benchmark: Path, *, metric: str, gain: float, power: float, arm: str | None = None) -> list[Plan]:
    """Plans of all gains of a table that have an interval.

    Raises:
        ArtifactError: no benchmark, or one made before variances were recorded.
        InputError: the table has no gain of this arm.
    """
    config = manifest_of(benchmark, BenchmarkConfig.stage)["config"]
    table = read_table(benchmark, "gains.parquet").to_pandas()
    if len(table) and (absent := [name for name in NEEDED if name not in table]):
        raise ArtifactError(f"{benchmark} has no {absent[0]}: it is of an earlier version; run 'reid benchmark' again")
    if arm is not None and (not len(table) or arm not in set(table["arm"])):
        known = ", ".join(dict.fromkeys(table["arm"])) if len(table) else "none"
        raise InputError(f"--arm {arm}: the table has no gain of this arm; known: {known}")
    rows = [row for _, row in table.iterrows() if row["metric"] == metric and arm in (None, row["arm"])]
    rows = _once(rows)
    plans = [plan_gain(row, float(config["confidence"]), gain, power) for row in rows]
    return [plan for plan in plans if plan is not None]


def _once(rows: list[pd.Series]) -> list[pd.Series]:
    """Each pair of arms at a fraction once; the baseline over a control is only the reverse of the control over it."""
    found: dict[tuple[str, int, frozenset[str]], pd.Series] = {}
    for row in rows:
        found.setdefault((row["protocol"], row["fraction"], frozenset((row["arm"], row["baseline"]))), row)
    return list(found.values())


def print_plan(config: PlanRunsConfig) -> int:
    """Print the plan of an earlier run's table; the exit code is 0."""
    plans = read_plans(config.benchmark, metric=config.metric, gain=config.gain, power=config.power, arm=config.arm)
    if not plans:
        raise InputError(f"{config.benchmark} has no gain with an interval; give the table of two arms and more people")
    sys.stdout.write(plan_text(plans, config) + "\n")
    return 0


def plan_text(plans: list[Plan], config: PlanRunsConfig) -> str:
    """The plan as aligned text with its legend."""
    head = ["fraction", "arm", "over", "draws x seeds, people", "± now", "draws", "seeds", "people", "interplay"]
    head += ["df", "draws to halve", "seeds", "people", f"draws for {config.gain:g}"]
    rows = [
        [
            *(f"{plan.fraction} %", plan.arm, plan.baseline),
            f"{plan.design.draws} x {plan.design.seeds:g}, {plan.design.people}",
            f"{plan.half:.1f}",
            *(spoken_share(value) for value in plan.shares.values()),
            f"{plan.freedom:.0f}",
            *(spoken_count(n) for n in (plan.draws_to_halve, plan.seeds_to_halve, plan.people_to_halve)),
            spoken_count(plan.draws_for_gain),
        ]
        for plan in plans
    ]
    return "\n".join([aligned(head, rows, left={"arm", "over"}), "", *legend(plans, config)])


def legend(plans: list[Plan], config: PlanRunsConfig) -> list[str]:
    """How to read the plan."""
    name = {"map": "mAP", "rank1": "Rank-1"}[config.metric]
    entries = [
        f"Gains in {name}, points. Percentages: where the variance comes from (interplay: one training's luck with one "
        "person; both more runs and more people shrink it).",
        "To halve the interval: so many draws, or seeds a draw, or test identities, everything else unchanged; "
        "'-': not by these alone, or not known from these runs.",
        f"Draws for {config.gain:g}: how many find a true gain of {signed_points(config.gain / 100)} points in "
        f"{100 * config.power:g} % of such studies.",
    ]
    if any(plan.unit != "draw" for plan in plans):
        entries.append("With one draw nothing is known of other images; run at least two draws to plan them.")
    return entries


def spoken_share(share: float) -> str:
    """0.31 -> '31 %'; '-' for what is unknown."""
    return "-" if math.isnan(share) else f"{100 * share:.0f} %"


def spoken_count(count: int | None) -> str:
    """1200 -> '1,200'; '-' for none."""
    return "-" if count is None else f"{count:,}"
