"""From a crop's maps to one skeleton, for whole batches at once.

Each joint has up to three candidates, the highest peaks of its heat map. Of all ways to choose one candidate or none
for each joint, the one with the highest total score is taken: heights of the peaks plus agreement of the fields along
the limbs between chosen joints. The limbs form a tree, so dynamic programming finds the optimum exactly
(https://doi.org/10.1023/B:VISI.0000042934.15159.49). A joint is placed at the peak of a parabola through its
neighboring cells; its score is the height of the peak. `B` batch, `h, w` cells, `K` candidates.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from datasets.poses.skeleton import JOINT_COUNT
from datasets.poses.tiny.targets import FIELD_LIMBS

CANDIDATES = 3
FIELD_SAMPLES = 7
FIELD_WEIGHT = 0.5
"""Weight of a limb's agreement with its field, relative to the height of a peak."""

TREE = (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 14, 15, 16, 17, 18)
"""Limbs of FIELD_LIMBS that form a tree with the neck as root; the two from shoulder to ear would close cycles."""
ROOT = 1


def decode_person(heat: Tensor, fields: Tensor) -> np.ndarray:
    """The skeleton with the highest score in each crop.

    Args:
        heat: (B, 18, h, w) heights in [0, 1].
        fields: (B, 38, h, w) in OpenPose's order.

    Returns:
        (B, 18, 3) float32: x, y in cells and the height of the peak; every joint has a place, however low its score.
    """
    places, heights = find_peaks(heat)
    chosen = _choose(places, heights, fields)
    index = chosen[..., None]
    cells = places.gather(2, index[..., None].expand(-1, -1, 1, 2))[:, :, 0]
    refined = _refine(heat, cells)
    return torch.cat([refined, heights.gather(2, index)], -1).numpy()


def find_peaks(heat: Tensor) -> tuple[Tensor, Tensor]:
    """The highest cells that no neighbor exceeds.

    Returns:
        (B, 18, K, 2) whole x, y, and (B, 18, K) heights, descending; 0 where a map has fewer peaks.
    """
    columns = heat.shape[-1]
    is_peak = heat == F.max_pool2d(heat, 3, 1, 1)
    heights, positions = (heat * is_peak).flatten(2).topk(CANDIDATES)
    return torch.stack([positions % columns, positions // columns], -1), heights


def _limb_agreement(places: Tensor, fields: Tensor, limb: int) -> Tensor:
    """Mean of the field along each line between candidates, in its direction: (B, K first, K second)."""
    first, second = (places[:, joint].float() for joint in FIELD_LIMBS[limb])
    line = second[:, None] - first[:, :, None]
    unit = line / line.norm(dim=-1, keepdim=True).clamp_min(1e-3)
    steps = torch.linspace(0, 1, FIELD_SAMPLES)
    points = (first[:, :, None, None] + line[..., None, :] * steps[:, None]).round().long()
    columns = fields.shape[-1]
    index = (points[..., 1] * columns + points[..., 0]).flatten(1)
    at = fields[:, 2 * limb : 2 * limb + 2].flatten(2).gather(2, index[:, None].expand(-1, 2, -1))
    return (at.unflatten(2, points.shape[1:4]).mean(-1) * unit.permute(0, 3, 1, 2)).sum(1)


def _choose(places: Tensor, heights: Tensor, fields: Tensor) -> Tensor:
    """Number of the chosen candidate of every joint: (B, 18)."""
    evidence = {joint: heights[:, joint].clone() for joint in range(JOINT_COUNT)}
    best: dict[int, Tensor] = {}
    parents: dict[int, int] = {}
    order = _leaves_first()
    for limb in order:
        parent, child = FIELD_LIMBS[limb]
        weight = FIELD_WEIGHT * torch.minimum(heights[:, parent, :, None], heights[:, child, None]).clamp(0, 1).sqrt()
        total = evidence[child][:, None] + weight * _limb_agreement(places, fields, limb)
        value, best[child] = total.max(-1)
        evidence[parent] += value
        parents[child] = parent
    chosen = torch.zeros(len(places), JOINT_COUNT, dtype=torch.long)
    chosen[:, ROOT] = evidence[ROOT].argmax(-1)
    for limb in reversed(order):
        child = FIELD_LIMBS[limb][1]
        chosen[:, child] = best[child].gather(1, chosen[:, parents[child], None])[:, 0]
    return chosen


def _leaves_first() -> list[int]:
    """The tree's limbs, each before the limb that leads to it from the root."""
    depth = {ROOT: 0}
    waiting = list(TREE)
    while waiting:
        for limb in list(waiting):
            parent, child = FIELD_LIMBS[limb]
            if parent in depth:
                depth[child] = depth[parent] + 1
                waiting.remove(limb)
    return sorted(TREE, key=lambda limb: -depth[FIELD_LIMBS[limb][1]])


def _refine(heat: Tensor, cells: Tensor) -> Tensor:
    """Whole cells moved by at most half a cell to the peak of a parabola through the logarithms around them.

    Args:
        cells: (B, 18, 2) whole x, y.

    Returns:
        (B, 18, 2) float32.
    """
    rows, columns = heat.shape[-2:]
    flat = heat.flatten(2)

    def height(x: Tensor, y: Tensor) -> Tensor:
        index = y.clamp(0, rows - 1) * columns + x.clamp(0, columns - 1)
        return flat.gather(2, index[..., None])[..., 0].clamp_min(1e-4).log()

    x, y = cells.unbind(-1)
    middle = height(x, y)
    moves = []
    for low, high in ((height(x - 1, y), height(x + 1, y)), (height(x, y - 1), height(x, y + 1))):
        bend = (2 * middle - low - high).clamp_min(1e-3)
        moves.append(((high - low) / (2 * bend)).clamp(-0.5, 0.5))
    return cells.float() + torch.stack(moves, -1)
