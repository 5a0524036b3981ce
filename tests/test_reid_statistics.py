"""The benchmark's statistics against figures worked out by hand: units, Student's interval, bootstrap over people."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from reid.benchmark.statistics import METRICS, gains, statistics, t_interval, units_of

REAL = {(0, 0): 0.10, (0, 1): 0.14, (1, 0): 0.20, (1, 1): 0.10, (2, 0): 0.12, (2, 1): 0.12}
AUGMENTED = {(0, 0): 0.20, (0, 1): 0.20, (1, 0): 0.22, (1, 1): 0.16, (2, 0): 0.20, (2, 1): 0.28}
"""Some metric of three draws x two seeds. Differences: .10 .06 | .02 .06 | .08 .16, so .08, .04, .12 by draw."""
HALF = 4.302653 * 0.04 / np.sqrt(3)
"""Student's t for 95 % and two degrees of freedom x the draws' standard deviation / the root of their number."""


def tables(cells: dict[str, dict[tuple[int, int], float]]) -> tuple[pd.DataFrame, dict]:
    """Results, and two people with one and three queries: the first person's AP lies 0.3 above the run's mean."""
    rows, per_query = [], {}
    for arm, runs in cells.items():
        for (draw, seed), value in runs.items():
            rows.append(
                {"protocol": "leak-free", "fraction": 20, "arm": arm, "draw": draw, "seed": seed}
                | dict.fromkeys(METRICS, value)
            )
            own = 0.3 if arm == "real+synthetic" else 0.0
            queries = pd.DataFrame({"pid": [1, 2, 2, 2]}, index=pd.Index(["a", "b", "c", "d"], name="query"))
            for metric in METRICS:
                queries[metric] = value + np.array([own, -own / 3, -own / 3, -own / 3])
            per_query["leak-free", 20, arm, draw, seed] = queries
    return pd.DataFrame(rows), per_query


def gain_of(cells: dict[str, dict[tuple[int, int], float]]) -> pd.Series:
    results, per_query = tables(cells)
    found = gains(results, per_query, "real", confidence=0.95, resamples=4000, seed=0)
    return found.set_index("metric").loc["map"]


def test_a_gain_over_three_draws_of_two_seeds_is_as_worked_out_by_hand():
    gain = gain_of({"real": REAL, "real+synthetic": AUGMENTED})
    assert (gain.unit, gain.pairs) == ("draw", 6)
    assert gain["value"] == pytest.approx(0.08)
    assert (gain.draw_low, gain.draw_high) == (pytest.approx(0.08 - HALF), pytest.approx(0.08 + HALF))
    assert gain.smallest_visible_runs == pytest.approx(HALF)
    # Six unpaired runs a side, or six paired differences taken for six units, would give narrower ones.
    pairs = np.array([AUGMENTED[cell] - REAL[cell] for cell in REAL])
    assert 2.570582 * pairs.std(ddof=1) / np.sqrt(6) < HALF


def test_the_bootstrap_draws_people_and_not_queries_or_runs():
    gain = gain_of({"real": REAL, "real+synthetic": AUGMENTED})
    # Of two people there are the draws (1, 1), (1, 2), (2, 2) with chances of 1/4, 1/2, 1/4: the ends are one person's.
    assert (gain.low, gain.high) == (pytest.approx(0.08 - 0.1), pytest.approx(0.08 + 0.3))


def test_only_pairs_of_draw_and_seed_that_both_arms_have_count():
    without = {cell: value for cell, value in AUGMENTED.items() if cell != (0, 1)}
    gain = gain_of({"real": REAL, "real+synthetic": without})
    assert gain.pairs == 5 and gain["value"] == pytest.approx((0.10 + 0.04 + 0.12) / 3)
    one_draw = gain_of({"real": REAL, "real+synthetic": {cell: AUGMENTED[cell] for cell in ((2, 0), (2, 1))}})
    assert one_draw.unit == "seed" and one_draw["value"] == pytest.approx(0.12)


def test_an_arms_own_interval_is_over_draws_too():
    results, _ = tables({"real": REAL, "real+synthetic": AUGMENTED})
    row = statistics(results, 0.95).set_index(["arm", "metric"]).loc["real", "map"]
    by_draw = np.array([0.12, 0.15, 0.12])
    assert (row.unit, row.units, row.runs) == ("draw", 3, 6)
    assert row["mean"] == pytest.approx(0.13) and row["sd"] == pytest.approx(by_draw.std(ddof=1))


def test_an_interval_over_draws_covers_the_truth_as_often_as_it_says():
    """Draws that differ much, seeds that differ little: taking all ten runs for units would cover far less often."""
    rng = np.random.default_rng(0)
    index = pd.MultiIndex.from_tuples(itertools.product(range(5), range(2)), names=["draw", "seed"])
    covered = 0
    for _ in range(400):
        values = np.repeat(rng.normal(0.05, 0.03, 5), 2) + rng.normal(0, 0.005, 10)
        unit, units = units_of(pd.Series(values, index=index))
        low, high = t_interval(units, 0.95)
        covered += low < 0.05 < high
    assert unit == "draw" and 0.92 < covered / 400 < 0.98
