"""Bootstrap over clusters: pictures or queries of one person are not independent, so people are drawn, not pictures."""

from __future__ import annotations

import numpy as np


def cluster_bootstrap(
    sums: np.ndarray, counts: np.ndarray, confidence: float, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile intervals of means when clusters are drawn anew, each with everything that belongs to it.

    Args:
        sums: (P, K), sums over the members of each cluster.
        counts: (P,) or (P, K), how many members each sum is of.
        confidence: coverage, for example 0.95.
        resamples: draws of P clusters with replacement.
        seed: of the draws.

    Returns:
        Lower and upper ends, (K,) each.
    """
    clusters = len(counts)
    weights = np.random.default_rng(seed).multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples)
    drawn = weights @ (counts if counts.ndim == 2 else counts[:, None])
    low, high = np.quantile((weights @ sums) / drawn, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return low, high


def bootstrap_interval(values: np.ndarray, groups: np.ndarray, resamples: int, seed: int) -> tuple[float, float] | None:
    """95 % interval of a mean, drawing whole groups with replacement.

    Args:
        values: (n,).
        groups: (n,), which group each value belongs to, for example the person that it is about.
        resamples: draws; 0: no interval.
        seed: of the draws.

    Returns:
        Lower and upper end; None where there are fewer than two groups or no draws.
    """
    names, where = np.unique(groups, return_inverse=True)
    if len(names) < 2 or resamples < 1:
        return None
    sums, counts = np.bincount(where, weights=values), np.bincount(where)
    low, high = cluster_bootstrap(sums[:, None], counts, 0.95, resamples, seed)
    return float(low[0]), float(high[0])
