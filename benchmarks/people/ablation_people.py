"""``python -m benchmarks ablation_people``: an ablation's generators judged on rendered people, identity included.

`imagpose ablate` measures its variants on the test pairs of their own data set, where nobody independent can say who is
on a picture. Here all of its generators draw the people of `builtin_generator`, whom none has seen: pose, identity,
SSIM, PSNR and, where AlexNet's weights are given, LPIPS, in the same tables by the same rules
(`imagpose.evaluation.ablation_table`). Written: ``table.parquet``, ``order.parquet``, ``table.md``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import Field

from benchmarks.machine import machine
from benchmarks.people.identity_judge import JudgeConfig
from benchmarks.people.scores import ScoresConfig, find_judge, scores_of
from datasets.runtime.atomic import write_text_atomically
from datasets.runtime.config import Config, Role, SourceFile
from datasets.runtime.manifests import manifest_of
from imagpose.config import ABLATIONS, AblateConfig
from imagpose.evaluation.ablation_table import Comparison, ScoredRow, tables_as_markdown
from imagpose.evaluation.ablations import Variant, compared, modes_of, variants_of


class AblationPeopleConfig(Config):
    """Which ablation, and how its generators draw."""

    ablation: Path
    """Folder that `imagpose ablate` made."""
    limit: int | None = Field(None, ge=2)
    """Measure the first so many people only."""
    alexnet: SourceFile | None = None
    """AlexNet's ImageNet weights, for LPIPS; no such column without."""
    bootstrap: int = Field(2000, ge=1)
    """Draws behind the intervals."""
    batch_size: Annotated[int, Role.RUNTIME] = Field(16, ge=1)
    """Canvases at a time."""
    device: Annotated[str, Role.RUNTIME] = "auto"
    """'auto' (GPU when there is one), 'cpu', 'cuda'."""
    judge: JudgeConfig = JudgeConfig()
    """People and classifier; height and width must be the generators'."""
    cache: Annotated[Path, Role.RUNTIME] = Path("runs/store")
    """Store in which people, classifier and all scores are kept: an interrupted run resumes at the next generator."""
    out: Annotated[Path, Role.RUNTIME] = Path("runs/ablation_people")
    """Folder for the tables."""


def run(config: AblationPeopleConfig) -> int:
    """Measure, print the tables and, as the last line, their numbers as JSON; returns the exit code.

    Raises:
        ArtifactError: a folder that is no finished ablation.
        InputError: generators of another view size than the people's.
    """
    comparison = measure(config)
    print((config.out / "table.md").read_text())
    rows = json.loads(comparison.table().to_json(orient="records"))
    print(json.dumps({"benchmark": "ablation_people", "rows": rows, "machine": machine("torch", "diffusers")}))
    return 0


def measure(config: AblationPeopleConfig) -> Comparison:
    """All rows; sampler, steps and guidance are the ablation's own."""
    ablation = AblateConfig(**manifest_of(config.ablation, AblateConfig.stage)["config"])
    variants = variants_of(ablation)
    judge = find_judge(config.judge, _generator(config, variants[0], ablation.seeds[0]), config.cache)
    rows = [
        _row(config, ablation, variant, mode, judge)
        for variant in variants
        for mode in modes_of(ablation, variant.name)
    ]
    comparison = compared(rows, ablation.mode, config.bootstrap, ablation.train.seed)
    config.out.mkdir(parents=True, exist_ok=True)
    comparison.table().to_parquet(config.out / "table.parquet", index=False)
    comparison.order().to_parquet(config.out / "order.parquet", index=False)
    head = (
        f"{len(rows[0].scores[0]):,} pictures of {rows[0].scores[0].pid.nunique()} rendered people, seeds "
        f"{', '.join(map(str, ablation.seeds))}, {ablation.train.steps:,} steps of {ablation.train.batch_size} "
        f"canvases; {ablation.sampler} {ablation.steps} steps, guidance {ablation.guidance:g}."
    )
    page = ["# Ablation, judged on rendered people", "", head, "", *tables_as_markdown(comparison), ""]
    write_text_atomically(config.out / "table.md", "\n".join(page))
    return comparison


def _generator(config: AblationPeopleConfig, variant: Variant, seed: int) -> Path:
    return config.ablation / variant.name / f"seed-{seed}" / "generator"


def _row(config: AblationPeopleConfig, ablation: AblateConfig, variant: Variant, mode: Any, judge: Path) -> ScoredRow:
    return ScoredRow(
        table=variant.table if mode == ablation.mode else "Fig. 7",
        variant=variant.name,
        mode=mode,
        scores=[_scores(config, ablation, variant, seed, mode, judge) for seed in ablation.seeds],
        facts={**variant.recipe.model.model_dump(include=set(ABLATIONS["full"])), "seeds": len(ablation.seeds)},
    )


def _scores(
    config: AblationPeopleConfig, ablation: AblateConfig, variant: Variant, seed: int, mode: Any, judge: Path
) -> pd.DataFrame:
    wanted = ScoresConfig(
        generator=_generator(config, variant, seed),
        judge=judge,
        mode=mode,
        sampler=ablation.sampler,
        steps=ablation.steps,
        guidance=ablation.guidance,
        limit=config.limit,
        alexnet=config.alexnet,
        batch_size=config.batch_size,
        device=config.device,
    )
    return scores_of(wanted, config.cache)[0]
