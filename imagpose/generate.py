"""``python -m imagpose generate``: my photographs and my poses to pictures."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from datasets.artifacts import model_sha256, write_text_atomically
from datasets.encode import pick_device
from datasets.errors import InputError, WeightsError
from datasets.skeleton import missing_keypoints
from imagpose.canvas_layout import CanvasRequest, SourceImage, arrange
from imagpose.config import GenerateConfig
from imagpose.contact_sheet import SheetRow, save_contact_sheet, skeleton_picture
from imagpose.pipeline import IMAGPosePipeline, load_pipeline
from imagpose.pose_files import PoseFiles, Size, open_photo
from imagpose.synthetic_jpeg import DESCRIPTION, xmp_packet

logger = logging.getLogger(__name__)

MOST_STRETCH = 1.4
"""A photograph may be this much wider or taller than the model's views; beyond it people come out squashed."""


def run_generate(config: GenerateConfig) -> int:
    """Write ``picture-0.png`` ..., ``overview.png`` and ``pictures.json`` to `config.out`; returns the exit code.

    Raises: InputError: files that are no photographs or poses, or more of them than a canvas takes.
    """
    arrange(len(config.source), len(config.pose))
    if config.source_pose and len(config.source_pose) != len(config.source):
        raise InputError(f"{len(config.source_pose)} source poses for {len(config.source)} sources; give one for each")
    size = view_size_of(config.generator)
    files = PoseFiles(config.keypoints, size)
    request = CanvasRequest(
        sources=[_source(file, number, config, files, size) for number, file in enumerate(config.source)],
        poses=[files.pose(file) for file in config.pose],
        seed=config.seed,
        keep=range(len(config.pose)),
    )
    pipeline = load_pipeline(config.generator, pick_device(config.device))
    output = pipeline(
        request, sampler=config.sampler, num_inference_steps=config.steps, guidance_scale=config.guidance
    )  # fmt: skip
    _save(config, request, pipeline, output.images[0])
    return 0


def view_size_of(generator: Path) -> Size:
    """Height and width in pixels of a saved generator's views, read without loading it.

    Raises: WeightsError: the folder is no generator, or does not say it.
    """
    try:
        index = json.loads((generator / "model_index.json").read_text())
        return int(index["view_height"]), int(index["view_width"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{generator} is no generator that says its view size in model_index.json ({error}); give a folder made by "
            "'imagpose train'"
        ) from None


def _source(file: Path, number: int, config: GenerateConfig, files: PoseFiles, size: Size) -> SourceImage:
    keypoints = missing_keypoints()
    if config.source_pose:
        keypoints = files.pose(config.source_pose[number])
    elif files.has_row(file):
        keypoints = files.pose(file)
    else:
        logger.warning("%s: no skeleton given for this source; pictures are better with one (--source-pose)", file)
    return SourceImage(image=fit_photo(open_photo(file), size, str(file)), keypoints=keypoints)


def fit_photo(image: Image.Image, size: Size, name: str) -> Image.Image:
    """A photograph at view size (height, width), stretched a little at most.

    Raises: InputError: its proportions are not those of a person's crop.
    """
    height, width = size
    stretch = (image.height / image.width) / (height / width)
    if not 1 / MOST_STRETCH <= stretch <= MOST_STRETCH:
        raise InputError(
            f"{name} is {image.width}x{image.height} pixels (width x height), this model's views are {width}x{height}; "
            "crop the photograph closely around the whole person first"
        )
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _save(config: GenerateConfig, request: CanvasRequest, pipeline: IMAGPosePipeline, pictures: np.ndarray) -> None:
    config.out.mkdir(parents=True, exist_ok=True)
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp_packet())
    info.add_text("Description", DESCRIPTION)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(config.out / f"picture-{number}.png", pnginfo=info)
    row = SheetRow(
        sources=[np.asarray(source.image) for source in request.sources],
        skeletons=[skeleton_picture(keypoints, pipeline.view_size()) for keypoints in request.poses],
        generated=list(pictures),
    )
    save_contact_sheet([row], config.out / "overview.png", scale=3)
    facts = {**config.model_dump(mode="json"), "generator_sha256": model_sha256(config.generator), "synthetic": True}
    write_text_atomically(config.out / "pictures.json", json.dumps(facts, indent=1) + "\n")
    logger.info("wrote %d pictures to %s", len(pictures), config.out)
