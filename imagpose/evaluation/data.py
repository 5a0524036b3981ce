"""The test images of an evaluation, read from image shards: pictures, skeletons, people, pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datasets.poses.pairs import Pair, groups_by_names, has_torso, ordered_pairs
from datasets.poses.skeleton import present_joints
from datasets.poses.views import keypoints_in_view
from datasets.runtime.errors import InputError
from datasets.runtime.reading.contents import artifact_files, each_artifact_file
from datasets.shards.samples import keypoints_from_json, sample_facts, sample_picture
from datasets.shards.tars import read_samples
from imagpose.canvas.layout import Size

TEST_SPLITS = ("query", "gallery")
FACTS = ("pid", "width", "height", "keypoints")


class HeldOutImages:
    """Query and gallery images of a write-shards artifact, as files in memory.

    Attributes:
        keys: in file order.
        members: for each key, the images of the same person (DeepFashion: and outfit) with a usable skeleton.
    """

    def __init__(self, shards: Path, view: Size, compared: Size) -> None:
        """Read the shards; `view` and `compared` are (height, width) of the generator's views and of the comparison.

        Raises:
            ArtifactError: no such artifact.
            InputError: no query or gallery image in it.
        """
        self.shards, self.view, self.compared = Path(shards), view, compared
        self._files: dict[str, dict[str, bytes]] = {}
        self._tars: dict[str, Path] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        for split in TEST_SPLITS:
            for tar in each_artifact_file(self.shards, f"{split}-*.tar", "write-shards"):
                for key, members in read_samples(tar):
                    self._files[key], self._tars[key] = members, tar
                    self.facts[key] = sample_facts(tar, key, members, *FACTS)
        if not self._files:
            raise InputError(
                f"{shards} holds no query or gallery images; write-shards with --splits query,gallery,train"
            )
        self.keys = list(self.facts)
        self._keypoints = np.stack([keypoints_from_json(fact["keypoints"]) for fact in self.facts.values()])
        self._row = {key: row for row, key in enumerate(self.keys)}
        self.groups = groups_by_names(self.keys, [fact["pid"] for fact in self.facts.values()])
        self.members = self._members()

    def _members(self) -> dict[str, list[str]]:
        groups: dict[object, list[str]] = {}
        for key, group, usable in zip(self.keys, self.groups, has_torso(self._keypoints), strict=True):
            if group is not None and usable:
                groups.setdefault(group, []).append(key)
        return {key: groups.get(group, []) for key, group in zip(self.keys, self.groups, strict=True)}

    def all_pairs(self) -> list[Pair]:
        """All ordered pairs by PATN's rule (Market-1501: per person; DeepFashion's test set: the 8,570)."""
        return list(ordered_pairs(self.keys, self.groups, self._keypoints))

    def check(self, pairs: Sequence[Pair]) -> None:
        """Refuse pairs that cannot all be measured.

        Raises:
            InputError: pairs of images that are not here, or targets without a joint.
        """
        if missing := sorted({key for pair in pairs for key in pair} - self.facts.keys()):
            raise InputError(
                f"the pairs name {len(missing)} images that {self.shards} lacks, for example {missing[0]}; write the "
                "shards of the whole set, or leave --pairs out to take all pairs of these images"
            )
        empty = sorted({target for _, target in pairs if not present_joints(self._keypoints[self._row[target]]).any()})
        if empty:
            raise InputError(f"{len(empty)} targets have no skeleton, for example {empty[0]}; extract poses first")

    def keypoints(self, key: str) -> np.ndarray:
        """(18, 3) in pixels of the view."""
        return keypoints_in_view(self._keypoints[self._row[key]], self.facts[key], self.view).astype(np.float32)

    def in_view(self, key: str) -> Image.Image:
        """The picture as the generator sees it."""
        return fitted(self._picture(key), self.view)

    def _picture(self, key: str) -> Image.Image:
        return sample_picture(self._tars[key], key, self._files[key], self.facts[key])

    def in_comparison(self, keys: Sequence[str]) -> Tensor:
        """(N, 3, H, W) uint8 at the size of the comparison."""
        return stacked([fitted(self._picture(key), self.compared) for key in keys])

    def pid(self, key: str) -> int:
        """Whom an image shows."""
        return int(self.facts[key]["pid"])

    def training_pictures(self, tar: Path, at_once: int = 64) -> Iterator[Tensor]:
        """A shard's pictures of persons at the size of the comparison, some at a time."""
        pictures = []
        for key, members in read_samples(tar):
            facts = sample_facts(tar, key, members, "pid")
            if facts["pid"] > 0:
                pictures.append(fitted(sample_picture(tar, key, members, facts), self.compared))
            if len(pictures) == at_once:
                yield stacked(pictures)
                pictures = []
        if pictures:
            yield stacked(pictures)

    def training_shards(self) -> list[Path]:
        """The training split's tars."""
        return artifact_files(self.shards, "train-*.tar")

    def shows_training_people(self) -> bool:
        """Whether `training_pictures` would give any: a training split may be absent, or hold distractors alone."""
        samples = ((tar, *sample) for tar in self.training_shards() for sample in read_samples(tar))
        return any(sample_facts(tar, key, members, "pid")["pid"] > 0 for tar, key, members in samples)


def fitted(image: Image.Image, size: Size) -> Image.Image:
    """A picture of (height, width) `size`; bicubic, antialiased, untouched where it has the size."""
    return image if (image.height, image.width) == size else image.resize(size[::-1], Image.Resampling.BICUBIC)


def stacked(images: Sequence[Image.Image]) -> Tensor:
    """Pictures of one size as (N, 3, H, W) uint8."""
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).contiguous()
