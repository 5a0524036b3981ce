"""Progress pictures of a training: source, target skeletons, what the model makes of them, and the real images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.poses.skeleton import present_joints
from imagpose.canvas.layout import CanvasRequest, SourceFeatures
from imagpose.canvas.training import ViewSource
from imagpose.config import CanvasTrainingConfig
from imagpose.pictures.contact_sheet import SheetRow, contact_sheet, skeleton_picture
from imagpose.sampling.pipeline import IMAGPosePipeline

ROWS = 6
TARGETS = 3
UNMIRRORED = np.zeros(1, dtype=bool)


def sample_people(source: ViewSource, seed: int) -> list[list[int]]:
    """A few people, each as one source image and up to three others whose poses are requested."""
    rng = np.random.default_rng([seed, 0])
    usable = {
        pid: [image for image in images if present_joints(source.keypoints(image)).any()]
        for pid, images in source.by_pid.items()
    }
    people = [images for images in usable.values() if len(images) > 1]
    chosen = rng.permutation(len(people))[:ROWS]
    return [rng.permutation(people[i])[: TARGETS + 1].tolist() for i in chosen]


def save_samples(
    pipeline: IMAGPosePipeline,
    source: ViewSource,
    config: CanvasTrainingConfig,
    path: Path,
    *,
    sampler: str,
    guidance_scale: float,
) -> np.ndarray | None:
    """Sample a few canvases and write them as one picture; None if nobody has two images with a pose.

    A row: source, skeletons, generated views, the real images of those poses.

    Returns:
        The sheet, (H, W, 3) uint8.
    """
    people = sample_people(source, config.seed)
    if not people:
        return None
    requests = [_request(source, images, config.seed + number) for number, images in enumerate(people)]
    output = pipeline(requests, sampler=sampler, num_inference_steps=config.sample_steps, guidance_scale=guidance_scale)
    sheet = contact_sheet(
        [_row(pipeline, source, images, made) for images, made in zip(people, output.images, strict=True)]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(path)
    return sheet


def _request(source: ViewSource, images: Sequence[int], seed: int) -> CanvasRequest:
    """The first image as source, the others' poses as targets."""
    first, *targets = images
    features = SourceFeatures(
        latents=source.latents([first], UNMIRRORED)[0],
        tokens=source.tokens([first], UNMIRRORED)[0],
        keypoints=source.keypoints(first),
    )
    return CanvasRequest(sources=[features], poses=[source.keypoints(image) for image in targets], seed=seed)


def _row(pipeline: IMAGPosePipeline, source: ViewSource, images: Sequence[int], made: np.ndarray) -> SheetRow:
    real = pipeline.decode_views(source.latents(images, UNMIRRORED))
    skeletons = [skeleton_picture(source.keypoints(image), source.view_size) for image in images[1:]]
    return SheetRow(sources=[real[0]], skeletons=skeletons, generated=[*made[: len(images) - 1], *real[1:]])
