"""Which generator `generate` takes when none is named."""

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest

from datasets.runtime.artifacts import build
from datasets.runtime.config import StageConfig
from datasets.runtime.errors import ArtifactError
from imagpose.config import BUILT_IN, EvaluateGeneratorConfig
from imagpose.sampling.at_hand import generator_at_hand


class _Shards(StageConfig):
    stage: ClassVar[str] = "write-shards"
    package: ClassVar[str] = "datasets"

    number: int = 0


def shards(store: Path, number: int = 0) -> Path:
    return build(_Shards(number=number), lambda config, folder: {}, store=store)


def generator(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text(folder.name)
    return folder


def manifests(store: Path) -> list[Path]:
    return sorted((store / "evaluate-imagpose").glob("*/manifest.json"))


def evaluate(store: Path, of: Path, *, ssim: float, lpips: float | None, pairs: int = 100, **fields: Any) -> None:
    row = {"row": fields.pop("row", "T1"), "ssim": ssim, **({} if lpips is None else {"lpips": lpips})}
    unknown = fields.pop("unknown_weights", {})
    fields |= {"pairs": fields.pop("pairs_file", None)}
    config = EvaluateGeneratorConfig(generator=of, shards=fields.pop("shards", shards(store)), limit=pairs, **fields)
    size = [config.height or 128, config.width or 64]
    summary = {"pairs": pairs, "size": size, "rows": [row], "unknown_weights": unknown}
    build(config, lambda config, folder: summary, store=store)


def test_without_evaluations_the_built_in_one_is_taken(tmp_path: Path) -> None:
    folder, why = generator_at_hand(tmp_path)
    assert folder == BUILT_IN and "holds no evaluated generator" in why


def test_the_lowest_lpips_on_the_same_pairs_wins(tmp_path: Path) -> None:
    soft, sharp = generator(tmp_path / "soft"), generator(tmp_path / "sharp")
    evaluate(tmp_path, soft, ssim=0.3, lpips=0.41)
    evaluate(tmp_path, sharp, ssim=0.2, lpips=0.34)
    folder, why = generator_at_hand(tmp_path)
    assert folder == sharp and why.endswith("LPIPS 0.340 on 100 pairs") and why.startswith("the best of 2 evaluated on")


def test_only_generators_that_compare_are_counted(tmp_path: Path) -> None:
    sharp, other = generator(tmp_path / "sharp"), generator(tmp_path / "other")
    for steps in (6, 12):
        evaluate(tmp_path, sharp, ssim=0.2, lpips=0.34, steps=steps)
    evaluate(tmp_path, other, ssim=0.2, lpips=0.41, pairs=50)
    folder, why = generator_at_hand(tmp_path)
    assert folder == sharp and why.startswith("the only one evaluated on these pairs")


def test_figures_of_an_earlier_way_to_measure_do_not_compare(tmp_path: Path) -> None:
    old, new = generator(tmp_path / "old"), generator(tmp_path / "new")
    for steps, ssim in ((6, 0.21), (12, 0.22)):
        evaluate(tmp_path, new, ssim=ssim, lpips=None, steps=steps)
    evaluate(tmp_path, old, ssim=0.23, lpips=None)
    changed = next(
        path for path in manifests(tmp_path) if json.loads(path.read_text())["config"]["generator"] == str(old)
    )
    changed.write_text(changed.read_text().replace('"stage_version": 2', '"stage_version": 1'))
    assert generator_at_hand(tmp_path)[0] == new


def test_lpips_by_unknown_weights_is_none(tmp_path: Path) -> None:
    soft, sharp = generator(tmp_path / "soft"), generator(tmp_path / "sharp")
    evaluate(tmp_path, soft, ssim=0.3, lpips=0.41)
    evaluate(tmp_path, sharp, ssim=0.2, lpips=0.01, unknown_weights={"lpips": "lpips: random weights"})
    assert generator_at_hand(tmp_path)[0] == soft


def test_the_same_pairs_in_two_places_compare(tmp_path: Path) -> None:
    soft, sharp = generator(tmp_path / "soft"), generator(tmp_path / "sharp")
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("from,to\na.jpg,b.jpg\n")
    evaluate(tmp_path, soft, ssim=0.3, lpips=0.41, pairs_file=tmp_path / "a.csv")
    evaluate(tmp_path, soft, ssim=0.3, lpips=0.42, pairs_file=tmp_path / "a.csv", steps=6)
    evaluate(tmp_path, sharp, ssim=0.2, lpips=0.34, pairs_file=tmp_path / "b.csv", height=128, width=64)
    assert generator_at_hand(tmp_path)[0] == sharp


def test_a_generator_that_is_another_one_by_now_is_no_choice(tmp_path: Path) -> None:
    changed, other = generator(tmp_path / "changed"), generator(tmp_path / "other")
    evaluate(tmp_path, changed, ssim=0.3, lpips=0.1)
    evaluate(tmp_path, other, ssim=0.2, lpips=0.34)
    (changed / "model_index.json").write_text("trained again")
    assert generator_at_hand(tmp_path)[0] == other


@pytest.mark.parametrize("changes", [{"lpips": "0.3"}, {"ssim": None}, {"row": 1}])
def test_figures_that_are_none_are_refused_where_they_are_read(tmp_path: Path, changes: dict[str, Any]) -> None:
    evaluate(tmp_path, generator(tmp_path / "soft"), ssim=0.3, lpips=0.41)
    (path,) = manifests(tmp_path)
    manifest = json.loads(path.read_text())
    manifest["summary"]["rows"][0] |= changes
    path.write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=f"stage 'evaluate-imagpose' .*{next(iter(changes))}"):
        generator_at_hand(tmp_path)


def test_where_one_has_no_lpips_the_highest_ssim_wins(tmp_path: Path) -> None:
    soft, sharp = generator(tmp_path / "soft"), generator(tmp_path / "sharp")
    evaluate(tmp_path, soft, ssim=0.3, lpips=None)
    evaluate(tmp_path, sharp, ssim=0.2, lpips=0.34)
    assert generator_at_hand(tmp_path)[0] == soft


@pytest.mark.parametrize("other", [{"seed": 1}, {"height": 64, "width": 32}, {"pairs": 50}])
def test_figures_on_other_pairs_do_not_compare(tmp_path: Path, other: dict[str, Any]) -> None:
    easy, best = generator(tmp_path / "easy"), generator(tmp_path / "best")
    for steps, lpips in ((6, 0.36), (12, 0.34)):
        evaluate(tmp_path, best, ssim=0.2, lpips=lpips, steps=steps)
    evaluate(tmp_path, easy, ssim=0.9, lpips=0.1, **other)
    assert generator_at_hand(tmp_path)[0] == best


def test_figures_on_other_images_do_not_compare_and_most_pairs_decide(tmp_path: Path) -> None:
    easy, best = generator(tmp_path / "easy"), generator(tmp_path / "best")
    evaluate(tmp_path, easy, ssim=0.9, lpips=0.1, shards=shards(tmp_path, 1))
    evaluate(tmp_path, best, ssim=0.2, lpips=0.34, pairs=1000)
    assert generator_at_hand(tmp_path)[0] == best


def test_a_generator_that_is_gone_or_was_not_measured_on_one_source_is_no_choice(tmp_path: Path) -> None:
    gone, other = generator(tmp_path / "gone"), generator(tmp_path / "other")
    evaluate(tmp_path, gone, ssim=0.9, lpips=0.1)
    evaluate(tmp_path, other, ssim=0.9, lpips=0.1, row="T3", modes=("T3",))
    (gone / "model_index.json").unlink()
    assert generator_at_hand(tmp_path)[0] == BUILT_IN


def test_a_few_step_student_is_no_choice_because_it_takes_another_sampler(tmp_path: Path) -> None:
    student, other = generator(tmp_path / "student"), generator(tmp_path / "other")
    evaluate(tmp_path, student, ssim=0.9, lpips=0.1, sampler="lcm", guidance=1)
    evaluate(tmp_path, other, ssim=0.2, lpips=0.34)
    assert generator_at_hand(tmp_path)[0] == other
