"""Settings of the stages that list images: the index and the subsets. Torch-free: the flows import them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from datasets.runtime.config import Artifact, Config, Percent, Role, Seed, SourceTree, StageConfig
from datasets.sources.layouts import LAYOUTS


class IndexSettings(Config):
    """Which part of a data set is taken, and how many of its files may be unusable."""

    seed: Seed = 0
    """Which identities a slice takes, and which are held out."""
    max_error_percent: float = Field(1.0, ge=0, le=100)
    """Fail when more than this share of the files cannot be used."""
    gray_as_rgb: bool = False
    """Take gray images (night cameras) as well: every later stage reads them as RGB, shards keep their bytes."""
    validation_identities: int | None = Field(None, ge=2)
    """Hold out so many of the training identities, drawn by `seed`: they become query (an image of each at each camera)
    and gallery (the rest), and the data set's own test images are left out. For choosing settings without them."""


class IndexConfig(IndexSettings, StageConfig):
    """The list of a data set's images, each checked, with identity, camera and split."""

    stage: ClassVar[str] = "index"
    stage_version: ClassVar[int] = 3  # 2: PNG, 3: images that EXIF turns
    package: ClassVar[str] = "datasets"

    root: SourceTree
    """The unpacked data set, its official zip, or (layout 'table') a CSV/Parquet with path,pid,camid,split."""
    layout: Annotated[str, LAYOUTS] = "market1501"
    """How folders and names tell identity, camera and split."""
    identities: int | None = Field(None, ge=3)
    """Take a slice: this many training identities and as many test identities, drawn by `seed`; all if not given."""
    outside_slice: bool = False
    """Take the training identities that the slice leaves out (what a slice's generator may be pretrained on)."""
    workers: Annotated[int, Role.RUNTIME] = Field(2, ge=1)
    """Processes that check images."""

    @field_validator("root")
    @classmethod
    def _absolute(cls, root: Path) -> Path:
        return root.absolute()  # later stages read the images from wherever they are started

    def further_inputs(self) -> dict[str, object]:
        """What the result depends on besides the fields, as the layout says."""
        return LAYOUTS[self.layout].key_inputs(self.root)


class SelectSubsetsSettings(Config):
    """How the subsets are drawn."""

    seed: Seed = 0
    """First draw's seed."""


class SelectSubsetsConfig(SelectSubsetsSettings, StageConfig):
    """Which training images each fraction of each draw may use: nested, at least one image of each identity."""

    stage: ClassVar[str] = "select-subsets"
    stage_version: ClassVar[int] = 2
    package: ClassVar[str] = "datasets"

    images: Artifact
    """The image index."""
    fractions: list[Percent] = [20, 40, 60, 80]
    """Percent of the training images."""
    draws: int = Field(1, ge=1)
    """How many independent draws; inside a draw the smaller subset lies in the larger one."""

    @field_validator("fractions")
    @classmethod
    def _distinct(cls, fractions: list[int]) -> list[int]:
        if not fractions or len(set(fractions)) != len(fractions):
            raise ValueError("fractions must be distinct whole percentages, for example 20,40,60,80")
        return sorted(fractions)
