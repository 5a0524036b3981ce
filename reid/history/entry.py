"""The headline of a regeneration, read from its artifacts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from datasets.runtime.manifests import RecordedForm, manifest_of, summary_of
from reid.config import HistoryEntry, RememberedGain
from reid.report.data import read_results, with_ancestors
from reid.report.gains import Comparison, Gain, main_arm, read_gains


def entry_of(
    benchmark: Path,
    images: Path | None = None,
    generators: Sequence[Path] = (),
    synthetic: Sequence[Path] = (),
    **about: Any,
) -> HistoryEntry:
    """What is remembered of a regeneration.

    Args:
        benchmark: its table.
        images: its index.
        generators: its generators.
        synthetic: its synthetic sets.
        about: further fields: run, preset, code, config ...

    Raises:
        ArtifactError: an artifact is of another stage or version.
    """
    manifest, comparison = manifest_of(benchmark, "benchmark"), _comparison(benchmark)
    single = [] if images is None else [images]
    ancestors = with_ancestors([*single, *generators, *synthetic, benchmark], benchmark.resolve().parent.parent)
    return HistoryEntry(
        benchmark=manifest["content_sha256"],
        images="" if images is None else manifest_of(images)["content_sha256"],
        counts=_counts(images, synthetic),
        quality=_quality(generators, synthetic),
        seconds=round(sum(float(item.get("seconds", 0)) for item in ancestors), 1),
        versions=manifest.get("versions", {}),
        arm=comparison.arm or "",
        reference=comparison.reference,
        protocol=comparison.protocol,
        gains=[_remembered(gain) for gain in comparison.gains if gain.metric == "map"],
        **about,
    )


def _comparison(benchmark: Path) -> Comparison:
    results = read_results(benchmark)
    baseline = manifest_of(benchmark)["config"].get("baseline", "real")
    protocol = "leak-free" if "leak-free" in set(results["protocol"]) else str(results["protocol"].iloc[0])
    arm = main_arm(results, baseline)
    return Comparison(results=results, gains=read_gains(benchmark), protocol=protocol, arm=arm, baseline=baseline)


def _remembered(gain: Gain) -> RememberedGain:
    low, high = gain.interval or (None, None)
    return RememberedGain(
        protocol=gain.protocol,
        fraction=gain.fraction,
        arm=gain.arm,
        baseline=gain.baseline,
        value=gain.value,
        low=low,
        high=high,
        before=100 * gain.before,
        after=100 * gain.after,
        unit=gain.unit,
    )


class _Trained(RecordedForm):
    validation_loss: float | None = None


class _Made(RecordedForm):
    images: int = 0
    pose_score: float | None = None


def _counts(images: Path | None, synthetic: Sequence[Path]) -> dict[str, int]:
    counts: dict[str, int] = {}
    if images is not None:
        table = pd.read_parquet(images / "images.parquet", columns=["split", "pid", "camid", "status"])
        table = table[table["status"] == "ok"]
        train = table[(table["split"] == "train") & (table["pid"] > 0)]
        counts = {"training images": len(train), "training people": int(train["pid"].nunique())}
        for split, name in (("query", "queries"), ("gallery", "gallery images")):
            counts[name] = int((table["split"].eq(split) & table["pid"].ge(0)).sum())
        counts["cameras"] = int(table.loc[table["camid"] > 0, "camid"].nunique())
    made = [summary_of(manifest_of(folder), _Made).images for folder in synthetic]
    return counts | ({"synthetic images": sum(made)} if made else {})


def _quality(generators: Iterable[Path], synthetic: Iterable[Path]) -> dict[str, float]:
    """Means of what the manifests say; what none of them says is left out."""
    asked = {
        "validation loss": [summary_of(manifest_of(folder), _Trained).validation_loss for folder in generators],
        "pose score": [summary_of(manifest_of(folder), _Made).pose_score for folder in synthetic],
    }
    known = {name: [value for value in values if value is not None] for name, values in asked.items()}
    return {name: round(float(np.mean(values)), 5) for name, values in known.items() if values}
