"""Kinds of fields that several configs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator

BUILT_IN = Path(__file__).resolve().parents[1] / "builtin"
"""The generator of this package, with its VAE and image encoder; it has seen rendered people alone."""

Unconditional = Literal["pose", "pose-and-sources"]
"""What the unconditional half of guidance still sees. 'pose': the skeletons alone, as in the paper's Eq. 5.
'pose-and-sources': the visible views too, only the FLC tokens are dropped, as in the official code."""
Scenario = Literal["T1", "T2", "T3", "IMAGPose*"]
"""The paper's scenarios (section 4.1, Figures 7 and 8): how sources and poses share a canvas."""
Value = TypeVar("Value")


def _each_once(values: tuple[Value, ...]) -> tuple[Value, ...]:
    if len(set(values)) < len(values):
        raise ValueError(f"{', '.join(map(str, values))}: name each once")
    return values


EachOnce = AfterValidator(_each_once)
"""Marks a tuple in which nothing stands twice: a table would have equal rows, and count their pictures twice."""
Scenarios = Annotated[tuple[Scenario, ...], EachOnce]
"""Several scenarios, each of them once."""
Mode = Literal[Scenario, "free"]
"""A scenario, or any numbers of sources and poses that fit a canvas."""


def check_subset_with_fraction(subset: Path | None, fraction: int | None, without: str) -> None:
    """Subsets are given with the fraction that is taken of them.

    Args:
        without: what happens if neither is given, for the message: "use all images".

    Raises:
        ValueError: only one of the two is given.
    """
    if (subset is None) != (fraction is None):
        raise ValueError(f"subset and fraction go together: give both, or neither to {without}")


def check_perceptual_loss(weight: float, vgg16: Path | None) -> None:
    """Refuse a weight of LPIPS in a loss without its network, or the network without a weight.

    Raises:
        ValueError: one of them alone.
    """
    if bool(weight) != (vgg16 is not None):
        raise ValueError(
            "perceptual_weight and vgg16 go together: give VGG16's weights and a weight above 0, or neither"
        )
