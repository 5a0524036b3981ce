"""An ablation's generators on rendered people: the tables, from scores that are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.people import ablation_people
from benchmarks.people.ablation_people import AblationPeopleConfig, measure
from benchmarks.people.scores import ScoresConfig
from datasets.runtime.artifacts import build
from datasets.runtime.errors import ArtifactError
from imagpose.config import AblateConfig, TrainGeneratorConfig
from tests.small_encoded import encoded_artifact


def test_an_ablations_generators_are_judged_by_pose_and_identity_in_its_own_tables(tmp_path, monkeypatch) -> None:
    encoded = encoded_artifact(tmp_path)
    train = TrainGeneratorConfig(encoded=encoded, steps=1, batch_size=2, device="cpu")
    ablation = AblateConfig(train=train, shards=encoded, variants=("B4", "full"), further_modes=("T3",))

    folder = build(ablation, lambda *_: {}, output=tmp_path / "ablation")

    def scored(config: ScoresConfig, store: Path) -> tuple[pd.DataFrame, dict]:
        variant, seed = config.generator.parts[-3], config.generator.parts[-2]
        better = 0.1 * (variant == "full") + 0.1 * (config.mode == "T3") + 0.001 * (seed == "seed-1")
        people = np.repeat(np.arange(8), 2)
        columns = dict.fromkeys(("pose", "ssim"), 0.5 + better + 0.01 * people)
        return pd.DataFrame({"pid": people, "identity": (people % 2).astype(float), **columns}), {}

    monkeypatch.setattr(ablation_people, "scores_of", scored)
    monkeypatch.setattr(ablation_people, "find_judge", lambda *_: tmp_path)
    config = AblationPeopleConfig(ablation=folder, out=tmp_path / "out", bootstrap=50)
    table = measure(config).table().set_index(["variant", "mode"])
    assert table.loc[("B4", "T1"), "pose_difference"] == pytest.approx(-0.1)
    assert table.loc[("B4", "T1"), ["pose_verdict", "identity_verdict"]].tolist() == ["worse", "open"]
    assert table.loc[("full", "T3"), ["table", "ssim_verdict"]].tolist() == ["Fig. 7", "better"]
    page = (tmp_path / "out" / "table.md").read_text()
    assert "seeds 0, 1" in page and "| identity | 0 | 0 | 2 | not contradicted |" in page


def test_a_folder_that_is_no_ablation_is_refused(tmp_path) -> None:
    with pytest.raises(ArtifactError, match="is not a finished artifact"):
        measure(AblationPeopleConfig(ablation=tmp_path, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()
