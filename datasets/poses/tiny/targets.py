"""The network's training targets: heat maps and part affinity fields of one skeleton, and their loss weights.

Heat maps are Gaussians around the joints; a part affinity field is the unit vector from a limb's first to its second
joint on the cells along the limb, zero elsewhere (https://arxiv.org/abs/1611.08050, section 2.3). Order of limbs and
channels as in OpenPose's COCO model: channels 2i and 2i + 1 are x and y of limb i.
`B` batch, `h, w` cells of STRIDE pixels; a cell's center is at pixel ``STRIDE * (cell + 0.5) - 0.5``.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from datasets.poses.openpose.decoding import PAF_CHANNELS, PAF_LIMBS

STRIDE = 4
"""Pixels of the network's input per cell of a map, each way."""

FIELD_LIMBS = tuple(limb for _, limb in sorted(zip(PAF_CHANNELS, PAF_LIMBS, strict=True)))
"""Pairs of joints in the order of the fields' channels, that of OpenPose's COCO model."""
FIELD_COUNT = 2 * len(FIELD_LIMBS)

SIGMA_CELLS = 0.8
"""Width of a joint's Gaussian: 3.2 px, 2.5 % of a crop's height."""
LIMB_HALF_WIDTH_CELLS = 0.75
"""Cells whose centers are that near to a limb belong to it."""


def to_cells(pixels: np.ndarray) -> np.ndarray:
    """Coordinates in pixels of the network's input as coordinates in cells of its maps."""
    return (pixels + 0.5) / STRIDE - 0.5


def to_pixels(cells: np.ndarray) -> np.ndarray:
    """Coordinates in cells of the maps as coordinates in pixels of the network's input."""
    return (cells + 0.5) * STRIDE - 0.5


def heat_targets(keypoints: Tensor, rows: int, columns: int) -> Tensor:
    """Gaussians of height 1 around the joints.

    Args:
        keypoints: (B, 18, 2) x, y in cells, NaN where a joint is missing.

    Returns:
        (B, 18, rows, columns) in [0, 1], zero for a missing joint.
    """
    x = torch.arange(columns) - keypoints[..., 0:1]
    y = torch.arange(rows) - keypoints[..., 1:2]
    across, down = (torch.exp(-(offset**2) / (2 * SIGMA_CELLS**2)).nan_to_num(0) for offset in (x, y))
    return down[..., :, None] * across[..., None, :]


def field_targets(keypoints: Tensor, rows: int, columns: int) -> Tensor:
    """Unit vectors along the limbs.

    Args:
        keypoints: (B, 18, 2) x, y in cells, NaN where a joint is missing.

    Returns:
        (B, 38, rows, columns) in [-1, 1], zero away from a limb and for a limb with a missing end.
    """
    first, second = (keypoints[:, [limb[end] for limb in FIELD_LIMBS]] for end in (0, 1))
    limb = second - first
    length = limb.norm(dim=-1, keepdim=True).clamp_min(1e-3)
    unit = limb / length
    x = (torch.arange(columns) - first[..., 0:1])[..., None, :]
    y = (torch.arange(rows) - first[..., 1:2])[..., :, None]
    along = x * unit[..., 0, None, None] + y * unit[..., 1, None, None]
    aside = (x * unit[..., 1, None, None] - y * unit[..., 0, None, None]).abs()
    reach = length[..., None]
    on_limb = (along >= -0.5) & (along <= reach + 0.5) & (aside <= LIMB_HALF_WIDTH_CELLS)  # NaN compares as False
    fields = unit.nan_to_num(0)[..., None, None] * on_limb[:, :, None]
    return fields.flatten(1, 2)


def field_weights(joint_weights: Tensor) -> Tensor:
    """Loss weight of each field from those of the heat maps: a limb has the smaller weight of its two joints.

    Args:
        joint_weights: (B, 18) in [0, 1].

    Returns:
        (B, 38).
    """
    limbs = torch.minimum(*(joint_weights[:, [limb[end] for limb in FIELD_LIMBS]] for end in (0, 1)))
    return limbs.repeat_interleave(2, dim=1)
