"""Settings of what is done to features and distances at test time, which several configs of this package share."""

from __future__ import annotations

from pydantic import Field

from datasets.runtime.config import Config, Probability


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
