"""The table of finished runs: what each arm reaches at each fraction, how certain that is, and the papers beside it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from datasets.runtime.atomic import write_text_atomically
from datasets.runtime.command_line import one_line
from datasets.runtime.errors import ArtifactError, InputError
from datasets.runtime.manifests import manifest_of
from datasets.runtime.reading.contents import AGAIN, read_json
from datasets.runtime.reading.tables import read_table
from reid.arms import arm_rank
from reid.benchmark.at_test_time import AtTestTime, compare_variants
from reid.benchmark.gains import gains, not_run
from reid.benchmark.statistics import METRICS, per_query_metrics, statistics
from reid.benchmark.tables import markdown, plain_table
from reid.benchmark.variant_tables import markdown_variants, plain_variants
from reid.config import BenchmarkConfig, TrainReidConfig

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.json"
RUN_KEYS = ["protocol", "fraction", "arm", "draw", "seed"]
VARIANT_METRICS = tuple(f"_{metric}" for metric in METRICS)
"""How figures of what is tried at test time end: ``reranked_map``, ``nfc_rank1``."""
COLUMNS = [
    *("protocol", "fraction", "draw", "seed", "arm", "images", "synthetic_images", "provenance", "identities"),
    *("steps", "steps_before"),
    *METRICS,
    *("queries", "unmatched_queries", "gallery", "distractors", "junk"),
    *("backbone", "weights", "height", "width", "parameters", "batch_identities", "batch_images", "batch_synthetic"),
    *("seconds", "run"),
]


def make_benchmark(config: BenchmarkConfig, directory: Path) -> dict[str, Any]:
    """Write ``results.parquet/.csv/.md/.txt``, ``statistics.parquet`` and ``gains.parquet``.

    With evaluations also ``test_time.parquet/.txt`` and ``test_time_gains.parquet``.
    """
    results = read_results(config.runs)
    table = statistics(results, config.confidence)
    per_query = {
        tuple(row[key] for key in RUN_KEYS): per_query_metrics(read_table(Path(run), "per_query.parquet").to_pandas())
        for run, row in zip(results.folder, results.to_dict("records"), strict=True)
    }
    gained = gains(results, per_query, config)
    for absent in not_run(gained, config.comparisons):
        logger.warning("declared, but not among the runs: %s", absent)
    with_folders = results
    results = results[[*COLUMNS, *(name for name in results if name.endswith(VARIANT_METRICS))]]
    results.to_parquet(directory / "results.parquet", index=False)
    results.to_csv(directory / "results.csv", index=False)
    table.to_parquet(directory / "statistics.parquet", index=False)
    gained.to_parquet(directory / "gains.parquet", index=False)
    text = plain_table(results, table)
    write_text_atomically(directory / "results.txt", text + "\n")
    report = markdown(results, table, gained, config)
    if config.evaluations:
        report += _write_test_time(compare_variants(with_folders, config), directory)
    write_text_atomically(directory / "results.md", report)
    logger.info("%d runs\n%s", len(results), text)
    return {
        "runs": len(results),
        "arms": sorted(set(results.arm)),
        "fractions": sorted(map(int, set(results.fraction))),
    }


def _write_test_time(found: AtTestTime, directory: Path) -> str:
    """Write the tables of what was done at test time; returns them as Markdown."""
    found.figures.to_parquet(directory / "test_time.parquet", index=False)
    found.gains.to_parquet(directory / "test_time_gains.parquet", index=False)
    write_text_atomically(directory / "test_time.txt", plain_variants(found) + "\n")
    return "\n" + markdown_variants(found) + "\n"


class _Cell(BaseModel):
    """Which cell of the table a run is; names are shown in Markdown."""

    model_config = ConfigDict(strict=True)

    protocol: Literal["leak-free", "paper"]
    fraction: int = Field(ge=1, le=100)
    arm: str = Field(pattern=r"^[\w+.-]+$")
    draw: int = Field(ge=0)
    seed: int = Field(ge=0)


def _metrics(run: Path) -> dict[str, Any]:
    """A run's ``metrics.json``.

    Raises:
        ArtifactError: it lacks a column of the table, or names no cell of it.
    """
    metrics = read_json(run, METRICS_FILE)
    try:
        _Cell.model_validate(metrics)
    except ValidationError as error:
        raise ArtifactError(f"{run}/{METRICS_FILE}: {one_line(error)}; {AGAIN}") from None
    if absent := [name for name in COLUMNS if name not in ("seconds", "run") and name not in metrics]:
        raise ArtifactError(f"{run}/{METRICS_FILE} has no '{absent[0]}'; {AGAIN}")
    return metrics


def read_results(runs: Sequence[Path]) -> pd.DataFrame:
    """One row per run, sorted; ``folder`` is where it lies.

    Raises:
        ArtifactError: a folder is no finished run.
        InputError: two runs of the same cell, of other test images, or of other networks in one arm.
    """
    rows = []
    for run in runs:
        manifest = manifest_of(run, TrainReidConfig.stage)
        path = Path(run) / METRICS_FILE
        if "arm" not in manifest["config"] or not path.is_file():
            raise ArtifactError(f"{run} is no re-ID run; give folders of finished 'python -m reid train'")
        rows.append(_metrics(run) | {"seconds": manifest["seconds"], "run": manifest["key"], "folder": str(run)})
    results = pd.DataFrame(rows).astype({"batch_synthetic": "Int64"})  # unknown where the pools are mixed
    repeated = results[results.duplicated(RUN_KEYS)]
    if len(repeated):
        cell = ", ".join(str(repeated.iloc[0][key]) for key in RUN_KEYS)
        raise InputError(
            f"two runs are the same cell of the table ({cell}); give each (protocol, fraction, arm, draw, seed) once"
        )
    for column in ("queries", "gallery"):
        if results[column].nunique() > 1:
            found = sorted(map(int, set(results[column])))
            raise InputError(f"runs were tested on different images ({column}: {found}); compare runs of one test set")
    _refuse_other_networks(results)
    order = results.arm.map(arm_rank)
    return results.assign(_arm=order).sort_values(["protocol", "fraction", "_arm", "draw", "seed"], ignore_index=True)


def _refuse_other_networks(results: pd.DataFrame) -> None:
    """Refuse draws and seeds of an arm that would be averaged over different networks."""
    for (_, fraction, arm), group in results.groupby(["protocol", "fraction", "arm"]):
        networks = group[["backbone", "weights", "height", "width"]].drop_duplicates()
        if len(networks) > 1:
            first, second = (f"{n.backbone} {n.height}x{n.width} ({n.weights})" for n in networks[:2].itertuples())
            raise InputError(
                f"runs of arm '{arm}' at {fraction} % have different networks ({first}, {second}), whose figures would "
                "be averaged; make a table of each"
            )
