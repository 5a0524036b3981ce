"""Pose artifacts: one skeleton per image of an index, with a status.

Statuses: 'ok'; 'no-person' (looked at, no joint found); 'missing' (never looked at: the files have no row for it);
or what is wrong with its row ('wrong-length', 'not-a-number', 'half-missing', 'out-of-image', 'duplicate-row',
'malformed'). Only 'ok' rows have joints.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from datasets.poses.config import ExportPosesConfig, ImportPosesConfig
from datasets.poses.csv_files import PoseRow, file_key, path_key, read_pose_csv, write_pose_csv
from datasets.poses.json_files import UNIT, read_pose_folder
from datasets.poses.skeleton import JOINT_COUNT, missing_keypoints, present_joints, scale_keypoints
from datasets.poses.views import frame_of, from_deepfashion, is_of_another_frame
from datasets.runtime.errors import InputError
from datasets.runtime.manifests import manifest_of
from datasets.runtime.reading.tables import read_table
from datasets.runtime.remote.folders import fetch_tree
from datasets.sources.index import QUERY_IN_GALLERY, read_index
from datasets.sources.layouts import Layout, layout_of

logger = logging.getLogger(__name__)

POSES_FILE = "poses.parquet"
STAGES = ("import-poses", "extract-poses")
LOOKED_AT = ("ok", "no-person")
"""Statuses of images that somebody has looked at."""
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("keypoints", pa.list_(pa.float32(), JOINT_COUNT * 3)),
        ("backend", pa.string()),
        ("status", pa.string()),
        ("error", pa.string()),
    ]
)
MAX_STRETCH = 1.05
"""A JSON file's picture may be this much wider or taller than the image; beyond it, it is of another picture."""
MAX_OUTSIDE_PERCENT = 5.0
"""More rows than this outside their images mean that the coordinates are of another frame."""
NO_ROW = (None, "image")
NO_JOINTS = np.empty((0, 3), np.float32)


def make_imported_poses(config: ImportPosesConfig, directory: Path) -> dict[str, object]:
    """Write ``poses.parquet`` for the usable images of an index; returns counts by status.

    Raises:
        InputError: a file is not in the published format, repeats an image of another file, fits none of the images, or
            has coordinates of another frame.
    """
    images = read_index(config.images)
    files, passed_over = _read_files(config.csv)
    layout = layout_of(manifest_of(config.images, "index"))
    sizes = (int(images["width"].median()), int(images["height"].median())) if len(images) else (0, 0)
    frames = {file: _frame(file, rows, config, layout, sizes) for file, rows in files.items()}
    placed = {key: (row, frames[file]) for file, rows in files.items() for key, row in rows.items()}
    keys = _keys_of_rows(images, placed.keys())
    found = [
        _fit(*placed.get(key, NO_ROW), image.width, image.height)
        for key, image in zip(keys, images.itertuples(), strict=True)
    ]
    statuses = Counter(row.status for row in found)
    if statuses["missing"] == len(images):
        raise InputError(f"{config.csv[0]} has no row for any of the {len(images)} images; is it of another data set?")
    _refuse_another_frame(statuses, len(images), config)
    write_poses(images["key"].tolist(), found, "published", directory)
    detected = ", ".join(f"{count:,} {status}" for status, count in sorted(statuses.items()))
    logger.info("skeletons of %s images: %s", f"{len(images):,}", detected)
    known = set(keys)
    several = sum(row.people > 1 for key, (row, _) in placed.items() if key in known)
    if several:
        logger.warning("%d files hold several people; the largest of each is taken", several)
    bad = {key: row.error for key, (row, _) in placed.items() if key in known and row.status not in LOOKED_AT}
    return {
        "images": len(images),
        "statuses": dict(sorted(statuses.items())),
        "coordinates": {file.name: frame for file, frame in frames.items()},
        "rows_of_other_images": sum(key not in known for key in placed),
        "bad_rows": dict(sorted(bad.items())[:20]),
        "several_people": several,
        "passed_over": passed_over[:20],
    }


def _keys_of_rows(images: pd.DataFrame, there: Collection[str]) -> list[str]:
    """The key under which each image's row stands: the image's own, else its path's, else its file name's.

    A query that lies in the gallery too has the row of its name.
    Of several images of one file name in different folders, none gets the row of that name alone.
    """
    names = images["path"].map(file_key)
    repeated = names.duplicated(keep=False)
    keys = []
    for key, path, name, is_repeated in zip(images["key"], images["path"], names, repeated, strict=True):
        candidates = [key, key.removesuffix(QUERY_IN_GALLERY), path_key(path)] + ([] if is_repeated else [name])
        keys.append(next((candidate for candidate in candidates if candidate in there), key))
    return keys


def _read_files(files: list[Path]) -> tuple[dict[Path, dict[str, PoseRow]], list[str]]:
    """Rows by file (or folder of JSON files), and what lies in the folders besides."""
    passed_over: list[str] = []
    found: dict[Path, dict[str, PoseRow]] = {}
    seen: set[str] = set()
    for file in files:
        rows, others = read_pose_folder(file) if fetch_tree(file).is_dir() else (read_pose_csv(file), [])
        if others:
            logger.warning("%s: %d files are no JSON and are passed over: %s", file, len(others), others[:3])
        passed_over += others
        repeated = sorted(rows.keys() & seen)
        if repeated:
            raise InputError(f"{file} repeats {len(repeated)} images of an earlier file, first {repeated[0]}; give one")
        seen |= rows.keys()
        found[file] = rows
    return found, passed_over


def _frame(
    file: Path, rows: dict[str, PoseRow], config: ImportPosesConfig, layout: Layout, size: tuple[int, int]
) -> str:
    """What a file's coordinates are pixels of: as the config says, checked against the values, or inferred from them.

    Raises:
        InputError: the values contradict the config, do not tell, or are of DeepFashion for another data set.
    """
    requested = config.coordinates
    if layout.coordinates == "image":
        if requested != "image":
            raise InputError(
                f"coordinates '{requested}' are of DeepFashion; {config.images} has layout '{layout.name}'"
            )
        return requested
    unsized = [row.keypoints for row in rows.values() if row.size is None]
    joints = np.concatenate([keypoints[present_joints(keypoints)] for keypoints in unsized] or [NO_JOINTS])
    detected = frame_of(joints[:, 0])
    if requested == "image":
        if is_of_another_frame(joints, detected, *size):
            raise InputError(
                f"{file} has coordinates of DeepFashion's 256x256 originals or 176x256 crops, the images are mostly "
                f"{size[0]}x{size[1]}: give --coordinates deepfashion"
            )
        return requested
    if requested == "deepfashion":
        if detected is None:
            raise InputError(
                f"{file}: its joints do not tell whether they are pixels of the 256x256 originals or of 176x256 crops; "
                "say it with --coordinates deepfashion-256 or deepfashion-176"
            )
        logger.info("%s: coordinates are %s", file, detected)
        return detected
    if detected not in (None, requested):
        raise InputError(f"{file} has coordinates '{detected}', not '{requested}': its joints' x say so; give that one")
    return requested


def _fit(row: PoseRow | None, frame: str, width: int, height: int) -> PoseRow:
    """A file's row as skeleton of an image of this size."""
    if row is None:
        return PoseRow("missing", "the files have no row for it", missing_keypoints())
    if row.status != "ok":
        return row
    if row.size is not None:
        return _fit_sized(row, row.size, width, height)
    if frame != "image":
        keypoints = from_deepfashion(row.keypoints, frame, width, height)
        return PoseRow("ok" if present_joints(keypoints).any() else "no-person", "", keypoints)
    there = present_joints(row.keypoints)
    x, y = row.keypoints[there, 0], row.keypoints[there, 1]
    if x.min() < 0 or y.min() < 0 or x.max() >= width or y.max() >= height:
        reason = f"a joint lies outside the {width}x{height} image"
        return PoseRow("out-of-image", reason, missing_keypoints())
    return row


def _fit_sized(row: PoseRow, size: tuple[int, int], width: int, height: int) -> PoseRow:
    """A row that says how large its picture is, as skeleton of an image of this size."""
    stretch = (size[1] / size[0]) / (width / height)
    if size != UNIT and not 1 / MAX_STRETCH <= stretch <= MAX_STRETCH:
        reason = f"it is of a {size[1]}x{size[0]} picture, the image has {width}x{height} pixels"
        return PoseRow("out-of-image", reason, missing_keypoints())
    keypoints = scale_keypoints(row.keypoints, size, (height, width)).astype(np.float32)
    joints = keypoints[present_joints(keypoints), :2]
    if (joints < -0.5).any() or (joints > (width - 0.5, height - 0.5)).any():
        return PoseRow("out-of-image", f"a joint lies outside the {width}x{height} image", missing_keypoints())
    keypoints[:, :2] = keypoints[:, :2].clip(0, (width - 1, height - 1))  # an edge is half a pixel from a center
    return PoseRow("ok", "", keypoints, people=row.people)


def _refuse_another_frame(statuses: Counter[str], total: int, config: ImportPosesConfig) -> None:
    outside = statuses["out-of-image"]
    if outside * 100 > MAX_OUTSIDE_PERCENT * total:
        raise InputError(
            f"{outside} of {total} skeletons of {config.csv[0]} lie outside their images; is it of another data set? "
            "DeepFashion's files, in pixels of its 256x256 originals or 176x256 crops, need --coordinates deepfashion"
        )


def write_poses(keys: list[str], rows: list[PoseRow], backend: str, directory: Path) -> None:
    """Write a pose artifact's table; equal rows give equal bytes."""
    write_pose_table(pose_table(keys, rows, backend), directory / POSES_FILE)


def pose_table(keys: list[str], rows: list[PoseRow], backend: str) -> pa.Table:
    """Skeletons as rows of a pose artifact."""
    flat = np.array([row.keypoints for row in rows], np.float32).reshape(-1)
    columns = [
        pa.array(keys, pa.string()),
        pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32(), from_pandas=False), JOINT_COUNT * 3),
        pa.array([backend if row.status != "missing" else "" for row in rows], pa.string()),
        pa.array([row.status for row in rows], pa.string()),
        pa.array([row.error for row in rows], pa.string()),
    ]
    return pa.table(columns, schema=SCHEMA)


def write_pose_table(table: pa.Table, path: Path) -> None:
    """Write a table of skeletons; the file appears only when it is whole, and equal rows give equal bytes."""
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(table.combine_chunks(), temporary, compression="zstd")
    temporary.replace(path)


def read_pose_table(directory: Path) -> pa.Table:
    """A pose artifact's rows as they are stored, columns of `SCHEMA`.

    Raises:
        InputError: the artifact is of another stage.
    """
    stage = manifest_of(directory)["stage"]
    if stage not in STAGES:
        raise InputError(f"{directory} is an artifact of stage '{stage}', expected one of {', '.join(STAGES)}")
    return read_table(directory, POSES_FILE, SCHEMA)


def read_poses(directory: Path) -> pd.DataFrame:
    """A pose artifact's rows; ``keypoints`` holds one (18, 3) float32 array a row: x, y, score in image pixels."""
    table = read_pose_table(directory)
    keypoints = table["keypoints"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    frame = table.drop_columns(["keypoints"]).to_pandas()
    frame.insert(1, "keypoints", list(keypoints.reshape(-1, JOINT_COUNT, 3)))
    return frame


def run_export(config: ExportPosesConfig) -> int:
    """Write a pose artifact in the published CSV format, missing images left out."""
    images = read_index(config.images).set_index("key")
    names = images["path"].str.rpartition("/")[2]
    single = names[~names.index.str.endswith(QUERY_IN_GALLERY)]
    shared = set(single[single.duplicated()])
    names = names.where(~names.isin(shared), images["path"])  # folders tell equal file names apart
    poses = read_poses(config.poses)
    poses = poses[~poses["key"].str.removesuffix(QUERY_IN_GALLERY).duplicated()]  # a query in the gallery is one image
    looked_at = poses[poses["status"].isin(LOOKED_AT)]
    unknown = set(looked_at["key"]) - set(names.index)
    if unknown:
        raise InputError(f"{config.poses} holds {len(unknown)} images that {config.images} lacks; give its own index")
    # Whole pixels inside the image: 63.6 of a 64 wide one would be rounded to 64, and refused when it is read again.
    inside = [
        np.clip(row.keypoints, (0, 0, 0), (images.at[row.key, "width"] - 1, images.at[row.key, "height"] - 1, 1))
        for row in looked_at.itertuples()
    ]
    write_pose_csv(config.csv, zip(names.loc[looked_at["key"]], inside, strict=True))
    logger.info("%d skeletons written to %s", len(looked_at), config.csv)
    return 0
