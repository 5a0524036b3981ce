"""Features averaged with those of further pictures of the same image (IPG of Pose2ID); controls without a generator.

An averaged feature is f + weight x the mean feature of the further pictures, as in the authors' code; an image without
any keeps its own. Pictures are read, embedded and added up batch by batch.

Legend: N test images (queries, then gallery images), D width of the features.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reid.config import CentralizeConfig, EvaluateReidConfig
from reid.data.any_images import batches
from reid.data.further_pictures import drawing_seconds, identities_seen, pose_policy, sources_of
from reid.data.images import ImageSet, decode, iterate_split
from reid.evaluation.post_processing import Averaged, Cost, Features

logger = logging.getLogger(__name__)

BATCH = 128
CROP_SHARE = 26
"""Crops are shifted by a 26th of the height, as the recipes' padding (BoT: 10 pixels of 256)."""
Embed = Callable[[Tensor], np.ndarray]
"""(B, 3, H, W) uint8 to (B, D)."""


def picture_sources(config: EvaluateReidConfig, keys: Collection[str]) -> dict[str, dict[str, str]]:
    """For each entry of `centralize` that has pictures, by its name, the test image that each picture shows.

    Asked of all sets before the first picture is embedded, which takes minutes.

    Args:
        keys: of all query and gallery images.

    Raises:
        InputError: a set does not say what its pictures show, shows other images, or leaks.
    """
    entries = [(entry.name, entry.images) for entry in config.centralize]
    return {name: sources_of(folder, keys, config.protocol) for name, folder in entries if folder is not None}


def averaged_features(
    config: EvaluateReidConfig,
    embed: Embed,
    images: tuple[ImageSet, ImageSet],
    features: tuple[Features, Features],
    sources: Mapping[str, Mapping[str, str]],
) -> dict[str, Averaged]:
    """The averaged features of each entry of `centralize`, by its name.

    Args:
        embed: the network.
        images, features: of the queries and of the gallery.
        sources: see `picture_sources`.
    """
    queries, total = len(images[0]), len(images[0]) + len(images[1])
    found = {}
    for entry in config.centralize:
        started = time.perf_counter()
        means, facts, drawing = (
            _controls(entry, embed, images)
            if entry.images is None
            else _pictures(entry.images, sources[entry.name], embed, images, config.workers)
        )
        pair = (
            features[0].values + entry.weight * means[:queries],
            features[1].values + entry.weight * means[queries:],
        )
        cost = Cost(drawing=drawing, embedding=1000 * (time.perf_counter() - started) / total)
        found[entry.name] = Averaged(pair=pair, facts=facts | {"weight": entry.weight}, cost=cost)
    return found


def _pictures(
    folder: Path, sources: Mapping[str, str], embed: Embed, images: tuple[ImageSet, ImageSet], workers: int
) -> tuple[np.ndarray, dict[str, Any], float | None]:
    """((N, D) mean feature of each test image's further pictures, facts, seconds a thousand test images' drawing)."""
    keys = [key for part in images for key in part.keys]
    size = (images[0].pixels.shape[2], images[0].pixels.shape[3])
    samples = iterate_split(folder, "synthetic")
    sums, counts = sum_by_source(folder, embed, samples, sources, keys, size, workers)
    seen, with_pictures, each = identities_seen(folder), int((counts > 0).sum()), drawing_seconds(folder)
    facts = {
        "pictures": len(sources),
        "images_with_pictures": with_pictures,
        "pose_policy": pose_policy(folder),
        "provenance": "unknown" if seen is None else "stated",
        "test_identities_seen": seen,
    }
    drawing = None if each is None else 1000 * each * with_pictures / len(keys)
    return sums / np.maximum(counts, 1)[:, None], facts, drawing


def sum_by_source(
    folder: Path,
    embed: Embed,
    samples: Iterator[tuple[dict[str, Any], bytes]],
    sources: Mapping[str, str],
    keys: list[str],
    size: tuple[int, int],
    workers: int,
) -> tuple[np.ndarray, np.ndarray]:
    """((N, D) sum, (N,) number) of the features of each test image's further pictures.

    Args:
        folder: where the pictures come from, for messages.
        samples: (facts, file's bytes) of pictures; those that `sources` does not name are left out.
        sources: the test image that each picture shows, by key.
        keys: of the N test images; an image that is a query and in the gallery has one twice, and its pictures count
            for both.
        size: (height, width) of the network's input.
    """
    names = list(dict.fromkeys(keys))
    position = {key: i for i, key in enumerate(names)}
    sums: np.ndarray | None = None
    counts = np.zeros(len(names), dtype=np.int64)
    wanted = (sample for sample in samples if sample[0]["key"] in sources)
    with ThreadPoolExecutor(workers) as pool:
        for batch in batches(wanted, BATCH):
            pixels = np.stack(list(pool.map(lambda item: decode(folder, item[0], item[1], *size), batch)))
            features = embed(torch.from_numpy(pixels))
            rows = np.array([position[sources[facts["key"]]] for facts, _ in batch])
            sums = np.zeros((len(names), features.shape[1]), dtype=np.float32) if sums is None else sums
            np.add.at(sums, rows, features)
            np.add.at(counts, rows, 1)
    sums = np.zeros((len(names), 1), dtype=np.float32) if sums is None else sums
    if len(names) == len(keys):
        return sums, counts
    each = [position[key] for key in keys]
    return sums[each], counts[each]


def _controls(
    config: CentralizeConfig, embed: Embed, images: tuple[ImageSet, ImageSet]
) -> tuple[np.ndarray, dict[str, Any], float]:
    """((N, D) mean feature of the images' own flips or crops, facts, no seconds of drawing)."""
    make = flipped if config.control == "flip" else corner_crops
    found = []
    for part in images:
        for start in range(0, len(part), BATCH):
            views = make(part.pixels[start : start + BATCH])
            found.append(np.mean([embed(view) for view in views], axis=0))
    return np.concatenate(found), {"control": config.control}, 0.0


def flipped(pixels_u8: Tensor) -> list[Tensor]:
    """(B, 3, H, W) left-right flipped; one view."""
    return [pixels_u8.flip(3)]


def corner_crops(pixels_u8: Tensor) -> list[Tensor]:
    """(B, 3, H, W) moved towards each of the four corners, black where nothing was; four views."""
    height, width = pixels_u8.shape[2:]
    shift = max(1, height // CROP_SHARE)
    padded = torch.nn.functional.pad(pixels_u8, [shift] * 4)
    return [padded[:, :, top : top + height, left : left + width] for top in (0, 2 * shift) for left in (0, 2 * shift)]
