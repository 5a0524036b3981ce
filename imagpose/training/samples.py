"""Progress pictures of a training: source, asked skeletons, what the model makes of them, and the real images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from datasets.poses.skeleton import present_joints
from imagpose.canvas.layout import CanvasRequest, SourceFeatures
from imagpose.canvas.training import ViewSource
from imagpose.config import TrainGeneratorConfig
from imagpose.pictures.contact_sheet import SheetRow, contact_sheet, skeleton_picture
from imagpose.sampling.pipeline import IMAGPosePipeline

ROWS = 6
TARGETS = 3


def sample_people(source: ViewSource, seed: int) -> list[list[int]]:
    """A few people, each as one source image and up to three others whose poses are asked for."""
    rng = np.random.default_rng([seed, 0])
    usable = {
        pid: [image for image in images if present_joints(source.keypoints(image)).any()]
        for pid, images in source.by_pid.items()
    }
    people = [images for images in usable.values() if len(images) > 1]
    chosen = rng.permutation(len(people))[:ROWS]
    return [rng.permutation(people[i])[: TARGETS + 1].tolist() for i in chosen]


def save_samples(
    pipeline: IMAGPosePipeline, source: ViewSource, config: TrainGeneratorConfig, path: Path
) -> np.ndarray | None:
    """Sample a few canvases and write them as one picture; None if nobody has two images with a pose.

    A row: source, skeletons, generated views, the real images of those poses.

    Returns:
        The sheet, (H, W, 3) uint8.
    """
    people = sample_people(source, config.seed)
    if not people:
        return None
    plain = np.zeros(1, dtype=bool)
    requests = [
        CanvasRequest(
            sources=[
                SourceFeatures(
                    latents=source.latents([first], plain)[0],
                    tokens=source.tokens([first], plain)[0],
                    keypoints=source.keypoints(first),
                )
            ],
            poses=[source.keypoints(image) for image in targets],
            seed=config.seed + number,
        )
        for number, (first, *targets) in enumerate(people)
    ]
    output = pipeline(
        requests, sampler="ddim", num_inference_steps=config.sample_steps, guidance_scale=config.sample_guidance
    )
    rows = []
    for (first, *targets), images in zip(people, output.images, strict=True):
        real = pipeline.decode_views(source.latents([first, *targets], np.zeros(1, dtype=bool)))
        skeletons = [skeleton_picture(source.keypoints(image), source.view_size) for image in targets]
        rows.append(SheetRow(sources=[real[0]], skeletons=skeletons, generated=[*images[: len(targets)], *real[1:]]))
    sheet = contact_sheet(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(path)
    return sheet
