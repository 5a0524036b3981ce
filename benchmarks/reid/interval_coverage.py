"""How often the gain's intervals hold the true gain, by the product's own functions on simulated studies.

Every study draws training images and test identities anew, as another laboratory would. What is assumed stands in
docs/benchmark.md; the last line is JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.machine import machine
from datasets.runtime.arrays.bootstrap import cluster_bootstrap
from reid.benchmark.intervals import GainEstimate, estimate_gain, simultaneous_level

TRUE_GAIN = 0.03
PERSON_SPREAD, QUERY_SPREAD = 0.12, 0.20
"""Standard deviations of a person's own gain and of one query's change of AP in one pair of runs."""
CHANGED = 0.4
"""Share of queries whose first answer turns from right to wrong or back, at no gain."""
MOST_QUERIES = 6
CONFIDENCE = 0.95
DRAWS, PEOPLE, SPREADS = (2, 3, 5), (24, 100, 750), (0.005, 0.02)
FEW = ((3, 8), (5, 8), (3, 5))
"""Draws and people of the further rows with few people."""
TRIALS, CHUNK, RESAMPLES = 2000, 500, 1000
FAMILY, FAMILY_TRIALS = 4, 600


@dataclass(frozen=True, kw_only=True)
class Case:
    """A simulated design."""

    metric: str
    draws: int
    people: int
    spread: float
    """Standard deviation of a draw's gain."""


def main() -> int:
    """Print the grid and the JSON line; exit code 0 where all checks hold."""
    start = time.perf_counter()
    designs = [(draws, people) for draws in DRAWS for people in PEOPLE]
    cases = [
        Case(metric=metric, draws=draws, people=people, spread=spread)
        for metric in ("map", "rank1")
        for draws, people in [*designs, *FEW]
        for spread in SPREADS
    ]
    print(f"{'metric':7}{'draws':>6}{'people':>7}{'spread':>7}{'together':>10}{'people':>8}{'draws':>7}{'width':>7}")
    rows = []
    for number, case in enumerate(cases):
        rows.append(vars(case) | coverage(case, np.random.default_rng([7, number])))
        row = rows[-1]
        print(
            f"{case.metric:7}{case.draws:6}{case.people:7}{100 * case.spread:7.1f}{row['together']:10.3f}"
            f"{row['over_people']:8.3f}{row['over_draws']:7.3f}{100 * row['half_width']:7.1f}",
            flush=True,
        )
    bands = {draws: band_coverage(draws, np.random.default_rng([8, draws])) for draws in (3, 5)}
    print("bands of", FAMILY, "gains hold together:", bands)
    checks = checked(rows, bands)
    print(
        json.dumps(
            {"rows": rows, "bands": bands, "trials": TRIALS, "standard_error": standard_error(rows)}
            | {"seconds": round(time.perf_counter() - start, 1), "checks": checks}
            | {"machine": machine("numpy", "scipy")}
        )
    )
    return 0 if all(checks.values()) else 1


def standard_error(rows: list[dict[str, Any]]) -> float:
    """The largest of the combined interval's coverage, as a share."""
    return max(round((row["together"] * (1 - row["together"]) / TRIALS) ** 0.5, 4) for row in rows)


def checked(rows: list[dict[str, Any]], bands: dict[int, float]) -> dict[str, bool]:
    """What the grid must show."""
    grid = [row for row in rows if row["people"] in PEOPLE]
    return {
        "three_draws_or_more_hold_93_to_97": all(0.93 <= r["together"] <= 0.97 for r in grid if r["draws"] > 2),
        "two_draws_hold_90": all(r["together"] >= 0.9 for r in grid if r["draws"] == 2),
        "few_people_hold_93": all(r["together"] >= 0.93 for r in rows if r["people"] not in PEOPLE),
        "bands_hold_93": all(share >= 0.93 for share in bands.values()),
        "standard_error_within_0.7": standard_error(rows) <= 0.007,
    }


def coverage(case: Case, rng: np.random.Generator) -> dict[str, float]:
    """Share of studies whose interval holds the true gain; the combined one, over people and over draws alone."""
    held: dict[str, list[np.ndarray]] = {"together": [], "over_people": [], "over_draws": [], "half_width": []}
    for _ in range(TRIALS // CHUNK):
        sums, counts = study(case, CHUNK, rng)
        found = estimate_gain([draw[None] for draw in sums], counts)
        low, high = found.interval(CONFIDENCE)
        held["together"].append(holds(low, high))
        held["half_width"].append((high - low) / 2)
        held["over_draws"].append(holds(*found.runs_interval(CONFIDENCE)))
        held["over_people"].append(holds(*over_people(found, sums, counts)))
    half = float(np.median(np.concatenate(held.pop("half_width"))))
    return {name: float(np.concatenate(values).mean()) for name, values in held.items()} | {"half_width": half}


def over_people(found: GainEstimate, sums: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The percentile bootstrap, with one set of resamples for all trials; also where the product takes Student's."""
    return cluster_bootstrap(sums.mean(axis=0), counts, CONFIDENCE, RESAMPLES, seed=0)


def holds(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Whether each interval holds the true gain."""
    return (low <= TRUE_GAIN) & (high >= TRUE_GAIN)


def study(case: Case, trials: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Differences summed over a person's queries (draws, people, trials), and the queries a person (people, trials)."""
    counts = rng.integers(1, MOST_QUERIES + 1, (case.people, trials))
    own = rng.normal(0, PERSON_SPREAD, (case.people, trials))
    drawn = rng.normal(0, case.spread, (case.draws, 1, trials))
    return sums_of(case.metric, TRUE_GAIN + own + drawn, counts, rng), counts.astype(float)


def sums_of(metric: str, expected: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A person's summed differences in each pair of runs, from the expected difference of a query."""
    if metric == "map":
        return counts * expected + QUERY_SPREAD * np.sqrt(counts) * rng.standard_normal(expected.shape)
    expected = np.clip(expected, -CHANGED, CHANGED)
    better, worse = (CHANGED + expected) / 2, (CHANGED - expected) / 2
    up = rng.binomial(counts, better)
    return (up - rng.binomial(counts - up, worse / (1 - better))).astype(float)


def band_coverage(draws: int, rng: np.random.Generator, people: int = 100, spread: float = 0.02) -> float:
    """Share of studies in which the bands of several gains, of the same people, all hold their true gain."""
    held = 0
    for _ in range(FAMILY_TRIALS):
        held += all(_band_holds(draws, people, spread, rng))
    return held / FAMILY_TRIALS


def _band_holds(draws: int, people: int, spread: float, rng: np.random.Generator) -> Iterator[bool]:
    """Half of a person's gain (by variance) is the same in all comparisons, as when the fractions are nested."""
    counts = rng.integers(1, MOST_QUERIES + 1, (people, 1))
    shared = rng.normal(0, PERSON_SPREAD * 0.5**0.5, (people, 1))
    own = shared + rng.normal(0, PERSON_SPREAD * 0.5**0.5, (people, FAMILY))
    sums = sums_of("map", TRUE_GAIN + own + rng.normal(0, spread, (draws, 1, FAMILY)), counts, rng)
    found = estimate_gain([draw[None] for draw in sums], counts.astype(float))
    level = simultaneous_level([(found, place) for place in range(FAMILY)], CONFIDENCE)
    half = found.variances.half_width(level)
    yield from holds(found.value - half, found.value + half)


if __name__ == "__main__":
    sys.exit(main())
