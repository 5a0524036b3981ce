"""The report's single cases: the best and the worst of a generated set by pose score, and what was rejected and why.

Chosen by rule, one picture a person, ties by file name, so that nobody's eye has picked them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from datasets.poses.skeleton import JOINT_COUNT, draw_skeleton
from datasets.runtime.reading.contents import artifact_files
from datasets.runtime.reading.json_values import parse_object
from datasets.runtime.reading.tables import read_table
from reid.report.data import ReidRun
from reid.report.pictures.embed import Picture, SourceImages, embed, embed_bytes, tar_members

CASES = 6
CHECK_FILE = "identity_check.parquet"
VERDICTS = {
    "another-person": "nearer to another person",
    "low-score": "identity score too low",
    "not-among-the-best": "not among the best",
    "copy": "a copy of its source",
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One generated image with its source and the target skeleton."""

    source: Picture
    pose: Picture
    made: Picture
    note: str


def read_set(directory: Path) -> pd.DataFrame:
    """``key, pid, source_keys, pose_score, status`` of a generated set; columns that it lacks are empty."""
    table = read_table(directory, "synthetic.parquet").to_pandas()
    return table.reindex(columns=["key", "pid", "source_keys", "pose_score", "status"])


def identity_checks(runs: Iterable[ReidRun]) -> dict[Path, list[pd.DataFrame]]:
    """Generated set -> what each identity check of it said, from the runs that trained on what was kept."""
    found: dict[Path, dict[Path, pd.DataFrame]] = {}
    for run in runs:
        config = run.manifest["config"]
        for made, check in zip(config.get("synthetic") or [], config.get("identity_check") or [], strict=False):
            file = Path(check) / CHECK_FILE
            if file.is_file():
                table = read_table(file.parent, CHECK_FILE).to_pandas()
                table = table[["key", "id_score", "kept", "reject_reason"]]
                found.setdefault(Path(made).resolve(), {})[file] = table
    return {made: list(tables.values()) for made, tables in found.items()}


def extremes(table: pd.DataFrame, most: int = CASES) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of the highest and of the lowest pose scores, each person once; empty without scores."""
    scored = table[table["pose_score"].notna() & table["status"].eq("ok")]
    best, worst = (
        scored.sort_values(["pose_score", "key"], ascending=[ascending, True]).drop_duplicates("pid").head(most)
        for ascending in (False, True)
    )
    return best, worst


def score_notes(table: pd.DataFrame) -> dict[str, str]:
    """Key -> the share of target joints that were found where they were requested."""
    return {key: f"{100 * score:.0f} %" for key, score in zip(table["key"], table["pose_score"], strict=True)}


def rejected(table: pd.DataFrame, checks: Sequence[pd.DataFrame], most: int = CASES) -> dict[str, str]:
    """Key -> why it was not trained on: every reason has its turn, each person once while there are others."""
    reasons = dict(table.loc[table["status"] != "ok", ["key", "status"]].itertuples(index=False))
    for check in checks[:1]:
        refused = check[~check["kept"]].sort_values(["id_score", "key"])
        reasons |= {
            key: f"{VERDICTS.get(reason, reason)} (cosine {score:.2f})"
            for key, reason, score in zip(refused["key"], refused["reject_reason"], refused["id_score"], strict=True)
            if key not in reasons
        }
    rows = pd.DataFrame({"key": list(reasons), "kind": [reason.split(" (")[0] for reason in reasons.values()]})
    rows = rows.merge(table[["key", "pid"]], on="key", how="left")
    rows["again"] = rows.groupby(["kind", "pid"]).cumcount()
    rows = rows.sort_values("again", kind="stable")
    rows["turn"] = rows.groupby("kind").cumcount()
    chosen = rows.sort_values("turn", kind="stable")["key"].head(most)
    return {key: VERDICTS.get(reasons[key], reasons[key]) for key in chosen}


def cases(
    directory: Path, table: pd.DataFrame, groups: Sequence[Mapping[str, str]], images: SourceImages | None
) -> list[list[Case]]:
    """The pictures of some keys with their notes, in the order of each group; the set's tars are read once.

    Returns:
        a list per group; a key whose shard is gone is left out.
    """
    wanted = {key for group in groups for key in group}
    sources = {key: value for key, value in zip(table["key"], table["source_keys"], strict=True) if key in wanted}
    members = {
        key: files
        for tar in (artifact_files(directory, "synthetic-*.tar") if wanted else ())
        for key, files in tar_members(tar, wanted)
    }
    return [
        [_case(key, note, members[key], sources.get(key), images) for key, note in group.items() if key in members]
        for group in groups
    ]


def _case(key: str, note: str, files: dict[str, bytes], sources: Any, images: SourceImages | None) -> Case:
    made = embed_bytes(files.get("jpg", b""), key)
    first = str(sources[0]) if isinstance(sources, (list, np.ndarray)) and len(sources) else ""
    source = images.picture(first) if images is not None and first else Picture(label=first, note="source not at hand")
    return Case(source=source, pose=_target_pose(files.get("json", b""), made), made=made, note=note)


def _target_pose(data: bytes, made: Picture) -> Picture:
    """The target skeleton on black, from the sample's own record."""
    try:
        record = parse_object(data)
        keypoints = np.array(record["keypoints"], float).reshape(JOINT_COUNT, 3)
        size = (int(record["height"]), int(record["width"]))
        drawing = draw_skeleton(keypoints, made.height, made.width, source_size=size)
    except (ValueError, KeyError, TypeError):
        return Picture(width=made.width, height=made.height, note="no record of the pose")
    return embed(Image.fromarray(drawing), "target pose", photo=False)
