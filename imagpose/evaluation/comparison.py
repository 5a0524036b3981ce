"""Paired differences between rows of a table, with intervals over people and over trainings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from datasets.runtime.arrays.bootstrap import bootstrap_interval

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean with its 95 % interval; None where there are fewer than two people."""

    mean: float
    low: float | None = None
    high: float | None = None

    @property
    def sign(self) -> int:
        """1 or -1 where the interval leaves zero out, else 0."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)


def estimate(
    values: np.ndarray, people: np.ndarray, resamples: int, seed: int, between_seeds: float = 0.0, freedom: int = 0
) -> Estimate:
    """Mean of values that several trainings gave on the same pictures.

    The interval's half has two parts, added in squares: a bootstrap over people of the values' means over trainings,
    and Student's interval of the mean of S trainings, t * s / sqrt(S).

    Args:
        values: (S, n), a row for each training's seed. A column that is not finite somewhere (PSNR of equal pictures)
            is left out.
        people: (n,), whom each picture shows.
        between_seeds: s, from `spread_over_seeds`; 0: the interval is for these trainings.
        freedom: degrees of freedom that s was estimated with.
    """
    finite = np.isfinite(values).all(axis=0)
    if not finite.any():
        return Estimate(mean=float("nan"))
    averaged, people = values[:, finite].mean(axis=0), people[finite]
    mean, ends = float(averaged.mean()), bootstrap_interval(averaged, people, resamples, seed)
    if ends is None:
        return Estimate(mean=mean)
    reach = 0.0
    if freedom > 0:
        reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * between_seeds / np.sqrt(len(values))
    return Estimate(mean=mean, low=mean - np.hypot(mean - ends[0], reach), high=mean + np.hypot(ends[1] - mean, reach))


def spread_over_seeds(differences: Sequence[np.ndarray]) -> tuple[float, int]:
    """Standard deviation between trainings of a mean difference, pooled over rows, and its degrees of freedom.

    One row's two or three trainings say next to nothing about it; the rows of a table differ little in this, and
    together they do.

    Args:
        differences: (S, n) of each row.
    """
    means = [np.nanmean(np.where(np.isfinite(values), values, np.nan), axis=1) for values in differences]
    several = [row for row in means if len(row) > 1]
    freedom = sum(len(row) - 1 for row in several)
    if not freedom:
        return 0.0, 0
    return float(np.sqrt(sum(((row - row.mean()) ** 2).sum() for row in several) / freedom)), freedom
