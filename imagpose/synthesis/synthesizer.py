"""A generator at work on encoded images: canvases of a plan to JPEGs, each with its provenance and checks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from datasets.poses.backends import open_backend
from datasets.poses.estimation import PoseEstimator
from datasets.runtime.manifests import model_sha256
from datasets.runtime.progress import Progress
from datasets.shards.encoded import EncodedImages, keypoints_to_json
from datasets.shards.encoders_used import refuse_other_encoders
from imagpose.canvas.layout import CanvasRequest, SourceFeatures
from imagpose.config import DrawPosesConfig, SynthesizeConfig
from imagpose.pictures.image_checks import check_generated_image
from imagpose.pictures.synthetic_jpeg import encode_synthetic_jpeg
from imagpose.sampling.checks import check_sampler
from imagpose.sampling.pipeline import IMAGPosePipeline, load_pipeline
from imagpose.sampling.pose_check import find_skeletons, pose_score
from imagpose.synthesis.ranks import own_device
from imagpose.synthesis.tables import PLAN_SCHEMA


class Synthesizer:
    """The generator, the encoded images and how they meet."""

    def __init__(self, config: SynthesizeConfig | DrawPosesConfig, images: EncodedImages) -> None:
        """Load the generator (without its image encoder: tokens come with the encoded images).

        Raises:
            InputError: the images were encoded for another generator.
        """
        refuse_other_encoders(images.directory, config.generator)
        self.config, self.images = config, images
        self.pipeline: IMAGPosePipeline = load_pipeline(
            config.generator, own_device(config.device), precision=config.precision, photographs=False
        )
        check_sampler(config.sampler, config.steps, config.guidance, self.pipeline.scheduler)
        self.estimator: PoseEstimator | None = None
        if config.pose_backend is not None:
            self.estimator = open_backend(config.pose_backend, config.pose_weights, self.pipeline.device)
        if config.compile:
            self.pipeline.unet.compile()
        self.generator_sha256 = model_sha256(config.generator)
        self.rows = {key: row for row, key in enumerate(images.keys)}
        self.lent: dict[str, np.ndarray] = {}
        """Poses that are no image's of the set, by key: (18, 3) in view pixels."""
        self._decoded: dict[str, np.ndarray] = {}

    def members(self, shard: pd.DataFrame, progress: Progress) -> Iterator[tuple[str, bytes]]:
        """File names and contents of a shard's tar."""
        self._decoded.clear()  # what a shard's checks have decoded would stay for good
        canvases = [group for _, group in shard.groupby("canvas", sort=False)]
        for start in range(0, len(canvases), self.config.batch_size):
            batch = canvases[start : start + self.config.batch_size]
            pictures = np.concatenate(self.generate([self._request(group) for group in batch]))
            rows = [row for group in batch for row in group.itertuples(index=False)]
            self.decoded([key for row in rows for key in row.source_keys])  # all at once: cheaper than one by one
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
        """A lent pose, or a real image's skeleton: (18, 3) in view pixels."""
        return self.lent[key] if key in self.lent else self.images.keypoints(self.rows[key])

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
            **asdict(check_generated_image(picture, self.decoded(row.source_keys))),
        }
