"""The user study: what is asked about whose pictures, and whose answers are scored."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, Field, model_validator

from datasets.runtime.config import Artifact, Config, Seed, SourceFile, SourceTree

MOST_GENERATORS = 9
"""A choice is made by one digit."""
LEAST_SIDE = 16
"""Pixels; smaller pictures show nobody."""


def _readable(name: str) -> str:
    if not name or name != name.strip() or not name.isprintable() or len(name) > 60:
        raise ValueError("a generator's name has 1 to 60 printable characters and no space at either end")
    return name


class PackStudyConfig(Config):
    """One page that asks people which pictures are real and whose are best, and the key to their answers.

    The folder `out` gets ``user-study.html``, which is handed out, and ``key.json``, which is kept.
    """

    synthetic: dict[Annotated[str, AfterValidator(_readable)], SourceTree] = Field(
        min_length=1, max_length=MOST_GENERATORS
    )
    """Generators' pictures, ``NAME=PATH``: a set of `synthesize`, an `evaluate` artifact (if it has several scenarios,
    each counts as a generator), or a folder as `reid train --synthetic` takes it (docs/extending.md)."""
    real: Artifact
    """Image shards (`datasets write-shards`) with real images of the same people, the sources, and the target poses."""
    per_generator: int = Field(20, ge=1, le=500)
    """Generated pictures of each generator that are judged, among as many real ones (R2G, G2R)."""
    best: int = Field(20, ge=0, le=500)
    """Questions which generator's picture is best (Jab); 0: none. A single generator has none."""
    height: int | None = Field(None, ge=LEAST_SIDE, le=1024)
    """Height in pixels of all pictures; with `width`. Not given: the least of any, so that enlarging blurs none."""
    width: int | None = Field(None, ge=LEAST_SIDE, le=1024)
    """Width in pixels of all pictures; with `height`."""
    jpeg_quality: int = Field(92, ge=50, le=100)
    """Quality of all pictures, real and generated."""
    seed: Seed = 0
    """Which pictures are shown, and in what order."""
    out: Path = Path("user-study")
    """Folder for the page and its key."""

    @model_validator(mode="after")
    def _both_sides(self) -> Self:
        if (self.height is None) != (self.width is None):
            raise ValueError("height and width go together: give both, or neither to take the smallest picture's")
        return self


class ScoreStudyConfig(Config):
    """R2G, G2R and Jab of each generator from people's answers: ``user-study score A.json B.json --key key.json``.

    The folder `out` gets ``scores.json`` and ``scores.md``.
    """

    positional: ClassVar[str | None] = "answers"

    answers: tuple[SourceFile, ...] = Field(min_length=1)
    """Answer files as the page gives them, one a person; they may stand first, without the flag."""
    key: SourceFile
    """The ``key.json`` that belongs to the page."""
    confidence: float = Field(0.95, gt=0, lt=1)
    """Level of the intervals."""
    out: Path = Path("user-study-scores")
    """Folder for the scores."""
