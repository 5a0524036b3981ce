"""What a run trains on: a subset's real images and the chosen synthetic ones, under one label map."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from datasets.poses.bank import PREFIX
from datasets.runtime.errors import DatasetLayoutError, InputError
from datasets.runtime.keys import artifact_key_and_inputs
from datasets.runtime.manifests import is_complete, local_path, manifest_of
from datasets.runtime.reading.tables import read_table as read_parquet
from datasets.runtime.remote.copies import is_file
from datasets.sources.folders.image_folders import read_generated_table
from datasets.sources.subsets import read_subset
from reid.config import TrainReidConfig
from reid.data.images import ImageSet, read_images, select

logger = logging.getLogger(__name__)

PROVENANCE = ("source_keys", "target_pose_key")
"""Columns that say from which real images a synthetic one was made."""
SYNTHETIC_FILE = "synthetic.parquet"
COLUMNS = pa.schema(
    [
        ("key", pa.string()),
        ("pid", pa.int32()),
        ("camid", pa.int32()),
        ("status", pa.string()),
        ("source_keys", pa.list_(pa.string())),
        ("target_pose_key", pa.string()),
    ]
)
"""What a training needs of a synthetic set's table."""
CHECKED = pa.schema([("key", pa.string()), ("kept", pa.bool_())])
"""What it needs of an identity check's."""


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """Real images followed by synthetic ones, under one label map made from the real ones."""

    images: ImageSet
    labels: np.ndarray
    """(N,) class of each image, 0 .. identities - 1 in the order of the pids."""
    is_synthetic: np.ndarray
    """(N,) bool."""
    pids: list[int]
    """pid of each class."""

    @property
    def real_count(self) -> int:
        """Number of real images."""
        return int((~self.is_synthetic).sum())

    @property
    def synthetic_count(self) -> int:
        """Number of synthetic images."""
        return int(self.is_synthetic.sum())


def read_training_set(config: TrainReidConfig) -> TrainingSet:
    """The subset's real images and the usable images of each synthetic set.

    Raises:
        InputError: a synthetic set made outside the subset, or by a generator that has seen more of it (leak-free), or
            a check of another set.
    """
    size = (config.network.height, config.network.width)
    keys = None if config.subsets is None else set(read_subset(config.subsets, config.fraction, config.draw))
    real = read_images(config.shards, "train", size, keys=keys, workers=config.workers)
    tables = [read_synthetic_table(folder) for folder in config.synthetic]
    if config.protocol == "leak-free":
        for folder, table in zip(config.synthetic, tables, strict=True):
            refuse_leak(folder, table, real.keys if keys is None else keys)
            if keys is not None and config.fraction < 100:
                refuse_leaking_generator(folder, keys)
    checks = config.identity_check or [None] * len(tables)
    tables = [table if check is None else kept_rows(table, check) for table, check in zip(tables, checks, strict=True)]
    if config.synthetic_images is not None:
        tables = fewest_first(tables, real, config.synthetic_images)
    synthetic = [
        read_images(folder, "synthetic", size, keys=set(table.key), workers=config.workers)
        for folder, table in zip(config.synthetic, tables, strict=True)
        if len(table)  # a subset as large as the full set is topped up with nothing
    ]
    cameras = {} if config.synthetic_camera == "source" else synthetic_cameras(tables, real, config.synthetic_camera)
    synthetic = [with_cameras(part, cameras) for part in synthetic]
    training_set = join_training_sets(real, synthetic)
    logger.info(
        "training on %d real and %d synthetic images of %d identities",
        training_set.real_count,
        training_set.synthetic_count,
        len(training_set.pids),
    )
    return training_set


def read_synthetic_table(folder: Path) -> pd.DataFrame:
    """The usable images of a synthetic set (status 'ok'): ``key, pid, camid`` and where they come from, if it says.

    Raises:
        DatasetLayoutError: the folder does not say whose images it holds.
    """
    if is_complete(folder):
        if not is_file(Path(folder) / SYNTHETIC_FILE):
            raise DatasetLayoutError(f"{folder} holds no {SYNTHETIC_FILE}; give the artifact of 'imagpose synthesize'")
        table = read_parquet(folder, SYNTHETIC_FILE, COLUMNS, optional=PROVENANCE).to_pandas()
        return table[table.status == "ok"].reset_index(drop=True)
    return read_generated_table(folder)


def refuse_other_subset(run: Path, config: TrainReidConfig) -> None:
    """Refuse to start from a network that has seen images of this data set outside the subset.

    A run on other people's images, which lie elsewhere, is no leak.

    Raises:
        InputError: which subset the other run was trained on, and what to give instead.
    """
    manifest = manifest_of(run, TrainReidConfig.stage)
    theirs, ours = manifest["inputs"], artifact_key_and_inputs(config)[1]
    if config.fraction == 100 or theirs.get("shards", {}).get("sha256") != ours["shards"]["sha256"]:
        return
    same_list = theirs.get("subsets", {}).get("sha256") == ours["subsets"]["sha256"]
    fraction, draw = manifest["config"]["fraction"], manifest["config"]["draw"]
    if not (same_list and draw == config.draw and fraction <= config.fraction):
        raise InputError(
            f"init_from {run} was trained on {fraction} %, draw {draw}{'' if same_list else ' of another list'} of the "
            f"same images; this run may see {config.fraction} %, draw {config.draw} under protocol 'leak-free': give a "
            "run of this subset or of other people, or --protocol paper"
        )


def has_provenance(table: pd.DataFrame) -> bool:
    """Whether a synthetic set says which real images it was made from."""
    return all(name in table for name in PROVENANCE)


def refuse_leak(folder: Path, table: pd.DataFrame, subset: Collection[str]) -> None:
    """Refuse a synthetic set that was made from images outside the subset.

    Raises:
        InputError: its sources or poses lie outside; a set that names none is taken on trust, and said to be. Poses of
            another data set's bank (`datasets.poses.bank`) lie outside and are allowed.
    """
    if not has_provenance(table):
        logger.warning("%s does not say what it was made from: whether it leaks cannot be checked", folder)
    poses = set(table.get("target_pose_key", ()))
    if any(pose.startswith(PREFIX) for pose in poses) and lends_no_own_pose(folder):
        poses = {pose for pose in poses if not pose.startswith(PREFIX)}
    used = {key for keys in table.get("source_keys", ()) for key in keys} | poses
    if outside := sorted(used - set(subset)):
        raise InputError(
            f"{folder} was made from {len(outside)} images outside the subset ({outside[0]}), which protocol "
            "'leak-free' forbids; give the set of this fraction and draw"
        )


def refuse_leaking_generator(folder: Path, subset: Collection[str]) -> None:
    """Refuse a set whose generator, its base or its teacher was trained on images of the set's data outside the subset.

    Compared are trainings on the very encoded images that the set was made from; what a generator has seen of others is
    in the set's card.

    Raises:
        InputError: which training saw more.
    """
    manifest = manifest_of(folder) if is_complete(folder) else {"inputs": {}}
    own, maker = (manifest["inputs"].get(name) for name in ("encoded", "generator"))
    while own is not None and maker is not None:
        generator = local_path(maker["path"])
        if not is_complete(generator):
            return
        training = manifest_of(generator)
        inputs, settings = training["inputs"], training["config"]
        same_images = inputs.get("encoded", {}).get("sha256") == own["sha256"]
        if same_images and not _trained_inside(settings, subset):
            part = f"{settings['fraction']} %, draw {settings['draw']}" if settings.get("subset") else "all"
            raise InputError(
                f"{folder} was made by a generator that was trained on images outside the subset ({generator}: {part} "
                "of the training images), which protocol 'leak-free' forbids; give a set of this subset's own "
                "generator, or --protocol paper"
            )
        maker = inputs.get("init_from") or inputs.get("teacher")


def _trained_inside(settings: Mapping[str, Any], subset: Collection[str]) -> bool:
    """Whether a generator's training saw images of the subset alone; one whose list is gone is given the benefit."""
    if not settings.get("subset"):
        return False
    keys = local_path(settings["subset"])
    return not is_complete(keys) or set(read_subset(keys, settings["fraction"], settings["draw"])) <= set(subset)


def lends_no_own_pose(folder: Path) -> bool:
    """Whether a set's manifest says that its bank of poses shares no image with the data set."""
    bank = manifest_of(folder)["summary"].get("pose_bank") if is_complete(folder) else None
    return isinstance(bank, dict) and bank.get("shared_images") == 0


def kept_rows(table: pd.DataFrame, check: Path) -> pd.DataFrame:
    """The images that an identity check kept.

    Raises:
        InputError: the check does not know one of the images.
    """
    checked = read_parquet(check, "identity_check.parquet", CHECKED, stage="check-identity").to_pandas()
    if unknown := set(table.key) - set(checked.key):
        raise InputError(f"{check} is the check of another synthetic set: it has no {min(unknown)}")
    return table[table.key.isin(checked.key[checked.kept])]


def fewest_first(tables: Sequence[pd.DataFrame], real: ImageSet, limit: int) -> list[pd.DataFrame]:
    """The tables cut to `limit` images in all: those of people with the fewest images, then of one camera, first.

    A person's n-th synthetic image counts after all images that others need to have as many.
    """
    joined = pd.concat([table.assign(_set=i) for i, table in enumerate(tables)])
    known = pd.DataFrame({"pid": real.pids, "camid": real.camids}).groupby("pid").camid.agg(["size", "nunique"])
    nth = joined.groupby("pid").cumcount()
    order = pd.DataFrame(
        {
            "has": joined.pid.map(known["size"]).fillna(0) + nth,
            "several": joined.pid.map(known["nunique"]).fillna(0) > 1,
            "pid": joined.pid,
        }
    ).reset_index(drop=True)
    chosen = joined.iloc[order.sort_values(["has", "several", "pid"], kind="stable").index[:limit]]
    return [chosen[chosen._set == i] for i in range(len(tables))]


def synthetic_cameras(tables: Sequence[pd.DataFrame], real: ImageSet, whose: str) -> dict[str, int]:
    """The camera that each synthetic image counts as, by key.

    Args:
        whose: 'pose' (the camera of the image that lent the pose) or 'own' (a new one).

    Raises:
        InputError: the pose image is not known.
    """
    keys = [key for table in tables for key in table.key]
    if whose == "own":
        return dict.fromkeys(keys, int(real.camids.max()) + 1)
    cameras = dict(zip(real.keys, real.camids.tolist(), strict=True))
    poses = [pose for table in tables for pose in table.get("target_pose_key", pd.Series([""] * len(table)))]
    if strange := [key for key, pose in zip(keys, poses, strict=True) if pose not in cameras]:
        raise InputError(
            f"synthetic_camera 'pose': the pose image of {strange[0]} is no real image here; use 'source' or 'own'"
        )
    return {key: cameras[pose] for key, pose in zip(keys, poses, strict=True)}


def with_cameras(images: ImageSet, cameras: dict[str, int]) -> ImageSet:
    """The images, with the cameras of those that `cameras` names."""
    own = zip(images.keys, images.camids.tolist(), strict=True)
    return replace(images, camids=np.array([cameras.get(key, camid) for key, camid in own], dtype=np.int64))


def join_training_sets(real: ImageSet, synthetic: Sequence[ImageSet]) -> TrainingSet:
    """One label map over real and synthetic images.

    Raises:
        InputError: if a synthetic image shows a person who has no real image here, or there are fewer than two

    people.
    """
    kept = np.flatnonzero(real.pids > 0)
    pids = np.unique(real.pids[kept])
    if len(pids) < 2:
        raise InputError(f"the training images show {len(pids)} identities; at least 2 are needed to tell them apart")
    parts = [select(real, kept), *synthetic]
    joined = ImageSet(
        keys=[key for part in parts for key in part.keys],
        pixels=torch.cat([part.pixels for part in parts]),
        pids=np.concatenate([part.pids for part in parts]),
        camids=np.concatenate([part.camids for part in parts]),
    )
    unknown_pids = sorted(set(joined.pids.tolist()) - set(pids.tolist()))
    if unknown_pids:
        raise InputError(f"synthetic images show pid {unknown_pids[0]}, who has no real image in this subset (leak?)")
    return TrainingSet(
        images=joined,
        labels=np.searchsorted(pids, joined.pids),
        is_synthetic=np.arange(len(joined)) >= len(kept),
        pids=pids.tolist(),
    )
