"""What a data-set card says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

KEY = "key"
"""The column that names a row's sample."""


@dataclass(frozen=True)
class Tar:
    """A WebDataset tar."""

    name: str
    split: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Column:
    """A column of the table."""

    name: str
    type: str
    """In Croissant's vocabulary: ``sc:Text``, ``sc:Integer``, ``sc:Float``."""
    description: str
    repeated: bool = False
    """Whether each row holds a list."""


@dataclass(frozen=True)
class Table:
    """A Parquet file with a row for each sample; its column `KEY` names the members of the tars."""

    name: str
    sha256: str
    columns: Sequence[Column]


@dataclass(frozen=True, kw_only=True)
class DataSetCard:
    """A set of WebDataset tars with a table. All texts are plain text unless they say otherwise."""

    name: str
    """``STAGE-KEY``."""
    title: str
    description: str
    """A paragraph."""
    version: int
    """Of the stage that made it."""
    terms: str
    """What may be done with it."""
    citation: str = ""
    tars: Sequence[Tar]
    table: Table
    counts: Mapping[str, int]
    """Images, identities, cameras ... of the whole set."""
    identities: Mapping[str, int]
    """How many people each split shows."""
    provenance: Mapping[str, str]
    """What it was made from, and by what."""
    people: str
    """Whom the pictures show."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Further sections of the README: heading -> Markdown."""
    synthetic: bool = False

    def keywords(self) -> list[str]:
        """What the set is found by."""
        return ["person re-identification", "human pose", "WebDataset", *(["synthetic"] if self.synthetic else [])]
