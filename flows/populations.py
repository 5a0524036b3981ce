"""What a regeneration knows of people and models: whose images lie where, and what trainings start from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from datasets.poses.config import Coordinates
from flows.settings import OtherPeopleSettings


@dataclass(frozen=True)
class Population:
    """A population: where its images and skeletons come from."""

    root: Path
    """The data set: a folder, a zip or a table."""
    layout: str
    keypoints: list[Path]
    """Published keypoint files; a network finds the skeletons where there are none."""
    coordinates: Coordinates = "image"
    """What the coordinates in `keypoints` are pixels of."""
    identities: int | None = None
    """Size of a slice; all people if None."""
    outside_slice: bool = False
    """The people whom the slice leaves out."""


@dataclass(frozen=True)
class Images:
    """Indexed images of one population."""

    index: Path
    poses: Path
    shards: Path
    """Image shards of the training split."""


@dataclass(frozen=True)
class Models:
    """Where the generators of the subsets start from."""

    vae: Path
    image_encoder: Path
    generator: Path | None
    others: Images | None = None
    """The people whom the base was trained on here."""


def of_data_set(people: OtherPeopleSettings | None) -> Population:
    """The population of a data set of other people."""
    assert people is not None and people.root is not None  # flows.preflight
    poses = [path.absolute() for path in people.poses]
    return Population(people.root.absolute(), people.layout, poses, people.coordinates)
