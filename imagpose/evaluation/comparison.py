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


def spread_over_seeds(rows: Sequence[np.ndarray]) -> tuple[float, int]:
    """Standard deviation of the difference between two rows' single trainings, and its degrees of freedom.

    Two or three trainings of one pair of rows say next to nothing about it, those of all rows together do: it is what
    is left of the rows' means by seed when each row's and each seed's own part is taken away (two-way analysis of
    variance without replication). Differences to one common row would share that row's own part, and their number
    would claim more degrees of freedom than there are.

    Args:
        rows: (S, n) of each row, over the same seeds and pictures. Pictures that are not finite somewhere are left out.

    Returns:
        0 and 0 where there are fewer than two rows or seeds.
    """
    values = np.stack(rows)
    means = values[:, :, np.isfinite(values).all(axis=(0, 1))]
    freedom = (values.shape[0] - 1) * (values.shape[1] - 1)
    if not freedom or not means.size:
        return 0.0, 0
    means = means.mean(axis=2)
    left = means - means.mean(axis=1, keepdims=True) - means.mean(axis=0) + means.mean()
    return float(np.sqrt(2 * (left**2).sum() / freedom)), freedom
