"""Skeletons of another data set as a bank of target poses: what a body does, without whose body it is.

A bank's poses are known by ``bank:KEY``, so that they cannot be taken for images of the data set that borrows them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.poses.table import read_poses
from datasets.poses.views import keypoints_in_view
from datasets.runtime.errors import ArtifactError, InputError
from datasets.runtime.manifests import is_complete, manifest_of, recorded_path
from datasets.sources.index import read_index
from datasets.sources.layouts import layout_of

PREFIX = "bank:"
"""Begins the key of a pose of another data set."""


@dataclass(frozen=True, kw_only=True)
class PoseBank:
    """N skeletons and which images they were found in."""

    keys: list[str]
    """With `PREFIX`."""
    keypoints: np.ndarray
    """(N, 18, 3) x, y, score in pixels of a view, NaN where missing."""
    contents: frozenset[str]
    """SHA-256 of the images."""
    index: Path
    """The images' index."""


def read_pose_bank(poses: Path, view: tuple[int, int]) -> PoseBank:
    """The skeletons of the training people of a data set; its query and gallery images lend none.

    Args:
        poses: artifact of `import-poses` or `extract-poses`; its index lies where the manifest says.
        view: (height, width) of the views that the skeletons are to fit.

    Raises:
        InputError: the index is gone, or no training image has a skeleton.
        ArtifactError: not such an artifact.
    """
    found = read_poses(poses)
    index = recorded_path(manifest_of(poses), "images")
    if not is_complete(index):
        raise ArtifactError(f"{index}, the index of the images of {poses}, is gone; index that data set again")
    images = read_index(index)
    layout = layout_of(manifest_of(index, "index"))
    people = images[(images["split"] == "train") & (images["pid"] > 0)]
    joined = people.merge(found[found["status"] == "ok"][["key", "keypoints"]], on="key").sort_values("key")
    if joined.empty:
        raise InputError(f"{poses} has no skeleton of a training image to lend; give poses of a training split")
    moved = []
    for row in joined.itertuples():
        box = layout.picture_box(row.width, row.height)
        facts = {"width": row.width, "height": row.height, "crop": None if box is None else list(box)}
        moved.append(keypoints_in_view(row.keypoints, facts, view))
    return PoseBank(
        keys=[f"{PREFIX}{key}" for key in joined["key"]],
        keypoints=np.stack(moved),
        contents=frozenset(joined["sha256"]),
        index=index,
    )
