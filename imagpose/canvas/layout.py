"""Which view shows what: sources and target poses of one person on a 2x2 canvas, and the paper's scenarios.

Slots are in reading order. Sources come first, targets after them; a slot that no request fills repeats a pose (as the
paper's T1 does), because a network that was trained on four views of a person should not meet an empty one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datasets.poses.skeleton import JOINT_COUNT, draw_skeleton, missing_keypoints, present_joints
from datasets.runtime.errors import InputError
from imagpose.canvas.view_grid import VIEWS, pack_views, view_map
from imagpose.config.fields import Mode

MODES: dict[Mode, str] = {
    "T1": "one source, one pose in the three other views: three pictures of which one is kept at random",
    "T2": "one source repeated in three views, one pose: one picture",
    "T3": "two or three different sources, one pose: one picture (two with two sources)",
    "IMAGPose*": "one source, three poses: three pictures at once",
    "free": "any one to three sources and one to three poses that fit four views",
}
"""The paper's scenarios (section 4.1, Figures 7 and 8)."""

Size = tuple[int, int]  # height, width


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceImage:
    """A source as a photograph of the model's view size."""

    image: Image.Image
    keypoints: np.ndarray = field(default_factory=missing_keypoints)
    """(18, 3) in the image's pixels; none known: the view goes without skeleton."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceFeatures:
    """A source as frozen features, computed once for a whole data set."""

    latents: Tensor
    """(C, h, w), times the VAE's scaling factor."""
    tokens: Tensor
    """(N, D) of the image encoder."""
    keypoints: np.ndarray
    """(18, 3) in view pixels."""


Source = SourceImage | SourceFeatures


@dataclass(frozen=True, kw_only=True, eq=False)
class CanvasRequest:
    """One canvas: a person, what is known and what is requested."""

    sources: Sequence[Source]
    """One to three images of the person; the first one feeds the cross-attention (FLC)."""
    poses: Sequence[np.ndarray]
    """One to three target poses, (18, 3) keypoints in view pixels."""
    seed: int
    """The canvas's own noise: a picture does not depend on the canvases beside it."""
    mode: Mode = "free"
    keep: Sequence[int] | None = None
    """Which of the generated views to decode, counted from 0; all if not given."""


@dataclass(frozen=True, kw_only=True)
class CanvasLayout:
    """What each of the four views is."""

    sources: tuple[int, ...]
    """Source number of each visible view; these are the canvas's first slots."""
    poses: tuple[int, ...]
    """Pose number of each generated view; these follow."""


@dataclass(frozen=True, kw_only=True)
class Canvases:
    """A batch laid out on canvases, on the sampler's device."""

    layouts: list[CanvasLayout]
    visible: Tensor
    """(B, 1, 2h, 2w) bool."""
    known: Tensor
    """(B, C, 2h, 2w): latents of the visible views, zeros elsewhere."""
    skeletons: Tensor
    """(B, 3, 2H, 2W) in [0, 1]."""
    image_tokens: Tensor
    """(B, N, D) of each canvas's first source."""
    source_latents: Tensor
    """(B, C, h, w) of each canvas's first source."""
    noise: Tensor
    """(B, C, 2h, 2w), each canvas from its own seed."""
    seeds: tuple[int, ...] = ()
    """Of each canvas's noise."""
    keep_image: Tensor | None = None
    """(B,) bool, whether FLC's image-encoder tokens are given; None: all are. Sampling leaves none out."""
    keep_texture: Tensor | None = None
    """(B,) bool, the same of the texture tokens."""


def canvas_seed(seed: int, canvas: int) -> int:
    """A canvas's own seed (63 bits), so that no picture depends on which others are made beside it."""
    return int.from_bytes(hashlib.sha256(f"imagpose canvas {seed} {canvas}".encode()).digest()[:8], "big") >> 1


def arrange(sources: int, poses: int, mode: Mode = "free") -> CanvasLayout:
    """Which slots show which source and ask for which pose.

    Raises:
        InputError: numbers that the canvas or the scenario does not take.
    """
    if mode not in MODES:
        raise InputError(f"mode '{mode}' is unknown; known: {', '.join(MODES)}")
    if not 1 <= sources < VIEWS:
        raise InputError(f"a canvas takes 1 to {VIEWS - 1} source images, got {sources}")
    if not 1 <= poses < VIEWS:
        raise InputError(f"a canvas takes 1 to {VIEWS - 1} target poses, got {poses}")
    if sources + poses > VIEWS:
        raise InputError(f"{sources} sources and {poses} poses do not fit a canvas of {VIEWS} views; leave some out")
    if mode in ("T1", "T2") and (sources, poses) != (1, 1):
        raise InputError(f"{mode} takes one source and one pose, got {sources} and {poses}")
    if mode == "T3" and (sources < 2 or poses != 1):
        raise InputError(f"T3 takes two or three sources and one pose, got {sources} and {poses}")
    if mode == "IMAGPose*" and (sources, poses) != (1, 3):
        raise InputError(f"IMAGPose* takes one source and three poses, got {sources} and {poses}")
    visible = (0,) * (VIEWS - 1) if mode == "T2" else tuple(range(sources))
    return CanvasLayout(sources=visible, poses=tuple(i % poses for i in range(VIEWS - len(visible))))


def check_request(request: CanvasRequest, size: Size) -> None:
    """Refuse a request that a canvas of `size` (H, W) views cannot show.

    Raises:
        InputError: what does not fit, in one line.
    """
    layout = arrange(len(request.sources), len(request.poses), request.mode)
    for source in request.sources:
        _check_shape(source.keypoints, "a source's keypoints")
        if isinstance(source, SourceImage) and (source.image.height, source.image.width) != size:
            raise InputError(
                f"a source is {source.image.height}x{source.image.width} pixels (height x width), this model's views "
                f"are {size[0]}x{size[1]}; resize or crop it"
            )
    for keypoints in request.poses:
        _check_shape(keypoints, "a target pose")
        joints = keypoints[present_joints(keypoints)]
        inside = ((joints[:, :2] >= -0.5) & (joints[:, :2] <= np.array([size[1], size[0]]) - 0.5)).all(-1)
        if not inside.any():
            raise InputError(f"a target pose has no joint inside the {size[0]}x{size[1]} view, so nothing is requested")
    if request.keep is not None and not set(request.keep) <= set(range(len(layout.poses))):
        raise InputError(f"keep names views {list(request.keep)}, but this canvas generates {len(layout.poses)}")


def _check_shape(keypoints: np.ndarray, what: str) -> None:
    if np.shape(keypoints) != (JOINT_COUNT, 3):
        raise InputError(f"{what}: expected {JOINT_COUNT} rows of x, y, score, got shape {np.shape(keypoints)}")


def lay_out(
    requests: Sequence[CanvasRequest],
    features: Sequence[Sequence[SourceFeatures]],
    size: Size,
    device: torch.device,
    dtype: torch.dtype,
) -> Canvases:
    """Place sources and poses on their canvases, and draw each canvas's noise from its own seed.

    Args:
        features: each request's sources, encoded.
        size: (H, W) of a view in pixels.
        dtype: of the denoiser's inputs; latents and noise stay float32.

    Raises:
        InputError: views of several sizes in one batch.
    """
    shape = features[0][0].latents.shape
    if any(source.latents.shape != shape for sources in features for source in sources):
        raise InputError("the canvases of a batch have views of different sizes; generate them apart")
    layouts = [arrange(len(request.sources), len(request.poses), request.mode) for request in requests]
    placed = list(zip(layouts, requests, features, strict=True))
    views = torch.stack([_latents(layout, sources) for layout, _, sources in placed])
    drawn = torch.from_numpy(np.stack([_skeletons(*canvas, size) for canvas in placed]))
    visible = torch.tensor([[slot < len(layout.sources) for slot in range(VIEWS)] for layout in layouts])
    return Canvases(
        layouts=layouts,
        visible=view_map(visible, *shape[1:]).bool().to(device),
        known=pack_views(views).to(device),
        skeletons=pack_views(drawn.permute(0, 1, 4, 2, 3)).to(device, dtype) / 255,
        image_tokens=torch.stack([sources[0].tokens for sources in features]).to(device, dtype),
        source_latents=torch.stack([sources[0].latents for sources in features]).to(device, dtype),
        noise=torch.stack([_canvas_noise(_generator(request.seed), shape) for request in requests]).to(device),
        seeds=tuple(request.seed for request in requests),
    )


def generators_past_noise(canvases: Canvases) -> list[torch.Generator]:
    """Each canvas's own generator after its first noise, for a sampler that draws more of it at every step."""
    channels, height, width = canvases.noise.shape[1:]
    generators = [_generator(seed) for seed in canvases.seeds]
    for generator in generators:
        _canvas_noise(generator, torch.Size((channels, height // 2, width // 2)))
    return generators


def _latents(layout: CanvasLayout, sources: Sequence[SourceFeatures]) -> Tensor:
    """Latents of a canvas's four views, (4, C, h, w) float32; zeros where one is requested."""
    masked = torch.zeros(len(layout.poses), *sources[0].latents.shape)
    return torch.cat([torch.stack([sources[i].latents.cpu().float() for i in layout.sources]), masked])


def _skeletons(
    layout: CanvasLayout, request: CanvasRequest, sources: Sequence[SourceFeatures], size: Size
) -> np.ndarray:
    """Skeleton pictures of a canvas's four views, (4, H, W, 3) uint8."""
    shown = [sources[i].keypoints for i in layout.sources]
    return np.stack([draw_skeleton(pose, *size) for pose in [*shown, *(request.poses[i] for i in layout.poses)]])


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _canvas_noise(generator: torch.Generator, view_shape: torch.Size) -> Tensor:
    """(C, 2h, 2w), drawn on the CPU: the same numbers on every device and in every batch."""
    channels, height, width = view_shape
    return torch.randn(channels, 2 * height, 2 * width, generator=generator)
