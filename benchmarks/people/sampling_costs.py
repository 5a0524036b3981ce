"""``python -m benchmarks sampling_costs``: what a picture costs and what it is worth (the paper's Fig. 8, and quality).

Every scenario, sampler and number of steps on the same weights, and, where there is one, the few-step student of the
generator. The people and the judge are those of `builtin_generator`. Written: ``table.md``, ``table.parquet``,
``costs.svg`` and ``costs.png``, ``results.json``.

A student is *inside the teacher's interval* by a metric where its mean is not below the lower end of the 95 % interval
of the teacher's mean in the same scenario, by the sampler that `reference` names. The difference to it, picture by
picture, stands beside that with its own interval (bootstrap over people). Cost is seconds from photograph to picture,
encoding and decoding included: of the processor on a CPU, on the clock on a GPU.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import pandas as pd
import torch
from pydantic import Field, model_validator

from benchmarks.machine import machine
from benchmarks.people.cost_chart import save_chart
from benchmarks.people.identity_judge import JudgeConfig
from benchmarks.people.scores import ScoresConfig, cost_conditions, find_judge, scores_of
from datasets.runtime import devices
from datasets.runtime.arrays.bootstrap import bootstrap_interval
from datasets.runtime.atomic import write_text_atomically
from datasets.runtime.config import Config, ModelFolder, Precision, Role, Seed
from datasets.runtime.errors import InputError
from datasets.runtime.manifests import model_sha256
from imagpose.config.fields import BUILT_IN, EachOnce, Scenario, Scenarios
from imagpose.config.samplers import SAMPLERS, STUDENTS_SAMPLER, SamplerName
from imagpose.sampling.checks import check_sampler
from imagpose.sampling.generate import view_size_of
from imagpose.sampling.pipeline import load_pipeline

JUDGED = {"pose": "pose %", "identity": "identity %", "ssim": "SSIM"}


class SamplingConfig(Config):
    """A sampler with its settings."""

    sampler: SamplerName
    """Solver."""
    steps: int = Field(ge=1)
    """Sampler steps."""
    guidance: float = Field(1.5, ge=0)
    """Classifier-free guidance scale; 1 is none."""

    @property
    def name(self) -> str:
        """In tables."""
        return f"{self.sampler} {self.steps}" + ("" if self.guidance == 1 else f", guidance {self.guidance:g}")

    @property
    def network_calls(self) -> int:
        """Evaluations of the network for a canvas; a guided step takes two."""
        return self.steps * (1 if self.guidance == 1 else 2)


def _samplings(guidance: float = 1.5) -> tuple[SamplingConfig, ...]:
    steps = {"unipc": (4, 6, 12), "ddim": (4, 6, 12, 20)}
    return tuple(
        SamplingConfig(sampler=name, steps=count, guidance=guidance)
        for name, counts in steps.items()
        for count in counts
    )


class CostsConfig(Config):
    """Which generator and student, which samplers, and on whom."""

    generator: ModelFolder = BUILT_IN
    """Folder of a generator with VAE and image encoder: the teacher, where there is a student."""
    student: ModelFolder | None = None
    """Folder of its few-step student (`imagpose distill`)."""
    modes: Scenarios = Field(("T1", "T2", "T3", "IMAGPose*"), min_length=1)
    """Scenarios (docs/synthesis.md)."""
    samplings: Annotated[tuple[SamplingConfig, ...], EachOnce] = Field(_samplings(), min_length=1)
    """Samplers of the generator, as JSON: ``[{"sampler": "ddim", "steps": 20, "guidance": 1.5}]``."""
    student_steps: Annotated[tuple[Annotated[int, Field(ge=1)], ...], EachOnce] = Field((1, 2, 4, 8), min_length=1)
    """Numbers of steps of the student."""
    reference: SamplingConfig = SamplingConfig(sampler="unipc", steps=12)
    """The one of `samplings` that all others are compared with."""
    seed: Seed = 0
    """Noise, and which of T1's three pictures counts."""
    limit: int | None = Field(None, ge=2)
    """Measure the first so many people only."""
    bootstrap: int = Field(2000, ge=1)
    """Draws behind the intervals."""
    batch_size: Annotated[int, Role.RUNTIME] = Field(16, ge=1)
    """Canvases at a time."""
    precision: Precision = "fp32"
    """Arithmetic of the denoiser."""
    device: Annotated[str, Role.RUNTIME] = "auto"
    """'auto' (GPU when there is one), 'cpu', 'cuda'."""
    judge: JudgeConfig = JudgeConfig()
    """People and classifier; height and width must be the generator's."""
    cache: Annotated[Path, Role.RUNTIME] = Path("runs/store")
    """Store in which people, classifier and all scores are kept: an interrupted run resumes at the next sampler."""
    out: Annotated[Path, Role.RUNTIME] = Path("runs/sampling_costs")
    """Folder for tables and chart."""

    @model_validator(mode="after")
    def _reference_is_measured(self) -> Self:
        if self.reference not in self.samplings:
            raise ValueError(f"reference {self.reference.name} is none of the samplings; name one of them")
        if any(SAMPLERS[sampling.sampler].distilled for sampling in self.samplings):
            raise ValueError("samplings are the generator's; the student's go by student and student_steps")
        return self


def run(config: CostsConfig) -> int:
    """Measure, print the table and, as the last line, all figures as JSON; returns the exit code.

    Raises:
        InputError: a generator of another view size than the people's, or a student that is none.
    """
    results = measure(config)
    print(markdown(results))
    print(json.dumps(results))
    return 0


def measure(config: CostsConfig) -> dict[str, Any]:
    """All figures; writes table, chart and results.json."""
    _check_samplers(config)
    judge = find_judge(config.judge, config.generator, config.cache)
    config.out.mkdir(parents=True, exist_ok=True)
    rows = [row for mode in config.modes for row in _rows_of_mode(config, mode, judge)]
    table = pd.json_normalize(rows)
    table.to_parquet(config.out / "table.parquet", index=False)
    results = {
        "benchmark": "sampling_costs",
        "generator": str(config.generator),
        "generator_sha256": model_sha256(config.generator),
        "student_sha256": config.student and model_sha256(config.student),
        "reference": config.reference.name,
        "cost": _cost_column(config),
        "rows": rows,
        "machine": machine("torch", "diffusers"),
    }
    save_chart(rows, results["cost"], JUDGED, config.reference.name, config.out)
    write_text_atomically(config.out / "results.json", json.dumps(results, indent=1) + "\n")
    write_text_atomically(config.out / "table.md", markdown(results) + "\n")
    return results


def _check_samplers(config: CostsConfig) -> None:
    """Refuse what a network does not take before the first of them draws: all of it takes hours.

    Raises:
        InputError: such a sampler, or a student of another view size.
    """
    asked = [(config.generator, sampling) for sampling in config.samplings]
    if config.student is not None:
        own, other = view_size_of(config.student), view_size_of(config.generator)
        if own != other:
            raise InputError(f"{config.student} makes views of {own[0]}x{own[1]}, its teacher of {other[0]}x{other[1]}")
        asked += [(config.student, _of_student(steps)) for steps in config.student_steps]
    for folder in dict.fromkeys(folder for folder, _ in asked):
        scheduler = load_pipeline(folder, torch.device("cpu"), photographs=False).scheduler
        for sampling in (sampling for named, sampling in asked if named == folder):
            check_sampler(sampling.sampler, sampling.steps, sampling.guidance, scheduler)


def _of_student(steps: int) -> SamplingConfig:
    return SamplingConfig(sampler=STUDENTS_SAMPLER, steps=steps, guidance=1)


def _cost_column(config: CostsConfig) -> str:
    return "cpu_seconds" if devices.pick(config.device).type == "cpu" else "seconds"


def _rows_of_mode(config: CostsConfig, mode: Scenario, judge: Path) -> list[dict[str, Any]]:
    """A row for each sampler, the reference's first."""
    reference, cost = _scores(config, mode, judge, config.generator, config.reference)
    rows = [_row(config, mode, config.reference, reference, cost, reference)]
    for sampling in config.samplings:
        if sampling != config.reference:
            scores, cost = _scores(config, mode, judge, config.generator, sampling)
            rows.append(_row(config, mode, sampling, scores, cost, reference))
    for steps in config.student_steps if config.student else ():
        sampling = _of_student(steps)
        scores, cost = _scores(config, mode, judge, config.student, sampling)
        rows.append(_row(config, mode, sampling, scores, cost, reference) | {"student": True})
    return rows


def _scores(
    config: CostsConfig, mode: Scenario, judge: Path, generator: Path | None, sampling: SamplingConfig
) -> tuple[pd.DataFrame, dict[str, Any]]:
    assert generator is not None  # asked for the student's only where there is one
    shared = {name: getattr(config, name) for name in ("seed", "limit", "batch_size", "precision", "device")}
    conditions = cost_conditions(devices.pick(config.device), config.batch_size)
    wanted = ScoresConfig(
        generator=generator, judge=judge, mode=mode, cost_on=conditions, **sampling.model_dump(), **shared
    )
    return scores_of(wanted, config.cache)


def _row(
    config: CostsConfig,
    mode: Scenario,
    sampling: SamplingConfig,
    scores: pd.DataFrame,
    cost: dict[str, Any],
    reference: pd.DataFrame,
) -> dict[str, Any]:
    spent = cost[_cost_column(config)]
    judged = {metric: _compared(config, scores, reference, metric) for metric in JUDGED}
    return {
        "mode": mode,
        "sampling": sampling.name,
        "sampler": sampling.sampler,
        "steps": sampling.steps,
        "guidance": sampling.guidance,
        "network_calls": sampling.network_calls,
        "student": False,
        "pictures": cost["pictures"],
        "seconds": cost["seconds"],
        "cpu_seconds": cost["cpu_seconds"],
        "pictures_per_second": round(1 / max(spent, 1e-9), 3),
        **judged,
        "inside": all(values["inside"] for values in judged.values()),
    }


def _compared(config: CostsConfig, scores: pd.DataFrame, reference: pd.DataFrame, metric: str) -> dict[str, Any]:
    """Mean and difference to the reference, with intervals; 'inside': not below the reference's interval."""
    scored = (scores[metric].notna() & reference[metric].notna()).to_numpy()  # no pose of a target with one joint
    own, other, pids = (column.to_numpy()[scored] for column in (scores[metric], reference[metric], scores.pid))

    def interval(values: np.ndarray) -> tuple[float, float] | None:
        return bootstrap_interval(values, pids, config.bootstrap, config.seed)

    band = interval(other)
    return {
        "mean": round(float(own.mean()), 4),
        "interval": _rounded(interval(own)),
        "difference": round(float((own - other).mean()), 4),
        "difference_interval": _rounded(interval(own - other)),
        "inside": band is None or bool(own.mean() >= band[0]),
    }


def _rounded(interval: tuple[float, float] | None) -> list[float] | None:
    return interval and [round(end, 4) for end in interval]


def markdown(results: dict[str, Any]) -> str:
    """The table as a page to read."""
    reference, unit = results["reference"], "CPU s" if results["cost"] == "cpu_seconds" else "s"
    lines = [
        f"Sampling of {results['generator_sha256'][:12]} on {results['machine']['cpu']}. Difference: to {reference} in "
        "the same scenario, picture by picture, 95 % intervals by a bootstrap over people. Inside: no mean below the "
        "lower end of that sampler's interval.",
        "",
        f"| scenario | sampler | network calls | pictures / s | {unit} / picture | "
        + " | ".join(f"{title} | difference" for title in JUDGED.values())
        + " | inside |",
        "|---|---" + "|---:" * 3 + "|---" * (2 * len(JUDGED) + 1) + "|",
    ]
    for row in results["rows"]:
        cells = [row["mode"], row["sampling"] + (" (student)" if row["student"] else ""), str(row["network_calls"])]
        cells += [f"{row['pictures_per_second']:.2f}", f"{row[results['cost']]:.3f}"]
        for metric in JUDGED:
            cells += _cells(row[metric], metric, is_reference=row["sampling"] == reference)
        lines.append("| " + " | ".join([*cells, "yes" if row["inside"] else "no"]) + " |")
    return "\n".join(lines)


def _cells(values: dict[str, Any], metric: str, *, is_reference: bool) -> list[str]:
    factor, digits = (1, 3) if metric == "ssim" else (100, 1)

    def text(value: float, ends: Sequence[float] | None, sign: str) -> str:
        shown = [f"{factor * number:{sign}.{digits}f}" for number in (value, *(ends or []))]
        return shown[0] + (f" ({shown[1]} to {shown[2]})" if ends else "")

    difference = "" if is_reference else text(values["difference"], values["difference_interval"], "+")
    return [text(values["mean"], values["interval"], ""), difference]
