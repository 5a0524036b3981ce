"""The pose column of an ablation: skeletons found again on an evaluation's pictures, kept for the next run."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from datasets.shards.tars import write_tar
from imagpose.evaluation.pose_scores import pose_scores, scored_pairs

SIZE = (32, 16)
TARGETS = ["near", "far", "near"]


class Targets:
    """In the place of `HeldOutImages`."""

    def keypoints(self, key: str) -> np.ndarray:
        return skeleton(0.0 if key == "near" else 9.0)


class Estimator:
    """Finds the same person on every picture, and counts the pictures."""

    seen = 0

    def estimate(self, pictures) -> list[np.ndarray]:
        self.seen += len(pictures)
        assert all(picture.shape == (*SIZE, 3) for picture in pictures)
        return [skeleton(0.0)[None] for _ in pictures]


def skeleton(shift: float) -> np.ndarray:
    """A figure 17 pixels high."""
    rows = np.arange(18, dtype=np.float32)
    return np.stack([np.full(18, 3 + shift, np.float32), rows + 5, np.ones(18, np.float32)], axis=1)


def evaluation(folder: Path) -> Path:
    (folder / "pictures").mkdir(parents=True)
    for name in ("T1", "IMAGPose-star"):
        for number, pairs in enumerate(([2, 0], [1])):
            members = [(f"{pair:06d}.png", picture()) for pair in pairs]
            write_tar(folder / "pictures" / f"{name}-{number:05d}.tar", iter(members))
    rows = [{"row": mode, "pair": i, "target": TARGETS[i]} for mode in ("T1", "IMAGPose*") for i in (2, 0, 1)]
    pd.DataFrame(rows).to_parquet(folder / "pairs.parquet")
    return folder


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", SIZE[::-1]).save(buffer, format="PNG")
    return buffer.getvalue()


def test_every_picture_is_scored_against_the_pose_of_its_pair_and_scores_are_kept(tmp_path) -> None:
    made, estimator, kept = evaluation(tmp_path / "evaluation"), Estimator(), tmp_path / "pose.parquet"
    assert scored_pairs(made, "T1").pair.tolist() == [0, 1, 2]
    found = pose_scores(made, ("T1", "IMAGPose*"), Targets(), estimator, kept)
    for mode in ("T1", "IMAGPose*"):
        of_mode = found[found.row == mode].set_index("pair").pose
        assert of_mode.to_dict() == {0: 1.0, 1: 0.0, 2: 1.0}
    assert estimator.seen == 6
    pd.testing.assert_frame_equal(pose_scores(made, ("T1", "IMAGPose*"), Targets(), estimator, kept), found)
    assert estimator.seen == 6


def test_a_picture_whose_pose_cannot_be_scored_has_none(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Targets, "keypoints", lambda self, key: np.full((18, 3), np.nan, np.float32))
    found = pose_scores(evaluation(tmp_path), ("T1",), Targets(), Estimator(), tmp_path / "pose.parquet")
    assert found.pose.isna().all() and found.pose.dtype == float
