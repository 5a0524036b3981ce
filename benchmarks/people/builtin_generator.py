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
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from benchmarks.machine import machine
from benchmarks.people.identity_judge import Judge, JudgeConfig, make_judge
from benchmarks.people.rendered_people import People
from benchmarks.people.table import METRICS, table
from datasets.poses.backends import open_backend
from datasets.runtime import devices
from datasets.runtime.arrays.bootstrap import bootstrap_interval
from datasets.runtime.artifacts import build
from datasets.runtime.atomic import write_text_atomically
from datasets.runtime.config import Config, ModelFolder, Precision, Role, SourceFile
from datasets.runtime.errors import InputError
from datasets.runtime.manifests import model_sha256
from imagpose.canvas.layout import CanvasRequest, Mode, SourceImage
from imagpose.config.fields import BUILT_IN, Unconditional
from imagpose.config.samplers import SamplerName
from imagpose.evaluation.pair_canvases import Pair, canvases_of
from imagpose.metrics.lpips import Lpips
from imagpose.metrics.similarity import psnr, ssim, ssim_within
from imagpose.metrics.weights import find_weights
from imagpose.pictures.contact_sheet import SheetRow, save_contact_sheet, skeleton_picture
from imagpose.sampling.generate import view_size_of
from imagpose.sampling.pipeline import IMAGPosePipeline, load_pipeline
from imagpose.sampling.pose_check import find_skeletons, pose_score

POSE_GOAL, IDENTITY_GOAL = 0.92, 0.85
TURNS = {"same side (below 60 degrees)": (0, 60), "across": (60, 120), "other side (above 120)": (120, 181)}
"""Degrees between the person's directions in source and target."""


class QualityConfig(Config):
    """Which generator is measured, how it samples, and on whom."""

    generator: ModelFolder = BUILT_IN
    """Folder of a generator with VAE and image encoder."""
    modes: tuple[Literal["T1", "T2", "T3", "IMAGPose*"], ...] = Field(("T1",), min_length=1)
    """Scenarios (docs/synthesis.md); T1 as in the paper's main table, IMAGPose* as synthesis uses it."""
    sampler: SamplerName = "ddim"
    """Solver; the default is the demo's, as are the next two."""
    steps: int = Field(6, ge=1)
    """Sampler steps."""
    guidance: float = Field(1.5, ge=0)
    """Classifier-free guidance scale; 1 is none and takes half the time."""
    unconditional: Unconditional = "pose"
    """What the unconditional half of guidance still sees."""
    seed: int = Field(0, ge=0)
    """Noise, which of T1's three pictures counts, rows of the sheet."""
    limit: int | None = Field(None, ge=2)
    """Measure the first so many people only; the classifier still chooses among all."""
    alexnet: SourceFile | None = None
    """AlexNet's ImageNet weights (torchvision's file), for LPIPS; no such column without."""
    bootstrap: int = Field(2000, ge=0)
    """Draws behind the intervals."""
    sheet_rows: int = Field(12, ge=0)
    """People on the contact sheet, drawn at random."""
    batch_size: Annotated[int, Role.RUNTIME] = Field(16, ge=1)
    """Canvases at a time."""
    precision: Precision = "fp32"
    """Arithmetic of the denoiser."""
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
    size = (config.judge.height, config.judge.width)
    if (view := view_size_of(config.generator)) != size:
        raise InputError(
            f"{config.generator} makes views of {view[0]}x{view[1]}, the people are {size[0]}x{size[1]}; pass "
            f"--judge.height {view[0]} --judge.width {view[1]}"
        )
    found = find_weights("alexnet", config.alexnet, from_hub=False, known_only=True)
    device = devices.pick(config.device)
    lpips = Lpips(found).to(device) if isinstance(found, Path) else None
    pipeline = load_pipeline(config.generator, device, precision=config.precision)
    judge = Judge(build(config.judge, make_judge, store=config.cache))
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


@dataclass(frozen=True)
class _Drawn:
    """One picture by its name ``role/person/number``."""

    people: People
    person: int
    number: int

    @property
    def source(self) -> SourceImage:
        image = Image.fromarray(self.people.pictures[self.person, self.number])
        return SourceImage(image=image, keypoints=self.people.keypoints[self.person, self.number])


class Tasks:
    """Who is to be shown in which pose: each person's first source, and every target.

    Attributes:
        pairs: (source, target) by name, person by person.
        pids: (n,) the person of each pair.
        shown, truth: (n, H, W, 3) uint8, the pairs' source and target pictures.
        target_keypoints: (n, 18, 3) the targets' keypoints.
        cover: (n, H, W) bool, where the target's person is.
        turn: (n,) degrees between the person's directions in source and target.
    """

    def __init__(self, judge: Judge, limit: int | None) -> None:
        sources, targets = judge.sources, judge.targets
        people, count = targets.pictures.shape[:2]
        people = min(people, limit or people)
        self._drawn = {"source": sources, "target": targets}
        self.pairs: list[Pair] = [(f"source/{p}/0", f"target/{p}/{k}") for p in range(people) for k in range(count)]
        self.members = {
            f"source/{p}/0": [f"source/{p}/{k}" for k in range(sources.pictures.shape[1])] for p in range(people)
        }
        self.pids = np.repeat(np.arange(people), count)
        self.shown = np.repeat(sources.pictures[:people, 0], count, axis=0)
        self.truth, self.target_keypoints = _flat(targets.pictures[:people]), _flat(targets.keypoints[:people])
        self.cover = _flat(targets.covers[:people]) > 127
        turned = np.abs(_flat(targets.yaws[:people]) - np.repeat(sources.yaws[:people, 0], count)) % 360
        self.turn = np.minimum(turned, 360 - turned)

    def source(self, name: str) -> SourceImage:
        """A picture with its skeleton, by name."""
        role, person, number = name.split("/")
        return _Drawn(self._drawn[role], int(person), int(number)).source


def _flat(array: np.ndarray) -> np.ndarray:
    """(P, K, ...) to (P * K, ...)."""
    return array.reshape(-1, *array.shape[2:])


def generate(
    config: QualityConfig, mode: Mode, pipeline: IMAGPosePipeline, tasks: Tasks
) -> tuple[np.ndarray, dict[str, float]]:
    """A picture for every pair, (n, H, W, 3) uint8, and what a picture cost."""
    canvases = canvases_of(mode, tasks.pairs, tasks.members, config.seed)
    requests = [
        CanvasRequest(
            sources=[tasks.source(name) for name in canvas.sources],
            poses=[tasks.source(name).keypoints for name in canvas.poses],
            seed=canvas.seed,
            mode=canvas.mode,
            keep=[slot for slot, _ in canvas.kept],
        )
        for canvas in canvases
    ]
    made = np.empty_like(tasks.truth)
    before = (time.perf_counter(), time.process_time())
    for start in range(0, len(requests), config.batch_size):
        output = pipeline(
            requests[start : start + config.batch_size],
            sampler=config.sampler,
            num_inference_steps=config.steps,
            guidance_scale=config.guidance,
            unconditional=config.unconditional,
        )
        for canvas, pictures in zip(canvases[start : start + config.batch_size], output.images, strict=True):
            made[[number for _, number in canvas.kept]] = pictures
    spent = (time.perf_counter() - before[0], time.process_time() - before[1])
    return made, {"seconds": round(spent[0] / len(made), 4), "cpu_seconds": round(spent[1] / len(made), 4)}


def _through_vae(pipeline: IMAGPosePipeline, pictures: np.ndarray, at_once: int = 32) -> np.ndarray:
    chunks = [pictures[start : start + at_once] for start in range(0, len(pictures), at_once)]
    latents = [pipeline.encode_latents([Image.fromarray(picture) for picture in chunk]) for chunk in chunks]
    return np.concatenate([pipeline.decode_views(part) for part in latents])


class Meter:
    """Every measurement of one row of the table."""

    def __init__(self, judge: Judge, tasks: Tasks, lpips: Lpips | None, device: torch.device) -> None:
        self.judge, self.tasks, self.lpips, self.device = judge, tasks, lpips, device
        self.estimator = open_backend("openpose-tiny", None, device)

    def scores(self, row: str, pictures: np.ndarray) -> pd.DataFrame:
        """One line per pair."""
        tasks = self.tasks
        found = find_skeletons(self.estimator, list(pictures))
        answers = self.judge.answers(pictures)
        made, real = _tensor(pictures), _tensor(tasks.truth)
        columns = {
            "row": row,
            "pid": tasks.pids,
            "turn": tasks.turn,
            "pose": [
                pose_score(target_keypoints, skeleton)
                for target_keypoints, skeleton in zip(tasks.target_keypoints, found, strict=True)
            ],
            "identity": (answers == tasks.pids).astype(float),
            "answer": answers,
            "ssim": ssim(made, real).numpy(),
            "psnr": psnr(made, real).numpy(),
            "ssim_person": ssim_within(made, real, torch.from_numpy(tasks.cover)).numpy(),
        }
        if self.lpips is not None:
            parts = zip(made.split(64), real.split(64), strict=True)
            distances = [self.lpips.of_pictures(a.to(self.device), b.to(self.device)).cpu() for a, b in parts]
            columns["lpips"] = torch.cat(distances).numpy()
        return pd.DataFrame(columns).astype({"pose": float, "ssim": float, "psnr": float, "ssim_person": float})


def _tensor(pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2)


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
