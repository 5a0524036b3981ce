"""Settings of the stages and commands that deal in skeletons. Torch-free: the flows import them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from datasets.poses.backends import POSE_BACKENDS, with_built_in_weights
from datasets.runtime.config import (
    AddedLater,
    Artifact,
    Config,
    Device,
    Location,
    Precision,
    Role,
    Seed,
    SourceFile,
    SourceTree,
    StageConfig,
)

Coordinates = Literal["image", "deepfashion", "deepfashion-256", "deepfashion-176"]
"""Frames that a keypoint file's coordinates can be in."""


class ImportPosesConfig(StageConfig):
    """Skeletons from the published OpenPose CSV files (``name:keypoints_y:keypoints_x``), or from JSON files."""

    stage: ClassVar[str] = "import-poses"
    package: ClassVar[str] = "datasets"

    images: Artifact
    """The image index that the poses belong to."""
    csv: list[SourceTree] = Field(min_length=1)
    """CSV files, or folders with one JSON file an image (``NAME.json``, ``NAME_keypoints.json``); a later one may not
    repeat an image of an earlier one."""
    coordinates: Coordinates = "image"
    """What the coordinates are pixels of: the indexed image, DeepFashion's 256x256 originals ('deepfashion-256'), its
    176x256 crops ('deepfashion-176'), or 'deepfashion': one of the last two, inferred from each file's values."""


class TrainPoseConfig(StageConfig):
    """The small pose network, trained on crops of people whose skeletons are known."""

    renamed: ClassVar[Mapping[str, str]] = {
        "shares": "sampling_weights",
        "falling_percent": "decay_percent",
        "average_decay": "ema_decay",
        "measure_every": "validation_every",
    }

    stage: ClassVar[str] = "train-pose"
    package: ClassVar[str] = "datasets"

    images: list[Artifact] = Field(min_length=1)
    """Image indexes; the training splits' people are used."""
    poses: list[Artifact] = Field(min_length=1)
    """Skeletons of each index, in the same order."""
    sampling_weights: list[Annotated[float, Field(gt=0)]] = []
    """How often each index is drawn from, in any unit; equally if empty."""
    missing_weight: list[Annotated[float, Field(ge=0, le=1)]] = []
    """What a joint counts that the skeletons lack, per index: 1 (if empty) where it is surely invisible, less where a
    detector may have overlooked it."""
    height: int = Field(128, ge=32, multiple_of=16)
    """Height in pixels at which the network sees a crop."""
    width: int = Field(64, ge=16, multiple_of=16)
    """Width in pixels at which the network sees a crop."""
    steps: int = Field(20000, ge=1)
    """Optimizer steps."""
    batch_size: int = Field(64, ge=1)
    """Crops a step."""
    learning_rate: float = Field(2e-3, gt=0)
    """Learning rate of AdamW, constant until it decays."""
    decay_percent: int = Field(25, ge=0, le=100)
    """Last percent of the steps over which the learning rate decays to a hundredth."""
    ema_decay: float = Field(0.999, ge=0, lt=1)
    """Decay per step of the exponential moving average (EMA) of the weights, which is what is saved."""
    precision: Precision = "bf16"
    """Arithmetic of the convolutions in training."""
    seed: Seed = 0
    """First weights, drawn crops, their changes and the held-out identities."""
    validation_every: Annotated[int, Role.RUNTIME] = Field(1000, ge=1)
    """Steps between measurements on held-out identities; the network measured last lies in the working folder."""
    checkpoint_every: Annotated[int, Role.RUNTIME] = Field(250, ge=1)
    """Steps between checkpoints."""
    device: Device = "auto"
    """'auto' (GPU when there is one), 'cpu', 'cuda', 'cuda:1'."""

    @model_validator(mode="after")
    def _one_entry_per_index(self) -> Self:
        for name in ("poses", "sampling_weights", "missing_weight"):
            values = getattr(self, name)
            if len(values) != len(self.images) and (values or name == "poses"):
                raise ValueError(f"{name} has {len(values)} entries for {len(self.images)} indexes; give one for each")
        return self


class ExtractPosesSettings(Config):
    """Which network finds the skeletons."""

    backend: Annotated[str, POSE_BACKENDS]
    """'openpose' is CMU's network with its published weights; 'openpose-tiny' a small one for crops of one person."""
    weights: SourceFile | None = None
    """Weights' file; not given: those in the package (openpose-tiny), or those published, from the hub (openpose)."""
    weights_sha256: str | None = Field(None, pattern="^[0-9a-fA-F]{64}$")
    """What `weights` must hash to, if they are not the published ones of openpose."""
    scales: list[Annotated[float, Field(gt=0, le=4)]] = Field([0.5], min_length=1)
    """Of openpose: heights of the network's input, in 368 rows; maps are averaged over them."""


class ExtractPosesConfig(ExtractPosesSettings, StageConfig):
    """Skeletons of an index's images, found by a network."""

    stage: ClassVar[str] = "extract-poses"
    package: ClassVar[str] = "datasets"

    images: Artifact
    """The image index."""
    published: Annotated[Artifact | None, AddedLater] = None
    """Skeletons of these images that are kept; the network looks only at images that they have none of (Market-1501's
    published files have no query), and at those whose row is wrong."""
    splits: list[Literal["train", "query", "gallery"]] = ["train", "query", "gallery"]
    """Splits to look at; images of others get status 'missing'."""
    device: Device = "auto"
    """'auto' (GPU when there is one), 'cpu', 'cuda', 'cuda:1'."""
    workers: Annotated[int, Role.RUNTIME] = Field(2, ge=1)
    """Processes; several GPUs ('cuda' or 'auto') are given to them in turn."""

    @model_validator(mode="before")
    @classmethod
    def _built_in_weights(cls, given: Any) -> Any:
        return with_built_in_weights(given, backend="backend", weights="weights")


class ExportPosesConfig(Config):
    """Write skeletons as a CSV file in the published format."""

    images: Path
    """The image index that the poses belong to."""
    poses: Path
    """Skeletons of those images."""
    csv: Path
    """File to write."""


class ExportPairsConfig(Config):
    """Write the pairs of images of one person (DeepFashion: and outfit) by PATN's rule, in the published format."""

    images: Path
    """The image index."""
    poses: Path
    """Skeletons of those images; both shoulders and both hips must be there."""
    split: Literal["train", "test"] = "test"
    """Whose pairs; 'test' is query and gallery together."""
    csv: Path
    """File to write: ``from,to``."""
    published: Path | None = None
    """A published file of pairs to compare with; what differs is said, not fatal."""


class ComparePosesConfig(StageConfig):
    """Two pose files of the same images side by side; the first one is the measure."""

    stage: ClassVar[str] = "compare-poses"
    package: ClassVar[str] = "datasets"

    first: Artifact
    """Skeletons that the others are measured by."""
    second: Artifact
    """Skeletons to measure."""
    images: Artifact | None = None
    """The image index, if it does not lie any more where `first` was made from it."""
    splits: list[Literal["train", "query", "gallery"]] = ["train", "query", "gallery"]
    """Splits to compare."""
    roles: list[Literal["person", "distractor", "junk", "unknown"]] = ["person"]
    """Images to compare: Market-1501's distractors and junk are badly cut, and often of nobody."""
    radii_percent: list[Annotated[float, Field(gt=0, le=100)]] = Field([5.0, 2.5, 10.0], min_length=1)
    """Radii of PCK in percent of the image's height; the first one is that of the chart and of the worst images."""
    radii_px: list[Annotated[float, Field(gt=0)]] = [2.0, 5.0]
    """Radii of PCK in pixels."""
    sheet_images: int = Field(32, ge=0)
    """Images on overlays.png, half random and half the worst; 0 for none. It shows people."""
    seed: Seed = 0
    """Which images are the random ones."""
    root: Annotated[Location | None, Role.RUNTIME] = None
    """Where the data set lies now, if it has moved since it was indexed."""


class ShowPosesConfig(Config):
    """Draw skeletons over their images on a contact sheet, to look at."""

    poses: Path
    """Skeletons."""
    png: Path
    """File to write; it shows people, so keep it with the data."""
    pick: Literal["random", "worst", "no-person"] = "random"
    """'worst': lowest mean score over all 18 joints; 'no-person': images where nobody was found."""
    count: int = Field(32, ge=1, le=1000)
    """Images on the sheet."""
    splits: list[Literal["train", "query", "gallery"]] = ["train", "query", "gallery"]
    """Splits to choose from."""
    columns: int = Field(8, ge=1)
    """Images a row."""
    seed: Seed = 0
    """Which images are the random ones."""
    images: Path | None = None
    """The image index, if it does not lie any more where the poses were made from it."""
    root: Path | None = None
    """Where the data set lies now, if it has moved since it was indexed."""
