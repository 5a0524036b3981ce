"""The real images of a study, from shards: who is shown, which skeletons there are, the pictures themselves."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from datasets.poses.skeleton import draw_skeleton, present_joints
from datasets.poses.views import keypoints_in_view
from datasets.runtime.reading.contents import artifact_files
from datasets.shards.samples import keypoints_from_json, sample_facts
from datasets.shards.tars import locate_samples, read_chosen


class RealImages:
    """Images of a write-shards artifact; only headers and JSON are held in memory.

    Attributes:
        facts: what each image's JSON says, by key; of an image in several splits, what the first one says.
    """

    def __init__(self, shards: Path) -> None:
        """Read the shards.

        Raises:
            ArtifactError: no such artifact, or a corrupt one.
        """
        self.facts: dict[str, dict[str, Any]] = {}
        self._tars: dict[str, Path] = {}
        for tar in artifact_files(shards, "*-[0-9]*.tar", "write-shards"):
            for key, _, contents in locate_samples(tar, ("json",)):
                if key not in self.facts:
                    self.facts[key] = sample_facts(tar, key, contents, "pid", "width", "height")
                    self._tars[key] = tar

    def people(self) -> dict[str, int]:
        """Who is on each image, without distractors and junk."""
        return {key: facts["pid"] for key, facts in self.facts.items() if facts["pid"] > 0}

    def has_skeleton(self, key: str) -> bool:
        """Whether an image is here and has a joint."""
        rows = self.facts.get(key, {}).get("keypoints")
        return rows is not None and bool(present_joints(keypoints_from_json(rows)).any())

    def skeleton(self, key: str, size: tuple[int, int]) -> np.ndarray:
        """An image's skeleton, drawn as the networks see it: (H, W, 3) uint8 for `size` (H, W)."""
        facts = self.facts[key]
        return draw_skeleton(keypoints_in_view(keypoints_from_json(facts["keypoints"]), facts, size), *size)

    def members(self, keys: Collection[str]) -> dict[str, tuple[Path, dict[str, bytes]]]:
        """Shard and files of some images, by key."""
        wanted = {tar: {key for key in keys if self._tars[key] == tar} for tar in set(self._tars.values())}
        return {
            key: (tar, members)
            for tar in sorted(wanted)
            if wanted[tar]
            for key, members in read_chosen(tar, wanted[tar])
        }
