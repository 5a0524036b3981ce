"""The table of gains: every arm over the baseline and over each control, with its intervals and their origin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from datasets.runtime.arrays.bootstrap import cluster_bootstrap
from datasets.runtime.errors import InputError
from reid.benchmark.intervals import (
    FEW_PEOPLE,
    FEWEST_PEOPLE,
    GainEstimate,
    estimate_gain,
    simultaneous_level,
)
from reid.benchmark.statistics import METRICS
from reid.config import BenchmarkConfig, DeclaredComparison

Cell = tuple[str, int, str, int, int]
"""A run: protocol, fraction, arm, draw, seed."""


@dataclass(frozen=True, kw_only=True)
class _Compared:
    """One arm over another at one fraction, all metrics."""

    protocol: str
    fraction: int
    arm: str
    baseline: str
    before: np.ndarray
    after: np.ndarray
    pairs: int
    people: tuple[int, ...]
    estimate: GainEstimate
    people_interval: tuple[np.ndarray, np.ndarray]


def gains(results: pd.DataFrame, per_query: Mapping[Cell, pd.DataFrame], config: BenchmarkConfig) -> pd.DataFrame:
    """Each arm's gain over the baseline and over each control, from the (draw, seed) pairs that both arms have.

    Args:
        results: one row per run.
        per_query: `per_query_metrics` of each run.
        config: baseline, controls, declared comparisons, confidence, resamples, seed.

    Returns:
        One row per protocol, fraction, arm, baseline and metric (docs/data-formats.md has the columns); shares.

    Raises:
        InputError: two runs were tested on different queries.
    """
    compared = list(_compared(results, per_query, config))
    declared = [config.declares(item.arm, item.baseline, item.fraction) for item in compared]
    family = [item for item, chosen in zip(compared, declared, strict=True) if chosen]
    if len({item.people for item in family}) > 1:
        raise InputError("runs were tested on different people; compare runs of one test set")
    levels = [_family_level(family, metric, config) for metric in range(len(METRICS))]
    size = len({(item.protocol, item.fraction, frozenset((item.arm, item.baseline))) for item in family})
    rows = []
    for item, chosen in zip(compared, declared, strict=True):
        rows += _rows(item, config, levels if chosen else None, size)
    return pd.DataFrame(rows)


def not_run(gained: pd.DataFrame, comparisons: Sequence[DeclaredComparison]) -> list[str]:
    """Declared comparisons that no two runs of the same draw and seed belong to; the bands do not count them."""
    names = ["arm", "baseline", "fraction"]
    found = set(gained[names].itertuples(index=False, name=None)) if len(gained) else set()
    absent = []
    for item in comparisons:
        for fraction in item.fractions or [None]:
            if not any((arm, over) == (item.arm, item.over) and fraction in (None, at) for arm, over, at in found):
                absent.append(f"{item.arm} over {item.over}" + (f" at {fraction} %" if fraction else ""))
    return absent


def _compared(
    results: pd.DataFrame, per_query: Mapping[Cell, pd.DataFrame], config: BenchmarkConfig
) -> Iterator[_Compared]:
    """Every arm over the baseline and each control where both were run on the same draw and seed."""
    for baseline in dict.fromkeys([config.baseline, *config.controls]):
        for (protocol, fraction), group in results.groupby(["protocol", "fraction"], sort=False):
            runs = group.set_index(["draw", "seed"]).sort_index()
            by_arm = dict(iter(runs.groupby("arm", sort=False)))
            theirs = by_arm.get(baseline)
            for arm, ours in by_arm.items():
                if arm == baseline or theirs is None or not len(ours.index.intersection(theirs.index)):
                    continue
                common = ours.index.intersection(theirs.index)
                place = (protocol, int(fraction), arm, baseline)
                queries = {
                    pair: tuple(per_query[protocol, fraction, name, *pair] for name in (arm, baseline))
                    for pair in common
                }
                yield _compare(place, ours.loc[common], theirs.loc[common], queries, config)


def _compare(
    place: tuple[str, int, str, str],
    ours: pd.DataFrame,
    theirs: pd.DataFrame,
    queries: Mapping[tuple[int, int], tuple[pd.DataFrame, ...]],
    config: BenchmarkConfig,
) -> _Compared:
    protocol, fraction, arm, baseline = place
    draws, counts = _sums_by_person(queries)
    estimate = estimate_gain(draws, counts.to_numpy())
    return _Compared(
        protocol=protocol,
        fraction=fraction,
        arm=arm,
        baseline=baseline,
        before=_mean_of_draws(theirs),
        after=_mean_of_draws(ours),
        pairs=len(ours),
        people=tuple(counts.index),
        estimate=estimate,
        people_interval=_over_people(estimate, draws, counts.to_numpy(), config),
    )


def _mean_of_draws(runs: pd.DataFrame) -> np.ndarray:
    return runs[list(METRICS)].groupby("draw").mean().mean().to_numpy()


def _sums_by_person(
    pairs: Mapping[tuple[int, int], tuple[pd.DataFrame, ...]],
) -> tuple[list[np.ndarray], pd.Series]:
    """For each draw (seeds, people, metrics): differences summed over a person's queries; and the queries a person."""
    by_draw: dict[int, list[np.ndarray]] = {}
    queries = next(iter(pairs.values()))[0]
    for (draw, _seed), (after, before) in pairs.items():
        if not (after.index.equals(before.index) and after.index.equals(queries.index)):
            raise InputError("runs were tested on different queries; compare runs of one test set")
        difference = after[list(METRICS)] - before[list(METRICS)]
        by_draw.setdefault(draw, []).append(difference.groupby(queries["pid"]).sum().to_numpy())
    return [np.stack(seeds) for seeds in by_draw.values()], queries.groupby("pid").size()


def _over_people(
    estimate: GainEstimate, draws: Sequence[np.ndarray], counts: np.ndarray, config: BenchmarkConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Bootstrap over test identities; Student's interval where they are few."""
    if len(counts) < FEW_PEOPLE:
        return estimate.student_interval(config.confidence)
    mean = np.mean([seeds.mean(axis=0) for seeds in draws], axis=0)
    return cluster_bootstrap(mean, counts, config.confidence, config.resamples, config.seed)


def _family_level(family: Sequence[_Compared], metric: int, config: BenchmarkConfig) -> float:
    """Coverage of each declared comparison's band; those without an interval of their own do not count."""
    known = [
        (item.estimate, metric)
        for item in family
        if len(item.people) >= FEWEST_PEOPLE and item.estimate.variances.total[metric] > 0
    ]
    return simultaneous_level(known, config.confidence, config.seed)


def _rows(
    item: _Compared, config: BenchmarkConfig, levels: Sequence[float] | None, family: int
) -> Iterator[dict[str, Any]]:
    """One row a metric."""
    estimate, parts = item.estimate, item.estimate.parts()
    ends = {
        ("low", "high"): estimate.interval(config.confidence),
        ("people_low", "people_high"): item.people_interval,
        ("runs_low", "runs_high"): estimate.runs_interval(config.confidence),
        ("band_low", "band_high"): _band(estimate, levels),
    }
    for place, metric in enumerate(METRICS):
        yield (
            {"protocol": item.protocol, "fraction": item.fraction, "arm": item.arm, "baseline": item.baseline}
            | {"metric": metric, "before": item.before[place], "after": item.after[place]}
            | {"value": estimate.value[place]}
            | {name: end[place] for names, both in ends.items() for name, end in zip(names, both, strict=True)}
            | {"smallest_visible": (ends["low", "high"][1][place] - ends["low", "high"][0][place]) / 2}
            | {"freedom": float(estimate.variances.freedom[place])}
            | {f"variance_{name}": values[place] for name, values in parts.items()}
            | {"unit": estimate.unit, "units": len(estimate.by_unit), "draws": estimate.draws}
            | {"seeds": estimate.seeds, "people": len(item.people), "pairs": item.pairs}
            | {"declared": levels is not None, "family": family}
        )


def _band(estimate: GainEstimate, levels: Sequence[float] | None) -> tuple[np.ndarray, np.ndarray]:
    """The interval at the level at which all declared ones hold together; NaN for one that was not declared."""
    if levels is None:
        return np.full(len(METRICS), np.nan), np.full(len(METRICS), np.nan)
    half = estimate.variances.half_width(np.asarray(levels))
    return estimate.value - half, estimate.value + half
