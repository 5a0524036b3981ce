"""Synthetic images for one subset: plan, pictures, checks, provenance.

The plan comes first and decides everything; pictures are made shard by shard, and a shard appears under its name only
when it is whole. An interrupted run goes on at its first missing shard and ends with the same bytes, because batches
never cross a shard and every canvas draws from its own seed. Under torchrun each process takes its share of the shards;
what a shard holds is the plan's affair, so the bytes do not depend on the number of processes. The camera of a
synthetic picture is its first source's: the background follows the source, so that is the camera that seems to have
taken it.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from datasets.poses.backends import open_backend
from datasets.poses.estimation import PoseEstimator
from datasets.runtime.manifests import manifest_of, model_sha256
from datasets.runtime.progress import Progress
from datasets.shards.encoded import EncodedImages, keypoints_to_json
from datasets.shards.tars import read_samples, write_tar
from datasets.sources.subsets import read_subset
from imagpose.canvas.layout import CanvasRequest, SourceFeatures
from imagpose.config import SynthesizeConfig, TrainGeneratorConfig
from imagpose.pictures.image_checks import check_image
from imagpose.pictures.synthetic_jpeg import encode_synthetic_jpeg
from imagpose.sampling.pipeline import IMAGPosePipeline, load_pipeline
from imagpose.sampling.pose_check import find_skeletons, pose_score
from imagpose.synthesis.plan import cut_shards, make_plan
from imagpose.synthesis.ranks import own_device, ranks
from imagpose.synthesis.showcase import write_pictures

logger = logging.getLogger(__name__)

PLAN_FILE, TABLE_FILE = "plan.parquet", "synthetic.parquet"
SCENARIOS = {"T1": (1, 1), "T2": (1, 1), "T3": (3, 1), "IMAGPose*": (1, 3)}
"""Most sources, and poses, of a canvas of each mode."""

PLAN_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("canvas", pa.int32()),
        ("slot", pa.int32()),
        ("pid", pa.int32()),
        ("camid", pa.int32()),
        ("source_keys", pa.list_(pa.string())),
        ("target_pose_key", pa.string()),
        ("seed", pa.int64()),
    ]
)
TABLE_SCHEMA = pa.schema(
    [
        *PLAN_SCHEMA,
        ("mode", pa.string()),
        ("sampler", pa.string()),
        ("steps", pa.int32()),
        ("guidance", pa.float64()),
        ("unconditional", pa.string()),
        ("generator_sha256", pa.string()),
        ("pose_score", pa.float64()),
        ("contrast", pa.float64()),
        ("saturated", pa.float64()),
        ("source_difference", pa.float64()),
        ("status", pa.string()),
    ]
)


def make_synthetic(config: SynthesizeConfig, directory: Path) -> dict[str, Any]:
    """Plan and write a synthetic set; returns counts by status.

    Raises:
        InputError: a subset that does not exist, or a generator that does not fit the encoded images.
    """
    manifest_of(config.generator, TrainGeneratorConfig.stage)
    images = EncodedImages(config.encoded, _subset_keys(config))
    plan = plan_for(config, images)
    if int(os.environ.get("RANK", "0")) == 0:
        _write_table(plan, PLAN_SCHEMA, directory / PLAN_FILE)
    shards = cut_shards(plan, config.images_per_shard)
    names = [f"synthetic-{number:05d}.tar" for number in range(len(shards))]
    done = [(directory / name).is_file() for name in names]
    synthesizer = Synthesizer(config, images)
    progress = Progress(
        logger,
        "synthesize",
        len(plan),
        "images",
        done=sum(len(shard) for shard, kept in zip(shards, done, strict=True) if kept),
    )
    with ranks() as own:
        todo = [item for i, item in enumerate(zip(shards, names, strict=True)) if own.mine(i) and not done[i]]
        for shard, name in todo:
            temporary = directory / f".{name}.tmp"
            write_tar(temporary, synthesizer.members(shard, progress))
            temporary.replace(directory / name)
    if not own.first:
        return {}
    samples = [sample for name in names for sample in read_samples(directory / name)]
    table = pd.DataFrame([json.loads(members["json"]) for _, members in samples], columns=TABLE_SCHEMA.names)
    _write_table(table, TABLE_SCHEMA, directory / TABLE_FILE)
    write_pictures(config, images, synthesizer, samples, directory)
    return _summary(config, images, table, len(shards))


def plan_for(config: SynthesizeConfig, images: EncodedImages) -> pd.DataFrame:
    """The plan of a config: as many images as asked, or as the subset lacks to the full training split's size."""
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


class Synthesizer:
    """The generator, the encoded images and how they meet."""

    def __init__(self, config: SynthesizeConfig, images: EncodedImages) -> None:
        """Load the generator (without its image encoder: tokens come with the encoded images)."""
        self.config, self.images = config, images
        self.pipeline: IMAGPosePipeline = load_pipeline(
            config.generator, own_device(config.device), precision=config.precision, photographs=False
        )
        self.estimator: PoseEstimator | None = None
        if config.pose_backend is not None:
            self.estimator = open_backend(config.pose_backend, config.pose_weights, self.pipeline.device)
        if config.compile:
            self.pipeline.unet.compile()
        self.generator_sha256 = model_sha256(config.generator)
        self.rows = {key: row for row, key in enumerate(images.keys)}
        self._decoded: dict[str, np.ndarray] = {}

    def members(self, shard: pd.DataFrame, progress: Progress) -> Iterator[tuple[str, bytes]]:
        """File names and contents of a shard's tar."""
        canvases = [group for _, group in shard.groupby("canvas", sort=False)]
        for start in range(0, len(canvases), self.config.batch_size):
            batch = canvases[start : start + self.config.batch_size]
            pictures = np.concatenate(self.generate([self._request(group) for group in batch]))
            rows = [row for group in batch for row in group.itertuples(index=False)]
            found = find_skeletons(self.estimator, list(pictures)) if self.estimator else [None] * len(rows)
            for row, picture, skeleton in zip(rows, pictures, found, strict=True):
                yield f"{row.key}.jpg", encode_synthetic_jpeg(picture, self.generator_sha256, self.config.jpeg_quality)
                facts = self._sample(row, picture, skeleton)
                yield f"{row.key}.json", json.dumps(facts, separators=(",", ":")).encode()
            progress.update(len(rows))

    def generate(self, requests: Sequence[CanvasRequest]) -> list[np.ndarray]:
        """Pictures of a batch of canvases, (G, H, W, 3) uint8 each."""
        config = self.config
        output = self.pipeline(
            requests,
            sampler=config.sampler,
            num_inference_steps=config.steps,
            guidance_scale=config.guidance,
            unconditional=config.unconditional,
            reuse_conditions=not config.compile,
        )
        return output.images

    def source(self, key: str) -> SourceFeatures:
        """A real image's frozen features."""
        row = self.rows[key]
        return SourceFeatures(
            latents=self.images.latents([row])[0],
            tokens=self.images.tokens([row])[0],
            keypoints=self.images.keypoints(row),
        )

    def keypoints(self, key: str) -> np.ndarray:
        """A real image's skeleton, (18, 3) in view pixels."""
        return self.images.keypoints(self.rows[key])

    def pid(self, key: str) -> int:
        """Whom a real image shows."""
        return int(self.images.pids[self.rows[key]])

    def decoded(self, keys: Sequence[str]) -> np.ndarray:
        """Real images as the VAE shows them, (n, H, W, 3) uint8: what a copy of them would look like."""
        if missing := [key for key in dict.fromkeys(keys) if key not in self._decoded]:
            pictures = self.pipeline.decode_views(self.images.latents([self.rows[key] for key in missing]))
            self._decoded.update(zip(missing, pictures, strict=True))
        return np.stack([self._decoded[key] for key in keys])

    def _request(self, group: pd.DataFrame) -> CanvasRequest:
        """One canvas of the plan; T1 gives three pictures of a pose, of which the seed keeps one."""
        first = group.iloc[0]
        mode, seed = self.config.mode, int(first.seed)
        poses = [self.keypoints(key) for key in group.target_pose_key]
        sources = [self.source(key) for key in first.source_keys]
        fits = {"T3": len(sources) > 1, "IMAGPose*": len(poses) == 3}.get(mode, True)
        keep = [int(np.random.default_rng(seed).integers(3))] if mode == "T1" else range(len(poses))
        return CanvasRequest(sources=sources, poses=poses, seed=seed, mode=mode if fits else "free", keep=list(keep))

    def _sample(self, row: Any, picture: np.ndarray, found: np.ndarray | None) -> dict[str, Any]:
        """A picture's JSON: what every shard says, where this picture comes from, and which pose was found in it."""
        config, target = self.config, self.keypoints(row.target_pose_key)
        check: dict[str, Any] = {"pose_score": None if found is None else pose_score(target, found)}
        if found is not None:
            check["found_keypoints"] = keypoints_to_json(found)
        return {
            **{name: getattr(row, name) for name in PLAN_SCHEMA.names},
            "split": "synthetic",
            "role": "person",
            "height": picture.shape[0],
            "width": picture.shape[1],
            "keypoints": keypoints_to_json(target),
            "mode": config.mode,
            "sampler": config.sampler,
            "steps": config.steps,
            "guidance": config.guidance,
            "unconditional": config.unconditional,
            "generator_sha256": self.generator_sha256,
            **check,
            **asdict(check_image(picture, self.decoded(row.source_keys))),
        }


def _subset_keys(config: SynthesizeConfig) -> list[str] | None:
    if config.subset is None or config.fraction is None:  # the config takes both or neither
        return None
    return read_subset(config.subset, config.fraction, config.draw)


def _write_table(table: pd.DataFrame, schema: pa.Schema, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(
        pa.Table.from_pandas(table, schema=schema, preserve_index=False).replace_schema_metadata(), temporary
    )
    temporary.replace(path)


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
