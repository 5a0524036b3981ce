"""The table of an evaluation: scenarios and bounds with intervals, the papers' figures, what is absent and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from datasets.poses.pairs import Pair
from datasets.runtime.arrays.bootstrap import bootstrap_interval
from datasets.runtime.atomic import write_text_atomically
from datasets.runtime.errors import ArtifactError
from datasets.runtime.manifests import manifest_of, model_sha256
from imagpose.config import EvaluateGeneratorConfig
from imagpose.evaluation.data import HeldOutImages
from imagpose.evaluation.published_results import TABLE
from imagpose.metrics.frechet import FEATURES, frechet_distance

METRICS = {
    "ssim": "SSIM",
    "psnr": "PSNR",
    "lpips": "LPIPS",
    "lpips_vgg": "LPIPS (VGG16)",
    "ssim_table1": "SSIM (Table 1's)",
}
DISTANCES = {"inception": "fid", "torchvision_inception": "fid_table1", "alexnet": "frechet_alexnet"}
DISTANCE_NAMES = {"fid": "FID", "fid_table1": "FID (Table 1's)", "frechet_alexnet": "Fréchet distance (AlexNet)"}
BOUNDS = {
    "VAE": "the target through the VAE (upper bound)",
    "copy": "the source as it is (a copy)",
}
"""Rows beside the scenarios, which need no sampling and bound what can be expected of it."""
REFERENCES = {"train": "the training images", "targets": "the pairs' own targets"}
DISTANCE_NOTE = " Fréchet distances against {}; no interval: a bootstrap repeats pictures, which biases them upwards."
SECONDS = ("seconds", "cpu_seconds", "canvases", "images")


def write_results(
    config: EvaluateGeneratorConfig,
    images: HeldOutImages,
    pairs: Sequence[Pair],
    absent: Sequence[str],
    unknown_weights: dict[str, str],
    directory: Path,
) -> dict[str, Any]:
    """Write ``results.json``, ``results.md`` and ``pairs.parquet``; returns the summary.

    Args:
        absent: which columns could not be had, and how to get them.
        unknown_weights: columns whose network is not the published one, each with a sentence that says so.
    """
    reference = _features(directory, "reference-*")
    rows, tables = [], []
    for name in (*config.modes, *BOUNDS):
        table = _scores(directory, name)
        rows.append(_row(name, table, directory, reference, config))
        tables.append(table.assign(row=name))
    pd.concat(tables).to_parquet(directory / "pairs.parquet", index=False)
    results = {
        "pairs": len(pairs),
        "people": len({images.pid(target) for _, target in pairs}),
        "size": list(images.compared),
        "rows": rows,
        "absent": list(absent),
        "unknown_weights": unknown_weights,
        **_settings(config),
        "published": [asdict(row) for row in TABLE],
    }
    write_text_atomically(directory / "results.json", json.dumps(results, indent=1) + "\n")
    write_text_atomically(directory / "results.md", markdown(results))
    return {key: results[key] for key in ("pairs", "people", "size", "rows", "absent", "unknown_weights")}


def _settings(config: EvaluateGeneratorConfig) -> dict[str, Any]:
    """What the figures depend on besides the pairs."""
    return {
        "fid_reference": config.fid_reference,
        "generator_sha256": model_sha256(config.generator),
        "generator_fraction": _fraction(config.generator),
        "sampler": config.sampler,
        "steps": config.steps,
        "guidance": config.guidance,
        "unconditional": config.unconditional,
        "seed": config.seed,
    }


def _fraction(generator: Path) -> int | None:
    try:
        return manifest_of(generator)["config"].get("fraction")
    except ArtifactError:
        return None


def _stem(name: str) -> str:
    return name.replace("*", "-star")


def _scores(directory: Path, name: str) -> pd.DataFrame:
    files = sorted((directory / "scores").glob(f"{_stem(name)}-[0-9]*.parquet"))
    return pd.concat([pd.read_parquet(file) for file in files]).sort_values("pair", ignore_index=True)


def _features(directory: Path, pattern: str) -> dict[str, np.ndarray]:
    """Features by network, of all files of a row."""
    found = {}
    for network in DISTANCES:
        files = sorted((directory / "scores").glob(f"{pattern}.{network}.npy"))
        if files:
            found[network] = np.concatenate([np.load(file, allow_pickle=False) for file in files])
    return found


def _row(
    name: str, table: pd.DataFrame, directory: Path, reference: dict[str, np.ndarray], config: EvaluateGeneratorConfig
) -> dict[str, Any]:
    row: dict[str, Any] = {"row": name, "pictures": len(table)}
    for metric in METRICS:
        if metric in table:
            values = table[metric].to_numpy()
            finite = np.isfinite(values)  # PSNR of equal pictures
            row[metric] = round(float(values[finite].mean()), 4) if finite.any() else None
            row[f"{metric}_interval"] = _rounded(
                bootstrap_interval(values[finite], table.pid.to_numpy()[finite], config.bootstrap, config.seed)
            )
    made = _features(directory, f"{_stem(name)}-[0-9]*")
    for network, column in DISTANCES.items():
        if network in made:
            distance = frechet_distance(reference[network], made[network])
            row[column] = distance and round(distance, 3)
    return row | _seconds(directory, name)


def _seconds(directory: Path, name: str) -> dict[str, Any]:
    files = sorted((directory / "pictures").glob(f"{_stem(name)}-[0-9]*.json"))
    if not files:
        return {}
    parts = [json.loads(file.read_text()) for file in files]
    clock, cpu, canvases, images = (sum(part[key] for part in parts) for key in SECONDS)
    return {
        "seconds_per_image": round(clock / images, 4),
        "cpu_seconds_per_image": round(cpu / images, 4),
        "seconds_per_canvas": round(clock / canvases, 4),
    }


def _rounded(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else [round(value, 4) for value in interval]


def markdown(results: dict[str, Any]) -> str:
    """The results as a page to read."""
    rows = results["rows"]
    metrics = [name for name in METRICS if any(name in row for row in rows)]
    distances = [name for name in DISTANCE_NAMES if any(name in row for row in rows)]
    heads = ["", "pictures", *(_head(column, results["unknown_weights"]) for column in (*metrics, *distances))]
    heads += ["s / picture", "CPU s / picture"]
    height, width = results["size"]
    lines = [
        "# Evaluation on test pairs",
        "",
        f"{results['pairs']:,} pairs of {results['people']:,} people, compared at {height}x{width} (height x width); "
        f"{results['sampler']} with {results['steps']} steps, guidance {results['guidance']} over "
        f"'{results['unconditional']}', seed {results['seed']}. "
        "Every pair counts once in every row. In brackets: 95 % interval, bootstrap over people."
        + (DISTANCE_NOTE.format(REFERENCES[results["fid_reference"]]) if distances else ""),
        "",
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
    ]
    for row in rows:
        cells = [BOUNDS.get(row["row"], row["row"]), f"{row['pictures']:,}"]
        cells += [_cell(row.get(metric), row.get(f"{metric}_interval")) for metric in metrics]
        cells += [_cell(row.get(distance)) for distance in distances]
        cells += [_cell(row.get("seconds_per_image")), _cell(row.get("cpu_seconds_per_image"))]
        lines.append("| " + " | ".join(cells) + " |")
    notes = [f"Unknown weights: {reason}." for reason in results["unknown_weights"].values()]
    lines += ["", *notes, *[f"Absent: {reason}." for reason in results["absent"]]]
    if "frechet_alexnet" in distances:
        lines += [
            "",
            "The Fréchet distance on AlexNet's last convolution is no FID and compares with no paper's figure.",
        ]
    if set(distances) & {"fid", "fid_table1"} and rows[0]["pictures"] <= FEATURES:
        lines += ["", f"FID of no more than {FEATURES:,} pictures is biased far upwards; compare it with nothing."]
    return "\n".join([*lines, "", *published_lines(), ""])


def _head(column: str, unknown_weights: dict[str, str]) -> str:
    name = METRICS.get(column) or DISTANCE_NAMES[column]
    return f"{name} (unknown weights)" if column in unknown_weights else name


def published_lines() -> list[str]:
    """The papers' figures as Markdown."""
    lines = [
        "## The paper's figures",
        "",
        "Read in the paper (IMAGPose, NeurIPS 2024) where the last column says; the peers' rows are as quoted there. "
        "Measured with those papers' own metrics (compare with the columns called Table 1's), on all 8,570 or 12,000 "
        "pairs. A dash: not legible in the text at hand.",
        "",
        "| method | data | SSIM | LPIPS | FID | where |",
        "|---|---|---|---|---|---|",
    ]
    return lines + [
        f"| {row.method} | {row.data} | {_printed(row.ssim, '.4f')} | {_printed(row.lpips, '.4f')} "
        f"| {_printed(row.fid, '#.5g')} | {row.source} |"
        for row in TABLE
    ]


def _printed(value: float | None, digits: str) -> str:
    """As the paper prints it."""
    return "—" if value is None else format(value, digits)


def _cell(value: float | None, interval: Sequence[float] | None = None) -> str:
    if value is None:
        return ""
    text = f"{value:.4g}"
    return text if interval is None else f"{text} ({interval[0]:.4g} to {interval[1]:.4g})"
