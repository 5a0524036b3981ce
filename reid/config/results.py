"""The table of finished runs, its plan for the next ones, and the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from datasets.runtime.config import Artifact, Config, Percent, Seed, SourceFile, StageConfig
from reid.config.history import HistoryEntry


class DeclaredComparison(Config):
    """A gain that the run was made to look at, named before it."""

    arm: str
    """The arm that is asked about, for example 'real+synthetic'."""
    over: str
    """The arm that it is held against: the benchmark's baseline or one of its controls."""
    fractions: list[Percent] = []
    """At which fractions; at all that were run if none are given."""


class BenchmarkSettings(Config):
    """What gains are counted from, and how their intervals are computed."""

    baseline: str = "real"
    """The arm that gains are counted from."""
    controls: list[str] = ["real-long", "real-pretrained"]
    """Further arms that gains are counted from where they were run: equal steps, other people's pictures."""
    comparisons: list[DeclaredComparison] = []
    """The gains that the run was made to look at, declared before it: the simultaneous bands hold for all of them
    together. None given: every gain of the table, each arm over the baseline and each control at every fraction."""
    resamples: int = Field(2000, ge=100)
    """Bootstrap resamples of the test identities."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Coverage of the intervals."""
    seed: Seed = 0
    """Of the bootstrap and of the bands' simulation."""

    @model_validator(mode="after")
    def _comparisons_are_counted(self) -> Self:
        for item in self.comparisons:
            if item.over not in (known := [self.baseline, *self.controls]):
                raise ValueError(
                    f"comparison of '{item.arm}' over '{item.over}': gains are counted over {', '.join(known)} alone; "
                    f"name '{item.over}' among the controls"
                )
            if item.arm == item.over:
                raise ValueError(f"comparison of '{item.arm}' over itself; name another arm")
        return self

    def declares(self, arm: str, over: str, fraction: int) -> bool:
        """Whether a gain is one of those that the run was made to look at."""
        if not self.comparisons:
            return True
        return any(
            (item.arm, item.over) == (arm, over) and (not item.fractions or fraction in item.fractions)
            for item in self.comparisons
        )


class PlanRunsConfig(Config):
    """Where a study's next hours are best spent, estimated from the table of an earlier one.

    The table's variances say how much narrower intervals would become with more draws, seeds or test identities.
    """

    benchmark: Path
    """The earlier run's table (`reid benchmark`)."""
    metric: Literal["map", "rank1"] = "map"
    """The figure whose gain is planned for."""
    gain: float = Field(1.0, gt=0)
    """A true gain in points that should be found."""
    power: float = Field(0.8, gt=0, lt=1)
    """How often it should be found."""
    arm: str | None = None
    """Only gains of this arm; all if not given."""


class BenchmarkConfig(BenchmarkSettings, StageConfig):
    """The table of finished runs with its statistics."""

    stage: ClassVar[str] = "benchmark"
    package: ClassVar[str] = "reid"
    stage_version: ClassVar[int] = 2  # 2: one interval over draws and people, bands over declared comparisons

    runs: list[Artifact] = Field(min_length=1)
    """Finished runs (`reid train`); protocol, fraction, draw, seed and arm are read from each."""
    evaluations: list[Artifact] = []
    """Evaluations of these runs with what is done at test time (`reid evaluate`), for tables of their own; any number
    of the runs may have one."""


class ReportConfig(StageConfig):
    """One self-contained HTML report (and a Markdown one) about a whole regeneration.

    Everything but the benchmark is optional; the report says what it was not given.
    """

    stage: ClassVar[str] = "report"
    package: ClassVar[str] = "reid"

    benchmark: Artifact
    """The table (`reid benchmark`)."""
    runs: list[Artifact] = []
    """Re-ID runs (`reid train`): loss curves, CMC curves, per-identity gains and ranked lists."""
    generators: list[Artifact] = []
    """Trained generators (`imagpose train`), for loss curves."""
    synthetic: list[Artifact] = []
    """Generated sets (`imagpose synthesize`): counts, and source -> pose -> generated grids."""
    images: Artifact | None = None
    """Image index (`datasets index`): counts, and where the pictures of skeletons and ranked lists lie."""
    poses: Artifact | None = None
    """Skeletons, for overlays."""
    stages: list[Artifact] = []
    """Any further artifacts whose seconds belong in the table of costs."""
    model_cards: list[SourceFile] = []
    """Markdown cards of the models that training started from: the report quotes what they have seen."""
    title: str = "Does pose-guided synthesis help re-identification?"
    """Heading of the report."""
    preset: str = ""
    """Name of the preset that ran."""
    resolved: dict[str, Any] = {}
    """The preset's resolved config, shown as JSON."""
    commands: list[str] = []
    """How to make all this again, one command a line."""
    before: HistoryEntry | None = None
    """The regeneration before this one, that the report says what changed since."""
