"""Frozen features of every image, computed once: scaled VAE latents and image-encoder tokens.

A view is encoded alone, never as part of a canvas: a VAE's GroupNorm would let neighbors change it
(IMAGPose's released code does). The image encoder sees the whole person, resized, without a center crop.
The unit of resuming, and of taking over from an earlier artifact, is the shard.
"""

from __future__ import annotations

import io
import json
import logging
import threading
from collections import Counter
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from datasets.poses.views import keypoints_in_view
from datasets.runtime.atomic import write_text_atomically
from datasets.runtime.errors import ArtifactError, InputError
from datasets.runtime.hashing import json_sha256
from datasets.runtime.keys import describe_config
from datasets.runtime.manifests import model_sha256
from datasets.runtime.progress import Progress
from datasets.runtime.reading.contents import AGAIN, artifact_file
from datasets.shards.config import EncodeConfig
from datasets.shards.encoded import keypoints_to_json
from datasets.shards.frozen_models import FeatureEncoder
from datasets.shards.index_files import INDEX_FILE
from datasets.shards.reuse import earlier_artifacts, take_over
from datasets.shards.samples import keypoints_from_json, sample_facts, sample_picture
from datasets.shards.tars import read_samples, write_tar
from datasets.shards.write import read_shard_index

logger = logging.getLogger(__name__)


def make_encoded(config: EncodeConfig, directory: Path) -> dict[str, Any]:
    """Encode all shards but those that an interrupted run finished or an earlier artifact beside this one holds."""
    shards = read_shard_index(config.shards)["shards"]
    if not shards:
        raise ArtifactError(f"{config.shards} holds no shard; run write-shards again")
    if unknown := set(config.only) - {shard["name"] for shard in shards}:
        raise InputError(f"only: {config.shards} has no shard {', '.join(sorted(unknown))}")
    shards = [shard for shard in shards if not config.only or shard["name"] in config.only]
    fingerprints = _fingerprints(config, shards)
    encoder = FeatureEncoder(config)
    how = _provided(directory, fingerprints, config)
    progress = Progress(
        logger,
        "encode",
        sum(shard["samples"] for shard in shards),
        "images",
        done=sum(shard["samples"] for shard in shards if shard["name"] in how),
    )
    with _threads(encoder.device) as (threads, stop):
        futures = [
            threads.submit(_encode_shard, shard, directory, encoder, progress, stop)
            for shard in shards
            if shard["name"] not in how
        ]
        for future in futures:
            future.result()
    counts = Counter(how.get(name, "encoded") for name in fingerprints)
    index = _index(config, encoder, shards, fingerprints, directory)
    write_text_atomically(directory / INDEX_FILE, json.dumps(index, indent=1) + "\n")
    facts = ("samples", "latent_shape", "token_shape", "view_size", "flipped", "scaling_factor")
    return {key: index[key] for key in facts} | {f"shards_{way}": counts[way] for way in ("encoded", "kept", "reused")}


def _fingerprints(config: EncodeConfig, shards: list[dict[str, Any]]) -> dict[str, str]:
    """What each encoded shard is made of, by its name: equal fingerprint, equal features."""
    settings = {name: value for name, value in describe_config(config).items() if name not in ("shards", "only")}
    return {shard["name"]: json_sha256([config.stage_version, settings, shard["sha256"]]) for shard in shards}


def _provided(directory: Path, fingerprints: dict[str, str], config: EncodeConfig) -> dict[str, str]:
    """Shards that need no encoding, and why: 'kept' from an interrupted run, or 'reused' from an earlier artifact."""
    earlier = {
        file["fingerprint"]: artifact / file["name"]
        for artifact, index in earlier_artifacts(directory, config)
        for file in index["files"]
        if "fingerprint" in file
    }
    how = {}
    for name, fingerprint in fingerprints.items():
        if (directory / name).is_file():
            how[name] = "kept"
        elif fingerprint in earlier and take_over(earlier[fingerprint], directory / name):
            how[name] = "reused"
    return how


@contextmanager
def _threads(device: torch.device) -> Generator[tuple[ThreadPoolExecutor, threading.Event]]:
    """As many shards at a time as torch may use cores, one core each: several cores on one small picture only wait.

    The event is set when the work fails or is stopped, so that nobody waits for shards in hand.
    """
    count, stop = torch.get_num_threads(), threading.Event()
    pool = ThreadPoolExecutor(count if device.type == "cpu" else 1)
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield pool, stop
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(count)


class _StoppedError(Exception):
    """Another shard failed, or the work was stopped: this one is given up."""


def _encode_shard(
    shard: dict[str, Any], directory: Path, encoder: FeatureEncoder, progress: Progress, stop: threading.Event
) -> None:
    temporary = directory / f".{shard['name']}.tmp"
    write_tar(temporary, _members(shard, encoder, progress, stop))
    temporary.replace(directory / shard["name"])


def _members(
    shard: dict[str, Any], encoder: FeatureEncoder, progress: Progress, stop: threading.Event
) -> Iterator[tuple[str, bytes]]:
    path, count = artifact_file(encoder.config.shards, shard["name"]), 0
    remaining = read_samples(path)
    while samples := list(islice(remaining, encoder.config.batch_size)):
        if stop.is_set():
            raise _StoppedError
        images, facts = zip(*(_decode(path, key, members) for key, members in samples), strict=True)
        latents, tokens = encoder(list(images))
        for row, (key, _) in enumerate(samples):
            view = _in_view(facts[row], encoder.config)
            yield f"{key}.json", json.dumps(view, separators=(",", ":")).encode()
            yield f"{key}.latent.npy", _npy(latents[row])
            yield f"{key}.tokens.npy", _npy(tokens[row])
        progress.update(len(samples))
        count += len(samples)
    if count != shard["samples"]:
        raise ArtifactError(f"{path} holds {count} samples, {shard['samples']} by its index.json; {AGAIN}")


def _decode(shard: Path, key: str, members: dict[str, bytes]) -> tuple[Image.Image, dict[str, Any]]:
    facts = sample_facts(shard, key, members, "pid", "camid", "split", "width", "height", "keypoints")
    return sample_picture(shard, key, members, facts), facts


def _in_view(facts: dict[str, Any], config: EncodeConfig) -> dict[str, Any]:
    """A sample's facts with its keypoints moved from the image's pixels to the view's, as its picture is."""
    view = (config.view_height, config.view_width)
    keypoints = keypoints_in_view(keypoints_from_json(facts["keypoints"]), facts, view)
    kept = {name: value for name, value in facts.items() if name != "crop"}  # the view is of the picture alone
    return {**kept, "keypoints": keypoints_to_json(keypoints), "view": view}


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _index(
    config: EncodeConfig,
    encoder: FeatureEncoder,
    shards: list[dict[str, Any]],
    fingerprints: dict[str, str],
    directory: Path,
) -> dict[str, Any]:
    _, first = next(read_samples(directory / shards[0]["name"]))
    shapes = {
        name: list(np.load(io.BytesIO(first[f"{name}.npy"]), allow_pickle=False).shape[1:])
        for name in ("latent", "tokens")
    }
    return {
        "files": [
            {**{name: shard[name] for name in ("name", "split", "samples")}, "fingerprint": fingerprints[shard["name"]]}
            for shard in shards
        ],
        "samples": sum(shard["samples"] for shard in shards),
        "latent_shape": shapes["latent"],
        "token_shape": shapes["tokens"],
        "view_size": [config.view_height, config.view_width],
        "flipped": config.flipped,
        "scaling_factor": encoder.scaling_factor,
        "vae_sha256": model_sha256(config.vae),
        "image_encoder_sha256": model_sha256(config.image_encoder),
    }
