"""What a regeneration's stages pass on to each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from datasets.poses.config import Coordinates
from flows.reid_arms import ReidInputs, Unit
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

    vae: Path | None = None
    image_encoder: Path | None = None
    generator: Path | None = None
    others: Images | None = None
    """The people whom the base was trained on here, or a re-ID network is."""

    def used(self) -> tuple[Path | None, ...]:
        """Their folders."""
        return self.vae, self.image_encoder, self.generator


@dataclass(frozen=True)
class Material:
    """What the re-ID runs are made from, and where it comes from."""

    images: Images
    encoded: Path | None
    """Frozen features of the training images, where anything is drawn from them."""
    models: Models
    generators: dict[Unit, Path]
    inputs: ReidInputs

    def synthetic(self) -> dict[Unit, Path]:
        """The synthetic set of each subset that has one, with the usual poses."""
        return dict(self.inputs.generated.get("synthetic", {}))


@dataclass(frozen=True)
class RegenerationResult:
    """The artifacts of a finished regeneration."""

    report: Path
    benchmark: Path
    runs: list[Path]
    synthetic: dict[Unit, Path]
    generators: dict[Unit, Path] = field(default_factory=dict)
    images: Path | None = None
    """The index."""


def of_data_set(people: OtherPeopleSettings | None) -> Population:
    """The population of a data set of other people."""
    assert people is not None and people.root is not None  # flows.preflight
    poses = [path.absolute() for path in people.poses]
    return Population(people.root.absolute(), people.layout, poses, people.coordinates)
