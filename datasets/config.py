"""Configs of this package's stages. Light on purpose: the flows import them, so nothing here may import torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from datasets.runtime.config import Artifact, Config, ModelFolder, Role, SourceFile, SourceTree, StageConfig
from datasets.runtime.hashing import json_sha256
from datasets.runtime.precision import Precision
from datasets.shards.image_encoders import EncoderFolder, how_to_get

Percent = Annotated[int, Field(gt=0, le=100)]
"""A share in percent, as everywhere in this project: 20, not 0.2."""
Coordinates = Literal["image", "deepfashion", "deepfashion-256", "deepfashion-176"]
"""Frames that a keypoint file's coordinates can be in."""


class MiniatureSettings(Config):
    """How many people are rendered, how they differ, and whose layout their files follow."""

    layout: Literal["market1501", "deepfashion"] = "market1501"
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
    seed: int = Field(0, ge=0)
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


class IndexConfig(StageConfig):
    """The list of a data set's images, each checked, with identity, camera and split."""

    stage: ClassVar[str] = "index"
    package: ClassVar[str] = "datasets"

    root: SourceTree
    """The unpacked data set, its official zip, or (layout 'table') a CSV/Parquet with path,pid,camid,split."""
    layout: Literal["market1501", "deepfashion", "table"] = "market1501"
    """How folders and names tell identity, camera and split."""
    identities: int | None = Field(None, ge=3)
    """Take a slice: this many training identities and as many test identities, drawn by `seed`; all if not given."""
    outside_slice: bool = False
    """Take the training identities that the slice leaves out (what a slice's generator may be pretrained on)."""
    seed: int = Field(0, ge=0)
    """Which identities a slice takes."""
    max_error_percent: float = Field(1.0, ge=0, le=100)
    """Fail when more than this share of the files cannot be used."""
    workers: Annotated[int, Role.RUNTIME] = Field(2, ge=1)
    """Processes that check images."""

    @field_validator("root")
    @classmethod
    def _absolute(cls, root: Path) -> Path:
        return root.absolute()  # later stages read the images from wherever they are started

    def further_inputs(self) -> dict[str, object]:
        """What the result depends on besides the fields: the files that a table lists (a folder counts by its own)."""
        if self.layout != "table" or not self.root.is_file():
            return {}
        from datasets.sources.table import listed_files

        return {"listed_files": json_sha256(listed_files(self.root))}


class ImportPosesConfig(StageConfig):
    """Skeletons from the published OpenPose CSV files (``name:keypoints_y:keypoints_x``)."""

    stage: ClassVar[str] = "import-poses"
    package: ClassVar[str] = "datasets"

    images: Artifact
    """The image index that the poses belong to."""
    csv: list[SourceFile] = Field(min_length=1)
    """One or several CSV files; a later file may not repeat an image of an earlier one."""
    coordinates: Coordinates = "image"
    """What the coordinates are pixels of: the indexed image, DeepFashion's 256x256 originals ('deepfashion-256'), its
    176x256 crops ('deepfashion-176'), or 'deepfashion': one of the last two, told from each file's values."""


class TrainPoseConfig(StageConfig):
    """The small pose network, trained on crops of people whose skeletons are known."""

    stage: ClassVar[str] = "train-pose"
    package: ClassVar[str] = "datasets"

    images: list[Artifact] = Field(min_length=1)
    """Image indexes; the training splits' people are used."""
    poses: list[Artifact] = Field(min_length=1)
    """Skeletons of each index, in the same order."""
    shares: list[Annotated[float, Field(gt=0)]] = []
    """How often each index is drawn from, in any unit; equally if empty."""
    missing_weight: list[Annotated[float, Field(ge=0, le=1)]] = []
    """What a joint counts that the skeletons lack, per index: 1 (if empty) where it is surely invisible, less where a
    detector may have overlooked it."""
    height: int = Field(128, ge=32, multiple_of=16)
    """Height in pixels at which the network sees a crop."""
    width: int = Field(64, ge=16, multiple_of=16)
    """Width in pixels at which the network sees a crop."""
    steps: int = Field(20000, ge=1)
    """Optimiser steps."""
    batch_size: int = Field(64, ge=1)
    """Crops a step."""
    learning_rate: float = Field(2e-3, gt=0)
    """Learning rate of AdamW, constant until its fall."""
    falling_percent: int = Field(25, ge=0, le=100)
    """Last percent of the steps in which the learning rate falls to a hundredth."""
    average_decay: float = Field(0.999, ge=0, lt=1)
    """Decay a step of the running mean of the weights, which is what is saved."""
    precision: Precision = "bf16"
    """Arithmetic of the convolutions in training."""
    seed: int = Field(0, ge=0)
    """First weights, drawn crops, their changes and the held-out identities."""
    measure_every: Annotated[int, Role.RUNTIME] = Field(1000, ge=1)
    """Steps between measurements on held-out identities; the network measured last lies in the working folder."""
    checkpoint_every: Annotated[int, Role.RUNTIME] = Field(250, ge=1)
    """Steps between checkpoints to go on from."""
    device: Annotated[str, Role.RUNTIME] = "auto"
    """'auto' (GPU when there is one), 'cpu', 'cuda', 'cuda:1'."""

    @model_validator(mode="after")
    def _one_entry_per_index(self) -> Self:
        for name in ("poses", "shares", "missing_weight"):
            values = getattr(self, name)
            if len(values) != len(self.images) and (values or name == "poses"):
                raise ValueError(f"{name} has {len(values)} entries for {len(self.images)} indexes; give one for each")
        return self


TINY_POSE_WEIGHTS = Path(__file__).parent / "builtin" / "openpose_tiny" / "weights.safetensors"
"""The pose network that comes with the package."""


class ExtractPosesSettings(Config):
    """Which network finds the skeletons."""

    backend: Literal["openpose-tiny", "openpose"]
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
    splits: list[Literal["train", "query", "gallery"]] = ["train", "query", "gallery"]
    """Splits to look at; images of others get status 'missing'."""
    device: Annotated[str, Role.RUNTIME] = "auto"
    """'auto' (GPU when there is one), 'cpu', 'cuda', 'cuda:1'."""
    workers: Annotated[int, Role.RUNTIME] = Field(2, ge=1)
    """Processes; several GPUs ('cuda' or 'auto') are given to them in turn."""

    @model_validator(mode="before")
    @classmethod
    def _built_in_weights(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("backend") == "openpose-tiny" and not given.get("weights"):
            return {**given, "weights": TINY_POSE_WEIGHTS}  # so that their content counts in the key
        return given


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
    seed: int = Field(0, ge=0)
    """Which images are the random ones."""
    root: Annotated[Path | None, Role.RUNTIME] = None
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
    seed: int = Field(0, ge=0)
    """Which images are the random ones."""
    images: Path | None = None
    """The image index, if it does not lie any more where the poses were made from it."""
    root: Path | None = None
    """Where the data set lies now, if it has moved since it was indexed."""


class SelectSubsetsSettings(Config):
    """How the subsets are drawn."""

    seed: int = Field(0, ge=0)
    """First draw's seed."""


class SelectSubsetsConfig(SelectSubsetsSettings, StageConfig):
    """Which training images each fraction of each draw may use: nested, at least one image of each identity."""

    stage: ClassVar[str] = "select-subsets"
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


class WriteShardsSettings(Config):
    """How images are packed into shards."""

    images_per_shard: int = Field(1000, ge=1)
    """Mean number; a shard has half to twice as many, as identities are never cut and hashes of their pids end it."""


class WriteShardsConfig(WriteShardsSettings, StageConfig):
    """WebDataset tars: source bytes untouched, one identity never in two shards."""

    stage: ClassVar[str] = "write-shards"
    package: ClassVar[str] = "datasets"
    stage_version: ClassVar[int] = 3

    images: Artifact
    """The image index."""
    poses: Artifact
    """Skeletons of those images."""
    splits: list[Literal["train", "query", "gallery"]] = ["train"]
    """Splits to write."""
    root: Annotated[Path | None, Role.RUNTIME] = None
    """Where the data set lies now, if it has moved since it was indexed; every image is compared with the index."""


class EncodeSettings(Config):
    """At which sizes images are encoded."""

    view_height: int = Field(128, ge=16)
    """Height of a view in pixels; images are resized to it."""
    view_width: int = Field(64, ge=16)
    """Width of a view in pixels."""
    token_height: int = Field(128, ge=8)
    """Height in pixels at which the image encoder sees the whole person (no crop)."""
    token_width: int = Field(64, ge=8)
    """Width in pixels at which the image encoder sees the person."""
    mirrored: bool = True
    """Also encode the left-right mirrored image, for training with flips."""
    batch_size: Annotated[int, Role.RUNTIME] = Field(32, ge=1)
    """Images at a time."""


class EncodeConfig(EncodeSettings, StageConfig):
    """Frozen features of every image, computed once: VAE latents and image-encoder tokens."""

    stage: ClassVar[str] = "encode"
    package: ClassVar[str] = "datasets"
    stage_version: ClassVar[int] = 2

    shards: Artifact
    """Image shards."""
    only: list[str] = []
    """Names of the shards to encode, where several machines share the work; all of them if empty."""
    vae: ModelFolder
    """Folder of a diffusers AutoencoderKL."""
    image_encoder: EncoderFolder
    """Folder of a transformers Dinov2Model or CLIPVisionModel, or a name: dinov2-base, dinov2-large, dinov2-giant,
    clip-base, clip-huge, clip-bigg (then in ``weights/NAME``)."""
    device: Annotated[str, Role.RUNTIME] = "auto"
    """'auto' (GPU when there is one), 'cpu', 'cuda', 'cuda:1'."""

    @model_validator(mode="after")
    def _folders_exist(self) -> Self:
        how = {"vae": "give the folder of a saved model", "image_encoder": how_to_get(self.image_encoder)}
        for name, folder in (("vae", self.vae), ("image_encoder", self.image_encoder)):
            if not (folder / "config.json").is_file():
                raise ValueError(f"{name} {folder} holds no config.json; {how[name]}")
        return self
