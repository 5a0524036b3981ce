"""Scores of one generator's pictures of rendered people, by one sampler in one scenario: an artifact, kept and found.

What compares generators or samplers asks for many of these; an interrupted comparison finds those that are made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

import pandas as pd
import torch
from pydantic import Field

from benchmarks.people.identity_judge import Judge, JudgeConfig, make_judge
from benchmarks.people.measurement import DrawingConfig, Meter, Tasks, generate
from datasets.runtime import devices
from datasets.runtime.artifacts import build
from datasets.runtime.config import AddedLater, Artifact, ModelFolder, Role, SourceFile, StageConfig
from datasets.runtime.errors import InputError
from datasets.runtime.manifests import manifest_of
from imagpose.config.fields import Scenario
from imagpose.metrics.lpips import Lpips
from imagpose.metrics.weights import find_weights
from imagpose.sampling.checks import check_sampler
from imagpose.sampling.generate import view_size_of
from imagpose.sampling.pipeline import load_pipeline

SCORES = "scores.parquet"
METRICS = ("pose", "identity", "ssim", "psnr", "ssim_person", "lpips")
"""Columns of the scores; of all but the last a larger one is better."""


class ScoresConfig(DrawingConfig, StageConfig):
    """Which generator draws, how, and who judges."""

    stage: ClassVar[str] = "benchmark-scores"
    package: ClassVar[str] = "benchmarks"

    generator: ModelFolder
    """Folder of a generator with VAE and image encoder."""
    judge: Artifact
    """People and classifier (`identity_judge`)."""
    mode: Scenario = "T1"
    """How sources and poses share a canvas (docs/synthesis.md)."""
    limit: int | None = Field(None, ge=2)
    """Measure the first so many people only; the classifier still chooses among all."""
    alexnet: SourceFile | None = None
    """AlexNet's ImageNet weights, for LPIPS; no such column without."""
    device: Annotated[str, Role.RUNTIME] = "auto"
    """'auto' (GPU when there is one), 'cpu', 'cuda'."""
    cost_on: Annotated[str, AddedLater] = ""
    """What the cost is measured on, where that is not a CPU with 16 canvases at a time (`cost_conditions`): scores are
    the same everywhere, but what a picture costs is not, and kept scores bring theirs along."""


def cost_conditions(device: torch.device, batch_size: int) -> str:
    """`ScoresConfig.cost_on` for a device and a batch size."""
    usual = DrawingConfig.model_fields["batch_size"].default
    if device.type == "cpu" and batch_size == usual:
        return ""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{name}, {batch_size} canvases"


def find_judge(config: JudgeConfig, generator: Path, store: Path) -> Path:
    """The judge for people of a generator's view size, made where it is not there yet.

    Raises:
        InputError: a generator of another view size than the people's.
    """
    size = (config.height, config.width)
    if (view := view_size_of(generator)) != size:
        raise InputError(
            f"{generator} makes views of {view[0]}x{view[1]}, the people are {size[0]}x{size[1]}; pass "
            f"--judge.height {view[0]} --judge.width {view[1]}"
        )
    return build(config, make_judge, store=store)


def make_scores(config: ScoresConfig, directory: Path) -> dict[str, Any]:
    """Draw, score and write ``scores.parquet``, a row for each picture; returns what a picture cost.

    Raises:
        InputError: a sampler that the generator does not take.
    """
    device = devices.pick(config.device)
    found = find_weights("alexnet", config.alexnet, from_hub=False, known_only=True)
    pipeline = load_pipeline(config.generator, device, precision=config.precision)
    check_sampler(config.sampler, config.steps, config.guidance, pipeline.scheduler)
    judge = Judge(config.judge)
    tasks = Tasks(judge, config.limit)
    meter = Meter(judge, tasks, Lpips(found).to(device) if isinstance(found, Path) else None, device)
    pictures, seconds = generate(config, config.mode, pipeline, tasks)
    meter.scores(config.mode, pictures).to_parquet(directory / SCORES, index=False)
    return {"pictures": len(pictures), **seconds}


def scores_of(config: ScoresConfig, store: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A row for each picture, and the summary of `make_scores`; made where they are not there yet."""
    folder = build(config, make_scores, store=store)
    return pd.read_parquet(folder / SCORES), manifest_of(folder)["summary"]
