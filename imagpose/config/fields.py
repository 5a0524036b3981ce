"""Kinds of fields that several configs share."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

BUILT_IN = Path(__file__).resolve().parents[1] / "builtin"
"""The generator of this package, with its VAE and image encoder; it has seen rendered people alone."""

Unconditional = Literal["pose", "pose-and-sources"]
"""What the unconditional half of guidance still sees. 'pose': the skeletons alone, as in the paper's Eq. 5.
'pose-and-sources': the visible views too, only the FLC tokens are dropped, as in the official code."""
Scenario = Literal["T1", "T2", "T3", "IMAGPose*"]
"""The paper's scenarios (section 4.1, Figures 7 and 8): how sources and poses share a canvas."""
Mode = Literal[Scenario, "free"]
"""A scenario, or any numbers of sources and poses that fit a canvas."""
