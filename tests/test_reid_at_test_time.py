"""What is done at test time in the table and the report: paired gains, controls, seconds; nothing in the headline."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datasets.runtime.artifacts import build
from datasets.runtime.errors import InputError
from datasets.runtime.manifests import manifest_of
from reid.benchmark.at_test_time import origin_of, spoken_variant, steps_of
from reid.benchmark.benchmark import make_benchmark
from reid.config import BenchmarkConfig, ReportConfig
from reid.report.render import make_report
from tests import small_sets
from tests.test_reid_report import PEOPLE, make_index, make_runs

VARIANTS = ("plain", "nfc", "flips", "flips_nfc", "centralized", "centralized_nfc")
BETTER = {"plain": 0, "nfc": 1, "flips": 1, "flips_nfc": 2, "centralized": 3, "centralized_nfc": 4}
"""How many ranks nearer the right answer is."""
FACTS = {"flips": {"control": "flip", "weight": 1.0}, "centralized": {"pose_policy": "standard", "weight": 1.0}}


def evaluation(
    run: Path,
    folder: Path,
    *,
    queries: int = PEOPLE,
    drawing: float | None = 40.0,
    weight: float = 1.0,
    protocol: str = "leak-free",
    **config: object,
) -> Path:
    """What `reid evaluate` leaves of a run, with ranks that get better variant by variant."""
    (folder / "logs").mkdir(parents=True)
    plain = pd.read_parquet(run / "per_query.parquet")
    rows, seconds = [], {}
    for variant in VARIANTS:
        first = np.maximum(plain.first_rank - BETTER[variant] - np.arange(PEOPLE) % 2 * (variant != "plain"), 1)
        table = plain.assign(first_rank=first, ap=1 / first, ap_trapezoid=1 / first, inp=1 / first)
        name = "per_query" if variant == "plain" else f"per_query_{variant}"
        table.to_parquet(folder / f"{name}.parquet")
        figures = {f"rank{k}": float((first <= k).mean()) for k in (1, 5, 10)}
        means = dict.fromkeys(("map", "map_trapezoid", "minp"), float((1 / first).mean()))
        rows.append({"variant": variant, **figures, **means, "id2": 0.5 - 0.1 * BETTER[variant]})
        drawn = drawing if "centralized" in variant else 0.0
        seconds[variant] = {"drawing": drawn, "embedding": 2.0, "processing": 0.5}
    pd.DataFrame(rows).to_parquet(folder / "test_time.parquet")
    (folder / "logs" / "test_time.json").write_text(json.dumps({"seconds_per_thousand_images": seconds}))
    facts = {name: found | {"weight": weight} for name, found in FACTS.items()}
    metrics = {"queries": queries, "gallery": PEOPLE, "centralize": facts, "protocol": protocol}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    inputs = {"run": {"path": str(run), "sha256": manifest_of(run)["content_sha256"]}}
    return small_sets.finish(folder, "evaluate-reid", inputs=inputs, config=config)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    root = tmp_path_factory.mktemp("tried")
    index = make_index(root)
    runs = make_runs(root, index)
    evaluations = [evaluation(run, root / f"evaluation-{i}") for i, run in enumerate(runs)]
    config = BenchmarkConfig(runs=runs, evaluations=evaluations, resamples=200)
    return {
        "root": root,
        "runs": runs,
        "evaluations": evaluations,
        "table": build(config, make_benchmark, output=root / "benchmark"),
        "without": build(BenchmarkConfig(runs=runs, resamples=200), make_benchmark, output=root / "without"),
    }


def gain(table: Path, **wanted: object) -> pd.Series:
    rows = pd.read_parquet(table / "test_time_gains.parquet")
    chosen = {"fraction": 20, "metric": "map", **wanted}
    (row,) = [row for _, row in rows.iterrows() if all(row[name] == value for name, value in chosen.items())]
    return row


def test_a_variants_name_tells_origin_and_steps() -> None:
    assert [origin_of(name) for name in ("plain", "nfc_reranked", "flips_reranked")] == ["plain", "plain", "flips"]
    assert steps_of("centralized_nfc_reranked") == ("nfc", "reranked") and steps_of("centralized") == ()
    spoken = [spoken_variant(name) for name in ("plain", "nfc", "centralized_nfc_reranked")]
    assert spoken == ["none", "NFC", "centralized + NFC + re-ranked"]


def test_a_variants_gain_is_paired_with_the_same_networks_plain_features(made) -> None:
    evaluated = made["evaluations"][1]  # 20 %, real+synthetic
    before, after = (pd.read_parquet(evaluated / f"per_query{name}.parquet").ap for name in ("", "_centralized"))
    row = gain(
        made["table"], arm="real+synthetic", variant="centralized", over_arm="real+synthetic", over_variant="plain"
    )
    assert row.value == pytest.approx((after - before).mean())
    spread = (after - before).std(ddof=1) / np.sqrt(PEOPLE)  # one query a person
    assert row.high - row.value == pytest.approx(2.3646 * spread, rel=1e-3)  # Student's at 7 degrees of freedom
    assert row.people == PEOPLE and row.unit == "none"


def test_training_alone_test_time_alone_and_both_are_held_against_one_reference(made) -> None:
    per_query = {
        (arm, variant): pd.read_parquet(made["evaluations"][number] / f"per_query{variant}.parquet").ap.mean()
        for (number, arm), variant in itertools.product(enumerate(("real", "real+synthetic")), ("", "_centralized"))
    }
    for arm, variant in (("real+synthetic", "plain"), ("real", "centralized"), ("real+synthetic", "centralized")):
        row = gain(made["table"], arm=arm, variant=variant, over_arm="real", over_variant="plain")
        suffix = "" if variant == "plain" else f"_{variant}"
        assert row.value == pytest.approx(per_query[arm, suffix] - per_query["real", ""])


def test_generated_pictures_are_held_against_the_control_with_the_same_steps(made) -> None:
    rows = pd.read_parquet(made["table"] / "test_time_gains.parquet")
    beyond = set(rows[rows.over_variant != "plain"][["variant", "over_variant"]].itertuples(index=False, name=None))
    assert beyond == {("centralized", "flips"), ("centralized_nfc", "flips_nfc")}


def test_nothing_of_test_time_is_in_the_headlines_tables(made) -> None:
    for name in ("results.parquet", "statistics.parquet", "gains.parquet", "results.txt"):
        assert (made["table"] / name).read_bytes() == (made["without"] / name).read_bytes(), name
    assert not (made["without"] / "test_time.parquet").exists()


def test_the_table_has_figures_density_and_measured_seconds(made, tmp_path) -> None:
    text = (made["table"] / "test_time.txt").read_text()
    line = next(row for row in text.splitlines() if row.startswith("    20 %  real+synthetic  centralized + NFC"))
    assert line.endswith("0.100              42.5") and "[+" in line
    unmeasured = evaluation(made["runs"][0], tmp_path / "e", drawing=None)
    config = BenchmarkConfig(runs=made["runs"], evaluations=[unmeasured], resamples=200)
    table = build(config, make_benchmark, output=tmp_path / "t")
    figures = pd.read_parquet(table / "test_time.parquet").set_index("variant")
    assert np.isnan(figures.drawing["centralized"]) and figures.drawing["nfc"] == 0
    assert (table / "test_time.txt").read_text().splitlines()[-1].endswith("0.100")


def test_evaluations_of_other_networks_or_test_images_are_refused(made, tmp_path) -> None:
    def refused(message: str, *evaluations: Path) -> None:
        config = BenchmarkConfig(runs=made["runs"][:2], evaluations=list(evaluations), resamples=200)
        with pytest.raises(InputError, match=message):
            make_benchmark(config, tmp_path)

    refused("is no evaluation of one of the runs", made["evaluations"][3])
    refused("two evaluations are of the same run", made["evaluations"][0], made["evaluations"][0])
    refused("of other test images", evaluation(made["runs"][0], tmp_path / "other", queries=3))


def test_evaluations_with_other_settings_are_not_pooled_under_one_name(made, tmp_path) -> None:
    def refused(message: str, **settings: object) -> None:
        other = evaluation(made["runs"][1], tmp_path / str(len(settings)) / message[:5], **settings)
        config = BenchmarkConfig(runs=made["runs"][:2], evaluations=[made["evaluations"][0], other], resamples=200)
        with pytest.raises(InputError, match=message):
            make_benchmark(config, tmp_path)

    refused("'flips' is weight 1.0 in .* and 2.0 in", weight=2.0)
    refused("'nfc' is nfc None in .* and {'k1': 5, 'k2': 2} in", nfc={"k1": 5, "k2": 2})


def test_what_a_generator_drew_that_may_have_seen_test_people_stands_under_the_papers_protocol(made, tmp_path) -> None:
    """The network is leak-free, its further pictures are not: the table and the report must not call them so."""
    seen = evaluation(made["runs"][1], tmp_path / "seen", protocol="paper")
    config = BenchmarkConfig(runs=made["runs"], evaluations=[made["evaluations"][0], seen], resamples=200)
    table = build(config, make_benchmark, output=tmp_path / "t")
    figures = pd.read_parquet(table / "test_time.parquet")
    assert set(figures.protocol[figures.arm == "real+synthetic"]) == {"paper"}
    assert set(figures.protocol[figures.arm == "real"]) == {"leak-free"}
    assert "20 %, paper" in (table / "test_time.txt").read_text()
    alone = build(config.model_copy(update={"evaluations": [seen]}), make_benchmark, output=tmp_path / "alone")
    make_report(ReportConfig(benchmark=alone), tmp_path)
    assert "Protocol of the papers: the generator may have seen the test identities." in (
        tmp_path / "report.html"
    ).read_text(encoding="utf-8")


def test_the_report_shows_test_time_in_a_section_of_its_own(made, tmp_path) -> None:
    found = make_report(ReportConfig(benchmark=made["table"], runs=made["runs"]), tmp_path)
    html, markdown = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    section = html[html.index('<section id="test-time">') : html.index('<section id="ranking">')]
    for words in ("training alone", "test time alone", "both", "centralized + NFC", "0.100", "42.5"):
        assert words in section, words
    assert 'title="drawing 40.0, embedding 2.0, processing 0.5"' in section
    assert "## At test time" in markdown and "| centralized + NFC |" in markdown
    (tmp_path / "without").mkdir()
    other = make_report(ReportConfig(benchmark=made["without"], runs=made["runs"]), tmp_path / "without")
    assert other["headline"] == found["headline"]
    assert "test-time" not in (tmp_path / "without" / "report.html").read_text()
