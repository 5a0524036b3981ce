"""What a regeneration, or the command for one network, tries at test time."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic.config import JsonDict

from datasets.poses.config import ExtractPosesSettings
from datasets.runtime.config import Config
from reid.config import NfcConfig, RerankConfig

Treatment = Literal["flips", "crops", "reconstruction", "centralized", "nfc", "reranked"]
DRAWN: dict[str, Literal["standard", "reconstruction"]] = {
    "centralized": "standard",
    "reconstruction": "reconstruction",
}
"""Treatments that need pictures by a generator, and in which poses."""
VIEWS: dict[str, Literal["flip", "crops"]] = {"flips": "flip", "crops": "crops"}
"""Treatments that average an image's own views."""
DISTINCT: JsonDict = {"uniqueItems": True}


class AtTestTimeSettings(Config):
    """What is done to the features of trained networks, without training them again.

    Ways to average ('flips', 'crops', 'reconstruction', 'centralized') are tried each by itself, and 'nfc' and
    'reranked' on top of every one of them and of the plain features.
    """

    treatments: list[Treatment] = Field(
        ["flips", "crops", "reconstruction", "centralized", "nfc", "reranked"],
        min_length=1,
        json_schema_extra=DISTINCT,
    )
    """'centralized': pictures in standard poses; 'reconstruction': as many in the image's own pose (a control); 'flips'
    and 'crops': the image's own views, which cost no generator (controls); 'nfc': mutual neighbors; 'reranked'."""
    poses: int = Field(8, ge=1, le=8)
    """Pictures that are drawn of each image. Three share a canvas, so 3 and 6 cost least a picture. Pose2ID: 8."""
    weight: float = Field(0.5, gt=0)
    """What the mean of the generated pictures counts beside the image itself, whose flips and crops count 1. A half was
    best for two networks on held-out people of Market-1501 (docs/results.md); the better the network, the less.
    Pose2ID's code: 2."""
    drawn_splits: list[Literal["query", "gallery"]] = Field(
        ["query", "gallery"], min_length=1, json_schema_extra=DISTINCT
    )
    """Of which images pictures are drawn; with 'query' alone gallery images keep their own features, at a sixth of the
    cost on Market-1501."""
    complete_poses: ExtractPosesSettings | None = ExtractPosesSettings(backend="openpose-tiny")
    """The network that looks at test images of which published files have no skeleton (all queries of Market-1501), for
    'reconstruction'; null leaves them undrawn."""
    nfc: NfcConfig = NfcConfig()
    """Of treatment 'nfc'."""
    rerank: RerankConfig = RerankConfig()
    """Of treatment 'reranked'."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for name in ("treatments", "drawn_splits"):
            if len(set(values := getattr(self, name))) < len(values):
                raise ValueError(f"{name} must be distinct")
        return self

    def draws(self) -> bool:
        """Whether a generator is needed."""
        return any(name in DRAWN for name in self.treatments)

    def completes_poses(self) -> ExtractPosesSettings | None:
        """The network that looks at images without a published skeleton; None where no image's own pose is drawn."""
        return self.complete_poses if "reconstruction" in self.treatments else None


class NetworksAtTestTimeSettings(AtTestTimeSettings):
    """The same for the networks of a regeneration."""

    arms: list[Annotated[str, Field(pattern=r"^[\w+.-]+$")]] | None = None
    """Arms whose networks are tested so; all if not given."""
