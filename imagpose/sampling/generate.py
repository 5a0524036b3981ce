"""``python -m imagpose generate``: my photographs and my poses to pictures."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from datasets.poses.backends import POSE_BACKENDS, open_backend
from datasets.poses.drawings import is_drawing
from datasets.poses.estimation import PoseEstimator
from datasets.poses.json_files import Size
from datasets.poses.scenes import find_people
from datasets.poses.skeleton import present_joints
from datasets.runtime import devices
from datasets.runtime.atomic import write_text_atomically
from datasets.runtime.errors import InputError, WeightsError
from datasets.runtime.manifests import model_sha256
from datasets.runtime.reading.json_values import read_object
from datasets.sources.pictures import read_picture
from imagpose.canvas.layout import CanvasRequest, SourceImage, arrange
from imagpose.config import GenerateConfig
from imagpose.pictures.contact_sheet import SheetRow, save_contact_sheet, skeleton_picture
from imagpose.pictures.synthetic_jpeg import DESCRIPTION, xmp_packet
from imagpose.sampling.at_hand import generator_at_hand
from imagpose.sampling.pipeline import IMAGPosePipeline, load_pipeline
from imagpose.sampling.pose_files import MOST_STRETCH, PoseFiles, keypoints_in_box, person_box, warn_of_black

logger = logging.getLogger(__name__)

FACTS = "pictures.json"
"""All settings of the pictures beside it."""


def run_generate(config: GenerateConfig) -> int:
    """Write ``picture-0.png`` ..., ``overview.png`` and ``pictures.json`` to `config.out`; returns the exit code.

    Pictures of an earlier run in that folder are replaced, all of them.

    Raises:
        InputError: files that are no photographs or poses, or more of them than a canvas takes.
    """
    layout = arrange(len(config.source), len(config.pose), config.mode)
    generator = _generator(config)
    if config.source_pose and len(config.source_pose) != len(config.source):
        raise InputError(f"{len(config.source_pose)} source poses for {len(config.source)} sources; give one for each")
    size = view_size_of(generator)
    device = devices.pick(config.device)
    files = PoseFiles(config.keypoints, size, PhotoReader(config, device, size))
    request = CanvasRequest(
        sources=[_source(file, number, config, files, size) for number, file in enumerate(config.source)],
        poses=[files.pose(file) for file in config.pose],
        seed=config.seed,
        mode=config.mode,
        # the paper's T1 is the choice among three pictures of a pose; otherwise a repeated pose is only padding
        keep=range(len(layout.poses) if config.mode == "T1" else len(config.pose)),
    )
    config.out.mkdir(parents=True, exist_ok=True)  # before the work: it may be no folder, or nobody may write there
    pipeline = load_pipeline(generator, device)
    output = pipeline(
        request,
        sampler=config.sampler,
        num_inference_steps=config.steps,
        guidance_scale=config.guidance,
        unconditional=config.unconditional,
    )
    _save(config, generator, request, pipeline, output.images[0], output.poses[0])
    return 0


def view_size_of(generator: Path) -> Size:
    """Height and width in pixels of a saved generator's views, read without loading it.

    Raises:
        WeightsError: the folder is no generator, or does not say it.
    """
    try:
        index = read_object(generator / "model_index.json")
        return int(index["view_height"]), int(index["view_width"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{generator} is no generator that says its view size in model_index.json ({error}); give a folder made by "
            "'imagpose train'"
        ) from None


class PhotoReader:
    """Finds the people in a photograph with the config's pose network, which is loaded when first asked."""

    def __init__(self, config: GenerateConfig, device: torch.device, size: Size) -> None:
        self.config, self.device, self.size = config, device, size
        self.estimator: PoseEstimator | None = None

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 to (P, 18, 3) in its pixels."""
        if self.estimator is None:
            self.estimator = open_backend(self.config.backend, self.config.weights, self.device)
        height, width = picture.shape[:2]
        if POSE_BACKENDS[self.config.backend].crops_only and not is_crop(height, width, self.size):
            return find_people(self.estimator, picture)
        return self.estimator.estimate([picture])[0]


def _source(file: Path, number: int, config: GenerateConfig, files: PoseFiles, size: Size) -> SourceImage:
    """A photograph of a person as a view, with its skeleton; cut out around the person where it shows more."""
    image = read_picture(file)
    if is_drawing(np.asarray(image)):
        raise InputError(f"{file} is a drawing of a skeleton, not a photograph of a person; give it as --pose")
    if config.source_pose:
        return SourceImage(image=fit_photo(image, size, str(file)), keypoints=files.pose(config.source_pose[number]))
    found = files.in_photo(file, image, required=False)
    if not present_joints(found).any():
        logger.warning("%s: no skeleton found in this source; pictures are better with one (--source-pose)", file)
        return SourceImage(image=fit_photo(image, size, str(file)), keypoints=found)
    box = person_box(found, image, size)
    if box != (0, 0, image.width, image.height):
        logger.info("%s: taking the part around the person, %s", file, box)
        warn_of_black(file, box, (image.height, image.width))
        image = image.crop(box)
    return SourceImage(
        image=image.resize(size[::-1], Image.Resampling.BICUBIC), keypoints=keypoints_in_box(found, box, size)
    )


def fit_photo(image: Image.Image, size: Size, name: str) -> Image.Image:
    """A photograph at view size (height, width), stretched a little at most.

    Raises:
        InputError: its proportions are not those of a person's crop.
    """
    height, width = size
    if not is_crop(image.height, image.width, size):
        raise InputError(
            f"{name} is {image.width}x{image.height} pixels (width x height), this model's views are {width}x{height}; "
            "crop the photograph closely around the whole person first"
        )
    return image.resize((width, height), Image.Resampling.BICUBIC)


def is_crop(height: int, width: int, size: Size) -> bool:
    """Whether a picture has the proportions of a view of `size` (height, width), or nearly."""
    stretch = (height / width) / (size[0] / size[1])
    return 1 / MOST_STRETCH <= stretch <= MOST_STRETCH


def _generator(config: GenerateConfig) -> Path:
    """The generator that is named, or the best at hand."""
    if config.generator is not None:
        return config.generator
    folder, why = generator_at_hand(config.store)
    logger.info("generator %s: %s", folder, why)
    return folder


def _save(
    config: GenerateConfig,
    generator: Path,
    request: CanvasRequest,
    pipeline: IMAGPosePipeline,
    pictures: np.ndarray,
    poses: Sequence[int],
) -> None:
    for earlier in config.out.glob("picture-[0-9].png") if (config.out / FACTS).is_file() else ():
        earlier.unlink()  # or a larger earlier run's would stand beside facts that are not theirs
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp_packet())
    info.add_text("Description", DESCRIPTION)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(config.out / f"picture-{number}.png", pnginfo=info)
    row = SheetRow(
        sources=[np.asarray(source.image) for source in request.sources if isinstance(source, SourceImage)],
        skeletons=[skeleton_picture(request.poses[i], pipeline.view_size()) for i in poses],
        generated=list(pictures),
    )
    save_contact_sheet([row], config.out / "overview.png", scale=3)
    facts = {
        **config.model_dump(mode="json"),
        "generator": str(generator),
        "generator_sha256": model_sha256(generator),
        "synthetic": True,
    }
    write_text_atomically(config.out / FACTS, json.dumps(facts, indent=1) + "\n")
    logger.info("wrote %d pictures to %s", len(pictures), config.out)
