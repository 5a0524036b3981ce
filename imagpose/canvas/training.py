"""Training canvases: which four images of a person meet, which of them are masked, and the tensors of a batch.

`B` canvases, `C, h, w` a view's latents, `H, W` a view's pixels. Every draw comes from one `numpy` generator given by
the caller, so a batch is a function of the seed and the step's number.

Few images (docs/model.md): four distinct images where a person has them; otherwise empty slots are masked and carry no
loss. They are never filled with a copy of a visible view, which would reward the model for copying. A person with one
image trains reconstruction: that image is masked and feeds FLC.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from datasets.poses.skeleton import draw_skeleton
from datasets.shards.loader import starting_images
from imagpose.canvas.view_grid import VIEWS, pack_views, view_map
from imagpose.config import CanvasTrainingConfig

EMPTY = -1


class ViewSource(Protocol):
    """What a batch is read from; `datasets.shards.encoded.EncodedImages` is one."""

    keys: list[str]
    pids: np.ndarray
    by_pid: dict[int, list[int]]
    view_size: tuple[int, int]

    latent_shape: tuple[int, int, int]
    token_shape: tuple[int, int]

    def latents(self, indices: Sequence[int] | np.ndarray, flipped: np.ndarray) -> Tensor:
        """(n, C, h, w) float32, scaled; one `flipped` per image."""

    def tokens(self, indices: Sequence[int] | np.ndarray, flipped: np.ndarray) -> Tensor:
        """(n, N, D) float32."""

    def keypoints(self, index: int, flipped: bool = False) -> np.ndarray:
        """(18, 3) in view pixels."""


@dataclass(frozen=True, kw_only=True)
class CanvasPlan:
    """One training canvas by image indices."""

    slots: tuple[int, ...]
    """Four image indices in reading order, EMPTY where there is none."""
    visible: tuple[bool, ...]
    """Which slots the model sees; an empty slot is never visible."""
    reference: int
    """The image that feeds FLC; EMPTY: none, both halves of the tokens are dropped."""
    flipped: bool = False
    """Whether the whole canvas, reference and skeletons included, is flipped."""
    keep_image: bool = True
    """Whether FLC's image-encoder tokens are given."""
    keep_texture: bool = True
    """Whether FLC's texture tokens are given."""


@dataclass(frozen=True, kw_only=True)
class CanvasBatch:
    """The tensors of a training step."""

    latents: Tensor
    """(B, C, 2h, 2w) clean latents, scaled; zeros in empty slots."""
    mask: Tensor
    """(B, 1, 2h, 2w), 1 where a view is visible."""
    loss_weights: Tensor
    """(B, 1, 2h, 2w): 1 masked, `visible_weight` visible, 0 empty."""
    drawn_skeletons: Tensor
    """(B, 3, 2H, 2W) uint8; black in empty slots. Most of a batch, so it travels to a GPU as bytes."""
    image_tokens: Tensor
    """(B, N, D) of the reference."""
    source_latents: Tensor
    """(B, C, h, w) of the reference."""
    keep_image: Tensor
    """(B,) bool."""
    keep_texture: Tensor
    """(B,) bool."""

    @property
    def skeletons(self) -> Tensor:
        """(B, 3, 2H, 2W) in [0, 1], as the network takes them."""
        return self.drawn_skeletons.float() / 255

    def to(self, device: torch.device) -> CanvasBatch:
        """The same on another device."""
        return CanvasBatch(**{name: tensor.to(device, non_blocking=True) for name, tensor in vars(self).items()})

    def pin_memory(self) -> CanvasBatch:
        """The same in page-locked memory, from which a GPU copies while it computes."""
        return CanvasBatch(**{name: tensor.pin_memory() for name, tensor in vars(self).items()})


def plan_canvas(images: Sequence[int], config: CanvasTrainingConfig, rng: np.random.Generator) -> CanvasPlan:
    """Draw a canvas of one person.

    Args:
        images: indices of all usable images of that person, at least one.
    """
    order = rng.permutation(np.asarray(images))
    drawn, spare = order[:VIEWS].tolist(), order[VIEWS:].tolist()
    places = rng.permutation(VIEWS)[: len(drawn)]
    masked = places[: _masked_count(len(drawn), config, rng)]
    slots = [EMPTY] * VIEWS
    for place, image in zip(places, drawn, strict=True):
        slots[place] = image
    visible = [slot != EMPTY and place not in masked for place, slot in enumerate(slots)]
    shown = [slot for slot, seen in zip(slots, visible, strict=True) if seen]
    if shown:
        reference = int(rng.choice(shown))
    elif len(drawn) == 1:
        reference = drawn[0]
    else:
        reference = int(rng.choice(spare)) if spare else EMPTY
    keep_image, keep_texture = _kept_conditions(config, rng)
    flipped = bool(rng.random() < config.flip)
    # What the unconditional half of guidance sees: nothing but the poses.
    if config.drop_everything and rng.random() < config.drop_everything:
        visible, reference = [False] * VIEWS, EMPTY
    return CanvasPlan(
        slots=tuple(slots),
        visible=tuple(visible),
        reference=reference,
        flipped=flipped,
        keep_image=keep_image and reference != EMPTY,
        keep_texture=keep_texture and reference != EMPTY,
    )


def _masked_count(present: int, config: CanvasTrainingConfig, rng: np.random.Generator) -> int:
    """Uniform over the configured numbers; with two or three images one stays visible as a condition."""
    highest = min(config.max_masked, VIEWS if present == VIEWS else max(1, present - 1))
    return int(rng.integers(min(config.min_masked, highest), highest + 1))


def _kept_conditions(config: CanvasTrainingConfig, rng: np.random.Generator) -> tuple[bool, bool]:
    draw = rng.random()
    if draw < config.drop_both:
        return False, False
    if draw < config.drop_both + config.drop_image_tokens:
        return False, True
    return True, draw >= config.drop_both + config.drop_image_tokens + config.drop_texture_tokens


def plan_batch(source: ViewSource, config: CanvasTrainingConfig, step: int) -> list[CanvasPlan]:
    """The canvases of one step: a function of seed and step, so a resumed run continues exactly.

    Every image starts one canvas an epoch (`datasets.shards.loader`), so people count by their number of images.
    """
    rng = np.random.default_rng([config.seed, step])
    first = starting_images(len(source.keys), config.seed, step * config.batch_size, config.batch_size)
    return [plan_canvas(source.by_pid[int(source.pids[image])], config, rng) for image in first]


def canvas_counts(source: ViewSource) -> dict[str, int]:
    """How many people and images train in which way; every image is accounted for."""
    sizes = Counter(min(len(images), VIEWS) for images in source.by_pid.values())
    return {
        "images": len(source.keys),
        "identities": len(source.by_pid),
        "identities with four views": sizes[VIEWS],
        "identities with two or three views": sizes[2] + sizes[3],
        "identities with one view (reconstruction only)": sizes[1],
    }


def make_batch(source: ViewSource, plans: Sequence[CanvasPlan], visible_weight: float) -> CanvasBatch:
    """Read and lay out the tensors of planned canvases."""
    slots = np.array([plan.slots for plan in plans])
    visible = torch.tensor([plan.visible for plan in plans])
    flipped = np.array([plan.flipped for plan in plans])
    present = torch.from_numpy(slots != EMPTY)
    views = source.latents(np.maximum(slots, 0).ravel(), flipped.repeat(VIEWS)).unflatten(0, (len(plans), VIEWS))
    views = views * present[:, :, None, None, None]
    weights = torch.where(visible, visible_weight, 1.0) * present
    references = np.maximum([plan.reference for plan in plans], 0)
    return CanvasBatch(
        latents=pack_views(views),
        mask=view_map(visible, *views.shape[3:]),
        loss_weights=view_map(weights, *views.shape[3:]),
        drawn_skeletons=_drawn_skeletons(source, plans),
        image_tokens=source.tokens(references, flipped),
        source_latents=source.latents(references, flipped),
        keep_image=torch.tensor([plan.keep_image for plan in plans]),
        keep_texture=torch.tensor([plan.keep_texture for plan in plans]),
    )


def _drawn_skeletons(source: ViewSource, plans: Sequence[CanvasPlan]) -> Tensor:
    height, width = source.view_size
    pictures = np.zeros((len(plans), VIEWS, height, width, 3), np.uint8)
    for canvas, plan in zip(pictures, plans, strict=True):
        for view, image in enumerate(plan.slots):
            if image != EMPTY:
                canvas[view] = draw_skeleton(source.keypoints(image, plan.flipped), height, width)
    return pack_views(torch.from_numpy(pictures).permute(0, 1, 4, 2, 3))
