"""How sure a gain is: one interval over new draws and new test identities together.

Another laboratory draws other images, trains anew and tests on other people. The gain's variance under all of that is a
two-way random-effects one: runs (draws of the subset, seeds nested in them) crossed with test identities. The variance
over people and the variance over runs both contain the chance that is a single run's with a single person (the
*interplay*), so it is counted once. Degrees of freedom are Welch and Satterthwaite's.

Shapes: P test identities; K columns that are estimated side by side (metrics; in benchmarks/reid/interval_coverage.py
trials).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

FEW_PEOPLE = 20
"""Below so many test identities the percentile bootstrap is too narrow (84 % at eight); Student's interval stands
in."""
FEWEST_PEOPLE = 5
"""Below so many there is no interval at all: often all of them change alike by chance, and it would have no width."""
Ends = tuple[np.ndarray, np.ndarray]


def student_quantile(level: float | np.ndarray, freedom: float | np.ndarray) -> np.ndarray:
    """Student's two-sided quantile that holds `level` of the distribution."""
    return stats.t.ppf((1 + np.asarray(level)) / 2, freedom)


@dataclass(frozen=True, kw_only=True)
class Variances:
    """The parts of a mean gain's variance, each (K,) or a number, and what they were estimated from."""

    people: np.ndarray
    """Over test identities, interplay included."""
    runs: np.ndarray
    """Over the units of runs, interplay included; 0 where there is one run."""
    interplay: np.ndarray
    """What `people` and `runs` both contain: a single run's luck with a single person."""
    people_count: int
    units: int
    """How many draws, or seeds of the one draw, `runs` comes from."""

    @property
    def runs_alone(self) -> np.ndarray:
        """`runs` without the interplay, never below zero."""
        return np.maximum(self.runs - self.interplay, 0.0)

    @property
    def total(self) -> np.ndarray:
        """Variance over new runs and new people together."""
        return self.people + self.runs_alone

    @property
    def freedom(self) -> np.ndarray:
        """Welch and Satterthwaite's degrees of freedom of `total`; infinite where it is zero."""
        people_freedom, runs_freedom = self.people_count - 1, max(self.units - 1, 1)
        spread = self.people**2 / people_freedom + np.where(
            self.runs_alone > 0,
            self.runs**2 / runs_freedom + self.interplay**2 / (people_freedom * runs_freedom),
            0.0,
        )
        least = min(people_freedom, runs_freedom) if self.units > 1 else people_freedom
        found = np.divide(self.total**2, spread, out=np.full(np.shape(self.total), np.inf), where=spread > 0)
        return np.maximum(found, least)

    def critical(self, confidence: float | np.ndarray) -> np.ndarray:
        """How many standard errors the interval reaches to either side.

        The wider of two approximations: Student's quantile at `freedom`, and the mean of the quantiles of people and of
        runs weighted by their variances (Cochran and Cox 1950). The first is too narrow where two or three draws happen
        to lie close together, the second where the draws' part happens to vanish (docs/benchmark.md has the figures).
        """
        welch = student_quantile(confidence, self.freedom)
        if self.units < 2:
            return welch
        both = (
            student_quantile(confidence, self.people_count - 1) * self.people
            + student_quantile(confidence, self.units - 1) * self.runs_alone
        )
        total = np.asarray(self.total)
        cochran = np.divide(both, total, out=np.zeros(np.shape(total)), where=total > 0)
        return np.maximum(welch, cochran)

    def half_width(self, confidence: float | np.ndarray) -> np.ndarray:
        """Half the interval; NaN from fewer than `FEWEST_PEOPLE` people, or where nothing varied."""
        if self.people_count < FEWEST_PEOPLE:
            return np.full(np.shape(self.total), np.nan)
        half = self.critical(confidence) * np.sqrt(self.total)
        return np.where(self.total > 0, half, np.nan)


@dataclass(frozen=True, kw_only=True)
class GainEstimate:
    """A mean gain and its variance; arrays are (K,) unless said otherwise."""

    value: np.ndarray
    """Mean over draws of the mean over a draw's seeds."""
    variances: Variances
    seeds_part: np.ndarray
    """What the training's luck (seeds within draws) contributes to the total; NaN with one seed a draw."""
    unit: str
    """What runs are counted by: 'draw', 'seed' (of the one draw) or 'none' (one run)."""
    draws: int
    seeds: float
    """Seeds a draw, on average (harmonic)."""
    by_unit: np.ndarray
    """(units, K) gains."""
    by_person: np.ndarray
    """(P, K) jackknife pseudo-values: their mean over people is the gain, their covariance its covariance."""

    def interval(self, confidence: float) -> Ends:
        """Over new draws and new people; over these images' trainings and new people where there is one draw."""
        half = self.variances.half_width(confidence)
        return self.value - half, self.value + half

    def runs_interval(self, confidence: float) -> Ends:
        """Student's interval over draws (or seeds) alone, for these test identities; NaN from one run."""
        if len(self.by_unit) < 2:
            return np.full(self.value.shape, np.nan), np.full(self.value.shape, np.nan)
        half = student_quantile(confidence, len(self.by_unit) - 1) * np.sqrt(self.variances.runs)
        return self.value - half, self.value + half

    def student_interval(self, confidence: float) -> Ends:
        """Student's interval over people alone, for these trained networks."""
        alone = Variances(
            people=self.variances.people,
            runs=np.zeros_like(self.value),
            interplay=np.zeros_like(self.value),
            people_count=self.variances.people_count,
            units=1,
        )
        half = alone.half_width(confidence)
        return self.value - half, self.value + half

    def parts(self) -> dict[str, np.ndarray]:
        """The total variance by origin: draws, seeds, people, interplay; what cannot be separated is NaN.

        With several draws of one seed each, 'draws' holds the training's luck too.
        """
        variances = self.variances
        interplay = np.minimum(variances.interplay, variances.people)
        unknown = np.full(self.value.shape, np.nan)
        draws = variances.runs_alone - np.nan_to_num(self.seeds_part) if self.unit == "draw" else unknown
        return {
            "draws": draws,
            "seeds": self.seeds_part,
            "people": variances.people - interplay,
            "interplay": interplay,
        }


def estimate_gain(draws: Sequence[np.ndarray], counts: np.ndarray) -> GainEstimate:
    """The mean gain of paired runs, with the variances over draws, seeds and test identities.

    A run's gain is the mean over all queries, so people count by their queries. The variance over people is the
    jackknife's, which holds for such ratios from few people on; where all people have equally many queries it is their
    sample variance over P.

    Args:
        draws: for each draw (S, P, K): the differences between the two runs of each seed, summed over a person's
            queries.
        counts: (P,) or (P, K), queries a person.
    """
    counts = counts if counts.ndim == 2 else counts[:, None]
    pseudo = [_pseudo_values(sums, counts) for sums in draws]  # (S, P, K)
    by_run = [sums.sum(axis=1) / counts.sum(axis=0) for sums in draws]  # (S, K)
    people = len(counts)
    if len(draws) > 1:
        unit, by_unit, cells = "draw", np.stack([g.mean(0) for g in by_run]), np.stack([p.mean(0) for p in pseudo])
    else:
        unit, by_unit, cells = ("seed" if len(by_run[0]) > 1 else "none"), by_run[0], pseudo[0]
    units, by_person = len(by_unit), cells.mean(axis=0)
    single = np.zeros(by_unit.shape[1])
    variances = Variances(
        people=_variance(by_person, people),
        runs=by_unit.var(axis=0, ddof=1) / units if units > 1 else single,
        interplay=_interplay(cells - by_person, people, units - 1) / units if units > 1 else single,
        people_count=people,
        units=units,
    )
    return GainEstimate(
        value=by_unit.mean(axis=0),
        variances=variances,
        seeds_part=variances.runs_alone if unit == "seed" else _seeds_part(by_run, pseudo, variances),
        unit=unit,
        draws=len(draws),
        seeds=float(1 / np.mean([1 / len(runs) for runs in by_run])),
        by_unit=by_unit,
        by_person=by_person,
    )


def _pseudo_values(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(S, P, K): how far each person moves a run's gain, scaled so that the mean over people is about the gain."""
    people, total = len(counts), counts.sum(axis=0)
    gains = (sums.sum(axis=1) / total)[:, None]
    others = np.where(total > counts, total - counts, np.nan)  # one person alone: nothing is left
    return gains + (people - 1) * (sums - counts * gains) / others


def _variance(by_person: np.ndarray, people: int) -> np.ndarray:
    return by_person.var(axis=0, ddof=1) / people if people > 1 else np.full(by_person.shape[1], np.nan)


def _interplay(residuals: np.ndarray, people: int, freedom: int) -> np.ndarray:
    """Mean square of (runs, P, K) residuals about both people and runs, over P: the variance of one run's mean."""
    if people < 2:
        return np.full(residuals.shape[-1], np.nan)
    centered = residuals - residuals.mean(axis=1, keepdims=True)
    return np.einsum("rpk,rpk->k", centered, centered) / ((people - 1) * freedom) / people


def _seeds_part(by_run: Sequence[np.ndarray], pseudo: Sequence[np.ndarray], variances: Variances) -> np.ndarray:
    """The seeds' contribution to the variance of the mean, without interplay; NaN with one seed a draw."""
    freedom = sum(len(runs) - 1 for runs in by_run)
    if not freedom:
        return np.full(by_run[0].shape[1], np.nan)
    within = np.concatenate([gains - gains.mean(axis=0) for gains in by_run])
    cells = np.concatenate([values - values.mean(axis=0) for values in pseudo])
    one_run = (within**2).sum(axis=0) / freedom - _interplay(cells, variances.people_count, freedom)
    share = np.mean([1 / len(runs) for runs in by_run]) / len(by_run)
    return np.clip(one_run * share, 0.0, variances.runs_alone)


def simultaneous_level(estimates: Sequence[tuple[GainEstimate, int]], confidence: float, seed: int = 0) -> float:
    """The coverage that each of several intervals needs so that all hold at once with `confidence` (max-t).

    Student's quantile at that level is the critical value of the largest of the standardized errors, each at its own
    degrees of freedom. Gains on one test set go up and down together with its people; that correlation is estimated.
    The draws' is not (two or three draws cannot tell it) and counts as none, which widens the intervals.

    Args:
        estimates: each gain with the column of it that is meant; all of the same test identities.
    """
    if len(estimates) < 2:
        return confidence
    by_person = np.stack([found.by_person[:, column] for found, column in estimates])
    totals = np.array([np.asarray(found.variances.total)[column] for found, column in estimates])
    covariance = np.cov(by_person) / by_person.shape[1]
    scale = np.sqrt(np.where(totals > 0, totals, 1.0))
    correlation = covariance / np.outer(scale, scale)
    np.fill_diagonal(correlation, 1.0)
    errors = np.random.default_rng(seed).multivariate_normal(
        np.zeros(len(totals)), correlation, size=MAX_T_SAMPLES, method="eigh"
    )
    least = 2 * stats.norm.sf(np.abs(errors).max(axis=1))
    return 1 - float(np.clip(np.quantile(least, 1 - confidence), (1 - confidence) / len(totals), 1 - confidence))


MAX_T_SAMPLES = 40_000
