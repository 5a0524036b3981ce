"""Ablations: variants of one recipe are trained with equal seeds; interrupted ones resume; one table comes out."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datasets.runtime.artifacts import build
from datasets.runtime.errors import InputError
from imagpose.config import ABLATIONS, AblateConfig, EvaluateGeneratorConfig, ModelConfig, TrainGeneratorConfig
from imagpose.evaluation import ablations
from imagpose.evaluation.ablation_table import ScoredRow
from imagpose.evaluation.ablations import compared
from imagpose.evaluation.comparison import estimate, spread_over_seeds
from imagpose.modeling.denoiser import new_denoiser
from tests import small_encoded
from tests.small_encoded import encoded_artifact

SSIM = {"B0": 0.5, "B3": 0.6, "full": 0.7, "other": 0.65, "M1": 0.45}
PEOPLE = 12
OF_MODE = {"T1": 0.0, "T2": 0.0, "T3": 0.05, "IMAGPose*": -0.05}
OF_PAIR = np.linspace(-0.3, 0.3, 2 * PEOPLE)


def scores(variant: str, seed: int, mode: str) -> pd.DataFrame:
    """Pairs that differ much from each other and little between variants, whose PSNR nothing moves but the seed."""
    noise = np.random.default_rng([len(variant), seed]).normal(size=len(OF_PAIR))
    return pd.DataFrame(
        {
            "pair": np.arange(len(OF_PAIR)),
            "pid": np.arange(len(OF_PAIR)) // 2,
            "target": "x",
            "ssim": SSIM[variant] + OF_MODE[mode] + OF_PAIR + 0.005 * noise + 0.01 * seed,
            "psnr": 20 + 10 * OF_PAIR + noise + (1 if variant == "B3" else -1) * seed,
            "row": mode,
        }
    )


@pytest.fixture
def made(monkeypatch) -> list[str]:
    """Which stages ran; in their places stand stages that only write down what they were asked."""
    calls = []

    def generator(config: TrainGeneratorConfig, directory: Path) -> dict:
        (directory / "model_index.json").write_text("{}")
        switches = {name: getattr(config.model, name) for name in ABLATIONS["full"]}
        (variant,) = [name for name, value in ABLATIONS.items() if value == switches]
        variant = variant if "encoder" not in config.encoded.name else "other"
        (directory / "variant").write_text(f"{variant} {config.seed}")
        calls.append(f"train {variant} {config.seed}")
        return {
            "parameters": 10,
            "steps": config.steps,
            "loss": 0.25 + config.seed,
            "validation_loss": None,
            "canvases_per_second": 3.0,
        }

    def evaluation(config: EvaluateGeneratorConfig, directory: Path) -> dict:
        variant, seed = (config.generator / "variant").read_text().split()
        calls.append(f"evaluate {variant} {seed} {','.join(config.modes)}")
        assert config.seed == 0  # pairs and noise are the same for all
        pd.concat([scores(variant, int(seed), mode) for mode in config.modes]).to_parquet(directory / "pairs.parquet")
        rows = [{"row": mode} for mode in config.modes]
        rows += [{"row": "VAE", "ssim": 0.9, "psnr": 30.0}, {"row": "copy", "ssim": 0.4, "psnr": 15.0}]
        return {"rows": rows, "pairs": 24, "people": PEOPLE, "absent": ["lpips: no weights"]}

    monkeypatch.setattr(ablations, "make_generator", generator)
    monkeypatch.setattr(ablations, "make_evaluation", evaluation)
    monkeypatch.setattr(ablations, "prepare", lambda *_: None)
    return calls


def config(folder: Path, **fields) -> AblateConfig:
    encoded = encoded_artifact(folder)
    train = TrainGeneratorConfig(
        encoded=encoded, steps=7, batch_size=2, device="cpu", init_from=fields.pop("start", None)
    )
    defaults = {
        "variants": ("B0", "B3", "full"),
        "limit": 24,
        "further_modes": (),
        "pose_backend": None,
        "bootstrap": 300,
    }
    return AblateConfig(train=train, shards=encoded, **{**defaults, **fields})


def test_every_variant_is_trained_and_evaluated_alike_with_every_seed_into_one_table(tmp_path, made) -> None:
    folder = build(config(tmp_path), ablations.make_ablation, output=tmp_path / "out")
    assert made == [
        f"{what} {name} {seed}{' T1' if what == 'evaluate' else ''}"
        for seed in (0, 1)
        for name in ("B0", "B3", "full")
        for what in ("train", "evaluate")
    ]
    table = pd.read_parquet(folder / "ablation.parquet").set_index("variant")
    for name in ("B0", "B3", "full"):
        by_hand = np.concatenate([scores(name, seed, "T1").ssim for seed in (0, 1)])
        assert table.loc[name, "ssim"] == pytest.approx(by_hand.mean())
        assert table.loc[name, "ssim_low"] < table.loc[name, "ssim"] < table.loc[name, "ssim_high"]
    assert table.loc[["VAE", "copy"], "ssim"].tolist() == [0.9, 0.4]
    assert table.loc["B3", ["cross_view_attention", "texture_tokens", "masked_latents"]].tolist() == [True, False, True]
    assert table.loc["B0", "seeds"] == 2 and table.loc["B0", "loss"] == 0.75
    assert table.loc["B0", "ssim_difference"] == pytest.approx(-0.2, abs=0.01)
    assert table.loc[["B0", "B3"], "ssim_verdict"].tolist() == ["worse", "worse"]
    assert table.loc["B3", "psnr_verdict"] == "open"  # one seed says better, the other worse
    page = (folder / "ablation.md").read_text()
    assert "24 test pairs of 12 people" in page and "seeds 0, 1" in page
    assert "- LPIPS: no weights given" in page and "pass --alexnet FILE" in page and "FID |" not in page
    absent = [line for line in page.splitlines() if line.startswith("- ")]
    options = {word for line in absent for word in line.split() if word.startswith("--")}
    assert options == {"--alexnet", "--inception"}, "of this command's"
    assert "| SSIM | 3 | 0 | 0 | as in the paper |" in page and "| Table 2 | B0 | T1 | **-0." in page


def test_fid_stands_in_the_page_where_its_weights_are_given(tmp_path, made, monkeypatch) -> None:
    evaluation = ablations.make_evaluation

    def with_fid(settings: EvaluateGeneratorConfig, directory: Path) -> dict:
        summary = evaluation(settings, directory)
        rows = [row | {"fid": 12.5 + int(made[-1].split()[2])} for row in summary["rows"]]
        return summary | {"rows": rows}

    monkeypatch.setattr(ablations, "make_evaluation", with_fid)
    (tmp_path / "weights").write_bytes(b"")
    settings = config(tmp_path, inception=tmp_path / "weights")
    page = (build(settings, ablations.make_ablation, output=tmp_path / "out") / "ablation.md").read_text()
    assert "| SSIM | PSNR | FID |" in page and "13.00 |\n| Table 2 | B3" in page and "- FID:" not in page


def test_claims_of_the_papers_order_are_judged_one_by_one(tmp_path, made) -> None:
    every = tuple(OF_MODE)[1:]
    folder = build(config(tmp_path, further_modes=every), ablations.make_ablation, output=tmp_path / "out")
    order = pd.read_parquet(folder / "order.parquet")
    ssim = order[order.metric == "ssim"].set_index(["better", "worse"]).verdict.to_dict()
    pairs = {("full", "B0"), ("full", "B3"), ("B3", "B0"), ("full in T3", "full")}
    assert ssim == dict.fromkeys(pairs, "holds")
    table = pd.read_parquet(folder / "ablation.parquet")
    figure = table[table.table == "Fig. 7"].set_index("mode")
    assert figure.ssim_verdict.to_dict() == {"T2": "open", "T3": "better", "IMAGPose*": "worse"}
    assert "evaluate full 1 T1,T2,T3,IMAGPose*" in made and "evaluate B0 1 T1" in made
    SSIM["full"], kept = 0.55, SSIM["full"]
    try:
        again = build(config(tmp_path), ablations.make_ablation, output=tmp_path / "again")
    finally:
        SSIM["full"] = kept
    assert "| SSIM | 2 | 1 | 0 | not as in the paper |" in (again / "ablation.md").read_text()
    assert "Reversed: full over B3 (SSIM)." in (again / "ablation.md").read_text()


def test_m1_is_a_row_of_table_7_that_the_full_model_is_to_beat(tmp_path, made) -> None:
    folder = build(config(tmp_path, variants=("full", "M1")), ablations.make_ablation, output=tmp_path / "out")
    table = pd.read_parquet(folder / "ablation.parquet").set_index("variant")
    assert table.loc["M1", "table"] == "Table 7" and not table.loc["M1", "joint_canvas"]
    order = pd.read_parquet(folder / "order.parquet")
    assert order[["better", "worse"]].drop_duplicates().to_numpy().tolist() == [["full", "M1"]]


def test_other_encoders_are_rows_of_the_full_model(tmp_path, made) -> None:
    other = encoded_artifact(tmp_path / "further")
    renamed = other.rename(other.with_name("encoder"))
    settings = config(tmp_path, variants=("full",), seeds=(3,), encoders={"other": renamed})
    folder = build(settings, ablations.make_ablation, output=tmp_path / "out")
    table = pd.read_parquet(folder / "ablation.parquet").set_index("variant")
    assert table.loc["other", "table"] == "Table 3" and table.loc["other", "ssim_verdict"] == "worse"
    assert made == ["train full 3", "evaluate full 3 T1", "train other 3", "evaluate other 3 T1"]
    assert "One seed: intervals of differences are for these trainings" in (folder / "ablation.md").read_text()


def test_an_interrupted_ablation_keeps_what_is_done(tmp_path, made, monkeypatch) -> None:
    evaluation = ablations.make_evaluation

    def stopped(settings: EvaluateGeneratorConfig, directory: Path) -> dict:
        if len(made) == 7:
            raise KeyboardInterrupt
        return evaluation(settings, directory)

    monkeypatch.setattr(ablations, "make_evaluation", stopped)
    with pytest.raises(KeyboardInterrupt):
        build(config(tmp_path), ablations.make_ablation, output=tmp_path / "out")
    assert made[-1] == "train B0 1"
    monkeypatch.setattr(ablations, "make_evaluation", evaluation)
    build(config(tmp_path), ablations.make_ablation, output=tmp_path / "out")
    assert len(made) == len(set(made)) == 12


def test_what_cannot_be_varied_is_refused(tmp_path, made, monkeypatch) -> None:
    with pytest.raises(ValueError, match="name each once"):
        config(tmp_path, variants=("B0", "B0"))
    with pytest.raises(ValueError, match="name each once"):
        config(tmp_path, seeds=(1, 1))
    with pytest.raises(ValueError, match="are of the full model; add it"):
        config(tmp_path, variants=("B0",), further_modes=("T3",))
    with pytest.raises(ValueError, match="'B0' is a variant of the paper"):
        config(tmp_path, encoders={"B0": encoded_artifact(tmp_path)})
    (tmp_path / "generator").mkdir()
    for fields in ({"start": tmp_path / "generator"}, {"bases": {"x": tmp_path / "generator"}}):
        with pytest.raises(InputError, match="generator cannot be used: its unet"):
            ablations.make_ablation(config(tmp_path, **fields), tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="runs in one process"):
        ablations.make_ablation(config(tmp_path), tmp_path)
    assert made == []


def test_variants_start_from_a_generator_that_has_no_part_which_one_of_them_lacks(tmp_path, made, monkeypatch) -> None:
    def started(parts: str, **fields) -> list[bool]:
        """Whether each variant adds its parts to the start, or what is said against that."""
        denoiser = new_denoiser(ModelConfig(**ABLATIONS[parts]), 4, 96)
        monkeypatch.setattr(ablations, "load_denoiser", lambda _: denoiser)
        monkeypatch.setattr(ablations, "init_from_problem", lambda _: None)
        (tmp_path / parts).mkdir(exist_ok=True)
        settings = config(tmp_path, start=tmp_path / parts, **fields)
        build(settings, ablations.make_ablation, output=tmp_path / f"of-{parts}")
        return [variant.recipe.add_parts for variant in ablations.variants_of(settings)]

    assert started("M1", variants=("B0", "full", "M1")) == [True] * 3
    assert started("B3", variants=("B3", "full")) == [True] * 2
    with pytest.raises(InputError, match="B0 is a generator with joint_canvas, which M1 has to do without"):
        started("B0", variants=("B0", "full", "M1"))
    with pytest.raises(InputError, match="full is a generator with cross_view_attention and texture_tokens and"):
        started("full")
    assert not any(variant.recipe.add_parts for variant in ablations.variants_of(config(tmp_path)))


def test_what_the_first_evaluation_would_refuse_is_refused_before_the_first_training(
    tmp_path, made, monkeypatch
) -> None:
    with pytest.raises(InputError, match="sampler 'lcm' is for few-step students"):
        ablations.make_ablation(config(tmp_path, sampler="lcm"), tmp_path)
    base = tmp_path / "sd"
    (base / "unet").mkdir(parents=True)
    (base / "unet" / "config.json").write_text('{"_class_name": "UNet2DConditionModel", "in_channels": 9}')
    with pytest.raises(InputError, match="sd cannot be used: its unet"):
        ablations.make_ablation(config(tmp_path, bases={"inpainting": base}), tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(small_encoded, "VIEW", (64, 32))
        other = small_encoded.encoded_artifact(tmp_path / "other")
    with pytest.raises(InputError, match=r"views of 64x32, .* of 32x16; scores of different sizes do not compare"):
        ablations.make_ablation(config(tmp_path, encoders={"other": other}), tmp_path)
    monkeypatch.undo()
    with pytest.raises(
        InputError, match="is an artifact of stage 'encode', expected 'write-shards'"
    ):  # no image shards
        ablations.make_ablation(config(tmp_path), tmp_path)
    assert made == []


def test_an_interval_holds_what_new_people_and_new_trainings_would_change() -> None:
    rng = np.random.default_rng(0)
    people, of_person = np.repeat(np.arange(40), 3), np.repeat(rng.normal(size=40), 3)
    values = np.stack([of_person, of_person]) + np.array([[0.3], [-0.3]])
    alone, with_seeds = estimate(values, people, 2000, 0), estimate(values, people, 2000, 0, 0.3 * np.sqrt(2), 5)
    assert alone.high - alone.mean == pytest.approx(1.96 * of_person.std() / np.sqrt(40), rel=0.15)
    reach = 2.5706 * 0.3  # Student's quantile for 5 degrees of freedom, times s / sqrt(2)
    assert with_seeds.high - with_seeds.mean == pytest.approx(np.hypot(alone.high - alone.mean, reach), rel=1e-3)
    assert spread_over_seeds([values, 0 * values]) == (pytest.approx(0.3 * np.sqrt(2)), 1)
    assert spread_over_seeds([values, values + 1]) == (pytest.approx(0, abs=1e-12), 1), "what seeds do to all rows"
    assert spread_over_seeds([values[:1], values[:1]]) == spread_over_seeds([values]) == (0.0, 0)
    assert (alone.sign, estimate(values + 9, people, 99, 0).sign, estimate(values - 9, people, 99, 0).sign) == (
        0,
        1,
        -1,
    )
    endless = np.where(np.arange(values.shape[1]) == 5, np.inf, values)
    assert np.isfinite(estimate(endless, people, 99, 0).mean)


def test_intervals_over_trainings_hold_as_often_as_they_say() -> None:
    """Seven variants and Fig. 7's scenarios, two seeds, nothing but the trainings' own noise between them.

    Pooling differences to the full model, those of its scenarios among them, gave 86 % between variants.
    """
    rng, people = np.random.default_rng(1), np.arange(4)
    names = ("B0", "B1", "B2", "B3", "B4", "full", "M1")
    held: dict[str, list[bool]] = {"variants": [], "scenarios": []}

    def row(variant: str, mode: str, by_seed: np.ndarray) -> ScoredRow:
        scores = [pd.DataFrame({"pid": people, "ssim": np.full(4, value)}) for value in by_seed]
        return ScoredRow(table="Table 2", variant=variant, mode=mode, scores=scores, facts={})

    for _ in range(400):
        seeds = rng.normal(size=2)
        trained = {name: seeds + rng.normal(size=2) for name in names}
        rows = [row(name, "T1", trained[name] + 0.1 * rng.normal(size=2)) for name in names]
        rows += [row("full", mode, trained["full"] + 0.1 * rng.normal(size=2)) for mode in ("T2", "T3", "IMAGPose*")]
        comparison = compared(rows, "T1", 2, 0)
        for what, pair in (("variants", (rows[0], rows[3])), ("scenarios", (rows[7], rows[8]))):
            held[what].append(comparison.difference(*pair, "ssim").sign == 0)
    assert 0.92 <= np.mean(held["variants"]) <= 0.98
    assert 0.92 <= np.mean(held["scenarios"]) <= 0.98
