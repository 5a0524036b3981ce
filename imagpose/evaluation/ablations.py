"""``python -m imagpose ablate``: variants of one recipe, trained and evaluated alike, in one table.

Each variant's generator and evaluation are artifacts of their own inside the ablation's folder, so an interrupted
ablation resumes where it stopped, down to the training step.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pandas as pd

from datasets.runtime.artifacts import build
from datasets.runtime.atomic import write_text_atomically
from datasets.runtime.errors import InputError
from datasets.runtime.manifests import manifest_of
from imagpose.config import (
    ABLATIONS,
    AblateConfig,
    EvaluateGeneratorConfig,
    TrainGeneratorConfig,
)
from imagpose.config.published_unets import is_stable_diffusion
from imagpose.evaluation.evaluate import make_evaluation
from imagpose.evaluation.table import BOUNDS
from imagpose.training.train import make_generator

logger = logging.getLogger(__name__)

METRICS = ("ssim", "psnr", "lpips", "fid")
FACTS = ("parameters", "steps", "loss", "validation_loss", "canvases_per_second")


def make_ablation(config: AblateConfig, directory: Path) -> dict[str, Any]:
    """Train and evaluate every variant; writes ``ablation.parquet`` and ``ablation.md``.

    Raises:
        InputError: a recipe whose model the switches cannot change.
    """
    _check(config)
    made = {name: _variant(config, name, directory / name) for name in config.variants}
    rows = [_row(name, trained, evaluated, config.mode) for name, (trained, evaluated) in made.items()]
    _, evaluation = made[config.variants[-1]]
    bounds = [_bound(row) for row in evaluation["rows"] if row["row"] in BOUNDS]
    table = pd.DataFrame([*rows, *bounds]).dropna(axis="columns", how="all").convert_dtypes()
    table.to_parquet(directory / "ablation.parquet", index=False)
    write_text_atomically(directory / "ablation.md", markdown(table, config, evaluation))
    return {"rows": rows, "bounds": bounds}


def _variant(config: AblateConfig, name: str, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Summaries of a variant's training and evaluation."""
    logger.info("variant %s: %s", name, _switches(name))
    generator = build(_recipe(config, name), make_generator, output=folder / "generator")
    evaluation = build(_evaluation(config, generator), make_evaluation, output=folder / "evaluation")
    return manifest_of(generator)["summary"], manifest_of(evaluation)["summary"]


def _check(config: AblateConfig) -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("an ablation runs in one process; train the variants by 'imagpose train' under torchrun")
    start = config.train.init_from
    if start is not None and not is_stable_diffusion(start):
        raise InputError(
            f"train.init_from {start} is a generator, whose parts the variants would have to take away; leave it out "
            "or give a Stable Diffusion folder"
        )


def _switches(name: str) -> str:
    return ", ".join(f"{switch} {'on' if on else 'off'}" for switch, on in ABLATIONS[name].items())


def _recipe(config: AblateConfig, name: str) -> TrainGeneratorConfig:
    model = config.train.model.model_copy(update=ABLATIONS[name])
    return config.train.model_copy(update={"model": model})


def _evaluation(config: AblateConfig, generator: Path) -> EvaluateGeneratorConfig:
    return EvaluateGeneratorConfig(
        generator=generator,
        shards=config.shards,
        pairs=config.pairs,
        limit=config.limit,
        modes=(config.mode,),
        sampler=config.sampler,
        steps=config.steps,
        guidance=config.guidance,
        alexnet=config.alexnet,
        inception=config.inception,
        batch_size=config.batch_size,
        seed=config.train.seed,
        device=config.train.device,
    )


def _row(name: str, training: dict[str, Any], evaluation: dict[str, Any], mode: str) -> dict[str, Any]:
    scores = next(row for row in evaluation["rows"] if row["row"] == mode)
    return {
        "variant": name,
        **ABLATIONS[name],
        **{fact: training.get(fact) for fact in FACTS},
        **{metric: scores.get(metric) for metric in METRICS},
        "ssim_interval": scores.get("ssim_interval"),
    }


def _bound(row: dict[str, Any]) -> dict[str, Any]:
    return {"variant": row["row"], **{metric: row.get(metric) for metric in METRICS}}


def markdown(table: pd.DataFrame, config: AblateConfig, evaluation: dict[str, Any]) -> str:
    """The table as a page to read."""
    shown = [column for column in table.columns if column != "ssim_interval"]
    lines = [
        "# Ablation",
        "",
        f"{config.train.steps:,} steps of {config.train.batch_size} canvases each, seed {config.train.seed}; "
        f"{evaluation['pairs']:,} test pairs of {evaluation['people']:,} people, {config.mode}, {config.sampler} "
        f"{config.steps} steps, guidance {config.guidance:g}.",
        "",
        "| " + " | ".join(shown) + " |",
        "|" + "---|" * len(shown),
    ]
    for row in table.to_dict("records"):
        lines.append("| " + " | ".join(_cell(row[column]) for column in shown) + " |")
    lines += ["", "`VAE`: the target through the VAE (upper bound); `copy`: the source as it is.", ""]
    return "\n".join(lines + [f"- {reason}" for reason in evaluation["absent"]]) + "\n"


def _cell(value: object) -> str:
    if pd.isna(value):
        return "—"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}" if isinstance(value, float) else str(value)
