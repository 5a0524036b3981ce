"""Cost against quality of samplers and of a student, at the smallest size."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from benchmarks.people import sampling_costs, scores
from benchmarks.people.cost_chart import save_chart
from benchmarks.people.identity_judge import JudgeConfig
from benchmarks.people.sampling_costs import CostsConfig, SamplingConfig, markdown, measure
from benchmarks.people.scores import ScoresConfig, cost_conditions
from datasets.runtime.artifacts import build
from datasets.runtime.errors import InputError
from datasets.runtime.keys import artifact_key
from imagpose.config import BUILT_IN
from imagpose.distillation.consistency import student_scheduler
from imagpose.training.generators import load_generator, save_generator

SMALL = JudgeConfig(identities=3, judge_images=2, targets=3, steps=2, batch_size=4)
FIRST, SECOND = SamplingConfig(sampler="unipc", steps=2), SamplingConfig(sampler="ddim", steps=1, guidance=1)


def config(folder: Path, **fields) -> CostsConfig:
    defaults = {
        "modes": ("T1", "IMAGPose*"),
        "samplings": (SECOND, FIRST),
        "reference": FIRST,
        "student_steps": (1,),
        "limit": 2,
        "bootstrap": 50,
        "judge": SMALL,
        "cache": folder / "store",
        "out": folder / "out",
        "device": "cpu",
    }
    return CostsConfig(**{**defaults, **fields})


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    """The built-in generator as it is, called a student."""
    folder, parts = tmp_path_factory.mktemp("student"), load_generator(BUILT_IN)
    save_generator(folder, type(parts)(**{**vars(parts), "scheduler": student_scheduler(parts, 50)}))
    return folder


def test_every_scenario_and_sampler_has_its_cost_quality_and_difference_in_table_and_picture(
    tmp_path, student, monkeypatch
) -> None:
    results = measure(config(tmp_path, student=student))
    rows = results["rows"]
    assert [(row["mode"], row["sampling"], row["network_calls"], row["student"]) for row in rows] == [
        (mode, *row)
        for mode in ("T1", "IMAGPose*")
        for row in (("unipc 2, guidance 1.5", 4, False), ("ddim 1", 1, False), ("lcm 1", 1, True))
    ]
    for row in rows:
        assert row["pictures"] == 6 and row["pictures_per_second"] == pytest.approx(1 / row["cpu_seconds"], abs=1e-2)
    assert all(
        row[metric]["difference"] == 0 and row["inside"] for row in (rows[0], rows[3]) for metric in ("pose", "ssim")
    )
    again, by_hand = pd.read_parquet(tmp_path / "out" / "table.parquet"), rows[1]["ssim"]
    assert by_hand["difference"] == pytest.approx(by_hand["mean"] - rows[0]["ssim"]["mean"], abs=2e-4)
    assert again["ssim.mean"].tolist() == [row["ssim"]["mean"] for row in rows]
    assert (
        "| T1 | lcm 1 (student) | 1 |" in markdown(results) == (tmp_path / "out" / "table.md").read_text().rstrip("\n")
    )
    assert (tmp_path / "out" / "costs.png").stat().st_size > 10_000
    drawing = (tmp_path / "out" / "costs.svg").read_text()
    assert "processor seconds a picture" in drawing and "lcm (student)" in drawing
    assert json.loads((tmp_path / "out" / "results.json").read_text())["rows"] == json.loads(json.dumps(rows))
    monkeypatch.setattr(scores, "generate", lambda *_: pytest.fail("scores that are there were made again"))
    assert measure(config(tmp_path, student=student))["rows"] == rows


def test_what_cannot_be_compared_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"reference unipc 12, guidance 1\.5 is none of the samplings"):
        config(tmp_path, reference=SamplingConfig(sampler="unipc", steps=12))
    lcm = SamplingConfig(sampler="lcm", steps=4, guidance=1)
    with pytest.raises(ValueError, match="the student's go by student and student_steps"):
        config(tmp_path, samplings=(FIRST, lcm))
    for twice in ({"modes": ("T1", "T1")}, {"samplings": (FIRST, FIRST)}, {"student_steps": (4, 4)}):
        with pytest.raises(ValueError, match="name each once"):
            config(tmp_path, **twice)


def test_what_a_network_does_not_take_is_refused_before_anybody_is_rendered(tmp_path, student) -> None:
    with pytest.raises(InputError, match="'lcm' needs a generator that 'imagpose distill' made"):
        measure(config(tmp_path, student=BUILT_IN))
    with pytest.raises(InputError, match="51 steps with a student that was distilled along 50"):
        measure(config(tmp_path, student=student, student_steps=(4, 51)))
    with pytest.raises(InputError, match="is a few-step student, which sampler 'ddim' does not fit"):
        measure(config(tmp_path, generator=student))
    other = shutil.copytree(student, tmp_path / "other")
    index = json.loads((other / "model_index.json").read_text())
    (other / "model_index.json").write_text(json.dumps(index | {"view_height": 64}))
    with pytest.raises(InputError, match="other makes views of 64x64, its teacher of 128x64"):
        measure(config(tmp_path, student=other))
    assert not (tmp_path / "store").exists() and not (tmp_path / "out").exists()


def test_a_cost_of_other_conditions_is_measured_anew(tmp_path, monkeypatch) -> None:
    asked = []

    def noted(wanted: ScoresConfig, store: Path) -> None:
        asked.append(artifact_key(wanted))
        raise KeyboardInterrupt

    monkeypatch.setattr(sampling_costs, "scores_of", noted)
    judge = build(SMALL, lambda *_: {}, output=tmp_path / "judge")
    monkeypatch.setattr(sampling_costs, "find_judge", lambda *_: judge)
    for batch_size in (16, 32, 16):
        with pytest.raises(KeyboardInterrupt):
            measure(config(tmp_path, batch_size=batch_size))
    assert asked[0] == asked[2] != asked[1]
    assert (
        cost_conditions(torch.device("cpu"), 16) == "" and cost_conditions(torch.device("cpu"), 8) == "cpu, 8 canvases"
    )


def test_a_sampler_with_and_without_guidance_is_two_lines(tmp_path) -> None:
    quality = {"mean": 0.5, "interval": [0.4, 0.6]}
    rows = [
        {"mode": "T1", "sampling": f"ddim {steps} {guidance}", "sampler": "ddim", "steps": steps, "guidance": guidance}
        | {"student": False, "seconds": steps * guidance, "ssim": quality}
        for guidance in (1, 1.5)
        for steps in (4, 8)
    ]
    save_chart(rows, "seconds", {"ssim": "SSIM"}, "ddim 8 1.5", tmp_path)
    drawing = (tmp_path / "costs.svg").read_text()
    assert "ddim, guidance 1<" in drawing and "ddim, guidance 1.5<" in drawing
