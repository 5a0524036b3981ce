"""Kinds of fields that several configs of this package share."""

from __future__ import annotations

from typing import Literal

Unconditional = Literal["pose", "pose-and-sources"]
"""What the unconditional half of guidance still sees. 'pose': the skeletons alone, as in the paper's Eq. 5.
'pose-and-sources': the visible views too, only the FLC tokens are dropped, as in the official code."""
