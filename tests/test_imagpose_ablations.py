"""Ablations: each variant is one recipe with its switches; interrupted ones resume; one table comes out."""

from pathlib import Path

import pandas as pd
import pytest

from datasets.runtime.artifacts import build
from datasets.runtime.errors import InputError
from imagpose.config import ABLATIONS, AblateConfig, EvaluateGeneratorConfig, TrainGeneratorConfig
from imagpose.evaluation import ablations
from tests.small_encoded import encoded_artifact

SSIM = {"B0": 0.5, "B3": 0.6, "full": 0.7}


@pytest.fixture
def made(monkeypatch) -> list[str]:
    """Which stages ran; in their places stand stages that only write down what they were asked."""
    calls = []

    def generator(config: TrainGeneratorConfig, directory: Path) -> dict:
        (directory / "model_index.json").write_text("{}")
        switches = {name: getattr(config.model, name) for name in ABLATIONS["full"]}
        (variant,) = [name for name, value in ABLATIONS.items() if value == switches]
        (directory / "variant").write_text(variant)
        calls.append(f"train {variant}")
        return {
            "parameters": 10,
            "steps": config.steps,
            "loss": 0.25,
            "validation_loss": None,
            "canvases_per_second": 3.0,
        }

    def evaluation(config: EvaluateGeneratorConfig, directory: Path) -> dict:
        variant = (config.generator / "variant").read_text()
        calls.append(f"evaluate {variant}")
        rows = [{"row": config.modes[0], "ssim": SSIM[variant], "psnr": 20.0, "ssim_interval": [0.1, 0.2]}]
        rows += [{"row": "VAE", "ssim": 0.9, "psnr": 30.0}, {"row": "copy", "ssim": 0.4, "psnr": 15.0}]
        return {"rows": rows, "pairs": 6, "people": 3, "absent": ["lpips: no weights"]}

    monkeypatch.setattr(ablations, "make_generator", generator)
    monkeypatch.setattr(ablations, "make_evaluation", evaluation)
    return calls


def config(folder: Path, **fields) -> AblateConfig:
    encoded = encoded_artifact(folder)
    train = TrainGeneratorConfig(encoded=encoded, steps=7, batch_size=2, device="cpu", **fields)
    return AblateConfig(train=train, shards=encoded, variants=("B0", "B3", "full"), limit=6)


def test_every_variant_is_trained_and_evaluated_alike_into_one_table(tmp_path, made) -> None:
    folder = build(config(tmp_path), ablations.make_ablation, output=tmp_path / "out")
    assert made == [f"{what} {name}" for name in ("B0", "B3", "full") for what in ("train", "evaluate")]
    table = pd.read_parquet(folder / "ablation.parquet").set_index("variant")
    assert table["ssim"].to_dict() == {**SSIM, "VAE": 0.9, "copy": 0.4}
    assert table.loc["B3", ["cross_view_attention", "texture_tokens", "masked_latents"]].tolist() == [True, False, True]
    page = (folder / "ablation.md").read_text()
    assert "| B0 | off | off | off | 10 | 7 |" in page and "6 test pairs of 3 people" in page and "no weights" in page


def test_an_interrupted_ablation_keeps_what_is_done(tmp_path, made, monkeypatch) -> None:
    evaluation = ablations.make_evaluation

    def stopped(settings: EvaluateGeneratorConfig, directory: Path) -> dict:
        if len(made) == 3:
            raise KeyboardInterrupt
        return evaluation(settings, directory)

    monkeypatch.setattr(ablations, "make_evaluation", stopped)
    with pytest.raises(KeyboardInterrupt):
        build(config(tmp_path), ablations.make_ablation, output=tmp_path / "out")
    monkeypatch.setattr(ablations, "make_evaluation", evaluation)
    build(config(tmp_path), ablations.make_ablation, output=tmp_path / "out")
    assert made == ["train B0", "evaluate B0", "train B3", "evaluate B3", "train full", "evaluate full"]


def test_what_cannot_be_varied_is_refused(tmp_path, made, monkeypatch) -> None:
    with pytest.raises(ValueError, match="name each once"):
        AblateConfig(**{**config(tmp_path).model_dump(), "variants": ("B0", "B0")})
    (tmp_path / "generator").mkdir()
    with pytest.raises(InputError, match="whose parts the variants would have to take away"):
        ablations.make_ablation(config(tmp_path, init_from=tmp_path / "generator"), tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="runs in one process"):
        ablations.make_ablation(config(tmp_path), tmp_path)
    assert made == []
