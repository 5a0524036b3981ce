"""What is done at test time, for every network that was tested so: figures, gains paired by query, seconds.

Each *variant* of `reid evaluate` (``plain``, ``centralized_nfc`` ...) of each arm is compared with the same networks'
plain features (what test time adds), with the plain features of the baseline and of each control (training and test
time together) and, where a generator drew its pictures, with the same variant of what costs no generator or keeps the
pose. Gains and intervals are those of `reid.benchmark.gains`. Nothing of this enters the headline.

Under protocol 'paper' pictures may come from a generator that has seen test identities, so an evaluation of that
protocol stands under 'paper' here, also where its network was trained under 'leak-free'.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from datasets.runtime.errors import InputError
from datasets.runtime.manifests import LOGS, manifest_of
from datasets.runtime.reading.contents import read_json
from datasets.runtime.reading.tables import read_table
from reid.arms import arm_rank
from reid.benchmark.gains import Cell, gains
from reid.benchmark.statistics import METRICS, per_query_metrics
from reid.config import BenchmarkConfig, EvaluateReidConfig

PLAIN = "plain"
STEPS = {"nfc": "NFC", "reranked": "re-ranked"}
"""What follows the origin of the features in a variant's name, and what people call it."""
SECONDS = ("drawing", "embedding", "processing")
"""Columns of seconds for a thousand test images."""
CELL = ["protocol", "fraction", "arm", "draw", "seed"]
SEPARATOR = "\t"
"""Between arm and variant where both stand in one column; no arm's name holds it."""


@dataclass(frozen=True)
class AtTestTime:
    """The tables of what was done at test time."""

    figures: pd.DataFrame
    """A row per protocol, fraction, arm and variant: means over runs of `METRICS`, ``id2`` and `SECONDS`; ``kind``."""
    gains: pd.DataFrame
    """As ``gains.parquet``, with ``variant``, and ``over_arm, over_variant`` in place of ``baseline``."""


def origin_of(variant: str) -> str:
    """Where a variant's features come from: 'plain', or the name of an entry of `centralize`."""
    first = variant.split("_")[0]
    return PLAIN if first in STEPS else first


def steps_of(variant: str) -> tuple[str, ...]:
    """What is done to them: of 'nfc' and 'reranked' those that the name lists."""
    return tuple(step for step in variant.split("_") if step in STEPS)


def spoken_variant(variant: str) -> str:
    """'none', 'NFC', 'centralized + NFC + re-ranked'."""
    parts = [name for name in (origin_of(variant),) if name != PLAIN]
    return " + ".join([*parts, *(STEPS[step] for step in steps_of(variant))]) or "none"


def compare_variants(results: pd.DataFrame, config: BenchmarkConfig) -> AtTestTime:
    """The tables of `config.evaluations`.

    Args:
        results: one row per run, as `reid.benchmark.benchmark.read_results` gives them.

    Raises:
        InputError: an evaluation is of none of the runs, of other test images, of a network that comes twice, or means
            something else by a variant's name than another one.
    """
    tried, per_query = _read(results, config.evaluations)
    names = [*METRICS, "id2", *SECONDS]
    groups = ["protocol", "fraction", "arm", "variant", "kind"]
    figures = tried.groupby(groups, sort=False)[names].mean().reset_index()
    figures["runs"] = tried.groupby(groups, sort=False).size().to_numpy()
    labeled = tried.assign(arm=[_label(row.arm, row.variant) for row in tried.itertuples()])
    found = [
        gains(labeled[labeled.arm.isin([over, *labels])], per_query, _over(config, over))
        for over, labels in _comparisons(figures, config)
    ]
    return AtTestTime(figures, _unlabeled(pd.concat(found, ignore_index=True)))


def _read(results: pd.DataFrame, evaluations: Sequence[Path]) -> tuple[pd.DataFrame, dict[Cell, pd.DataFrame]]:
    """A row per run and variant, and each one's `per_query_metrics` by (protocol, fraction, label, draw, seed)."""
    runs = {manifest_of(Path(row.folder))["content_sha256"]: row for row in results.itertuples()}
    rows, per_query, seen = [], {}, set()
    meanings: dict[str, tuple[Path, dict[str, Any]]] = {}
    for folder in evaluations:
        manifest = manifest_of(folder, EvaluateReidConfig.stage)
        row = runs.get(manifest["inputs"].get("run", {}).get("sha256"))
        metrics = read_json(folder, "metrics.json")
        if row is None:
            raise InputError(f"{folder} is no evaluation of one of the runs; give those of 'reid evaluate --run'")
        if row.folder in seen:
            raise InputError(f"two evaluations are of the same run ({row.folder}); give one for each")
        if any(metrics.get(name) != getattr(row, name) for name in ("queries", "gallery")):
            raise InputError(f"{folder} is of other test images than its run was tested on; evaluate it on those")
        seen.add(row.folder)
        cell = {name: getattr(row, name) for name in CELL}
        cell["protocol"] = "paper" if metrics.get("protocol") == "paper" else cell["protocol"]
        for found in _variants(folder, metrics):
            _refuse_other_meaning(
                folder, found["variant"], meaning(manifest["config"], metrics, found["variant"]), meanings
            )
            rows.append(cell | found)
            key = (
                cell["protocol"],
                cell["fraction"],
                _label(cell["arm"], found["variant"]),
                cell["draw"],
                cell["seed"],
            )
            name = "per_query" if found["variant"] == PLAIN else f"per_query_{found['variant']}"
            per_query[key] = per_query_metrics(read_table(Path(folder), f"{name}.parquet").to_pandas())
    tried = pd.DataFrame(rows)
    order = tried.arm.map(arm_rank)
    return tried.assign(_arm=order).sort_values(["protocol", "fraction", "_arm"], kind="stable"), per_query


def meaning(config: Mapping[str, Any], metrics: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """What was done for a variant: the settings of its steps and of what was averaged, which its name does not tell.

    Args:
        config: of the evaluation.
        metrics: its ``metrics.json``.
        variant: for example 'centralized_nfc'.
    """
    settings = {"nfc": "nfc", "reranked": "rerank"}
    steps = {settings[step]: config.get(settings[step]) for step in steps_of(variant)}
    facts = metrics.get("centralize", {}).get(origin_of(variant), {})
    return steps | {name: facts[name] for name in ("control", "pose_policy", "weight") if name in facts}


def _refuse_other_meaning(
    folder: Path, variant: str, meant: dict[str, Any], meanings: dict[str, tuple[Path, dict[str, Any]]]
) -> None:
    """Refuse to pool figures of one name that were made with different settings."""
    other, known = meanings.setdefault(variant, (folder, meant))
    if known != meant:
        name = next(name for name in [*known, *meant] if known.get(name) != meant.get(name))
        raise InputError(
            f"'{variant}' is {name} {known.get(name)} in {other} and {meant.get(name)} in {folder}; give evaluations "
            "of the same settings"
        )


def _variants(folder: Path, metrics: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What an evaluation found, variant by variant, in its own order."""
    seconds = read_json(folder, f"{LOGS}/test_time.json")["seconds_per_thousand_images"]
    kinds = {name: _kind(facts) for name, facts in metrics.get("centralize", {}).items()}
    for row in read_table(folder, "test_time.parquet").to_pylist():
        costs = {name: seconds.get(row["variant"], {}).get(name) for name in SECONDS}
        figures = {name: row[name] for name in (*METRICS, "id2")}
        kind = kinds.get(origin_of(row["variant"]), PLAIN)
        yield {"variant": row["variant"], "kind": kind, **figures, **{n: _number(v) for n, v in costs.items()}}


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _kind(facts: dict[str, Any]) -> str:
    """'control' (own views, own pose) or 'pictures'."""
    return "control" if "control" in facts or facts.get("pose_policy") == "reconstruction" else "pictures"


def _comparisons(figures: pd.DataFrame, config: BenchmarkConfig) -> Iterator[tuple[str, list[str]]]:
    """(label that is compared with, labels that are compared with it)."""
    arms = list(dict.fromkeys(figures.arm))
    every = {arm: list(dict.fromkeys(figures.variant[figures.arm == arm])) for arm in arms}
    kinds = dict(zip(figures.variant, figures.kind, strict=True))
    for arm in arms:
        yield _label(arm, PLAIN), [_label(arm, name) for name in every[arm]]
        for control in (name for name in every[arm] if kinds[name] == "control"):
            like = [n for n in every[arm] if kinds[n] == "pictures" and steps_of(n) == steps_of(control)]
            yield _label(arm, control), [_label(arm, name) for name in like]
    for reference in dict.fromkeys([config.baseline, *config.controls]):
        if reference in arms:
            others = [_label(arm, name) for arm in arms if arm != reference for name in every[arm]]
            yield _label(reference, PLAIN), others


def _label(arm: str, variant: str) -> str:
    return f"{arm}{SEPARATOR}{variant}"


def _over(config: BenchmarkConfig, label: str) -> BenchmarkConfig:
    """Gains over one label alone; none of them was declared, so all of them share the band."""
    return config.model_copy(update={"baseline": label, "controls": [], "comparisons": []})


def _unlabeled(gained: pd.DataFrame) -> pd.DataFrame:
    """Arm and variant in columns of their own; a comparison that two rules ask for stands once."""
    if gained.empty:
        return gained
    ours, theirs = (gained[name].str.split(SEPARATOR, expand=True) for name in ("arm", "baseline"))
    found = gained.drop(columns="baseline").assign(
        arm=ours[0], variant=ours[1], over_arm=theirs[0], over_variant=theirs[1]
    )
    return found.drop_duplicates(["protocol", "fraction", "arm", "variant", "over_arm", "over_variant", "metric"])
