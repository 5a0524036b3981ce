"""Where the gains' uncertainty comes from, and what would shrink it: the report's planning table."""

from __future__ import annotations

from typing import Any

from reid.benchmark.planning import Plan, read_plans, spoken_count, spoken_share
from reid.report.material import Material
from reid.report.text import plan_caption

GAIN, POWER = 1.0, 0.8
"""Points of mAP that a study should find, and how often; `reid plan-runs` asks for others."""


def plan_section(material: Material) -> dict[str, Any]:
    """A row for each gain of the headline's arm."""
    comparison = material.comparison
    order = [comparison.reference, *comparison.controls]
    plans = [
        plan
        for plan in read_plans(material.config.benchmark, metric="map", gain=GAIN, power=POWER)
        if (plan.arm, plan.protocol) == (comparison.arm, comparison.protocol) and plan.baseline in order
    ]
    plans.sort(key=lambda plan: (order.index(plan.baseline), plan.fraction))
    units = {plan.unit for plan in plans}
    designs = list(dict.fromkeys(_design(plan) for plan in plans))
    return {"plan_rows": [_row(plan) for plan in plans], "plan_caption": plan_caption(designs, units, GAIN, POWER)}


def _design(plan: Plan) -> str:
    draws, seeds = plan.design.draws, plan.design.seeds
    runs = f"{draws} draw{'' if draws == 1 else 's'} × {seeds:g} seed{'' if seeds == 1 else 's'}"
    return f"{runs} and {plan.design.people:,} test identities"


def _row(plan: Plan) -> dict[str, Any]:
    return {
        "over": plan.baseline,
        "fraction": f"{plan.fraction} %",
        "half": f"{plan.half:.1f}",
        "shares": [spoken_share(value).replace("-", "—") for value in plan.shares.values()],
        "freedom": f"{plan.freedom:.1f}",
        "halve": [
            spoken_count(count).replace("-", "—")
            for count in (plan.draws_to_halve, plan.seeds_to_halve, plan.people_to_halve)
        ],
        "draws_for_gain": spoken_count(plan.draws_for_gain).replace("-", "—"),
    }
