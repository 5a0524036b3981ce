"""Kinds of values that several configs of this package share, and re-ranking."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from datasets.runtime.config import Config, Role

Probability = Annotated[float, Field(ge=0, le=1)]
Device = Annotated[str, Role.RUNTIME]


class RerankConfig(Config):
    """k-reciprocal re-ranking (Zhong et al. 2017); its defaults are the paper's for Market-1501."""

    k1: int = Field(20, ge=1)
    """Neighbours among which reciprocal ones are sought."""
    k2: int = Field(6, ge=1)
    """Neighbours over which descriptions are averaged; 1: none but the image itself."""
    weight: Probability = 0.3
    """Share of the original distance (lambda); the rest is the Jaccard distance."""
