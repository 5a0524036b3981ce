"""Pose artifacts: one skeleton per image of an index, with a status.

Statuses: 'ok'; 'no-person' (looked at, no joint found); 'missing' (never looked at: the files have no row for it);
or what is wrong with its row ('wrong-length', 'not-a-number', 'half-missing', 'out-of-image', 'duplicate-row',
'malformed'). Only 'ok' rows have joints.
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from datasets.artifacts import manifest_of
from datasets.config import ExportPosesConfig, ImportPosesConfig
from datasets.errors import InputError
from datasets.index import read_index
from datasets.pose_csv import PoseRow, read_pose_csv, write_pose_csv
from datasets.skeleton import JOINT_COUNT, missing_keypoints, present_joints

logger = logging.getLogger(__name__)

POSES_FILE = "poses.parquet"
STAGES = ("import-poses", "extract-poses")
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("keypoints", pa.list_(pa.float32(), JOINT_COUNT * 3)),
        ("backend", pa.string()),
        ("status", pa.string()),
        ("error", pa.string()),
    ]
)
MAX_OUTSIDE_PERCENT = 5.0
"""More rows than this outside their images mean that the coordinates are of another frame."""


def make_imported_poses(config: ImportPosesConfig, directory: Path) -> dict[str, object]:
    """Write ``poses.parquet`` for the usable images of an index; returns counts by status.

    Raises: InputError: a file is not in the published format, repeats an image of another file, fits none of the
        images, or has coordinates of another frame.
    """
    images = read_index(config.images)
    rows = _read_files(config.csv)
    found = [_fit(rows.get(image.key), image.width, image.height, config.coordinates) for image in images.itertuples()]
    statuses = Counter(row.status for row in found)
    if statuses["missing"] == len(images):
        raise InputError(f"{config.csv[0]} has no row for any of the {len(images)} images; is it of another data set?")
    _refuse_another_frame(statuses, len(images), config)
    write_poses(images["key"].tolist(), found, "published", directory)
    known = set(images["key"])
    bad = {key: row.error for key, row in rows.items() if key in known and row.status not in ("ok", "no-person")}
    return {
        "images": len(images),
        "statuses": dict(sorted(statuses.items())),
        "rows_of_other_images": sum(key not in known for key in rows),
        "bad_rows": dict(sorted(bad.items())[:20]),
    }


def _read_files(files: list[Path]) -> dict[str, PoseRow]:
    rows: dict[str, PoseRow] = {}
    for file in files:
        more = read_pose_csv(file)
        repeated = sorted(rows.keys() & more.keys())
        if repeated:
            raise InputError(f"{file} repeats {len(repeated)} images of an earlier file, first {repeated[0]}; give one")
        rows.update(more)
    return rows


def _fit(row: PoseRow | None, width: int, height: int, coordinates: str) -> PoseRow:
    """A file's row as skeleton of an image of this size."""
    if row is None:
        return PoseRow("missing", "the files have no row for it", missing_keypoints())
    if row.status != "ok":
        return row
    keypoints = row.keypoints
    if coordinates == "deepfashion-256":
        keypoints = from_deepfashion_256(keypoints, width, height)
        return PoseRow("ok" if present_joints(keypoints).any() else "no-person", "", keypoints)
    there = present_joints(keypoints)
    x, y = keypoints[there, 0], keypoints[there, 1]
    if x.min() < 0 or y.min() < 0 or x.max() >= width or y.max() >= height:
        reason = f"a joint lies outside the {width}x{height} image"
        return PoseRow("out-of-image", reason, missing_keypoints())
    return row


def from_deepfashion_256(keypoints: np.ndarray, width: int, height: int) -> np.ndarray:
    """Keypoints of DeepFashion's 256x256 original as those of an image of the same shot in another size.

    Columns 40 to 215 of the square are the picture proper; a square image keeps its margins, any other is the picture
    proper at its own size. Joints outside it become missing.
    """
    moved = keypoints.copy()
    if width == height:
        moved[:, :2] = (moved[:, :2] + 0.5) * (width / 256) - 0.5
    else:
        moved[:, 0] = (moved[:, 0] - 40 + 0.5) * (width / 176) - 0.5
        moved[:, 1] = (moved[:, 1] + 0.5) * (height / 256) - 0.5
    x, y = moved[:, 0], moved[:, 1]
    with np.errstate(invalid="ignore"):
        inside = present_joints(moved) & (x >= -0.5) & (y >= -0.5) & (x <= width - 0.5) & (y <= height - 0.5)
    moved[~inside] = missing_keypoints()[0]
    return moved


def _refuse_another_frame(statuses: Counter[str], total: int, config: ImportPosesConfig) -> None:
    outside = statuses["out-of-image"]
    if outside * 100 > MAX_OUTSIDE_PERCENT * total:
        raise InputError(
            f"{outside} of {total} skeletons of {config.csv[0]} lie outside their images; "
            "files with coordinates of DeepFashion's 256x256 originals need --coordinates deepfashion-256"
        )


def write_poses(keys: list[str], rows: list[PoseRow], backend: str, directory: Path) -> None:
    """Write a pose artifact's table; equal rows give equal bytes."""
    flat = np.stack([row.keypoints for row in rows]).astype(np.float32).reshape(-1)
    columns = [
        pa.array(keys, pa.string()),
        pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32(), from_pandas=False), JOINT_COUNT * 3),
        pa.array([backend if row.status != "missing" else "" for row in rows], pa.string()),
        pa.array([row.status for row in rows], pa.string()),
        pa.array([row.error for row in rows], pa.string()),
    ]
    pq.write_table(pa.table(columns, schema=SCHEMA), directory / POSES_FILE, compression="zstd")


def read_poses(directory: Path) -> pd.DataFrame:
    """A pose artifact's rows; ``keypoints`` holds one (18, 3) float32 array a row: x, y, score in image pixels."""
    stage = manifest_of(directory)["stage"]
    if stage not in STAGES:
        raise InputError(f"{directory} is an artifact of stage '{stage}', expected one of {', '.join(STAGES)}")
    table = pq.read_table(Path(directory) / POSES_FILE)
    keypoints = table["keypoints"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    frame = table.drop_columns(["keypoints"]).to_pandas()
    frame.insert(1, "keypoints", list(keypoints.reshape(-1, JOINT_COUNT, 3)))
    return frame


def run_export(config: ExportPosesConfig) -> int:
    """Write a pose artifact in the published CSV format, missing images left out."""
    names = read_index(config.images).set_index("key")["path"].str.rpartition("/")[2]
    poses = read_poses(config.poses)
    looked_at = poses[poses["status"].isin(["ok", "no-person"])]
    unknown = set(looked_at["key"]) - set(names.index)
    if unknown:
        raise InputError(f"{config.poses} holds {len(unknown)} images that {config.images} lacks; give its own index")
    write_pose_csv(config.csv, zip(names.loc[looked_at["key"]], looked_at["keypoints"], strict=True))
    logger.info("%d skeletons written to %s", len(looked_at), config.csv)
    return 0
