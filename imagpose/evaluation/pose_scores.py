"""Whether evaluated pictures show the poses that were requested: a column beside the scores of `evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from datasets.poses.estimation import PoseEstimator
from imagpose.evaluation.data import HeldOutImages
from imagpose.evaluation.evaluate import file_name, read_pictures
from imagpose.sampling.pose_check import find_skeletons, pose_score

AT_ONCE = 64


def scored_pairs(evaluation: Path, mode: str) -> pd.DataFrame:
    """The scores of one scenario of a finished evaluation, a line for each pair, in the pairs' order."""
    scores = pd.read_parquet(evaluation / "pairs.parquet")
    return scores[scores.row == mode].sort_values("pair", ignore_index=True)


def pose_scores(
    evaluation: Path, modes: Sequence[str], images: HeldOutImages, estimator: PoseEstimator, kept: Path
) -> pd.DataFrame:
    """Share of the target joints found within a tenth of the figure's height (PCK@0.1): `row`, `pair`, `pose`.

    Args:
        evaluation: finished, of `modes` at least.
        images: the pictures' targets, at the generator's view size.
        kept: a Parquet file that keeps the result, and is read where it lies.
    """
    if kept.is_file():
        return pd.read_parquet(kept)
    frames = []
    for mode in modes:
        target_of = scored_pairs(evaluation, mode).set_index("pair").target
        for tar in sorted((evaluation / "pictures").glob(f"{file_name(mode)}-[0-9]*.tar")):
            numbers, pictures = read_pictures(tar)
            found = [
                skeleton
                for start in range(0, len(pictures), AT_ONCE)
                for skeleton in find_skeletons(estimator, [np.asarray(p) for p in pictures[start : start + AT_ONCE]])
            ]
            scores = [
                pose_score(images.keypoints(target_of[number]), skeleton)
                for number, skeleton in zip(numbers, found, strict=True)
            ]
            frames.append(pd.DataFrame({"row": mode, "pair": numbers, "pose": pd.array(scores, dtype="Float64")}))
    table = pd.concat(frames, ignore_index=True).astype({"pose": float})
    temporary = kept.with_name(f".{kept.name}.tmp")
    table.to_parquet(temporary, index=False)
    temporary.replace(kept)
    return table
