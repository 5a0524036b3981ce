"""Settings of the stages that write shards. Torch-free: the flows import them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from datasets.runtime.config import Artifact, Config, Device, Location, ModelFolder, Role, StageConfig
from datasets.runtime.remote.copies import is_file
from datasets.shards.image_encoders import EncoderFolder, how_to_get


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
    root: Annotated[Location | None, Role.RUNTIME] = None
    """Where the data set lies now, if it has moved since it was indexed; every image is compared with the index."""

    @field_validator("splits")
    @classmethod
    def _distinct(cls, splits: list[str]) -> list[str]:
        if not splits or len(set(splits)) < len(splits):
            raise ValueError("splits must be one or more, each once, for example train,query,gallery")
        return splits


class EncodeSettings(Config):
    """At which sizes images are encoded."""

    renamed: ClassVar[Mapping[str, str]] = {"mirrored": "flipped"}

    view_height: int = Field(128, ge=16)
    """Height of a view in pixels; images are resized to it."""
    view_width: int = Field(64, ge=16)
    """Width of a view in pixels."""
    token_height: int = Field(128, ge=8)
    """Height in pixels at which the image encoder sees the whole person (no crop)."""
    token_width: int = Field(64, ge=8)
    """Width in pixels at which the image encoder sees the person."""
    flipped: bool = True
    """Also encode the horizontally flipped image, for training with flips."""
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
    device: Device = "auto"
    """'auto' (GPU when there is one), 'cpu', 'cuda', 'cuda:1'."""

    @model_validator(mode="after")
    def _folders_exist(self) -> Self:
        how = {"vae": "give the folder of a saved model", "image_encoder": how_to_get(self.image_encoder)}
        for name, folder in (("vae", self.vae), ("image_encoder", self.image_encoder)):
            if not is_file(folder / "config.json"):
                raise ValueError(f"{name} {folder} holds no config.json; {how[name]}")
        return self
