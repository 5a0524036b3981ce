"""Synthetic images for one subset: plan, pictures, checks, provenance.

The plan comes first and decides everything; pictures are made shard by shard, and a shard appears under its name only
when it is whole. An interrupted run resumes at its first missing shard and ends with the same bytes, because batches
never cross a shard and every canvas draws from its own seed. Under torchrun each process takes its share of the shards;
what a shard holds is the plan's affair, so the bytes do not depend on the number of processes. The camera of a
synthetic image is its first source's: the background follows the source, so that is the camera that seems to have
taken it.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from datasets.runtime.manifests import manifest_of
from datasets.runtime.progress import Progress
from datasets.shards.encoded import EncodedImages
from datasets.shards.tars import read_samples, write_tar
from datasets.sources.subsets import read_subset
from imagpose.config import DistillConfig, SynthesizeConfig, TrainGeneratorConfig
from imagpose.synthesis.card import write_card
from imagpose.synthesis.lent_poses import LentPoses, lend_poses
from imagpose.synthesis.plan import cut_shards, make_plan
from imagpose.synthesis.ranks import Ranks, ranks
from imagpose.synthesis.showcase import write_pictures
from imagpose.synthesis.synthesizer import Synthesizer
from imagpose.synthesis.tables import PLAN_FILE, PLAN_SCHEMA, TABLE_FILE, TABLE_SCHEMA, write_table

logger = logging.getLogger(__name__)

SCENARIOS = {"T1": (1, 1), "T2": (1, 1), "T3": (3, 1), "IMAGPose*": (1, 3)}
"""Most sources, and poses, of a canvas of each mode."""


def make_synthetic(config: SynthesizeConfig, directory: Path) -> dict[str, Any]:
    """Plan and write a synthetic set; returns counts by status.

    Raises:
        InputError: a subset that does not exist, or a generator that does not fit the encoded images.
    """
    manifest_of(config.generator, (TrainGeneratorConfig.stage, DistillConfig.stage))
    images = EncodedImages(config.encoded, _subset_keys(config))
    lent = lend_poses(config, images)
    plan = plan_for(config, images, lent)
    if int(os.environ.get("RANK", "0")) == 0:
        write_table(plan, PLAN_SCHEMA, directory / PLAN_FILE)
    cut = cut_shards(plan, config.images_per_shard)
    shards = {f"synthetic-{number:05d}.tar": shard for number, shard in enumerate(cut)}
    synthesizer = Synthesizer(config, images)
    synthesizer.lent = {} if lent is None else lent.by_key()
    with ranks() as own:
        write_shards(shards, own, synthesizer, directory)
    if not own.first:
        return {}
    samples = [sample for name in shards for sample in read_samples(directory / name)]
    table = write_facts([members["json"] for _, members in samples], directory)
    write_pictures(config, images, synthesizer, samples, directory)
    write_card(config, table, {name: len(shard) for name, shard in shards.items()}, images, directory)
    return _summary(config, images, table, len(shards)) | ({} if lent is None else {"pose_bank": lent.provenance})


def write_shards(shards: Mapping[str, pd.DataFrame], own: Ranks, synthesizer: Synthesizer, directory: Path) -> None:
    """Write this process's share of the shards that are not there yet."""
    missing = {name for name in shards if not (directory / name).is_file()}
    images = sum(len(shard) for shard in shards.values())
    done = images - sum(len(shards[name]) for name in missing)
    progress = Progress(logger, "synthesize", images, "images", done=done)
    for number, (name, shard) in enumerate(shards.items()):
        if own.mine(number) and name in missing:
            temporary = directory / f".{name}.tmp"
            write_tar(temporary, synthesizer.members(shard, progress))
            temporary.replace(directory / name)


def write_facts(facts: Iterable[bytes], directory: Path) -> pd.DataFrame:
    """Write ``synthetic.parquet`` from the pictures' JSON, and return it."""
    table = pd.DataFrame([json.loads(text) for text in facts], columns=TABLE_SCHEMA.names)
    write_table(table, TABLE_SCHEMA, directory / TABLE_FILE)
    return table


def plan_for(config: SynthesizeConfig, images: EncodedImages, lent: LentPoses | None = None) -> pd.DataFrame:
    """The plan of a config: as many images as requested, or as the subset lacks to the full training split's size."""
    records = records_of(images)
    full = sum(file["samples"] for file in images.index["files"] if file["split"] == "train")
    wanted = config.images if config.images is not None else max(0, full - len(records))
    sources, poses = SCENARIOS[config.mode]
    return make_plan(
        records,
        images=wanted,
        sources=sources,
        poses=poses,
        policy=config.policy,
        pose_policy=config.pose_policy,
        seed=config.seed,
        lent=None if lent is None else lent.records(),
    )


def records_of(images: EncodedImages) -> pd.DataFrame:
    """What a plan needs to know of the encoded images: people only, no distractors or junk."""
    frame = pd.DataFrame(
        {
            "key": images.keys,
            "pid": images.pids,
            "camid": images.camids,
            "keypoints": [images.keypoints(i) for i in range(len(images))],
        }
    )
    return frame[(frame.pid > 0) & (np.array(images.splits) == "train")]


def _subset_keys(config: SynthesizeConfig) -> list[str] | None:
    if config.subset is None or config.fraction is None:
        return None
    return read_subset(config.subset, config.fraction, config.draw)


def _summary(config: SynthesizeConfig, images: EncodedImages, table: pd.DataFrame, shards: int) -> dict[str, Any]:
    per_person = Counter(images.pids.tolist()) + Counter(table.pid.tolist())
    return {
        "images": len(table),
        "real_images": len(images),
        "status": {str(status): int(count) for status, count in table.status.value_counts().items()},
        "identities": int(table.pid.nunique()),
        "images_per_identity": [min(per_person.values()), max(per_person.values())],
        "shards": shards,
        "pose_backend": config.pose_backend,
        "pose_score": None if table.pose_score.isna().all() else round(float(table.pose_score.mean()), 4),
        "generator_fraction": manifest_of(config.generator)["config"].get("fraction"),
    }
