"""Images for re-ID: read once from shards or folders, kept in memory at the network's size, augmented by the batch.

At 256x128 Market-1501's training split takes 1.3 GB and a 64x32 slice a few MB, so no image is decoded twice and
augmentation is tensor arithmetic on whole batches, on whatever device the images lie.

Legend: N images, B batch, H, W pixels of the network's input.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datasets.runtime.errors import DatasetLayoutError
from datasets.runtime.manifests import is_complete, manifest_of
from datasets.runtime.progress import Progress
from datasets.runtime.reading.contents import each_artifact_file
from datasets.shards.samples import sample_facts, sample_picture
from datasets.shards.tars import IMAGE_KINDS, image_of, read_samples
from datasets.sources.folders.image_folders import iterate_folder
from datasets.sources.listing import nobody_problem
from reid.config import AugmentationConfig
from reid.evaluation.ranking import Labels
from reid.training.pretrained import IMAGENET, Normalization

logger = logging.getLogger(__name__)

ERASING_ATTEMPTS = 16
"""Boxes tried per image; BoT tries 100, but one in about four is too large, so 16 never fail in practice."""


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """N decoded images and whose they are."""

    keys: list[str]
    pixels: Tensor
    """(N, 3, H, W) uint8 RGB."""
    pids: np.ndarray
    """(N,) identities; -1 junk, 0 distractor."""
    camids: np.ndarray
    """(N,) cameras, from 1."""

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def labels(self) -> Labels:
        """Identities and cameras, as the evaluator wants them."""
        return Labels(pids=self.pids, camids=self.camids)


def iterate_samples(tar: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    """(metadata, image file's bytes) of each sample of a shard.

    Raises:
        DatasetLayoutError: a sample lacks one of the two.
        ArtifactError: the tar or a sample's JSON is corrupt, or was not written by this project.
    """
    for key, members in read_samples(tar):
        if "json" not in members or members.keys().isdisjoint(IMAGE_KINDS):
            raise DatasetLayoutError(f"{tar}: sample {key} lacks its image or its .json; write the shards again")
        yield sample_facts(tar, key, members, "pid", "camid") | {"key": key}, image_of(members)


def decode(folder: Path, facts: dict[str, Any], data: bytes, height: int, width: int) -> np.ndarray:
    """A sample's picture as (3, H, W) uint8, resized without keeping its proportions (BoT: bilinear).

    Raises:
        ArtifactError: it cannot be decoded; the message names the sample and the folder.
    """
    picture = sample_picture(folder, facts["key"], {"jpg": data}, facts)
    return np.array(picture.resize((width, height), Image.Resampling.BILINEAR)).transpose(2, 0, 1)


def iterate_split(folder: Path, split: str) -> Iterator[tuple[dict[str, Any], bytes]]:
    """(facts, image file's bytes) of each image of a split: of an artifact's shards, or of a plain folder's files.

    Raises:
        DatasetLayoutError: no shard or file of the split.
    """
    if not is_complete(folder):
        if any(folder.glob(f"{split}-[0-9]*.tar")):
            manifest_of(folder)  # says that it is unfinished
        return iterate_folder(folder, split)
    tars = each_artifact_file(folder, f"{split}-[0-9]*.tar")
    first = next(tars, None)
    if first is None:
        raise DatasetLayoutError(f"{folder} holds no {split}-*.tar; write shards with the split '{split}'")
    return (item for tar in itertools.chain([first], tars) for item in iterate_samples(tar))


def read_images(
    folder: Path,
    split: str,
    size: tuple[int, int],
    *,
    keys: Collection[str] | None = None,
    workers: int = 2,
    label: str = "reading",
) -> ImageSet:
    """The images of a split, in the order of their keys.

    Args:
        folder: artifact with ``{split}-00000.tar`` ..., or a plain folder (`datasets.sources.folders.image_folders`).
        size: (height, width) of the network's input.
        keys: only these images; each must be there.
        workers: threads that decode.

    Raises:
        DatasetLayoutError: no shard or file of the split, a wanted key is missing, or labels name nobody where there
            must be somebody.
        ArtifactError: a shard or an image is corrupt.
    """
    wanted = None if keys is None else set(keys)
    samples = iterate_split(Path(folder), split)
    chosen = [item for item in samples if wanted is None or item[0]["key"] in wanted]
    if wanted is not None and len(chosen) < len(wanted):
        missing = sorted(wanted - {meta["key"] for meta, _ in chosen})
        raise DatasetLayoutError(f"{folder}: {len(missing)} of the wanted {split} images are not there ({missing[0]})")
    if (problem := nobody_problem((split, meta["pid"], meta["key"]) for meta, _ in chosen)) is not None:
        raise DatasetLayoutError(f"{folder}: {problem}")
    chosen.sort(key=lambda item: item[0]["key"])
    pixels = torch.empty((len(chosen), 3, *size), dtype=torch.uint8)
    progress = Progress(logger, f"{label} {split}", len(chosen), "images")
    with ThreadPoolExecutor(workers) as pool:
        for i, image in enumerate(pool.map(lambda item: decode(Path(folder), item[0], item[1], *size), chosen)):
            pixels[i] = torch.from_numpy(image)
            progress.update()
    metas = [meta for meta, _ in chosen]
    return ImageSet(
        keys=[meta["key"] for meta in metas],
        pixels=pixels,
        pids=np.array([meta["pid"] for meta in metas], dtype=np.int64),
        camids=np.array([meta["camid"] for meta in metas], dtype=np.int64),
    )


def select(images: ImageSet, positions: np.ndarray) -> ImageSet:
    """Some of the images."""
    return ImageSet(
        keys=[images.keys[i] for i in positions],
        pixels=images.pixels[torch.from_numpy(positions)],
        pids=images.pids[positions],
        camids=images.camids[positions],
    )


def normalize(pixels_u8: Tensor, normalization: Normalization = IMAGENET) -> Tensor:
    """(B, 3, H, W) uint8 -> float32, (x / 255 - mean) / std per channel."""
    mean, std = (send(torch.tensor(values).view(1, 3, 1, 1), pixels_u8.device) for values in normalization)
    return (pixels_u8.float() / 255 - mean) / std


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A small tensor of the CPU on the device that computes, without waiting for what that has still to do.

    Safe in this direction, from pageable memory too: the driver has taken the bytes when the call returns.
    """
    return tensor.to(device, non_blocking=True)


def augment(
    pixels_u8: Tensor,
    config: AugmentationConfig,
    generator: torch.Generator,
    normalization: Normalization = IMAGENET,
) -> Tensor:
    """Flip, pad and crop, normalize, erase: each image of a batch by its own draw.

    Args:
        pixels_u8: (B, 3, H, W) uint8.
        generator: on the CPU, so that a GPU draws the same boxes.

    Returns:
        (B, 3, H, W) float32, normalized.
    """
    pixels_u8 = flip_and_crop(pixels_u8, config, generator)
    if config.color_jitter:
        pixels_u8 = jitter_colors(pixels_u8, config.color_jitter, generator)
    return erase(normalize(pixels_u8, normalization), config, generator)


def flip_and_crop(pixels_u8: Tensor, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
    """Left-right flips and random crops from the padded image, as one gather."""
    batch, _, height, width = pixels_u8.shape
    flips = torch.rand(batch, generator=generator) < config.flip
    offsets = torch.randint(0, 2 * config.padding + 1, (batch, 2), generator=generator)
    columns = torch.arange(width).repeat(batch, 1) + offsets[:, 1:]
    # Flipping before the crop of a symmetrically padded image = reading its columns from the other end.
    columns = torch.where(flips[:, None], width + 2 * config.padding - 1 - columns, columns)
    rows = torch.arange(height).repeat(batch, 1) + offsets[:, :1]
    padded = torch.nn.functional.pad(pixels_u8, [config.padding] * 4)
    device = pixels_u8.device
    image = torch.arange(batch, device=device)[:, None, None]
    cropped = padded[image, :, send(rows, device)[:, :, None], send(columns, device)[:, None, :]]
    return cropped.permute(0, 3, 1, 2)


def jitter_colors(pixels_u8: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Brightness and contrast of each image times 1 +- `strength`."""
    factors = 1 + strength * (2 * torch.rand(2, len(pixels_u8), 1, 1, 1, generator=generator) - 1)
    brightness, contrast = send(factors, pixels_u8.device)
    image = pixels_u8.float() * brightness
    mean = image.mean(dim=(1, 2, 3), keepdim=True)
    return ((image - mean) * contrast + mean).round().clamp(0, 255).to(torch.uint8)


def erase(images: Tensor, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
    """Random erasing (Zhong et al. 2020) as BoT runs it: area and aspect uniform, box strictly inside the image.

    Args:
        images: (B, 3, H, W), normalized; not changed.
    """
    batch, _, height, width = images.shape
    chosen = torch.rand(batch, generator=generator) < config.erasing
    least, greatest = config.erasing_area
    draws = torch.rand(2, batch, ERASING_ATTEMPTS, generator=generator)
    area = (least + (greatest - least) * draws[0]) * height * width
    aspect = config.erasing_aspect + (1 / config.erasing_aspect - config.erasing_aspect) * draws[1]
    heights, widths = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (heights < height) & (widths < width)
    first = fits.int().argmax(dim=1, keepdim=True)
    box_height, box_width = heights.gather(1, first).squeeze(1), widths.gather(1, first).squeeze(1)
    place = torch.rand(2, batch, generator=generator)
    top = (place[0] * (height - box_height + 1)).floor()[:, None]
    left = (place[1] * (width - box_width + 1)).floor()[:, None]
    y, x = torch.arange(height)[None], torch.arange(width)[None]
    inside_y = (y >= top) & (y < top + box_height[:, None]) & (chosen & fits.any(dim=1))[:, None]
    inside_x = (x >= left) & (x < left + box_width[:, None])
    inside_y, inside_x = (
        send(inside_y, images.device),
        send(inside_x, images.device),
    )  # their product is 100 times as large
    fill = send(torch.tensor(config.erasing_fill).view(1, 3, 1, 1), images.device)
    return torch.where(inside_y[:, None, :, None] & inside_x[:, None, None, :], fill, images)
