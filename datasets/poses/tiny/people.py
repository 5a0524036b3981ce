"""Training material of the pose network: person crops in memory with their skeletons."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from datasets.poses.skeleton import scale_keypoints
from datasets.poses.table import read_poses
from datasets.runtime.errors import InputError
from datasets.runtime.progress import Progress
from datasets.sources.files import ImageSource, UnreadableFileError
from datasets.sources.index import open_images, read_index
from datasets.sources.pictures import PictureError, decode_pixels

logger = logging.getLogger(__name__)

HELD_OUT_PERCENT = 4
"""Share of each set's identities that are held out; the reported figures are measured on them."""


@dataclass(frozen=True)
class PoseCrops:
    """Crops of one set in memory."""

    pixels: np.ndarray
    """(N, H, W, 3) uint8 RGB."""
    keypoints: np.ndarray
    """(N, 18, 3) in pixels of the resized crops."""
    pids: np.ndarray
    """(N,) identities."""

    def __len__(self) -> int:
        return len(self.pids)

    def at(self, rows: np.ndarray) -> PoseCrops:
        """The crops in these rows."""
        return PoseCrops(self.pixels[rows], self.keypoints[rows], self.pids[rows])


def load_pose_crops(index: Path, poses: Path, height: int, width: int) -> PoseCrops:
    """The training split's crops that have a skeleton, stretched to (height, width) where they differ.

    Raises:
        InputError: no such crop, or an image changed since it was indexed.
    """
    images = read_index(index)
    skeletons = read_poses(poses)
    skeletons = skeletons[skeletons["status"] == "ok"].set_index("key")["keypoints"]
    images = images[(images["split"] == "train") & images["key"].isin(skeletons.index)]
    if images.empty:
        raise InputError(f"{index} and {poses} share no training image with a skeleton; give poses of that index")
    pixels = np.empty((len(images), height, width, 3), np.uint8)
    keypoints = np.empty((len(images), 18, 3), np.float32)
    progress = Progress(logger, "read crops", len(images), "images")
    with open_images(index) as source:
        for row, image in enumerate(images.itertuples()):
            pixels[row] = read_pixels(source, image.path, image.sha256, height, width)
            size = (image.height, image.width)
            keypoints[row] = scale_keypoints(skeletons[image.key], size, (height, width))
            progress.update()
    return PoseCrops(pixels, keypoints, images["pid"].to_numpy())


def read_pixels(source: ImageSource, path: str, sha256: str, height: int, width: int) -> np.ndarray:
    """An image of an index as uint8 RGB (height, width, 3), stretched if it has another size.

    Raises:
        InputError: it cannot be read, or is not the one that was indexed.
    """
    try:
        content = source.read(path)
    except UnreadableFileError as error:
        raise InputError(f"{path} of {source.root} cannot be read any more ({error}); index again") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise InputError(f"{path} of {source.root} changed since it was indexed; index again")
    try:
        pixels = decode_pixels(content)
    except PictureError as error:
        raise InputError(f"{path} of {source.root} is no image any more ({error}); index again") from None
    if pixels.shape[:2] != (height, width):
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    return pixels


def split_by_identity(people: PoseCrops, seed: int) -> tuple[PoseCrops, PoseCrops]:
    """Crops to train on and crops of held-out identities.

    Raises:
        InputError: fewer than two identities.
    """
    pids = np.unique(people.pids)
    if len(pids) < 2:
        raise InputError(f"{len(pids)} identity is too few to train and to test on; give at least 2")
    held = np.random.default_rng([seed, 1]).permutation(pids)[: max(1, round(len(pids) * HELD_OUT_PERCENT / 100))]
    is_held = np.isin(people.pids, held)
    return people.at(~is_held), people.at(is_held)
