"""The measurement of a generator on rendered people, at the smallest size."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks.people.builtin_generator import QualityConfig, measure
from benchmarks.people.identity_judge import Judge, JudgeConfig, make_judge
from benchmarks.people.rendered_people import render_people
from benchmarks.people.table import table
from datasets.runtime.artifacts import build
from datasets.runtime.errors import InputError
from imagpose.metrics.similarity import ssim, ssim_within

SMALL = JudgeConfig(identities=3, judge_images=2, steps=2, batch_size=4)


def test_people_are_drawn_again_pixel_for_pixel_and_targets_stand_alone():
    drawn = render_people(5, 2, 3, "target", (64, 32))
    assert drawn.pictures.shape == (2, 3, 64, 32, 3)
    again = render_people(5, 2, 4, "target", (64, 32))  # one more picture of each leaves the others as they are
    np.testing.assert_array_equal(again.pictures[:, :3], drawn.pictures)
    assert (drawn.covers > 127).mean(axis=(2, 3)).min() > 0.05
    joints = drawn.keypoints[..., :2]
    seen = np.isfinite(joints).all(-1)
    columns, rows = (np.rint(joints[seen]).astype(int)).T
    person, number, _ = np.nonzero(seen)
    assert (drawn.covers[person, number, rows, columns] > 0).mean() > 0.9  # joints lie on the person
    assert not np.array_equal(render_people(5, 2, 3, "source", (64, 32)).pictures, drawn.pictures)


def test_ssim_within_a_mask_counts_its_pixels_only():
    rng = np.random.default_rng(0)
    real = torch.from_numpy(rng.integers(0, 256, (2, 3, 64, 32), np.uint8))
    made = real.clone()
    made[:, :, :, 20:] = 128
    everything, left = torch.ones(2, 64, 32, dtype=torch.bool), torch.zeros(2, 64, 32, dtype=torch.bool)
    left[:, :, :10] = True  # further from the change than half a window
    torch.testing.assert_close(ssim_within(made, real, everything), ssim(made, real))
    torch.testing.assert_close(ssim_within(made, real, left), torch.ones(2, dtype=torch.float64))
    assert (ssim(made, real) < 0.9).all()


def test_the_judge_learns_people_and_is_found_again(tmp_path):
    config = JudgeConfig(
        identities=3, judge_images=12, sources=2, targets=3, height=64, width=32, steps=40, batch_size=16
    )
    folder = build(config, make_judge, store=tmp_path)
    judge = Judge(folder)
    truth = np.arange(3)[:, None]
    shares = {"source": judge.answers(judge.sources.pictures), "target": judge.answers(judge.targets.pictures)}
    assert judge.summary["accuracy"] == {name: float((found == truth).mean()) for name, found in shares.items()}
    assert judge.summary["accuracy"]["target"] > 0.6  # chance: 1/3
    assert build(config, make_judge, store=tmp_path) == folder


def test_a_generator_is_measured_beside_truth_bound_and_copy(tmp_path):
    config = QualityConfig(
        judge=SMALL,
        modes=("T1", "IMAGPose*"),
        steps=1,
        guidance=1.0,
        limit=2,
        bootstrap=50,
        cache=tmp_path / "store",
        out=tmp_path / "out",
        device="cpu",
    )
    results = measure(config)
    rows = results["rows"]
    assert list(rows) == ["T1", "IMAGPose*", "truth", "VAE", "copy"]
    assert all(row["pictures"] == results["pictures"] == 6 for row in rows.values())
    assert rows["truth"]["ssim"]["mean"] == 1 and "psnr" not in rows["truth"]
    assert rows["VAE"]["ssim"]["mean"] > rows["copy"]["ssim"]["mean"]
    assert rows["truth"]["pose"]["mean"] > rows["copy"]["pose"]["mean"]  # a copy stands as the source stands
    assert results["chance"] == pytest.approx(1 / 3)
    assert len(results["goals"]) == 8
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == json.loads(json.dumps(results))
    assert (tmp_path / "out" / "contact_sheet-IMAGPose-star.png").is_file()
    assert "a copy of the source" in table(results)


def test_people_of_another_size_than_the_generators_views_are_refused(tmp_path):
    config = QualityConfig(judge=JudgeConfig(height=64, width=32), cache=tmp_path, out=tmp_path / "out")
    with pytest.raises(InputError, match="views of 128x64, the people are 64x32"):
        measure(config)
    assert not (tmp_path / JudgeConfig.stage).exists()
