"""``python -m benchmarks builtin_generator``: are the generated people sharp, in the target pose, and the same person?

On rendered people whom no training has seen. Each is shown to the generator in one picture and requested in the poses
of three others, whose true renderings are known. Measured on every picture:

pose       share of the target joints that `openpose-tiny` finds within a tenth of the figure's height (PCK@0.1)
identity   how often a classifier that was trained on other, real renderings of these people names the right one
SSIM, PSNR against the true rendering; SSIM also over the person's pixels alone, because the background of another
           camera cannot be known from the source. LPIPS where AlexNet's weights are given

Rows beside the generator's: the truth itself (what pose network and classifier make of real pictures), the truth
through the generator's VAE (no generator on it does better), and a copy of the source. Intervals: 95 %, bootstrap over
people. The classifier and its people are kept in the store and found again by the next generator.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from PIL import Image
from pydantic import Field

from benchmarks.machine import machine
from benchmarks.people.identity_judge import Judge, JudgeConfig
from benchmarks.people.measurement import DrawingConfig, Meter, Tasks, generate
from benchmarks.people.scores import find_judge
from benchmarks.people.table import METRICS, table
from datasets.runtime import devices
from datasets.runtime.arrays.bootstrap import bootstrap_interval
from datasets.runtime.atomic import write_text_atomically
from datasets.runtime.config import ModelFolder, Role, SourceFile
from datasets.runtime.manifests import model_sha256
from imagpose.config.fields import BUILT_IN, Scenarios
from imagpose.metrics.lpips import Lpips
from imagpose.metrics.weights import find_weights
from imagpose.pictures.contact_sheet import SheetRow, save_contact_sheet, skeleton_picture
from imagpose.sampling.pipeline import IMAGPosePipeline, load_pipeline

POSE_GOAL, IDENTITY_GOAL = 0.92, 0.85
TURNS = {"same side (below 60 degrees)": (0, 60), "across": (60, 120), "other side (above 120)": (120, 181)}
"""Degrees between the person's directions in source and target."""


class QualityConfig(DrawingConfig):
    """Which generator is measured, how it samples, and on whom."""

    generator: ModelFolder = BUILT_IN
    """Folder of a generator with VAE and image encoder."""
    modes: Scenarios = Field(("T1",), min_length=1)
    """Scenarios (docs/synthesis.md); T1 as in the paper's main table, IMAGPose* as synthesis uses it."""
    limit: int | None = Field(None, ge=2)
    """Measure the first so many people only; the classifier still chooses among all."""
    alexnet: SourceFile | None = None
    """AlexNet's ImageNet weights (torchvision's file), for LPIPS; no such column without."""
    bootstrap: int = Field(2000, ge=0)
    """Draws behind the intervals."""
    sheet_rows: int = Field(12, ge=0)
    """People on the contact sheet, drawn at random."""
    device: Annotated[str, Role.RUNTIME] = "auto"
    """'auto' (GPU when there is one), 'cpu', 'cuda'."""
    judge: JudgeConfig = JudgeConfig()
    """People and classifier; height and width must be the generator's."""
    cache: Annotated[Path, Role.RUNTIME] = Path("runs/store")
    """Store in which people and classifier are kept."""
    out: Annotated[Path, Role.RUNTIME] = Path("runs/builtin_generator")
    """Folder for ``results.json``, ``scores.parquet`` and the contact sheets."""


def run(config: QualityConfig) -> int:
    """Measure, print a table and, as the last line, all figures as JSON; returns the exit code.

    Raises:
        InputError: a generator of another view size than the people's.
    """
    results = measure(config)
    print(table(results))
    print(json.dumps(results))
    return 0


def measure(config: QualityConfig) -> dict[str, Any]:
    """All figures; writes results.json, scores.parquet and the sheets.

    Raises:
        InputError: a generator of another view size than the people's.
    """
    judge = Judge(find_judge(config.judge, config.generator, config.cache))
    found = find_weights("alexnet", config.alexnet, from_hub=False, known_only=True)
    device = devices.pick(config.device)
    lpips = Lpips(found).to(device) if isinstance(found, Path) else None
    pipeline = load_pipeline(config.generator, device, precision=config.precision)
    tasks = Tasks(judge, config.limit)
    config.out.mkdir(parents=True, exist_ok=True)
    meter = Meter(judge, tasks, lpips, device)
    frames, seconds = [], {}
    for mode in config.modes:
        pictures, seconds[mode] = generate(config, mode, pipeline, tasks)
        frames.append(meter.scores(mode, pictures))
        if config.sheet_rows:
            _sheet(config, mode, tasks, pictures)
    bounds = {"truth": tasks.truth, "VAE": _through_vae(pipeline, tasks.truth), "copy": tasks.shown}
    frames += [meter.scores(name, pictures) for name, pictures in bounds.items()]
    scores = pd.concat(frames, ignore_index=True)
    scores.to_parquet(config.out / "scores.parquet", index=False)
    results = _results(config, scores, judge, tasks, seconds, found if isinstance(found, str) else None)
    write_text_atomically(config.out / "results.json", json.dumps(results, indent=1) + "\n")
    return results


def _through_vae(pipeline: IMAGPosePipeline, pictures: np.ndarray, at_once: int = 32) -> np.ndarray:
    chunks = [pictures[start : start + at_once] for start in range(0, len(pictures), at_once)]
    latents = [pipeline.encode_latents([Image.fromarray(picture) for picture in chunk]) for chunk in chunks]
    return np.concatenate([pipeline.decode_views(part) for part in latents])


def _results(
    config: QualityConfig, scores: pd.DataFrame, judge: Judge, tasks: Tasks, seconds: dict[str, Any], absent: str | None
) -> dict[str, Any]:
    rows = {}
    for name, part in scores.groupby("row", sort=False):
        rows[name] = _means(part, config) | ({"seconds_per_picture": seconds[name]} if name in seconds else {})
        rows[name]["by_turn"] = {
            label: _means(part[(part.turn >= low) & (part.turn < high)], config, ("pose", "identity", "ssim_person"))
            for label, (low, high) in TURNS.items()
        }
    copy = scores[scores.row == "copy"]
    for mode in config.modes:
        rows[mode]["over_copy"] = _over(scores[scores.row == mode], copy, config)
    return {
        "benchmark": "builtin_generator",
        "generator": str(config.generator),
        "generator_sha256": model_sha256(config.generator),
        "people": len(np.unique(tasks.pids)),
        "pictures": len(tasks.pairs),
        "size": list(tasks.truth.shape[1:3]),
        "population_seed": config.judge.seed,
        "modes": list(config.modes),
        "sampler": config.sampler,
        "steps": config.steps,
        "guidance": config.guidance,
        "unconditional": config.unconditional,
        "seed": config.seed,
        "precision": config.precision,
        "chance": judge.summary["chance"],
        "judge_accuracy": judge.summary["accuracy"],
        "rows": rows,
        "absent": absent,
        "goals": _goals(rows, config.modes),
        "machine": machine("torch", "diffusers"),
    }


def _means(part: pd.DataFrame, config: QualityConfig, metrics: Sequence[str] = tuple(METRICS)) -> dict[str, Any]:
    """Mean and interval of each metric; PSNR of equal pictures is infinite and has none."""
    means: dict[str, Any] = {"pictures": len(part)}
    for metric in metrics:
        values = part[metric].to_numpy() if metric in part else np.empty(0)
        finite = np.isfinite(values)
        if finite.any():
            means[metric] = _with_interval(values[finite], part.pid.to_numpy()[finite], config)
    return means


def _with_interval(values: np.ndarray, pids: np.ndarray, config: QualityConfig) -> dict[str, Any]:
    interval = bootstrap_interval(values, pids, config.bootstrap, config.seed)
    return {"mean": round(float(values.mean()), 4), "interval": interval and [round(end, 4) for end in interval]}


def _over(part: pd.DataFrame, copy: pd.DataFrame, config: QualityConfig) -> dict[str, Any]:
    """Pair by pair, what the generator is better by than a copy of the source."""
    metrics = ("ssim", "psnr", "ssim_person", *(("lpips",) if "lpips" in part else ()))
    gains = {metric: part[metric].to_numpy() - copy[metric].to_numpy() for metric in metrics}
    return {metric: _with_interval(gain, part.pid.to_numpy(), config) for metric, gain in gains.items()}


def _goals(rows: dict[str, Any], modes: Sequence[str]) -> dict[str, bool]:
    """Issue 9's goals, by scenario; a copy is beaten where the interval of the difference lies above zero."""
    goals = {}
    for mode in modes:
        row = rows[mode]
        goals[f"{mode}: pose score at least {POSE_GOAL:.0%}"] = row["pose"]["mean"] >= POSE_GOAL
        goals[f"{mode}: identity at least {IDENTITY_GOAL:.0%}"] = row["identity"]["mean"] >= IDENTITY_GOAL
        for metric in ("ssim", "psnr"):
            interval = row["over_copy"][metric]["interval"]
            goals[f"{mode}: {METRICS[metric]} above a copy's"] = bool(interval and interval[0] > 0)
    return goals


def _sheet(config: QualityConfig, mode: str, tasks: Tasks, pictures: np.ndarray) -> None:
    """Source | target poses | generated | true renderings of people drawn at random, one per row."""
    people = np.unique(tasks.pids)
    rng = np.random.default_rng([config.seed, 7])
    chosen = rng.permutation(people)[: config.sheet_rows]
    size, rows = tasks.truth.shape[1:3], []
    for pairs in (np.flatnonzero(tasks.pids == person) for person in chosen):
        rows.append(
            SheetRow(
                sources=[tasks.shown[pairs[0]]],
                skeletons=[skeleton_picture(tasks.target_keypoints[i], size) for i in pairs],
                generated=list(pictures[pairs]),
                truth=list(tasks.truth[pairs]),
            )
        )
    save_contact_sheet(rows, config.out / f"contact_sheet-{mode.replace('*', '-star')}.png")
