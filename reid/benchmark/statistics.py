"""Means and intervals of each arm's own figures over runs.

The unit is the draw of the subset: seeds inside a draw are averaged first, because a draw's images are what another
laboratory would draw anew. Where there is one draw only, an interval comes from the seeds, and says so. Gains of one
arm over another have a module of their own (`reid.benchmark.gains`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

METRICS = ("rank1", "rank5", "rank10", "map", "map_trapezoid", "minp")
KEYS = ["protocol", "fraction", "arm"]


def t_interval(values: Sequence[float] | np.ndarray, confidence: float) -> tuple[float, float]:
    """Student's interval of a mean; (NaN, NaN) from fewer than two values."""
    if len(values) < 2:
        return np.nan, np.nan
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    half = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * error  # not .interval: that is NaN where nothing varies
    return float(np.mean(values) - half), float(np.mean(values) + half)


def units_of(values: pd.Series) -> tuple[str, np.ndarray]:
    """What counts as one observation: 'draw' (seeds averaged), or 'seed' where there is one draw.

    Args:
        values: indexed by (draw, seed).
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
