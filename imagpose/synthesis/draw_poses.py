"""``python -m imagpose draw-poses``: every test image in a few standard poses, with full provenance.

A re-ID evaluation averages each image's feature with those of its pictures (Pose2ID's IPG). The set has the form of
`synthesize`: shards, ``synthetic.parquet``, resumable; ``standard_poses.json`` publishes the chosen poses.
"""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from datasets.runtime.atomic import write_text_atomically
from datasets.runtime.errors import InputError
from datasets.runtime.manifests import LOGS
from datasets.shards.encoded import EncodedImages, keypoints_to_json
from datasets.shards.tars import read_samples
from datasets.sources.subsets import read_subset
from imagpose.canvas.layout import canvas_seed
from imagpose.config import DrawPosesConfig
from imagpose.synthesis.card import write_card
from imagpose.synthesis.plan import COLUMNS, MIN_KEYPOINTS, synthetic_key
from imagpose.synthesis.ranks import ranks
from imagpose.synthesis.seen import identities_seen
from imagpose.synthesis.standard_poses import StandardPose, choose_standard_poses
from imagpose.synthesis.synthesize import write_facts, write_shards
from imagpose.synthesis.synthesizer import Synthesizer
from imagpose.synthesis.tables import PLAN_FILE, PLAN_SCHEMA, write_table
from imagpose.synthesis.viewpoints import visible_keypoints

logger = logging.getLogger(__name__)

PER_CANVAS = 3
"""Target poses of a canvas: IMAGPose* draws three at once."""
POSES_FILE = "standard_poses.json"
DRAWING_FILE = "drawing.json"
"""In the logs: how many pictures were made in how many seconds."""


def make_drawn(config: DrawPosesConfig, directory: Path) -> dict[str, Any]:
    """Write the set; returns counts, the poses' names and how many of the people the generator has seen.

    Raises:
        InputError: nothing to draw, no usable training pose, or a generator that has seen these people ('leak-free').
    """
    images = EncodedImages(config.encoded)
    rows, without_pose = _rows_to_draw(config, images)
    seen = identities_seen(config.generator, config.encoded, {int(pid) for pid in images.pids[rows] if pid > 0})
    if seen and config.protocol == "leak-free":
        raise InputError(
            f"generator {config.generator} was trained on {seen} of the people who are to be drawn, which protocol "
            "'leak-free' forbids; give another generator, or --protocol paper"
        )
    if seen is None:
        logger.warning("%s does not say whom it was trained on: whether it leaks cannot be checked", config.generator)
    poses = _poses(config, images)
    plan = plan_poses(images, rows, poses, config)
    if int(os.environ.get("RANK", "0")) == 0:
        write_table(plan, PLAN_SCHEMA, directory / PLAN_FILE)
        _publish(poses, directory)
    shards = {f"synthetic-{i:05d}.tar": part for i, part in enumerate(cut_canvases(plan, config.images_per_shard))}
    drawer = Synthesizer(config, images)
    drawer.lent = {pose.key: pose.keypoints for pose in poses}
    missing = sum(len(part) for name, part in shards.items() if not (directory / name).is_file())
    started = time.perf_counter()
    with ranks() as own:
        write_shards(shards, own, drawer, directory)
    if not own.first:
        return {}
    if missing:  # else a resumed run has nothing left to draw, and the earlier one's file stays
        _note_seconds(missing, time.perf_counter() - started, directory)
    table = write_facts((m["json"] for name in shards for _, m in read_samples(directory / name)), directory)
    counts = {name: len(part) for name, part in shards.items()}
    write_card(config, table, counts, images, directory, _protocol(config.protocol, seen))
    return {
        "images": len(table),
        "drawn_images": len(rows),
        "without_pose": without_pose,
        "poses": [pose.name for pose in poses],
        "status": {str(status): int(count) for status, count in table.status.value_counts().items()},
        "protocol": config.protocol,
        "test_identities_seen": seen,
        "shards": len(shards),
    }


def _rows_to_draw(config: DrawPosesConfig, images: EncodedImages) -> tuple[np.ndarray, int]:
    """Rows of the people's images in the config's splits, and how many more have no pose to be drawn in."""
    rows = np.flatnonzero(np.isin(images.splits, config.splits) & (images.pids >= 0))
    if not len(rows):
        raise InputError(f"{config.encoded} has no image of {', '.join(config.splits)} to draw; encode these splits")
    if config.pose_policy != "reconstruction":
        return rows, 0
    posed = [row for row in rows.tolist() if visible_keypoints(images.keypoints(row)) >= MIN_KEYPOINTS]
    if not posed:
        raise InputError(
            f"none of the {len(rows):,} images of {', '.join(config.splits)} in {config.encoded} has a skeleton to "
            "be drawn in again; find what published files lack by 'datasets extract-poses --published', or draw in "
            "standard poses"
        )
    return np.array(posed, dtype=int), len(rows) - len(posed)


def _protocol(protocol: str, seen: int | None) -> str:
    """Which protocol a set keeps, for its card."""
    people = "how many cannot be told" if seen is None else f"{seen:,}"
    return f"Protocol: {protocol}. Of the people who are drawn the generator had seen: {people}."


def _poses(config: DrawPosesConfig, images: EncodedImages) -> list[StandardPose]:
    """The standard poses; none for reconstructions."""
    if config.pose_policy == "reconstruction":
        return []
    subset = config.subset
    keys = None if subset is None or config.fraction is None else read_subset(subset, config.fraction, config.draw)
    training = EncodedImages(config.training or config.encoded, keys, "train" if keys is None else None)
    if not len(training):
        raise InputError(
            f"{training.directory} has no training images to choose poses from; give --training, or --pose-policy "
            "reconstruction"
        )
    if training.view_size != images.view_size:
        raise InputError(
            f"poses of {training.view_size} views do not fit {images.view_size} views of {config.encoded}; encode both "
            "at one size"
        )
    kept = [i for i in range(len(training)) if training.pids[i] > 0]
    keypoints = np.stack([training.keypoints(i) for i in kept]) if kept else np.zeros((0, 18, 3), np.float32)
    return choose_standard_poses([training.keys[i] for i in kept], keypoints, config.poses)


def plan_poses(
    images: EncodedImages, rows: np.ndarray, poses: list[StandardPose], config: DrawPosesConfig
) -> pd.DataFrame:
    """One row for each picture, columns `COLUMNS`, image by image.

    Args:
        rows: which of the images are drawn.
        poses: in which poses; none: each in its own, `config.poses` times.
    """
    found: list[tuple[object, ...]] = []
    canvas = 0
    for row in sorted(rows.tolist(), key=lambda i: images.keys[i]):
        key, pid, camid = images.keys[row], int(images.pids[row]), int(images.camids[row])
        targets = [pose.key for pose in poses] or [key] * config.poses
        for start in range(0, len(targets), PER_CANVAS):
            for slot, target in enumerate(targets[start : start + PER_CANVAS]):
                name = synthetic_key(pid, camid, canvas, slot)
                found.append((name, canvas, slot, pid, camid, [key], target, canvas_seed(config.seed, canvas)))
            canvas += 1
    return pd.DataFrame(found, columns=list(COLUMNS))


def cut_canvases(plan: pd.DataFrame, images_per_shard: int) -> list[pd.DataFrame]:
    """Cut a plan after each canvas with which a shard reaches `images_per_shard`."""
    canvases = plan.canvas.to_numpy()
    parts, start = [], 0
    for end in [*(np.flatnonzero(canvases[1:] != canvases[:-1]) + 1).tolist(), len(plan)]:
        if end - start >= images_per_shard or (end == len(plan) and end > start):
            parts.append(plan.iloc[start:end])
            start = end
    return parts


def _publish(poses: list[StandardPose], directory: Path) -> None:
    rows = [
        {"name": p.name, "key": p.key, "candidates": p.candidates, "keypoints": keypoints_to_json(p.keypoints)}
        for p in poses
    ]
    write_text_atomically(directory / POSES_FILE, json.dumps({"poses": rows}, indent=1) + "\n")


def _note_seconds(pictures: int, seconds: float, directory: Path) -> None:
    """Write what this process (with its fellows under torchrun) took: of a resumed set, for the rest alone."""
    (directory / LOGS).mkdir(exist_ok=True)
    text = json.dumps({"pictures": pictures, "seconds": round(seconds, 3)})
    write_text_atomically(directory / LOGS / DRAWING_FILE, text + "\n")
