"""A regeneration whose images few-step students draw: every stage, for one step each, to the report."""

from __future__ import annotations

import pytest

from datasets.runtime.manifests import manifest_of
from datasets.runtime.verify import verify
from flows.config import RegenerateConfig
from flows.pipeline import Regeneration
from tests.in_process import maker


@pytest.mark.timeout(300)
def test_students_draw_the_images_of_a_regeneration(tmp_path):
    """Presets and plans are tested elsewhere; here each stage opens what the one before it has really written."""
    settings = RegenerateConfig(
        preset="smoke",
        store=tmp_path,
        fractions=[40],
        arms=["real", "real+synthetic"],
        workers=1,
        device="cpu",
        distill={"steps": 1, "batch_size": 2, "warmup_steps": 0, "sample_steps": 1},
        synthesize={"sampler": "lcm", "steps": 1, "guidance": 1},
    )
    result = Regeneration(settings, maker(tmp_path)).make()
    (student,), (drawn,) = result.generators.values(), result.synthetic.values()
    made, images = manifest_of(student, "distill-imagpose"), manifest_of(drawn, "synthesize")
    assert manifest_of(made["inputs"]["teacher"]["path"], "train-imagpose")["config"]["fraction"] == 40
    assert images["inputs"]["generator"]["path"] == str(student)
    assert images["summary"]["images"] > 0 and images["summary"]["generator_fraction"] == 40
    report = (result.report / "report.html").read_text()
    assert "distill (generator)" in report and "real+synthetic" in report
    assert [problem for folder in (student, drawn) for problem in verify(folder)] == []
