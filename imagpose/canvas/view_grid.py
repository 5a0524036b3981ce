"""The 2x2 canvas: four views of one person in reading order (top left, top right, bottom left, bottom right).

`B` canvases, `V` = 4 views, `C` channels, `h, w` cells of one view (latent cells or pixels).
"""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = COLUMNS = 2
VIEWS = ROWS * COLUMNS


def split_views(canvas: Tensor) -> Tensor:
    """(B, C, 2h, 2w) -> (B*4, C, h, w): the views of a canvas follow each other, in reading order."""
    grid = canvas.unflatten(3, (COLUMNS, -1)).unflatten(2, (ROWS, -1))  # B C r h c w
    return grid.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def join_views(views: Tensor) -> Tensor:
    """(B*4, C, h, w) -> (B, C, 2h, 2w): the inverse of `split_views`."""
    grid = views.unflatten(0, (-1, ROWS, COLUMNS))  # B r c C h w
    return grid.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def pack_views(views: Tensor) -> Tensor:
    """Lay four views of one person on a canvas (IMAGPose's joint image).

    Args:
        views: (B, 4, C, h, w), any range.

    Returns:
        (B, C, 2h, 2w), same dtype and device.

    Raises:
        ValueError: if there are not exactly four views.
    """
    if views.ndim != 5 or views.shape[1] != VIEWS:
        raise ValueError(f"expected (B, {VIEWS}, C, h, w), got {tuple(views.shape)}")
    return join_views(views.flatten(0, 1))


def unpack_views(canvas: Tensor) -> Tensor:
    """(B, C, 2h, 2w) -> (B, 4, C, h, w): the inverse of `pack_views`."""
    if canvas.shape[2] % ROWS or canvas.shape[3] % COLUMNS:
        raise ValueError(f"a canvas has even sides, got {tuple(canvas.shape)}")
    return split_views(canvas).unflatten(0, (-1, VIEWS))


def view_map(values: Tensor, height: int, width: int) -> Tensor:
    """One number per view, spread over the view's cells: (B, 4) -> (B, 1, 2*height, 2*width) float32."""
    grid = values.to(torch.float32).unflatten(1, (ROWS, COLUMNS))[:, None]
    return grid.repeat_interleave(height, 2).repeat_interleave(width, 3)
