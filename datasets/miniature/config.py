"""Settings of the renderer. Torch-free: the flows import them."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from datasets.miniature.layouts import RENDERED_LAYOUTS
from datasets.runtime.config import Config, Role, Seed, StageConfig


class MiniatureSettings(Config):
    """How many people are rendered, how they differ, and whose layout their files follow."""

    layout: Annotated[str, RENDERED_LAYOUTS] = "market1501"
    """Whose folders and file names to follow."""
    train_identities: int = Field(40, ge=3)
    """People in the training split."""
    test_identities: int = Field(30, ge=0)
    """People in the query and gallery splits; none for a set that only trains a generator."""
    images_per_identity: int = Field(12, ge=2)
    """Mean number of images of a person; it varies as in Market-1501."""
    distractors: int = Field(40, ge=0)
    """Gallery images of nobody among the queries (pid 0000)."""
    junk: int = Field(20, ge=0)
    """Badly cut gallery images that an evaluation ignores (pid -1)."""
    seed: Seed = 0
    """Another seed gives other people, other walks and other backgrounds."""
    width: int = Field(64, ge=16)
    """Image width in pixels."""
    height: int = Field(128, ge=32)
    """Image height in pixels."""


class MiniatureConfig(MiniatureSettings, StageConfig):
    """A rendered data set of walking people in the layout of a real one."""

    stage: ClassVar[str] = "miniature"
    package: ClassVar[str] = "datasets"

    workers: Annotated[int, Role.RUNTIME] = Field(2, ge=1)
    """Processes that render; the images do not depend on it."""
