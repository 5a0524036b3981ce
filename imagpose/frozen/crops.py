"""What the trainings of the two frozen models share: images in memory, and which identities are held out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datasets.runtime.errors import InputError
from datasets.runtime.reading.contents import each_artifact_file
from datasets.shards.samples import sample_facts, sample_picture
from datasets.shards.tars import read_samples

HELD_OUT_PERCENT = 4
"""Share of the identities that no step trains on; the printed figures are measured on them."""


@dataclass(frozen=True)
class Crops:
    """Images in memory: `pixels` (B, 3, H, W) uint8 RGB, `pids` and `camids` (B,) int64."""

    pixels: Tensor
    pids: np.ndarray
    camids: np.ndarray

    def __len__(self) -> int:
        return len(self.pids)

    def at(self, rows: np.ndarray) -> Crops:
        """The crops in these rows."""
        return Crops(self.pixels[torch.from_numpy(rows)], self.pids[rows], self.camids[rows])


def load_crops(shards: Path, height: int, width: int) -> Crops:
    """The training split's people from image shards, resized to (height, width) where they differ.

    Raises:
        ArtifactError: not an artifact of write-shards, or corrupt.
        InputError: no training image in it.
    """
    pixels, pids, camids = [], [], []
    for path in each_artifact_file(shards, "train-*.tar", "write-shards"):
        for key, members in read_samples(path):
            facts = sample_facts(path, key, members, "pid", "camid")
            if facts["pid"] <= 0:
                continue
            pixels.append(_fitted(sample_picture(path, key, members, facts), height, width))
            pids.append(facts["pid"])
            camids.append(facts["camid"])
    if not pids:
        raise InputError(f"{shards} holds no training image; write shards with --splits train")
    return Crops(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous(), np.array(pids), np.array(camids))


def _fitted(image: Image.Image, height: int, width: int) -> np.ndarray:
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image)


def split_by_identity(crops: Crops, seed: int, max_images: int | None = None) -> tuple[Crops, Crops]:
    """Training crops and crops of held-out identities (about 4 % of them, at least two).

    `max_images` keeps so many training crops, whole identities in an order drawn by `seed`.
    """
    pids = np.unique(crops.pids)
    if len(pids) < 4:
        raise InputError(f"{len(pids)} identities are too few to train and to test on; give at least 4")
    order = np.random.default_rng([seed, 1]).permutation(pids)
    held = max(2, round(len(pids) * HELD_OUT_PERCENT / 100))
    is_held = np.isin(crops.pids, order[:held])
    rows = np.concatenate([np.flatnonzero(crops.pids == pid) for pid in order[held:]]) if max_images else None
    train_rows = np.sort(rows[:max_images]) if rows is not None else np.flatnonzero(~is_held)
    return crops.at(train_rows), crops.at(np.flatnonzero(is_held))
