"""Settings of what is done to features and distances at test time, which several configs of this package share."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from datasets.runtime.config import Config, Probability, SourceTree


class RerankConfig(Config):
    """k-reciprocal re-ranking (Zhong et al. 2017); its defaults are the paper's for Market-1501."""

    k1: int = Field(20, ge=1)
    """Neighbors among which reciprocal ones are sought."""
    k2: int = Field(6, ge=1)
    """Neighbors over which descriptions are averaged; 1: none but the image itself."""
    weight: Probability = 0.3
    """Share of the original distance (lambda); the rest is the Jaccard distance."""


class NfcConfig(Config):
    """Neighbor feature centralization (Pose2ID, Yuan et al., CVPR 2025); its defaults are the paper's.

    To each feature those of its mutual nearest neighbors are added: queries among queries, gallery images among gallery
    images.
    """

    k1: int = Field(2, ge=1)
    """Nearest images of each image that come into question."""
    k2: int = Field(2, ge=1)
    """A neighbor counts if the image is among *its* nearest so many, at most `k1`."""


class CentralizeConfig(Config):
    """Average each test image's feature with those of further pictures of it (IPG of Pose2ID), or of its own views."""

    name: str = Field("centralized", pattern=r"^[a-z][a-z0-9]*$")
    """Begins the names of its columns, as in ``centralized_map``."""
    images: SourceTree | None = None
    """A set of `imagpose draw-poses`, or a folder that says which test image each picture shows."""
    control: Literal["flip", "crops"] | None = None
    """Instead of pictures: the image flipped, or moved towards its four corners. What averaging alone gains."""
    weight: float = Field(1.0, gt=0)
    """Eta: what the mean of the further pictures counts beside the image itself. The authors' code: 2."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.images is None) == (self.control is None):
            raise ValueError("give either 'images' or 'control' of an entry of 'centralize'")
        if self.name in ("plain", "nfc", "reranked"):
            raise ValueError(f"name '{self.name}' is taken by other columns; choose another one")
        return self
