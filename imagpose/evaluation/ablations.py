"""``python -m imagpose ablate``: variants of one recipe, trained and evaluated alike, in one table.

Each variant's generator and evaluation are artifacts of their own inside the ablation's folder, ``VARIANT/seed-N``, so
an interrupted ablation resumes where it stopped, down to the training step.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from datasets.poses.backends import open_backend
from datasets.runtime import devices
from datasets.runtime.artifacts import build
from datasets.runtime.atomic import write_text_atomically
from datasets.runtime.errors import InputError
from datasets.runtime.manifests import manifest_of
from datasets.shards.index_files import read_index_file
from imagpose.config import ABLATIONS, AblateConfig, EvaluateGeneratorConfig, TrainGeneratorConfig
from imagpose.config.ablation import FULL, M1
from imagpose.config.published_unets import init_from_problem, is_stable_diffusion
from imagpose.config.samplers import SAMPLERS
from imagpose.evaluation.ablation_table import Comparison, ScoredRow, tables_as_markdown
from imagpose.evaluation.data import HeldOutImages
from imagpose.evaluation.evaluate import make_evaluation, prepare
from imagpose.evaluation.pose_scores import pose_scores, scored_pairs
from imagpose.evaluation.table import BOUNDS
from imagpose.metrics.published import WEIGHTS
from imagpose.modeling.denoiser import parts_lost
from imagpose.sampling.generate import view_size_of
from imagpose.training.generators import load_denoiser
from imagpose.training.train import make_generator

logger = logging.getLogger(__name__)

FACTS = ("parameters", "steps", "loss", "validation_loss", "canvases_per_second")
BOUND_METRICS = ("ssim", "psnr", "lpips")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What one row of Table 2, 3 or 7 is trained from."""

    table: str
    name: str
    recipe: TrainGeneratorConfig


@dataclass(frozen=True, kw_only=True)
class Run:
    """A variant trained with one seed, and evaluated."""

    trained: dict[str, Any]
    evaluated: dict[str, Any]
    """Summaries of the two stages."""
    scores: dict[str, pd.DataFrame]
    """By scenario, a line for each pair."""


def make_ablation(config: AblateConfig, directory: Path) -> dict[str, Any]:
    """Train and evaluate every variant with every seed; writes ``ablation`` and ``order.parquet``, ``ablation.md``.

    Raises:
        InputError: a recipe whose model the switches cannot change, or what no evaluation takes; before any training.
    """
    _check(config)
    variants = variants_of(config)
    runs: dict[str, list[Run]] = {variant.name: [] for variant in variants}
    for seed in config.seeds:  # so that a run that is cut short has whole comparisons
        for variant in variants:
            runs[variant.name].append(_run(config, variant, seed, directory / variant.name / f"seed-{seed}"))
    rows = [row for variant in variants for row in _rows(config, variant, runs[variant.name])]
    comparison = compared(rows, config.mode, config.bootstrap, config.train.seed)
    evaluation = runs[variants[-1].name][-1].evaluated
    bounds = [_bound(row) for row in evaluation["rows"] if row["row"] in BOUNDS]
    table = pd.concat([comparison.table(), pd.DataFrame(bounds)]).dropna(axis="columns", how="all").convert_dtypes()
    table.to_parquet(directory / "ablation.parquet", index=False)
    comparison.order().to_parquet(directory / "order.parquet", index=False)
    write_text_atomically(directory / "ablation.md", markdown(comparison, bounds, config, evaluation))
    return {"rows": comparison.table().to_dict("records"), "bounds": bounds}


def compared(rows: Sequence[ScoredRow], mode: str, bootstrap: int, seed: int) -> Comparison:
    """The rows, with the full model in the table's scenario as what they are compared with."""
    reference = next((row for row in rows if (row.variant, row.mode) == (FULL, mode)), None)
    return Comparison(rows=rows, reference=reference, bootstrap=bootstrap, seed=seed)


def variants_of(config: AblateConfig) -> list[Variant]:
    """Table 2's rows and M1, then Table 3's."""
    recipe = config.train
    variants = [
        Variant(
            table="Table 7" if name == M1 else "Table 2",
            name=name,
            recipe=_changed(recipe, model=_switched(recipe, name)),
        )
        for name in config.variants
    ]
    for name in dict.fromkeys([*config.encoders, *config.bases]):
        encoded, base = config.encoders.get(name, recipe.encoded), config.bases.get(name, recipe.init_from)
        changed = _changed(recipe, model=_switched(recipe, FULL), encoded=encoded, init_from=base)
        variants.append(Variant(table="Table 3", name=name, recipe=changed))
    return variants


def _changed(recipe: TrainGeneratorConfig, **fields: Any) -> TrainGeneratorConfig:
    changed = recipe.model_copy(update=fields)
    grows = changed.init_from is not None and not is_stable_diffusion(changed.init_from)
    return changed.model_copy(update={"add_parts": grows})


def _switched(recipe: TrainGeneratorConfig, name: str) -> Any:
    return recipe.model.model_copy(update=ABLATIONS[name])


def _run(config: AblateConfig, variant: Variant, seed: int, folder: Path) -> Run:
    """Train, evaluate and score a variant with one seed; what is there already is left alone."""
    logger.info("variant %s, seed %d", variant.name, seed)
    generator = build(_changed(variant.recipe, seed=seed), make_generator, output=folder / "generator")
    modes = modes_of(config, variant.name)
    evaluation = build(_evaluation(config, generator, modes), make_evaluation, output=folder / "evaluation")
    scores = {mode: scored_pairs(evaluation, mode) for mode in modes}
    if config.pose_backend is not None:
        poses = _poses(config, generator, evaluation, modes, folder / f"pose-{config.pose_backend}.parquet")
        scores = {
            mode: frame.merge(poses[poses.row == mode], on=["row", "pair"], validate="1:1")
            for mode, frame in scores.items()
        }
    return Run(trained=manifest_of(generator)["summary"], evaluated=manifest_of(evaluation)["summary"], scores=scores)


def modes_of(config: AblateConfig, variant: str) -> tuple[str, ...]:
    """The table's scenario, and for the full model those of Fig. 7."""
    return tuple(dict.fromkeys([config.mode, *(config.further_modes if variant == FULL else ())]))


def _poses(config: AblateConfig, generator: Path, evaluation: Path, modes: Sequence[str], kept: Path) -> pd.DataFrame:
    if kept.is_file():
        return pd.read_parquet(kept)
    assert config.pose_backend is not None
    view = view_size_of(generator)
    estimator = open_backend(config.pose_backend, config.pose_weights, devices.pick(config.train.device))
    return pose_scores(evaluation, modes, HeldOutImages(config.shards, view, view), estimator, kept)


def _check(config: AblateConfig) -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("an ablation runs in one process; train the variants by 'imagpose train' under torchrun")
    for variant in variants_of(config):
        if variant.recipe.init_from is not None:
            _check_start(variant, variant.recipe.init_from)
    if SAMPLERS[config.sampler].distilled:
        raise InputError(f"sampler '{config.sampler}' is for few-step students, and an ablation trains none; use ddim")
    _check_evaluation(config)


def _check_start(variant: Variant, start: Path) -> None:
    if (problem := init_from_problem(start)) is not None:
        raise InputError(f"{start} {problem}")
    if is_stable_diffusion(start):
        return
    if lost := parts_lost(load_denoiser(start).parts, variant.recipe.model):
        raise InputError(
            f"{start} is a generator with {' and '.join(lost)}, which {variant.name} has to do without; start from one "
            "that has no part more than the least of the variants (M1 has none), from Stable Diffusion, or from nothing"
        )


def _check_evaluation(config: AblateConfig) -> None:
    """Refuse before the first training what the first evaluation would refuse after it.

    Raises:
        InputError: see `imagpose.evaluation.evaluate.prepare`; also encoded images of different view sizes, whose rows
            would not compare.
    """
    views = {encoded: _view_size(encoded) for encoded in (config.train.encoded, *config.encoders.values())}
    view = views[config.train.encoded]
    if other := next((encoded for encoded, found in views.items() if found != view), None):
        found = views[other]
        raise InputError(
            f"{other} has views of {found[0]}x{found[1]}, {config.train.encoded} of {view[0]}x{view[1]}; scores of "
            "different sizes do not compare: encode with one --view-height and --view-width"
        )
    prepare(_evaluation(config, config.train.encoded, modes_of(config, FULL)), view)
    if config.pose_backend is not None:
        open_backend(config.pose_backend, config.pose_weights, devices.pick(config.train.device))


def _view_size(encoded: Path) -> tuple[int, int]:
    height, width = read_index_file(encoded, "encode")["view_size"]
    return height, width


def _evaluation(config: AblateConfig, generator: Path, modes: Sequence[str]) -> EvaluateGeneratorConfig:
    return EvaluateGeneratorConfig(
        generator=generator,
        shards=config.shards,
        pairs=config.pairs,
        limit=config.limit,
        modes=tuple(modes),  # pyrefly: ignore[bad-argument-type]  # scenarios, by AblateConfig
        sampler=config.sampler,
        steps=config.steps,
        guidance=config.guidance,
        alexnet=config.alexnet,
        inception=config.inception,
        batch_size=config.batch_size,
        seed=config.train.seed,
        device=config.train.device,
    )


def _rows(config: AblateConfig, variant: Variant, runs: Sequence[Run]) -> list[ScoredRow]:
    """A row for each scenario that the variant was evaluated in."""
    trained = [run.trained for run in runs]
    switches = variant.recipe.model.model_dump(include=set(ABLATIONS[FULL]))
    means = {fact: _mean([summary.get(fact) for summary in trained]) for fact in FACTS}
    return [
        ScoredRow(
            table=variant.table if mode == config.mode else "Fig. 7",
            variant=variant.name,
            mode=mode,
            scores=[run.scores[mode] for run in runs],
            facts={**switches, **means, "seeds": len(runs), "fid": _mean([_fid(run, mode) for run in runs])},
        )
        for mode in modes_of(config, variant.name)
    ]


def _fid(run: Run, mode: str) -> float | None:
    return next(row.get("fid") for row in run.evaluated["rows"] if row["row"] == mode)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 6) if known else None


def _bound(row: dict[str, Any]) -> dict[str, Any]:
    return {"table": "bound", "variant": row["row"], **{metric: row.get(metric) for metric in BOUND_METRICS}}


def markdown(
    comparison: Comparison, bounds: Sequence[dict[str, Any]], config: AblateConfig, evaluation: dict[str, Any]
) -> str:
    """The tables as a page to read."""
    seeds = ", ".join(map(str, config.seeds))
    lines = [
        "# Ablation",
        "",
        f"{config.train.steps:,} steps of {config.train.batch_size} canvases each, seeds {seeds}; "
        f"{evaluation['pairs']:,} test pairs of {evaluation['people']:,} people, {config.sampler} {config.steps} "
        f"steps, guidance {config.guidance:g}.",
        "",
        *tables_as_markdown(comparison, bounds),
        "",
        "`VAE`: the target through the VAE (upper bound); `copy`: the source as it is.",
        "",
    ]
    if len(config.seeds) < 2:
        lines += ["One seed: intervals of differences are for these trainings, not for others.", ""]
    return "\n".join(lines + _absent_columns(config)) + "\n"


def _absent_columns(config: AblateConfig) -> list[str]:
    """Which columns the table would have besides, and the way there; `evaluate` knows more of them."""
    columns = {"LPIPS": "alexnet", "FID": "inception"}
    return [
        f"- {column}: no weights given; get {WEIGHTS[field].where_to_get()} and pass --{field} FILE"
        for column, field in columns.items()
        if getattr(config, field) is None
    ]
