"""An arm's own figures, worked out by hand value by value."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reid.benchmark.statistics import KEYS, METRICS, per_query_metrics, statistics, t_interval, units_of


def runs(cells: dict[tuple[int, int], float], arm: str = "real", fraction: int = 20) -> list[dict[str, object]]:
    """A row for each (draw, seed); every metric has a value of its own, so that none can stand for another."""
    return [
        {"protocol": "leak-free", "fraction": fraction, "arm": arm, "draw": draw, "seed": seed}
        | {metric: value + place / 1000 for place, metric in enumerate(METRICS)}
        for (draw, seed), value in cells.items()
    ]


def table(*rows: list[dict[str, object]], confidence: float = 0.9) -> pd.DataFrame:
    return statistics(pd.DataFrame([row for part in rows for row in part]), confidence)


def series(cells: dict[tuple[int, int], float]) -> pd.Series:
    return pd.Series(cells.values(), pd.MultiIndex.from_tuples(cells, names=["draw", "seed"]))


def test_students_interval_of_two_and_of_three_values():
    assert t_interval([0.2, 0.4], 0.95) == pytest.approx((0.3 - 12.7062047 * 0.1, 0.3 + 12.7062047 * 0.1))
    low, high = t_interval(np.array([0.1, 0.2, 0.6]), 0.9)
    half = stats.t.ppf(0.95, 2) * math.sqrt(0.07) / math.sqrt(3)
    assert (low, high) == pytest.approx((0.3 - half, 0.3 + half))
    assert isinstance(low, float) and isinstance(high, float)


def test_an_interval_needs_two_values_and_is_a_point_where_nothing_varies():
    assert all(math.isnan(end) for values in ([], [0.5]) for end in t_interval(values, 0.95))
    assert t_interval([0.5, 0.5], 0.95) == (0.5, 0.5)


def test_what_counts_as_one_observation():
    unit, values = units_of(series({(0, 0): 0.1, (0, 1): 0.3, (1, 0): 0.6}))
    assert unit == "draw" and values.tolist() == pytest.approx([0.2, 0.6])
    unit, values = units_of(series({(3, 0): 0.1, (3, 1): 0.3}))
    assert unit == "seed" and values.tolist() == [0.1, 0.3]
    unit, values = units_of(series({(0, 0): 0.1}))
    assert unit == "none" and values.tolist() == [0.1]


def test_a_row_says_every_figure_of_a_metric():
    found = table(runs({(0, 0): 0.40, (0, 1): 0.50, (1, 0): 0.55, (1, 1): 0.57, (2, 0): 0.50, (2, 1): 0.50}))
    assert list(found.columns) == [*KEYS, "metric", "mean", "sd", "low", "high", "unit", "units", "runs"]
    assert found["metric"].tolist() == list(METRICS)
    for place, row in enumerate(found.itertuples()):
        draws = np.array([0.45, 0.56, 0.50]) + place / 1000
        half = stats.t.ppf(0.95, 2) * draws.std(ddof=1) / math.sqrt(3)
        assert (row.protocol, row.fraction, row.arm) == ("leak-free", 20, "real")
        assert (row.unit, row.units, row.runs) == ("draw", 3, 6)
        assert row.mean == pytest.approx(draws.mean()) and row.sd == pytest.approx(draws.std(ddof=1))
        assert (row.low, row.high) == pytest.approx((draws.mean() - half, draws.mean() + half))


def test_two_runs_have_a_deviation_and_one_has_none():
    two = table(runs({(0, 0): 0.4, (0, 1): 0.5})).set_index("metric").loc["rank1"]
    assert two.sd == pytest.approx(math.sqrt(0.005)) and (two.unit, two.units, two.runs) == ("seed", 2, 2)
    one = table(runs({(0, 0): 0.4})).set_index("metric").loc["rank1"]
    assert math.isnan(one.sd) and math.isnan(one.low) and math.isnan(one.high)
    assert (one["mean"], one.unit, one.units, one.runs) == (0.4, "none", 1, 1)


def test_one_run_gives_no_warning():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        table(runs({(0, 0): 0.4}))
    assert said == []


def test_an_interval_of_shares_ends_at_none_and_at_all():
    found = table(runs({(0, 0): 0.01, (0, 1): 0.4}), runs({(0, 0): 0.6, (0, 1): 0.98}, arm="real-long"))
    low, high = (part.set_index("metric").loc["rank1"] for _, part in found.groupby("arm"))
    assert (low.low, high.high) == (0.0, 1.0)
    assert 0 < low.high <= 1 and 0 <= high.low < 1


def test_arms_stand_in_the_order_in_which_they_are_given():
    found = table(runs({(0, 0): 0.4}, arm="z"), runs({(0, 0): 0.5}, arm="a"), runs({(0, 0): 0.3}, "z", fraction=10))
    assert found[["fraction", "arm"]].drop_duplicates().to_numpy().tolist() == [[20, "z"], [20, "a"], [10, "z"]]


def test_metrics_of_single_queries():
    """Ranks on either side of every threshold, a query without a match, and an order that is not the index's."""
    per_query = pd.DataFrame(
        {
            "query": ["f", "e", "d", "c", "b", "a", "x"],
            "pid": [7, 6, 5, 4, 3, 2, 1],
            "matches": [1, 2, 3, 1, 1, 1, 0],
            "first_rank": [1, 2, 5, 6, 10, 11, 0],
            "ap": [1.0, 0.5, 0.2, 0.16, 0.1, 0.09, 0.0],
            "ap_trapezoid": [0.9, 0.4, 0.1, 0.06, 0.05, 0.04, 0.0],
            "inp": [0.8, 0.3, 0.05, 0.02, 0.01, 0.005, 0.0],
        }
    )
    found = per_query_metrics(per_query)
    assert found.index.tolist() == ["a", "b", "c", "d", "e", "f"]
    assert list(found.columns) == ["rank1", "rank5", "rank10", "map", "map_trapezoid", "minp", "pid"]
    assert found["rank1"].tolist() == [0, 0, 0, 0, 0, 1]
    assert found["rank5"].tolist() == [0, 0, 0, 1, 1, 1]
    assert found["rank10"].tolist() == [0, 1, 1, 1, 1, 1]
    assert all(found[name].dtype == float for name in ("rank1", "rank5", "rank10"))
    assert found["map"].tolist() == [0.09, 0.1, 0.16, 0.2, 0.5, 1.0]
    assert found["map_trapezoid"].tolist() == [0.04, 0.05, 0.06, 0.1, 0.4, 0.9]
    assert found["minp"].tolist() == [0.005, 0.01, 0.02, 0.05, 0.3, 0.8]
    assert found["pid"].tolist() == [2, 3, 4, 5, 6, 7]
