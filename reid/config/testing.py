"""Testing a network, and judging generated images by one."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from datasets.runtime.config import Artifact, Config, Device, Percent, Role, SourceFile, SourceTree, StageConfig
from reid.config.fields import CentralizeConfig, NfcConfig, RerankConfig


class EvaluateReidConfig(StageConfig):
    """Test a trained run's network on the query and gallery splits of any shards."""

    stage: ClassVar[str] = "evaluate-reid"
    package: ClassVar[str] = "reid"
    command: ClassVar[str | None] = "evaluate"
    stage_version: ClassVar[int] = 2  # 1: seconds of processing alone in logs/test_time.json

    run: Artifact | None = None
    """The finished run; or give `features`."""
    test_shards: SourceTree | None = None
    """Image shards or a folder that holds query and gallery splits; needed with `run`."""
    features: SourceFile | None = None
    """Instead of a network: a Parquet file with ``key, split (query or gallery), pid, camid, feature`` (numbers)."""
    rerank: RerankConfig | None = None
    """Also test with k-reciprocal re-ranking."""
    nfc: NfcConfig | None = None
    """Also test with neighbor feature centralization; with `rerank`, with both together too."""
    centralize: list[CentralizeConfig] = []
    """Also test with features averaged with those of further pictures, each way alone and with the two above."""
    protocol: Literal["leak-free", "paper"] = "leak-free"
    """Of `centralize`: 'leak-free' refuses pictures by a generator that has seen test identities."""
    max_rank: int = Field(10, ge=1)
    """Gallery images per query in `ranked.parquet`."""
    device: Device = "auto"
    """'auto' (GPU when there is one), 'cpu', 'cuda'."""
    workers: Annotated[int, Role.RUNTIME] = Field(2, ge=1)
    """Threads that decode images."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.run is None) == (self.features is None) or (self.run is None) != (self.test_shards is None):
            raise ValueError("give either 'run' and 'test_shards', or 'features' alone")
        return self

    @model_validator(mode="after")
    def _centralized_by_a_network(self) -> Self:
        if self.centralize and self.run is None:
            raise ValueError("'centralize' needs 'run', the network that makes the pictures' features")
        names = [entry.name for entry in self.centralize]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two entries of 'centralize' are called '{repeated[0]}'; give each its own 'name'")
        return self


class CheckIdentitySettings(Config):
    """Which synthetic images are kept."""

    nearest: bool = True
    """Refuse an image that is nearer to another person's mean than to its own."""
    min_score: float | None = Field(None, ge=-1, le=1)
    """Refuse an image of a smaller score. No default: scores of a small network trained on few images are not those
    of a large one; the summary gives the kept share at several thresholds, and the scores of real images."""
    keep: Percent = 100
    """Of the images that pass, keep only so many percent, those of the highest scores."""


class CheckIdentityConfig(CheckIdentitySettings, StageConfig):
    """Does each synthetic image show the person it is named after, as a network sees it that may judge?

    The score is the cosine between the image's feature and the mean of its person's real images' features.
    """

    stage: ClassVar[str] = "check-identity"
    package: ClassVar[str] = "reid"

    run: Artifact
    """The network that judges: a finished run on this subset without synthetic images (arm real)."""
    synthetic: SourceTree
    """The set of generated images."""
    shards: SourceTree
    """Where the real images lie that the network was trained on."""
    subsets: Artifact | None = None
    """Which of them `fraction` and `draw` allow; all if not given."""
    fraction: Percent = 100
    """Percent of the real training images; the run's own."""
    draw: int = Field(0, ge=0, lt=2**31)
    """Which draw of the subset; the run's own."""
    device: Device = "auto"
    """'auto' (GPU when there is one), 'cpu', 'cuda'."""
    workers: Annotated[int, Role.RUNTIME] = Field(2, ge=1)
    """Threads that decode images."""

    @model_validator(mode="after")
    def _subset_is_named(self) -> Self:
        if self.subsets is None and self.fraction != 100:
            raise ValueError(f"fraction {self.fraction} needs 'subsets', the list that says which images these are")
        return self
