"""Image shards: WebDataset tars that are byte-identical for equal input.

A sample is ``key.jpg`` or ``key.png`` (the source's bytes, never re-encoded) and ``key.json``. Samples are sorted by
identity and key; an identity never spans two shards, so a reader of any shard sees whole persons. A shard appears under
its name only when it is whole; an interrupted run resumes with the next one, and a shard that an earlier artifact
beside this one already holds is copied from there.

Where a shard ends is decided by the identities themselves (`shard_ends`), not by counting from the first: images that
are added, changed or removed in the middle leave the shards around them as they were.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from datasets.poses.table import read_poses
from datasets.runtime.atomic import write_text_atomically
from datasets.runtime.errors import InputError
from datasets.runtime.hashing import file_sha256, json_sha256
from datasets.runtime.manifests import manifest_of
from datasets.runtime.progress import Progress
from datasets.shards.card import write_card
from datasets.shards.config import WriteShardsConfig
from datasets.shards.index_files import INDEX_FILE, read_index_file
from datasets.shards.reuse import earlier_artifacts, take_over
from datasets.shards.tars import image_kind, write_tar
from datasets.sources.files import LONGEST_KEY, ImageSource, UnreadableFileError
from datasets.sources.index import open_images, read_index
from datasets.sources.layouts import Layout, layout_of

logger = logging.getLogger(__name__)

AGAIN = "delete the index's folder and index again"
SAMPLE_FIELDS = ("key", "pid", "camid", "split", "role", "width", "height")


@dataclass(frozen=True)
class ShardPlan:
    """What one shard will hold: rows of the index in order, with the columns ``keypoints`` and ``json``."""

    name: str
    split: str
    images: pd.DataFrame
    fingerprint: str
    """SHA-256 over keys, image hashes and JSON of its samples: equal fingerprint, equal bytes."""


def make_shards(config: WriteShardsConfig, directory: Path) -> dict[str, object]:
    """Write the shards of the wanted splits; returns counts.

    Raises:
        InputError: no usable image in a split, poses of another index, or an image changed since it was indexed.
        ArtifactError: an input is of another stage.
    """
    images = _join(read_index(config.images), read_poses(config.poses), config)
    layout = layout_of(manifest_of(config.images, "index"))
    images = _with_crops(images, layout)
    plans = [plan for split in config.splits for plan in plan_shards(images, split, config.images_per_shard)]
    _remove_unlisted(directory, {plan.name for plan in plans})
    earlier = {
        shard["fingerprint"]: artifact / shard["name"]
        for artifact, index in earlier_artifacts(directory, config)
        for shard in index["shards"]
    }
    progress = Progress(logger, "write-shards", len(images), "images")
    counts: Counter[str] = Counter()
    with open_images(config.images, config.root) as source:
        for plan in plans:
            counts[_provide(plan, directory, source, earlier)] += 1
            progress.update(len(plan.images))
    shards = _write_index(plans, directory)
    summary: dict[str, Any] = {"shards": len(shards), "samples": _samples(plans)}
    if plans:
        write_card(config, pd.concat([plan.images for plan in plans]), shards, directory)
    summary["cropped_images"] = int(images["crop"].notna().sum())
    return {**summary, **{f"shards_{how}": counts[how] for how in ("written", "kept", "reused")}}


def _join(images: pd.DataFrame, poses: pd.DataFrame, config: WriteShardsConfig) -> pd.DataFrame:
    """Usable images of the wanted splits with their keypoints; an image without a skeleton gets an empty one."""
    images = images[images["split"].isin(config.splits)]
    for split in config.splits:
        if not (images["split"] == split).any():
            raise InputError(f"{config.images} has no usable image in split '{split}'; leave it out of 'splits'")
    for key in images["key"]:
        if len(key.encode()) > LONGEST_KEY:
            raise InputError(f"key '{key}' is longer than the {LONGEST_KEY} bytes that a tar holds; use shorter paths")
    by_key = dict(zip(poses["key"], poses["keypoints"], strict=True))
    keypoints = [by_key.get(key) for key in images["key"]]
    absent = sum(found is None for found in keypoints)
    if absent:
        lacks = f"{config.poses} lacks {absent} of {len(images)} images of {config.images}"
        raise InputError(f"{lacks}; it was made for another index: import the poses for this one")
    return images.assign(keypoints=keypoints)


def _with_crops(images: pd.DataFrame, layout: Layout) -> pd.DataFrame:
    """The rows with the part of each image that is the picture, None where that is all of it."""
    boxes = [layout.picture_box(row.width, row.height) for row in images[["width", "height"]].itertuples()]
    return images.assign(crop=pd.Series(boxes, index=images.index, dtype=object))


def plan_shards(images: pd.DataFrame, split: str, images_per_shard: int) -> list[ShardPlan]:
    """Cut a split, sorted by identity and key, after the identities that `shard_ends` names."""
    rows = images[images["split"] == split].sort_values(["pid", "key"], ignore_index=True)
    counts = rows.groupby("pid", sort=True).size()
    plans, start = [], 0
    for end in shard_ends(counts.index.to_numpy(), counts.to_numpy(), images_per_shard):
        part = rows.iloc[start:end]
        part = part.assign(json=[sample_json(row) for row in part.itertuples()])
        fingerprint = json_sha256(part[["sha256", "json"]].to_numpy().tolist())
        plans.append(ShardPlan(f"{split}-{len(plans):05d}.tar", split, part, fingerprint))
        start = end
    return plans


def shard_ends(pids: np.ndarray, counts: np.ndarray, images_per_shard: int) -> list[int]:
    """Where shards end, as numbers of images from the start: after identities whose hash is the highest around.

    "Around" is half of `images_per_shard` images to either side, so that a shard holds at least that and about
    `images_per_shard` on average. One of more than twice as many is cut again inside, at its highest hash. Whether an
    identity ends a shard thus follows from its near neighbors alone, not from where the shards before it ended: a
    change re-makes the shards within its reach only. The method is local-maximum chunking (Bjorner, Blass,
    Gurevich, 2010, https://doi.org/10.1016/j.jcss.2009.06.004).

    Args:
        pids: (P,) identities in the order of the images.
        counts: (P,) images of each.
        images_per_shard: wanted mean size.
    """
    ends, reach = np.cumsum(counts), images_per_shard / 2
    lots = np.array([_lot(pid) for pid in pids.tolist()], np.uint64)
    lots[(ends < reach) | (ends > ends[-1:] - reach)] = 0  # too near to where the images begin or end
    first = np.searchsorted(ends, ends - reach, side="left")
    last = np.searchsorted(ends, ends + reach, side="right")
    around = np.array([lots[start:stop].max() for start, stop in zip(first, last, strict=True)], np.uint64)
    chosen = sorted({*ends[(lots == around) & (lots > 0)].tolist(), *ends[-1:].tolist()})
    return [end for start, stop in pairwise([0, *chosen]) for end in _cut_again(start, stop, ends, lots, reach)]


def _cut_again(start: int, stop: int, ends: np.ndarray, lots: np.ndarray, reach: float) -> list[int]:
    """The ends inside the images from `start` to `stop`, that at `stop` included."""
    inside = np.flatnonzero((ends >= start + reach) & (ends <= stop - reach))
    if stop - start <= 4 * reach or not len(inside):
        return [stop]
    middle = int(ends[inside[lots[inside].argmax()]])
    return [*_cut_again(start, middle, ends, lots, reach), *_cut_again(middle, stop, ends, lots, reach)]


def _lot(pid: int) -> int:
    return int.from_bytes(hashlib.sha256(str(pid).encode()).digest()[:8], "big")


def sample_json(row: Any) -> str:
    """A sample's JSON: identity fields and 18 x [x, y, score] in pixels of the image, null for a missing joint."""
    sample = {name: getattr(row, name) for name in SAMPLE_FIELDS}
    if getattr(row, "crop", None) is not None:
        sample["crop"] = list(row.crop)
    sample["keypoints"] = [
        [None, None, 0.0] if math.isnan(joint[0]) else joint
        for joint in row.keypoints.astype(np.float64).round(3).tolist()
    ]
    return json.dumps(sample, separators=(",", ":"))


def _provide(plan: ShardPlan, directory: Path, source: ImageSource, earlier: dict[str, Path]) -> str:
    """Make sure that a shard is there: kept from an interrupted run, reused from an earlier artifact, or written."""
    target = directory / plan.name
    if target.is_file():
        return "kept"
    if plan.fingerprint in earlier and take_over(earlier[plan.fingerprint], target):
        return "reused"
    temporary = target.with_name(f".{plan.name}.tmp")
    write_tar(temporary, _members(plan, source))
    temporary.replace(target)
    return "written"


def _members(plan: ShardPlan, source: ImageSource) -> Iterator[tuple[str, bytes]]:
    source.bring(plan.images["path"])
    for row in plan.images.itertuples():
        try:
            content = source.read(row.path)
        except UnreadableFileError as error:
            raise InputError(f"{row.path} of {source.root} cannot be read any more ({error}); {AGAIN}") from None
        if hashlib.sha256(content).hexdigest() != row.sha256:
            raise InputError(f"{row.path} of {source.root} changed since it was indexed; {AGAIN}")
        yield f"{row.key}.{image_kind(content)}", content
        yield f"{row.key}.json", row.json.encode()


def _remove_unlisted(directory: Path, wanted: set[str]) -> None:
    """Delete half-written files and shards that the plan does not know."""
    for path in directory.iterdir():
        if path.name.endswith(".tmp") or (path.suffix == ".tar" and path.name not in wanted):
            path.unlink()


def read_shard_index(directory: Path) -> dict[str, Any]:
    """The ``index.json`` of a write-shards artifact.

    Raises:
        ArtifactError: if it is not one, or corrupt.
    """
    return read_index_file(directory, WriteShardsConfig.stage)


def _write_index(plans: list[ShardPlan], directory: Path) -> list[dict[str, Any]]:
    """Write ``index.json``; returns what it says of each tar."""
    shards = [
        {
            "name": plan.name,
            "split": plan.split,
            "samples": len(plan.images),
            "identities": int(plan.images["pid"].nunique()),
            "first_pid": int(plan.images["pid"].iloc[0]),
            "last_pid": int(plan.images["pid"].iloc[-1]),
            "bytes": (directory / plan.name).stat().st_size,
            "sha256": file_sha256(directory / plan.name),
            "fingerprint": plan.fingerprint,
        }
        for plan in plans
    ]
    index = {"samples": _samples(plans), "shards": shards}
    write_text_atomically(directory / INDEX_FILE, json.dumps(index, indent=1) + "\n")
    return shards


def _samples(plans: list[ShardPlan]) -> dict[str, int]:
    samples: Counter[str] = Counter()
    for plan in plans:
        samples[plan.split] += len(plan.images)
    return dict(samples)
