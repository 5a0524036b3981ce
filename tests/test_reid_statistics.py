"""The benchmark's statistics against figures worked out by hand: units, intervals, variances, bands, plans."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks.reid import interval_coverage
from datasets.runtime.arrays.bootstrap import cluster_bootstrap
from datasets.runtime.errors import InputError
from reid.benchmark.gains import gains
from reid.benchmark.intervals import (
    FEWEST_PEOPLE,
    GainEstimate,
    Variances,
    estimate_gain,
    simultaneous_level,
)
from reid.benchmark.planning import fewest, plan_gain
from reid.benchmark.statistics import METRICS, statistics, t_interval, units_of
from reid.config import BenchmarkConfig, DeclaredComparison

REAL = {(0, 0): 0.10, (0, 1): 0.14, (1, 0): 0.20, (1, 1): 0.10, (2, 0): 0.12, (2, 1): 0.12}
AUGMENTED = {(0, 0): 0.20, (0, 1): 0.20, (1, 0): 0.22, (1, 1): 0.16, (2, 0): 0.20, (2, 1): 0.28}
"""Some metric of three draws x two seeds. Differences: .10 .06 | .02 .06 | .08 .16, so .08, .04, .12 by draw."""
HALF = 4.302653 * 0.04 / np.sqrt(3)
"""Student's t for 95 % and two degrees of freedom x the draws' standard deviation / the root of their number."""
OWN = np.array([0.3, -0.1, -0.2, 0.05, -0.05, 0.0])
"""What six people of one query each gain beyond the run's mean."""


def tables(cells: dict[str, dict[tuple[int, int], float]], own: np.ndarray = OWN) -> tuple[pd.DataFrame, dict]:
    """Results, and a query for each person."""
    rows, per_query = [], {}
    index = pd.Index([f"q{i}" for i in range(len(own))], name="query")
    for arm, runs in cells.items():
        for (draw, seed), value in runs.items():
            rows.append(
                {"protocol": "leak-free", "fraction": 20, "arm": arm, "draw": draw, "seed": seed}
                | dict.fromkeys(METRICS, value)
            )
            queries = pd.DataFrame({"pid": range(len(own))}, index=index)
            for metric in METRICS:
                queries[metric] = value + (own if arm == "real+synthetic" else 0.0)
            per_query["leak-free", 20, arm, draw, seed] = queries
    return pd.DataFrame(rows), per_query


def config_of(**settings: object) -> BenchmarkConfig:
    return BenchmarkConfig(runs=["x"], resamples=400, **settings)


def gain_of(cells: dict[str, dict[tuple[int, int], float]], own: np.ndarray = OWN) -> pd.Series:
    results, per_query = tables(cells, own)
    return gains(results, per_query, config_of()).set_index("metric").loc["map"]


def test_a_gain_over_three_draws_of_two_seeds_is_as_worked_out_by_hand():
    gain = gain_of({"real": REAL, "real+synthetic": AUGMENTED})
    assert (gain.unit, gain.pairs, gain.draws, gain.seeds, gain.people) == ("draw", 6, 3, 2, 6)
    assert gain["value"] == pytest.approx(0.08)
    assert (gain.runs_low, gain.runs_high) == (pytest.approx(0.08 - HALF), pytest.approx(0.08 + HALF))
    # Six unpaired runs a side, or six paired differences taken for six units, would give narrower ones.
    pairs = np.array([AUGMENTED[cell] - REAL[cell] for cell in REAL])
    assert 2.570582 * pairs.std(ddof=1) / np.sqrt(6) < HALF


def test_the_combined_interval_is_as_worked_out_by_hand():
    """Nobody's own gain depends on the run, so there is no interplay, and the two variances add up."""
    gain = gain_of({"real": REAL, "real+synthetic": AUGMENTED})
    people, runs = OWN.var(ddof=1) / 6, 0.04**2 / 3
    total = people + runs
    freedom = total**2 / (people**2 / 5 + runs**2 / 2)
    welch = stats.t.ppf(0.975, freedom)
    cochran = (stats.t.ppf(0.975, 5) * people + stats.t.ppf(0.975, 2) * runs) / total
    half = max(welch, cochran) * np.sqrt(total)
    assert gain.freedom == pytest.approx(freedom)
    assert (gain.low, gain.high) == (pytest.approx(0.08 - half), pytest.approx(0.08 + half))
    assert gain.smallest_visible == pytest.approx(half)
    # Within draws the differences are .10 .06 | .02 .06 | .08 .16: mean square (.0008 + .0008 + .0032) / 3.
    seeds = 0.0016 / 2 / 3
    parts = (gain.variance_draws, gain.variance_seeds, gain.variance_people, gain.variance_interplay)
    np.testing.assert_allclose(parts, (max(0, runs - seeds), min(seeds, runs), people, 0.0), atol=1e-12)


def test_people_count_by_their_queries_and_the_jackknife_leaves_each_out_in_turn():
    rng = np.random.default_rng(0)
    counts, sums = np.array([1.0, 3.0, 2.0, 6.0, 1.0, 4.0]), rng.normal(0, 1, (1, 1, 6, 1))
    found = estimate_gain(list(sums), counts)
    without = [(sums.sum() - sums[0, 0, i, 0]) / (counts.sum() - counts[i]) for i in range(6)]
    assert found.value[0] == pytest.approx(sums.sum() / counts.sum())
    assert found.variances.people[0] == pytest.approx(5 / 6 * np.sum((without - np.mean(without)) ** 2))


def matrix(seed: int, draws: int, people: int, *, by_draw: float, by_person: float, chance: float) -> GainEstimate:
    """The estimate from a matrix of gains, a query a person, with these standard deviations."""
    rng = np.random.default_rng(seed)
    drawn, own = by_draw * rng.normal(size=(draws, 1)), by_person * rng.normal(size=people)
    cells = 0.03 + drawn + own + chance * rng.normal(size=(draws, people))
    return estimate_gain([row[None, :, None] for row in cells], np.ones(people))


designs = {"seed": st.integers(0, 10**6), "draws": st.integers(2, 6), "people": st.integers(5, 60)}


@given(**designs)
@settings(max_examples=60, deadline=None)
def test_the_combined_interval_is_the_peoples_when_draws_agree(seed, draws, people):
    found = matrix(seed, draws, people, by_draw=0.0, by_person=0.1, chance=0.0)
    half = stats.t.ppf(0.975, people - 1) * np.sqrt(found.variances.people)
    np.testing.assert_allclose(found.interval(0.95), (found.value - half, found.value + half), rtol=1e-6)
    near = matrix(seed, draws, people, by_draw=1e-5, by_person=0.1, chance=0.0)
    np.testing.assert_allclose(near.interval(0.95), found.interval(0.95), atol=1e-4)


@given(**designs)
@settings(max_examples=60, deadline=None)
def test_the_combined_interval_is_the_draws_when_people_agree(seed, draws, people):
    found = matrix(seed, draws, people, by_draw=0.1, by_person=0.0, chance=0.0)
    np.testing.assert_allclose(found.interval(0.95), found.runs_interval(0.95), rtol=1e-6)
    near = matrix(seed, draws, people, by_draw=0.1, by_person=1e-6, chance=0.0)
    np.testing.assert_allclose(near.interval(0.95), near.runs_interval(0.95), atol=1e-3)


@given(**designs, by_draw=st.floats(0, 0.1), chance=st.floats(0.001, 0.3))
@settings(max_examples=100, deadline=None)
def test_it_is_never_narrower_than_the_peoples_alone_and_its_parts_add_up(seed, draws, people, by_draw, chance):
    found = matrix(seed, draws, people, by_draw=by_draw, by_person=0.1, chance=chance)
    (low, high), (alone_low, alone_high) = found.interval(0.95), found.student_interval(0.95)
    assert high - low >= alone_high - alone_low - 1e-12
    parts = [np.nan_to_num(part)[0] for part in found.parts().values()]
    assert min(parts) >= 0 and sum(parts) == pytest.approx(found.variances.total[0])
    assert found.variances.freedom[0] >= min(draws, people) - 1 - 1e-9


def test_chance_of_single_runs_with_single_people_is_counted_once():
    """Pure chance: the variance over people and that over runs are the same thing, and adding both would double it."""
    found = [matrix(seed, 5, 50, by_draw=0.0, by_person=0.0, chance=0.2) for seed in range(300)]
    total = np.mean([item.variances.total[0] for item in found])
    both = np.mean([item.variances.people[0] + item.variances.runs[0] for item in found])
    true = 0.2**2 / (5 * 50)
    assert 1.9 * true < both < 2.1 * true
    assert true < total < 1.4 * true  # a little more than the truth, because the draws' part is never below zero


def test_one_draw_gives_an_interval_of_its_images_over_seeds_and_people():
    cells = {arm: {(0, s): runs[0, s] for s in (0, 1)} for arm, runs in (("real", REAL), ("real+synthetic", AUGMENTED))}
    gain = gain_of(cells)
    assert (gain.unit, gain.units, gain.draws) == ("seed", 2, 1)
    assert np.isnan(gain.variance_draws) and gain.variance_seeds == pytest.approx(0.02**2)
    assert gain.low < gain.people_low and gain.high > gain.people_high
    one = gain_of({arm: {(0, 0): runs[0, 0]} for arm, runs in cells.items()})
    assert one.unit == "none" and np.isnan([one.runs_low, one.variance_draws, one.variance_seeds]).all()
    assert (one.low, one.high) == (one.people_low, one.people_high)


def test_few_people_get_students_interval_and_fewer_than_five_none():
    student = 2.570582 * OWN.std(ddof=1) / np.sqrt(6)
    gain = gain_of({"real": REAL, "real+synthetic": AUGMENTED})
    assert gain.people_high - gain["value"] == pytest.approx(student)
    four = gain_of({"real": REAL, "real+synthetic": AUGMENTED}, OWN[: FEWEST_PEOPLE - 1])
    assert np.isnan([four.low, four.people_low, four.band_low]).all() and four["value"] > 0
    many = gain_of({"real": REAL, "real+synthetic": AUGMENTED}, np.tile(OWN, 4))
    assert many.people_high != pytest.approx(many["value"] + 2.068658 * many.variance_people**0.5, rel=1e-6)


def test_the_bootstrap_draws_people_and_not_queries():
    # Of two people, of one and of three queries, there are the draws (1, 1), (1, 2), (2, 2) with chances of 1/4, 1/2,
    # 1/4: the ends are one person's own means.
    low, high = cluster_bootstrap(np.array([[0.38], [-0.06]]), np.array([1, 3]), 0.95, 4000, seed=0)
    assert (low[0], high[0]) == (pytest.approx(-0.02), pytest.approx(0.38))


def test_only_pairs_of_draw_and_seed_that_both_arms_have_count():
    without = {cell: value for cell, value in AUGMENTED.items() if cell != (0, 1)}
    gain = gain_of({"real": REAL, "real+synthetic": without})
    assert gain.pairs == 5 and gain["value"] == pytest.approx((0.10 + 0.04 + 0.12) / 3)
    assert gain["after"] - gain["before"] == pytest.approx(gain["value"])
    one_draw = gain_of({"real": REAL, "real+synthetic": {cell: AUGMENTED[cell] for cell in ((2, 0), (2, 1))}})
    assert one_draw.unit == "seed" and one_draw["value"] == pytest.approx(0.12)


def test_runs_of_different_queries_are_refused():
    results, per_query = tables({"real": REAL, "real+synthetic": AUGMENTED})
    cell = ("leak-free", 20, "real", 1, 0)
    per_query[cell] = per_query[cell].rename(index={"q0": "other"})
    with pytest.raises(InputError, match="tested on different queries"):
        gains(results, per_query, config_of())


# --- several comparisons ----------------------------------------------------------------------------------------------


def test_bands_lie_between_the_single_interval_and_bonferronis():
    found = matrix(1, 5, 100, by_draw=0.01, by_person=0.1, chance=0.1)
    other = matrix(2, 5, 100, by_draw=0.01, by_person=0.1, chance=0.1)
    assert simultaneous_level([(found, 0)], 0.95) == 0.95
    assert 0.95 < simultaneous_level([(found, 0), (other, 0)], 0.95) <= 0.975
    assert simultaneous_level([(found, 0), (other, 0)], 0.95) == pytest.approx(0.95**0.5, abs=0.002)  # independent
    same = matrix(1, 5, 100, by_draw=0.0, by_person=0.1, chance=0.0)
    assert simultaneous_level([(same, 0)] * 8, 0.95) == pytest.approx(0.95, abs=0.004)  # one and the same gain


def three_arms() -> dict[str, dict[tuple[int, int], float]]:
    return {
        "real": REAL,
        "real-long": {cell: value + 0.01 for cell, value in REAL.items()},
        "real+synthetic": AUGMENTED,
    }


def test_bands_cover_the_declared_comparisons_and_no_other():
    results, per_query = tables(three_arms())
    declared = [DeclaredComparison(arm="real+synthetic", over="real-long", fractions=[20])]
    found = gains(results, per_query, config_of(comparisons=declared)).query("metric == 'map'")
    found = found.set_index(["arm", "baseline"])
    chosen = found.loc["real+synthetic", "real-long"]
    assert chosen.declared and chosen.family == 1 and (chosen.band_low, chosen.band_high) == (chosen.low, chosen.high)
    assert not found.loc["real+synthetic", "real"].declared and np.isnan(found.loc["real+synthetic", "real"].band_low)
    everything = gains(results, per_query, config_of()).query("metric == 'map'")
    assert everything.declared.all() and set(everything.family) == {3}  # a pair of arms counts once, either way round
    wider = everything.set_index(["arm", "baseline"]).loc["real+synthetic", "real-long"]
    assert wider.band_low < wider.low and wider.band_high > wider.high


def test_a_comparison_that_no_gain_is_counted_of_is_refused_before_anything_is_read():
    with pytest.raises(ValueError, match="gains are counted over real, real-long, real-pretrained alone"):
        config_of(comparisons=[{"arm": "real+synthetic", "over": "zoo"}])
    with pytest.raises(ValueError, match="over itself"):
        config_of(comparisons=[{"arm": "real", "over": "real"}])


# --- plans ------------------------------------------------------------------------------------------------------------


def test_a_plan_halves_the_interval_by_what_it_says():
    found = matrix(3, 5, 60, by_draw=0.05, by_person=0.1, chance=0.1)
    parts = found.parts()
    row = pd.Series(
        {"protocol": "leak-free", "fraction": 20, "arm": "a", "baseline": "b", "unit": "draw", "freedom": 4.0}
        | {"draws": 5, "seeds": 1.0, "people": 60, "units": 5}
        | {f"variance_{name}": float(value[0]) for name, value in parts.items()}
    )
    plan = plan_gain(row, 0.95, gain=10.0, power=0.8)
    low, high = found.interval(0.95)
    assert plan.half == pytest.approx(100 * (high - low)[0] / 2, rel=1e-6)
    assert plan.seeds_to_halve is None and plan.people_to_halve is None  # the draws alone are more than half of it
    assert 10 < plan.draws_to_halve < 40
    total = sum(plan.shares[name] for name in ("draws", "people", "interplay"))
    assert total == pytest.approx(1) and np.isnan(plan.shares["seeds"])
    needed = [plan_gain(row, 0.95, gain=gain, power=0.8).draws_for_gain for gain in (20.0, 8.0, 5.0, 0.1)]
    assert needed[:3] == sorted(needed[:3]) and needed[3] is None  # 60 people can never show a tenth of a point
    assert plan.visible == pytest.approx(8, abs=8) and needed[0] < 10


def test_a_plans_predicted_variances_are_those_of_its_design():
    known = Variances(people=np.array(4.0), runs=np.array(3.0), interplay=np.array(1.0), people_count=50, units=5)
    assert known.total == 6.0 and known.runs_alone == 2.0


def test_the_fewest_that_are_enough_are_found():
    assert [fewest(lambda n, k=k: n >= k, 2) for k in (1, 2, 3, 17, 9_999)] == [2, 2, 3, 17, 9_999]
    assert fewest(lambda n: False, 2) is None


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


def test_the_combined_interval_holds_as_often_as_it_says_where_the_others_do_not(monkeypatch):
    monkeypatch.setattr(interval_coverage, "TRIALS", 500)
    monkeypatch.setattr(interval_coverage, "RESAMPLES", 300)
    case = interval_coverage.Case(metric="map", draws=3, people=200, spread=0.02)
    held = interval_coverage.coverage(case, np.random.default_rng(0))
    assert 0.92 < held["together"] < 0.98
    assert held["over_people"] < 0.86
    few = interval_coverage.Case(metric="rank1", draws=5, people=8, spread=0.005)
    held = interval_coverage.coverage(few, np.random.default_rng(1))
    assert 0.92 < held["together"] < 0.985 and held["over_people"] < 0.92


def test_the_bands_of_several_gains_hold_together(monkeypatch):
    monkeypatch.setattr(interval_coverage, "FAMILY_TRIALS", 60)
    monkeypatch.setattr("reid.benchmark.intervals.MAX_T_SAMPLES", 4000)
    assert interval_coverage.band_coverage(5, np.random.default_rng(3)) > 0.87
