"""The paper's comparisons of variants of one recipe."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from datasets.poses.backends import POSE_BACKENDS, with_built_in_weights
from datasets.runtime.config import Artifact, ModelFolder, Role, Seed, SourceFile, StageConfig
from imagpose.config.fields import Scenario
from imagpose.config.samplers import SamplerName
from imagpose.config.training import TrainGeneratorConfig

FULL = "full"
"""The variant that all others are compared with."""
M1 = "M1"
"""The paper's stand-in for earlier work: noise along the batch, semantic features alone (Table 7)."""
Name = Annotated[str, Field(pattern=r"^[\w][\w.+-]*$")]


class AblateConfig(StageConfig):
    """Variants of one recipe, each trained with equal steps and seeds and evaluated on the same pairs, in one table.

    Tables 2 and 7 (`variants`), Fig. 7 (`further_modes` of the full model) and Table 3 (`encoders`, `bases`).
    """

    stage: ClassVar[str] = "ablate"
    package: ClassVar[str] = "imagpose"
    stage_version: ClassVar[int] = 3  # 1: SSIM with the reflected border; 2: one seed, one scenario

    train: TrainGeneratorConfig
    """The recipe; `variants` change four switches of its `model`, `seeds` its seed, and nothing else."""
    shards: Artifact
    """Image shards with the test images: query and gallery."""
    variants: tuple[Literal["B0", "B1", "B2", "B3", "B4", "full", "M1"], ...] = Field(
        ("B0", "B1", "B2", "B3", "B4", FULL, M1), min_length=1
    )
    """Which rows of Table 2, and M1 of Table 7, in this order."""
    seeds: tuple[Seed, ...] = Field((0, 1), min_length=1)
    """Of the trainings, in place of the recipe's; every row is trained with each. Pairs and sampling noise go by the
    recipe's own `seed` and are the same for all."""
    further_modes: tuple[Scenario, ...] = ("T2", "T3", "IMAGPose*")
    """Scenarios of the full model besides `mode` (Fig. 7)."""
    encoders: dict[Name, Artifact] = {}
    """Table 3: the full model on the same images encoded by another image encoder (or VAE), ``NAME=ENCODED``."""
    bases: dict[Name, ModelFolder] = {}
    """Table 3: the full model from other first weights, a Stable Diffusion folder, ``NAME=FOLDER``; on the encoded
    images of the same name in `encoders` where there are some, else on the recipe's."""
    pairs: SourceFile | None = None
    """CSV file ``from,to`` of test pairs; not given: all ordered pairs by PATN's rule."""
    limit: int | None = Field(None, ge=2)
    """Take this many pairs; all if not given. Every row gets the same."""
    mode: Scenario = "T1"
    """Scenario of all rows but Fig. 7's; the paper's tables use T1."""
    sampler: SamplerName = "ddim"
    """Solver; the paper's is DDIM."""
    steps: int = Field(20, ge=1)
    """Sampler steps; the paper's are 20."""
    guidance: float = Field(2.0, ge=0)
    """Classifier-free guidance scale."""
    pose_backend: Annotated[str, POSE_BACKENDS] | None = "openpose-tiny"
    """Find the skeleton of every picture again with this network and score it (PCK@0.1); none: no such column."""
    pose_weights: SourceFile | None = None
    """Its weights' file; not given: those in the package (openpose-tiny), or from the hub (openpose)."""
    alexnet: SourceFile | None = None
    """AlexNet's weights, for LPIPS; no such column without."""
    inception: SourceFile | None = None
    """Inception's weights, for FID; no such column without."""
    bootstrap: int = Field(1000, ge=1)
    """Draws of the bootstrap over people behind the intervals."""
    batch_size: Annotated[int, Role.RUNTIME] = Field(16, ge=1)
    """Canvases at a time when sampling."""

    @model_validator(mode="before")
    @classmethod
    def _built_in_weights(cls, given: object) -> object:
        return with_built_in_weights(given, backend="pose_backend", weights="pose_weights")

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for name, values in (("variants", self.variants), ("seeds", self.seeds)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name} {', '.join(map(str, values))}: name each once")
        if taken := sorted((self.encoders.keys() | self.bases.keys()) & set(self.variants)):
            raise ValueError(f"encoders, bases: '{taken[0]}' is a variant of the paper; give another name")
        if self.needs_full() and FULL not in self.variants:
            raise ValueError("further_modes, encoders and bases are of the full model; add it to the variants")
        return self

    def needs_full(self) -> bool:
        """Whether rows besides Table 2's are requested."""
        return bool(self.further_modes or self.encoders or self.bases)
