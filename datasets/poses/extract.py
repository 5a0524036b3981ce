"""The stage ``extract-poses``: skeletons of an index's images, found by a network, part by part in several processes.

A part is a fixed run of the index's images; its table appears in the working folder only when it is whole, so an
interrupted stage resumes with the next part and ends with the same bytes. Images that an earlier artifact in the same
store has processed with the same backend, weights and settings are taken over from it. Where published skeletons are
given, the network looks only at the images that they lack.
"""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import shutil
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from datasets.poses.backends import POSE_BACKENDS
from datasets.poses.config import ExtractPosesConfig
from datasets.poses.csv_files import PoseRow
from datasets.poses.estimation import PoseEstimator, main_person
from datasets.poses.skeleton import missing_keypoints, present_joints
from datasets.poses.table import (
    LOOKED_AT,
    POSES_FILE,
    SCHEMA,
    pose_table,
    read_pose_table,
    read_poses,
    write_pose_table,
)
from datasets.runtime import devices
from datasets.runtime.errors import ArtifactError, InputError
from datasets.runtime.hashing import file_sha256
from datasets.runtime.manifests import finished_beside, manifest_of, recorded_path
from datasets.runtime.processes import end_with_parent
from datasets.runtime.progress import Progress
from datasets.sources.files import ImageSource, UnreadableFileError
from datasets.sources.index import open_images, read_index
from datasets.sources.pictures import PictureError, decode_pixels

logger = logging.getLogger(__name__)

PART_IMAGES = 512
PARTS = "parts"
SETTINGS = ("backend", "weights_sha256", "scales")
AGAIN = "delete the index's folder and index again"


@dataclass(frozen=True)
class Part:
    """A run of an index's images: rows with key, path and sha256, and the skeletons that are known already."""

    name: str
    images: pd.DataFrame
    known: dict[str, PoseRow]
    """By image hash."""


def make_extracted_poses(config: ExtractPosesConfig, directory: Path) -> dict[str, Any]:
    """Write ``poses.parquet`` for the usable images of an index; returns counts by status.

    Raises:
        WeightsError: the weights are missing or cannot be used.
        InputError: no image in the wanted splits, an image changed since it was indexed, or the published skeletons are
            of another index.
    """
    images = read_index(config.images)
    requested = images[images["split"].isin(config.splits)]
    if requested.empty:
        raise InputError(f"{config.images} has no usable image in splits {', '.join(config.splits)}; name others")
    kept = _kept_skeletons(config, images, requested["key"])
    wanted = requested[~requested["key"].isin(kept["key"].to_pylist())]
    known = _known_skeletons(config, directory)
    parts = [
        Part(f"part-{number:05d}.parquet", rows, {sha: known[sha] for sha in rows["sha256"] if sha in known})
        for number, start in enumerate(range(0, len(wanted), PART_IMAGES))
        for rows in [wanted.iloc[start : start + PART_IMAGES][["key", "path", "sha256"]]]
    ]
    folder = directory / PARTS
    if not (directory / POSES_FILE).is_file():  # else it was killed between the last part and the manifest
        folder.mkdir(exist_ok=True)
        _make_parts(parts, config, folder)
        tables = [pq.read_table(folder / part.name, schema=SCHEMA) for part in parts]
        write_pose_table(_in_order([kept, *tables], images, config), directory / POSES_FILE)
    shutil.rmtree(folder, ignore_errors=True)
    statuses = Counter(pq.read_table(directory / POSES_FILE, columns=["status"])["status"].to_pylist())
    reused = sum(len(part.known) for part in parts)
    return {
        "images": len(images),
        "statuses": dict(sorted(statuses.items())),
        "published": len(kept),
        "reused": reused,
        "looked_at": len(wanted) - reused,
    }


def _kept_skeletons(config: ExtractPosesConfig, images: pd.DataFrame, requested: pd.Series) -> pa.Table:
    """The published rows that need no second look, and all of splits that were not requested."""
    if config.published is None:
        return SCHEMA.empty_table()
    published = read_pose_table(config.published)
    strangers = set(published["key"].to_pylist()) ^ set(images["key"])
    if strangers:
        raise InputError(
            f"{config.published} and {config.images} differ in {len(strangers):,} images, first {min(strangers)}; "
            "give skeletons of this index"
        )
    others = ~pc.field("key").isin(requested.tolist())
    return published.filter(pc.field("status").isin(LOOKED_AT) | others)


def _in_order(tables: list[pa.Table], images: pd.DataFrame, config: ExtractPosesConfig) -> pa.Table:
    """The rows found, and 'missing' ones for images of splits that were not requested, in the index's order."""
    found = pa.concat_tables(tables)
    others = images.loc[~images["key"].isin(found["key"].to_pylist()), "key"].tolist()
    absent = PoseRow("missing", "its split was not requested", missing_keypoints())
    table = pa.concat_tables([found, pose_table(others, [absent] * len(others), config.backend)])
    position = {key: row for row, key in enumerate(table["key"].to_pylist())}
    return table.take([position[key] for key in images["key"]])


def _known_skeletons(config: ExtractPosesConfig, directory: Path) -> dict[str, PoseRow]:
    """Skeletons in finished artifacts beside this one, by image hash, where backend, weights and settings agree."""
    known: dict[str, PoseRow] = {}
    for artifact in finished_beside(directory):
        try:
            known.update(_skeletons_by_hash(artifact, config))
        except (ArtifactError, OSError, KeyError, pa.ArrowException) as error:
            logger.info("%s cannot be reused: %s", artifact, error)
    return known


def _skeletons_by_hash(artifact: Path, config: ExtractPosesConfig) -> dict[str, PoseRow]:
    manifest = manifest_of(artifact, config.stage)
    own = config.model_dump(mode="json")
    if manifest["stage_version"] != config.stage_version or any(manifest["config"][k] != own[k] for k in SETTINGS):
        return {}
    if manifest["inputs"].get("weights", {}).get("sha256") != _weights_hash(config):
        return {}
    index = recorded_path(manifest, "images")
    if manifest_of(index, "index")["content_sha256"] != manifest["inputs"]["images"]["sha256"]:
        return {}
    hashes = read_index(index).set_index("key")["sha256"]
    poses = read_poses(artifact)
    poses = poses[poses["status"].isin(LOOKED_AT) & (poses["backend"] == config.backend)]
    rows = zip(poses["key"], poses["status"], poses["error"], poses["keypoints"], strict=True)
    return {hashes[key]: PoseRow(status, error, keypoints) for key, status, error, keypoints in rows}


def _weights_hash(config: ExtractPosesConfig) -> str | None:
    return file_sha256(config.weights) if config.weights else None


def load_estimator(config: ExtractPosesConfig, device: torch.device) -> PoseEstimator:
    """The backend that a config names.

    Raises:
        WeightsError: see the backends.
    """
    return POSE_BACKENDS[config.backend].open(config.weights, device, config)


def _make_parts(parts: list[Part], config: ExtractPosesConfig, folder: Path) -> None:
    """Write the tables of all parts that are not there yet."""
    waiting = [part for part in parts if not (folder / part.name).is_file()]
    total = sum(len(part.images) for part in parts)
    done = total - sum(len(part.images) for part in waiting)
    progress = Progress(logger, config.stage, total, "images", done=done)
    if not waiting:
        return
    if config.workers == 1 or len(waiting) <= POSE_BACKENDS[config.backend].parts_alone:
        finder = _Finder(config, devices.pick(config.device))
        for part in waiting:
            progress.update(finder.write(part, folder))
        return
    devices.pick(config.device)  # a device that is not there is refused before any process starts, and so are
    load_estimator(config, torch.device("cpu"))  # wrong weights: a worker's error would be a broken pool
    workers = min(config.workers, len(waiting))
    with _pool(config, workers) as pool:
        for count in pool.map(_write_part, waiting, [folder] * len(waiting)):
            progress.update(count)


@contextmanager
def _pool(config: ExtractPosesConfig, workers: int) -> Generator[ProcessPoolExecutor]:
    # spawn: a forked child of a process with threads (Prefect, torch) can hang.
    context = multiprocessing.get_context("spawn")
    numbers = context.SimpleQueue()
    for number in range(workers):
        numbers.put(number)
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(config, numbers, workers)
    )
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


_finder: _Finder | None = None


def _start_worker(config: ExtractPosesConfig, numbers: SimpleQueue[int], workers: int) -> None:
    global _finder
    end_with_parent()
    device = devices.pick(config.device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", numbers.get() % torch.cuda.device_count())
    if device.type == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    _finder = _Finder(config, device)


def _write_part(part: Part, folder: Path) -> int:
    assert _finder is not None  # _start_worker made it
    return _finder.write(part, folder)


class _Finder:
    """A backend with the images that it reads; one per process."""

    def __init__(self, config: ExtractPosesConfig, device: torch.device) -> None:
        self.source = open_images(config.images)
        self.estimator = load_estimator(config, device)

    def write(self, part: Part, folder: Path) -> int:
        """Write a part's table; returns its number of images."""
        new = part.images[~part.images["sha256"].isin(part.known.keys())]
        pictures = [_read(self.source, path, sha256) for path, sha256 in zip(new["path"], new["sha256"], strict=True)]
        people = self.estimator.estimate(pictures) if pictures else []
        found = {
            sha256: _row(persons, picture.shape[:2])
            for sha256, persons, picture in zip(new["sha256"], people, pictures, strict=True)
        }
        rows = [part.known.get(sha256) or found[sha256] for sha256 in part.images["sha256"]]
        write_pose_table(pose_table(part.images["key"].tolist(), rows, self.estimator.name), folder / part.name)
        return len(rows)


def _read(source: ImageSource, path: str, sha256: str) -> np.ndarray:
    """An indexed image as RGB uint8 (H, W, 3)."""
    try:
        content = source.read(path)
    except UnreadableFileError as error:
        raise InputError(f"{path} of {source.root} cannot be read any more ({error}); {AGAIN}") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise InputError(f"{path} of {source.root} changed since it was indexed; {AGAIN}")
    try:
        return decode_pixels(content)
    except PictureError as error:
        reason = f"cannot be decoded, although it was indexed ({error})"
        raise InputError(f"{path} of {source.root} {reason}; {AGAIN}") from None


def _row(people: np.ndarray, size: tuple[int, int]) -> PoseRow:
    """The main person of an image as a row.

    Places are rounded to 0.01 px and scores to 0.001, so that the last bits of an arithmetic (another batch, another
    CPU) do not show.
    """
    keypoints = np.asarray(main_person(people, size), np.float64)
    rounded = np.column_stack([keypoints[:, :2].round(2), keypoints[:, 2:].round(3)]).astype(np.float32)
    if not present_joints(rounded).any():
        reason = f"no person found ({len(people)} candidates)" if len(people) else ""
        return PoseRow("no-person", reason, missing_keypoints())
    return PoseRow("ok", "", rounded)
