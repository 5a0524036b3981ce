"""Means, intervals and gains over runs.

The unit is the draw of the subset: seeds inside a draw are averaged first, because a draw's images are what another
laboratory would draw anew. Where there is one draw only, an interval comes from the seeds, and says so; the gain of an
arm over the baseline has besides an interval from a paired bootstrap over the test *identities* (queries of one person
are not independent), which speaks of other test people and not of other draws.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from datasets.runtime.errors import InputError

METRICS = ("rank1", "rank5", "rank10", "map", "map_trapezoid", "minp")
KEYS = ["protocol", "fraction", "arm"]


def t_interval(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """Student's interval of a mean; (NaN, NaN) from fewer than two values."""
    if len(values) < 2:
        return np.nan, np.nan
    half = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values) - half), float(np.mean(values) + half)


def units_of(values: pd.Series) -> tuple[str, np.ndarray]:
    """What counts as one observation: 'draw' (seeds averaged), or 'seed' where there is one draw.

    Args: values: indexed by (draw, seed).
    """
    by_draw = values.groupby("draw").mean()
    if len(by_draw) > 1:
        return "draw", by_draw.to_numpy()
    return ("seed", values.to_numpy()) if len(values) > 1 else ("none", values.to_numpy())


def statistics(results: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """One row per protocol, fraction, arm and metric: ``mean, sd, low, high, unit, units, runs``, all shares."""
    rows = []
    for keys, group in results.groupby(KEYS, sort=False):
        indexed = group.set_index(["draw", "seed"])
        for metric in METRICS:
            unit, values = units_of(indexed[metric])
            low, high = np.clip(t_interval(values, confidence), 0.0, 1.0)  # NaN stays NaN
            sd = float(np.std(values, ddof=1)) if len(values) > 1 else np.nan
            rows.append(
                dict(zip(KEYS, keys, strict=True))
                | {"metric": metric, "mean": float(values.mean()), "sd": sd, "low": low, "high": high}
                | {"unit": unit, "units": len(values), "runs": len(group)}
            )
    return pd.DataFrame(rows)


def per_query_metrics(per_query: pd.DataFrame) -> pd.DataFrame:
    """Each metric's share of every matched query, indexed by the query's key, and its pid."""
    matched = per_query[per_query.matches > 0].set_index("query").sort_index()
    columns = {f"rank{rank}": (matched.first_rank <= rank).astype(float) for rank in (1, 5, 10)}
    columns |= {"map": matched.ap, "map_trapezoid": matched.ap_trapezoid, "minp": matched.inp, "pid": matched.pid}
    return pd.DataFrame(columns)


def bootstrap_gain(
    differences: pd.DataFrame, confidence: float, resamples: int, seed: int
) -> dict[str, tuple[float, float]]:
    """Percentile interval of each metric's mean difference when the test identities are drawn anew.

    Args: differences: one row per query, the metrics' differences and the query's ``pid``.
    """
    grouped = differences.groupby("pid")
    sums, counts = grouped[list(METRICS)].sum().to_numpy(), grouped.size().to_numpy()
    identities = len(counts)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(identities, np.full(identities, 1 / identities), size=resamples)
    means = (weights @ sums) / (weights @ counts)[:, None]
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(means, tails, axis=0)
    return {metric: (float(low[i]), float(high[i])) for i, metric in enumerate(METRICS)}


def gains(
    results: pd.DataFrame,
    per_query: dict[tuple, pd.DataFrame],
    baseline: str,
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> pd.DataFrame:
    """Each arm's gain over the baseline, from the (draw, seed) pairs that both have.

    Args:
        results: one row per run.
        per_query: `per_query_metrics` of each run, by (protocol, fraction, arm, draw, seed).
    Returns: one row per protocol, fraction, arm and metric: ``before, after, value`` (shares); ``low, high`` of the
        bootstrap over identities; ``draw_low, draw_high`` of Student's interval over draws (or seeds; ``unit``);
        ``smallest_visible`` and ``smallest_visible_runs``, the least gain whose interval over identities, or over runs,
        would exclude zero (half its width).
    """
    rows = []
    for (protocol, fraction), group in results.groupby(["protocol", "fraction"], sort=False):
        runs = {arm: part.set_index(["draw", "seed"]).sort_index() for arm, part in group.groupby("arm", sort=False)}
        for arm in runs if baseline in runs else ():
            common = runs[arm].index.intersection(runs[baseline].index)
            if arm == baseline or not len(common):
                continue
            keyed = [
                (per_query[protocol, fraction, arm, *pair], per_query[protocol, fraction, baseline, *pair])
                for pair in common
            ]
            intervals = bootstrap_gain(_mean_difference(keyed), confidence, resamples, seed)
            for metric in METRICS:
                before, after = runs[baseline].loc[common, metric], runs[arm].loc[common, metric]
                unit, values = units_of(after - before)
                draw_low, draw_high = t_interval(values, confidence)
                low, high = intervals[metric]
                rows.append(
                    {"protocol": protocol, "fraction": fraction, "arm": arm, "baseline": baseline, "metric": metric}
                    | {"before": before.mean(), "after": after.mean(), "value": float(values.mean())}
                    | {"low": low, "high": high, "draw_low": draw_low, "draw_high": draw_high}
                    | {"unit": unit, "pairs": len(common), "smallest_visible": (high - low) / 2}
                    | {"smallest_visible_runs": (draw_high - draw_low) / 2}
                )
    return pd.DataFrame(rows)


def _mean_difference(pairs: Sequence[tuple[pd.DataFrame, pd.DataFrame]]) -> pd.DataFrame:
    """Per query, arm minus baseline, averaged over the pairs of runs."""
    for after, before in pairs:
        if not after.index.equals(before.index):
            raise InputError("runs were tested on different queries; compare runs of one test set")
    differences = [after[list(METRICS)] - before[list(METRICS)] for after, before in pairs]
    mean = sum(differences[1:], start=differences[0]) / len(differences)
    return mean.assign(pid=pairs[0][0]["pid"])
