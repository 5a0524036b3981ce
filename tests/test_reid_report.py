"""The report: honest words, every part shown or named as missing, escaped, deterministic, without network."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import re
import shlex
import subprocess
import sys
import tarfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

from datasets.runtime.artifacts import build
from datasets.runtime.errors import ArtifactError, InputError
from datasets.runtime.reading.names import code_span
from reid.arms import ARMS as ARMS_OF_THE_BENCHMARK
from reid.arms import Arm
from reid.benchmark.benchmark import make_benchmark
from reid.config import BenchmarkConfig, ReportConfig
from reid.history.entry import entry_of
from reid.report.cards import read_card
from reid.report.data import (
    Arms,
    costs,
    enumeration,
    percent,
    points,
    read_results,
    read_runs,
    spoken_seconds,
    with_ancestors,
)
from reid.report.figures import Line, Point, fraction_chart
from reid.report.gains import Comparison, Gain, gain_cards, gain_rows, read_gains
from reid.report.headline import headline
from reid.report.people import identity_gains, winners_and_losers
from reid.report.pictures.cases import extremes, rejected
from reid.report.pictures.embed import SourceImages
from reid.report.pictures.retrieval import chosen_queries
from reid.report.render import make_report, markdown_cell
from reid.report.text import gain_caption, plan_caption
from tests import small_sets

EVIL = "<script>alert(1)</script>"
FRACTIONS = (20, 40)
ARMS = ("real", "real+synthetic")
PEOPLE = 8
STEPS = {
    "real-long": {"steps": 400},
    "real-pretrained": {"steps": 600, "steps_before": 200},
}
SPLITS = (("train", 1, "bounding_box_train"), ("query", 1, "query"), ("gallery", 2, "bounding_box_test"))


def finished(directory: Path, stage: str, config: dict, summary: dict | None = None, seconds: float = 1.5) -> Path:
    """Make a folder of files a finished artifact."""
    key = hashlib.sha256(repr(sorted(config.items(), key=str)).encode()).hexdigest()[:16]
    return small_sets.finish(directory, stage, key, config=config, summary=summary or {}, seconds=seconds)


def person(pid: int, turn: int) -> Image.Image:
    """A stick person whose clothes tell the pid."""
    image = Image.new("RGB", (64, 128), (170 + 3 * turn, 176, 180))
    draw = ImageDraw.Draw(image)
    colors = [tuple(int(v) for v in np.random.default_rng([pid, part]).integers(30, 225, 3)) for part in range(2)]
    draw.ellipse((25, 8, 39, 26), fill=(214, 170, 140))
    draw.rounded_rectangle((18 + turn, 27, 46 - turn, 70), 6, fill=colors[0])
    draw.rectangle((21, 68, 30, 118), fill=colors[1])
    draw.rectangle((34, 68, 43, 118), fill=colors[1])
    return image


def keypoints() -> np.ndarray:
    x = [32, 32, 22, 18, 17, 42, 46, 47, 25, 25, 25, 38, 38, 38, 29, 35, 27, 37]
    y = [18, 28, 30, 48, 66, 30, 48, 66, 68, 92, 116, 68, 92, 116, 15, 15, 17, 17]
    return np.stack([x, y, np.full(18, 0.9)], 1).astype(np.float32)


def make_index(root: Path) -> Path:
    data, folder = root / "data", root / "index"
    data.mkdir(parents=True)
    folder.mkdir()
    rows = []
    for split, camera, name in SPLITS:
        (data / name).mkdir()
        for pid in range(1, PEOPLE + 1):
            key = f"{pid:04d}_c{camera}s1_{split}_01"
            if pid == 1:
                key = f"{key}{EVIL.replace('/', '_')}"
            person(pid, camera).save(data / name / f"{key}.jpg")
            rows.append([key, f"{name}/{key}.jpg", split, pid, camera, 1, 1, "person", 64, 128, "", "ok", ""])
    names = [
        "key",
        "path",
        "split",
        "pid",
        "camid",
        "sequence",
        "frame",
        "role",
        "width",
        "height",
        "sha256",
        "status",
        "error",
    ]
    pd.DataFrame(rows, columns=names).to_parquet(folder / "images.parquet")
    config = {"root": str(data), "layout": "market1501", "identities": None}
    return finished(folder, "index", config, {"prefix": ""})


def make_poses(root: Path, index: Path) -> Path:
    folder = root / "poses"
    folder.mkdir()
    keys = pd.read_parquet(index / "images.parquet")["key"]
    table = pd.DataFrame({"key": keys, "keypoints": [keypoints().ravel()] * len(keys), "status": "ok"})
    table.to_parquet(folder / "poses.parquet")
    return finished(folder, "import-poses", {"images": str(index)})


def metrics_of(first: np.ndarray) -> dict[str, object]:
    """What a run's metrics.json says, from the rank of each query's only match."""
    ap = float((1 / first).mean())
    counts = {"queries": PEOPLE, "unmatched_queries": 0, "gallery": PEOPLE, "distractors": 0, "junk": 0}
    network = {"backbone": "tiny", "weights": "from scratch", "height": 64, "width": 32, "parameters": 9}
    batch = {"batch_identities": 4, "batch_images": 4, "batch_synthetic": 1, "identities": PEOPLE, "images": PEOPLE}
    ranks = {f"rank{k}": float((first <= k).mean()) for k in (1, 5, 10)}
    steps = {"steps": 200, "steps_before": 0, "provenance": "stated"}
    return {**ranks, "map": ap, "map_trapezoid": ap, "minp": ap, **steps, **counts, **network, **batch}


def make_runs(
    root: Path, index: Path, arms: tuple[str, ...] = ARMS, draws: int = 1, seeds: int = 1, worst: str = ""
) -> list[Path]:
    """Runs whose ranks get better arm by arm; `worst` names an arm that is worse than all others."""
    images = pd.read_parquet(index / "images.parquet")
    query, gallery = (images[images["split"] == split].reset_index(drop=True) for split in ("query", "gallery"))
    folders = []
    for fraction, number, draw, seed in itertools.product(FRACTIONS, range(len(arms)), range(draws), range(seeds)):
        folder = root / f"run-{fraction}-{number}-{draw}-{seed}"
        folder.mkdir()
        rng = np.random.default_rng([fraction, number, draw, seed])
        first = rng.integers(6, 9, PEOPLE) if arms[number] == worst else rng.integers(1, 6 - number, PEOPLE)
        rows = {
            "query": query["key"],
            "pid": query["pid"],
            "camid": 1,
            "matches": 1,
            "first_rank": first,
            "last_rank": first,
            "ap": 1 / first,
            "ap_trapezoid": 1 / first,
            "inp": 1 / first,
        }
        pd.DataFrame(rows).to_parquet(folder / "per_query.parquet")
        make_ranked(query, gallery, first).to_parquet(folder / "ranked.parquet")
        log = [{"step": s, "loss": 5 / s**0.3 + rng.random() / 5, "accuracy": 0.5} for s in range(1, 101)]
        (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log) + '{"step": 101, "lo')
        config = {"arm": arms[number], "fraction": fraction, "draw": draw, "seed": seed, "protocol": "leak-free"}
        synthetic = 80 if "synthetic" in arms[number] else 0
        metrics = metrics_of(first) | config | {"synthetic_images": synthetic} | STEPS.get(arms[number], {})
        (folder / "metrics.json").write_text(json.dumps(metrics))
        folders.append(finished(folder, "train-reid", config, seconds=30.0))
    return folders


def make_ranked(query: pd.DataFrame, gallery: pd.DataFrame, first: np.ndarray) -> pd.DataFrame:
    rows = []
    for i, row in query.iterrows():
        others = gallery[gallery["pid"] != row["pid"]]["key"].to_list()
        own = gallery[gallery["pid"] == row["pid"]]["key"].iloc[0]
        order = [*others[: first[i] - 1], own, *others[first[i] - 1 :]]
        rows += [(row["key"], rank, key, key == own) for rank, key in enumerate(order, 1)]
    return pd.DataFrame(rows, columns=["query", "rank", "gallery", "right"])


def make_table(root: Path, runs: list[Path]) -> Path:
    """The real benchmark of the runs."""
    return build(BenchmarkConfig(runs=runs, resamples=200), make_benchmark, output=root / "benchmark")


def change_metrics(run: Path, **changes: object) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps(metrics | changes))
    small_sets.forge(run)


def make_generators(root: Path) -> list[Path]:
    folders = []
    for fraction in FRACTIONS:
        folder = root / f"generator-{fraction}"
        folder.mkdir()
        losses = 0.5 / np.arange(1, 400) ** 0.2
        rows = [{"step": int(s), "loss": float(v), "seconds": 1.0} for s, v in enumerate(losses, 1)]
        (folder / "logs").mkdir()
        (folder / "logs" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = {"fraction": fraction, "draw": 0, "encoded": "x"}
        folders.append(finished(folder, "train-imagpose", config, seconds=60.0))
    return folders


def make_synthetic(root: Path) -> list[Path]:
    folders = []
    for fraction in FRACTIONS:
        folder = root / f"synthetic-{fraction}"
        (folder / "showcase").mkdir(parents=True)
        rows = []
        for pid in range(1, 5):
            names = {
                name: [f"showcase/{pid}_{name}_{i}.png" for i in range(count)]
                for name, count in (("sources", 1), ("poses", 3), ("generated", 3), ("truth", 3))
            }
            for number, name in enumerate([name for kind in names.values() for name in kind]):
                person(pid, number).save(folder / name)
            rows.append({"pid": pid, **names})
        (folder / "showcase.json").write_text(json.dumps({"rows": rows}))
        status = ["ok"] * 76 + ["flat"] * 3 + [EVIL]
        columns = {
            "key": [f"s{i:02d}" for i in range(80)],
            "pid": np.arange(80) % PEOPLE,
            "status": status,
            "pose_score": np.linspace(0, 1, 80),
            "source_keys": [["0002_c1s1_train_01"]] * 80,
        }
        pd.DataFrame(columns).to_parquet(folder / "synthetic.parquet")
        person(1, 0).resize((600, 400)).save(folder / "contact_sheet.png")
        with tarfile.open(folder / "synthetic-00000.tar", "w") as tar:
            picture = (folder / "showcase" / "1_generated_0.png").read_bytes()
            record = json.dumps({"keypoints": keypoints().tolist(), "width": 64, "height": 128}).encode()
            for number, (extension, data) in itertools.product(range(80), (("jpg", picture), ("json", record))):
                item = tarfile.TarInfo(f"s{number:02d}.{extension}")
                item.size = len(data)
                tar.addfile(item, io.BytesIO(data))
        folders.append(finished(folder, "synthesize", {"fraction": fraction, "draw": 0}, seconds=20.0))
    return folders


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Everything a report can be made from, with a file name, a reason and a title that try to be HTML."""
    root = tmp_path_factory.mktemp("inputs")
    index = make_index(root)
    card = root / "card.md"
    card.write_text(f"---\nlicense: mit\n---\n# Tiny VAE {EVIL}\n\nTrained on 4,000 rendered people.\n")
    runs = make_runs(root, index)
    return {
        "benchmark": make_table(root, runs),
        "runs": runs,
        "images": index,
        "poses": make_poses(root, index),
        "generators": make_generators(root),
        "synthetic": make_synthetic(root),
        "model_cards": [card],
        "preset": "demo",
        "resolved": {"root": EVIL, "steps": 3},
        "commands": [f"make demo # {EVIL}"],
        "title": f"A title {EVIL}",
    }


class ParsedReport(HTMLParser):
    """Tags, attributes and visible text of a report."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def report_of(inputs: dict[str, object], folder: Path, **changes: object) -> tuple[str, dict]:
    folder.mkdir(exist_ok=True)
    summary = make_report(ReportConfig(**(inputs | changes)), folder)
    return (folder / "report.html").read_text(), summary


@pytest.fixture(scope="module")
def full(inputs: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict, Path]:
    folder = tmp_path_factory.mktemp("full")
    return *report_of(inputs, folder), folder


def test_the_report_needs_no_network_and_no_script(full: tuple[str, dict, Path]) -> None:
    html, _, _ = full
    report = ParsedReport(html)
    assert {tag for tag, _ in report.tags} & {"script", "link", "iframe", "object", "embed", "base", "form"} == set()
    for tag, attributes in report.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "srcset", "action"):
                assert value.startswith(("data:image/", "#")), (tag, value)
    assert not re.search(r"@import|url\((?!#)", html)


def test_names_from_files_are_shown_as_text_and_never_as_html(full: tuple[str, dict, Path]) -> None:
    html, _, folder = full
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 5  # title, file name, reason, card, config, command
    assert ParsedReport(html).text.count(EVIL) >= 4
    assert EVIL not in (folder / "report.md").read_text().split("```")[0]


def test_every_section_is_filled_when_everything_is_handed_in(full: tuple[str, dict, Path]) -> None:
    html, summary, _ = full
    assert summary["missing"] == []
    assert "Not shown." not in ParsedReport(html).text
    images = [attributes["src"] for tag, attributes in ParsedReport(html).tags if tag == "img"]
    shown = sum(attributes.get("class") == "triple one" for _, attributes in ParsedReport(html).tags)
    assert 2 <= shown <= 2 * PEOPLE
    assert len(images) == PEOPLE + 2 * 3 * 10 + 2 + 2 * 3 * (6 + 6 + 4) + 4 * (1 + 2 * PEOPLE) + shown
    assert sum(tag == "svg" for tag, _ in ParsedReport(html).tags) == 3 + 2 + 2 + 1 + 2
    assert summary["html_bytes"] < 1_000_000


def test_ids_are_unique_and_every_link_inside_the_report_has_its_target(full: tuple[str, dict, Path]) -> None:
    tags = ParsedReport(full[0]).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {a[name][1:] for _, a in tags for name in ("href", "xlink:href") if (a.get(name) or "").startswith("#")}
    assert links <= set(ids)


def test_the_same_inputs_give_the_same_bytes(
    inputs: dict[str, object], full: tuple[str, dict, Path], tmp_path: Path
) -> None:
    report_of(inputs, tmp_path / "again")
    for name in ("report.html", "report.md", "results.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (full[2] / name).read_bytes(), name


def test_charts_take_their_colors_from_the_report(full: tuple[str, dict, Path]) -> None:
    drawings = re.findall(r"<svg.*?</svg>", full[0], flags=re.DOTALL)
    assert drawings
    for drawing in drawings:
        assert not re.search(r"#[0-9a-f]{6}", drawing)
        assert "var(--" in drawing and "<metadata" not in drawing


def test_one_draw_and_one_seed_are_called_an_illustration(full: tuple[str, dict, Path]) -> None:
    assert "One draw, one seed: an illustration, not evidence." in full[0]


def test_the_headline_and_the_cards_say_what_the_benchmark_found(
    inputs: dict[str, object], full: tuple[str, dict, Path]
) -> None:
    table = pd.read_parquet(inputs["benchmark"] / "gains.parquet").query("metric == 'map'")
    text = ParsedReport(full[0]).text.replace("\N{NO-BREAK SPACE}", " ")
    for row in table.itertuples():
        assert f"{points(100 * row.value)}{' points' if row.fraction == 20 else ''} at {row.fraction} %" in text
        ends = f"{points(100 * row.low)} to {points(100 * row.high)}"
        assert f"95 % over new test identities, for these images and trained networks: {ends}" in text
        assert f"{100 * row.before:.1f} → {100 * row.after:.1f} %" in text


def test_the_combined_interval_decides_and_the_band_is_said_beside_it(tmp_path: Path) -> None:
    ends = {"low": -0.1, "high": 0.14, "band_low": -0.2, "band_high": 0.24}
    row = {"protocol": "leak-free", "fraction": 20, "arm": "real+synthetic", "baseline": "real", "metric": "map"}
    row |= {"value": 0.02, "before": 0.3, "after": 0.32, "units": 3, "people": 40, "freedom": 2.5}
    row |= ends | {"people_low": 0.01, "people_high": 0.03, "runs_low": -0.1, "runs_high": 0.14}
    row |= {"variance_draws": 0.3, "variance_seeds": 0.1, "variance_people": 0.5, "variance_interplay": 0.1}
    row |= {"declared": True, "family": 4}
    sure = {"low": 0.01, "high": 0.03, "unit": "seed", "fraction": 40, "variance_draws": np.nan}
    pd.DataFrame([row | {"unit": "draw"}, row | sure]).to_parquet(tmp_path / "gains.parquet")
    finished(tmp_path, "benchmark", {})
    over_draws, over_seeds = read_gains(tmp_path)
    assert (over_draws.scope, over_draws.certain) == ("new draws and new test identities", False)
    assert over_draws.interval == pytest.approx((-10, 14)) and over_draws.band == pytest.approx((-20, 24))
    assert over_draws.origins == pytest.approx({"draws": 0.3, "seeds": 0.1, "people": 0.5, "interplay": 0.1})
    assert over_seeds.certain and over_seeds.stands == "alone" and "for these images" in over_seeds.scope
    assert set(over_seeds.origins) == {"seeds", "people", "interplay"}
    pd.DataFrame([row | {"unit": "draw"}]).drop(columns="band_low").to_parquet(tmp_path / "gains.parquet")
    finished(tmp_path, "benchmark", {})
    with pytest.raises(ArtifactError, match="of an earlier version; run 'reid benchmark' again"):
        read_gains(tmp_path)


def study(tmp_path: Path, arms: tuple[str, ...], draws: int = 2, seeds: int = 2, worst: str = "") -> tuple[str, dict]:
    """Report and summary of a benchmark of these arms."""
    runs = make_runs(tmp_path, make_index(tmp_path), arms, draws, seeds, worst)
    html, summary = report_of({"benchmark": make_table(tmp_path, runs), "runs": runs}, tmp_path / "out")
    return ParsedReport(html).text.replace("\N{NO-BREAK SPACE}", " "), summary


FOUR_ARMS = ("real", "real-long", "real-pretrained", "real+synthetic")


@pytest.fixture(scope="module")
def four_arms(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict, Path]:
    root = tmp_path_factory.mktemp("four")
    STEPS["real+synthetic"] = {"steps": 400}
    try:
        return *study(root, FOUR_ARMS), root
    finally:
        del STEPS["real+synthetic"]


def test_the_headline_compares_with_the_arm_of_equal_steps_where_that_was_run(
    four_arms: tuple[str, dict, Path],
) -> None:
    text, summary, root = four_arms
    table = pd.read_parquet(root / "benchmark" / "gains.parquet").query("metric == 'map' and arm == 'real+synthetic'")
    long = table[table["baseline"] == "real-long"].set_index("fraction")["value"]
    assert f"{points(100 * long[20])} points at 20 % and {points(100 * long[40])} at 40 %" in summary["headline"]
    assert "for equally many optimization steps (arm “real-long”: 400)" in summary["headline"]
    assert "interval over new draws and new test identities" in summary["headline"]
    assert text.count("all 12 comparisons together:") == 2
    assert "Training lengths differ" not in text
    assert "Two draws of the subset: how much draws differ is estimated from one difference" in text
    for words in (
        "95 % over new draws and new test identities:",
        "95 % over the 2 draws alone:",
        "over test identities alone:",
    ):
        assert text.count(words) == 2
    assert "Only 8 test identities: the gain is known of these few." in text
    assert "Where the uncertainty comes from" in text and "From 2 draws × 2 seeds and 8 test identities." in text


def test_the_gain_over_the_arm_pretrained_on_other_people_stands_beside_the_headline(
    four_arms: tuple[str, dict, Path],
) -> None:
    text, _, root = four_arms
    table = pd.read_parquet(root / "benchmark" / "gains.parquet").query("metric == 'map' and arm == 'real+synthetic'")
    over = table[table["baseline"] == "real-pretrained"].set_index("fraction")["value"]
    assert f"(arm “real-pretrained”), the change is {points(100 * over[20])} points at 20 %" in text
    assert "Not controlled for" not in text
    assert text.count("mAP points over real-pretrained") == 2
    assert "400 steps after 200 of the run that it is initialized from" in text


def test_without_the_long_arm_the_headline_says_that_steps_are_not_equal(tmp_path: Path) -> None:
    STEPS["real+synthetic"] = {"steps": 400}
    try:
        text, summary = study(tmp_path, ARMS)
    finally:
        del STEPS["real+synthetic"]
    assert "for 200 optimization steps instead of 400 (arm “real”; steps are not equal)" in summary["headline"]
    assert "Training lengths differ" in text and "Not controlled for" in text


def test_a_loss_is_called_a_loss(tmp_path: Path) -> None:
    text, summary = study(tmp_path, ("real", "real-long", "real+synthetic"), draws=1, seeds=4, worst="real+synthetic")
    assert re.search(r"changes mAP by −\d+\.\d points at 20 % and −", summary["headline"])
    assert "for these images excludes zero for a loss at 20 % and 40 %." in summary["headline"]
    assert "this speaks of these images only and claims nothing beyond them" in summary["headline"]
    assert "One draw of the subset, 4 seeds" in text
    assert text.count("95 % over the 4 seeds alone:") == 2


def test_the_benchmark_alone_gives_a_report_that_names_what_is_missing(
    inputs: dict[str, object], tmp_path: Path
) -> None:
    html, summary = report_of({"benchmark": inputs["benchmark"]}, tmp_path)
    text = ParsedReport(html).text
    assert summary["missing"] == [
        "runs",
        "generators",
        "synthetic",
        "images",
        "poses",
        "model_cards",
        "resolved",
        "commands",
    ]
    assert text.count("Not shown.") == 10
    for field in ("runs", "generators", "synthetic", "images", "poses", "model_cards", "resolved", "commands"):
        assert f"‘{field}’" in text


def test_a_data_set_that_moved_away_leaves_frames_that_say_so(inputs: dict[str, object], tmp_path: Path) -> None:
    index = make_index(tmp_path)
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    html, _ = report_of(inputs, tmp_path / "out", images=index)
    assert "image not found" in html


def test_corrupt_pictures_and_names_that_lead_outside_become_frames(inputs: dict[str, object], tmp_path: Path) -> None:
    folder = make_synthetic(tmp_path)[0]
    (tmp_path / "secret.png").write_bytes((folder / "showcase" / "1_poses_0.png").read_bytes())
    (folder / "showcase" / "1_poses_0.png").write_bytes(b"\x89PNG corrupt")
    rows = json.loads((folder / "showcase.json").read_text())
    rows["rows"][0]["sources"] = ["../secret.png"]
    (folder / "showcase.json").write_text(json.dumps(rows))
    html, _ = report_of(inputs, tmp_path / "out", synthetic=[folder])
    assert ParsedReport(html).text.count("cannot be read") == 2


def test_unequal_training_is_said_beside_the_headline(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, make_index(tmp_path))
    change_metrics(runs[1], steps=400)
    html, _ = report_of({"benchmark": make_table(tmp_path, runs)}, tmp_path / "out")
    assert "Training lengths differ" in html


def test_a_table_without_a_synthetic_arm_claims_no_gain(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, make_index(tmp_path), arms=("real",))
    html, summary = report_of({"benchmark": make_table(tmp_path, runs)}, tmp_path / "out")
    assert summary["headline"].startswith("There is no gain to report")
    assert "mAP points" not in ParsedReport(html).text


def test_a_run_that_the_table_does_not_have_is_refused(tmp_path: Path) -> None:
    """Its curves and people would stand beside figures of other runs."""
    index = make_index(tmp_path)
    runs = make_runs(tmp_path, index)
    table = make_table(tmp_path, runs[:2])
    with pytest.raises(InputError, match=r"run-40-0-0-0 is none of the runs of the table"):
        make_report(ReportConfig(benchmark=table, runs=runs), tmp_path)


def test_an_artifact_of_another_stage_is_refused(inputs: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="expected 'benchmark'"):
        report_of({"benchmark": inputs["images"]}, tmp_path)
    with pytest.raises(ArtifactError, match="expected 'train-reid'"):
        report_of(inputs, tmp_path, runs=inputs["generators"])


def test_a_benchmark_without_rows_or_columns_is_refused(inputs: dict[str, object], tmp_path: Path) -> None:
    folder = finished(tmp_path, "benchmark", {})
    table = pd.read_parquet(inputs["benchmark"] / "results.parquet")
    table.head(0).to_parquet(folder / "results.parquet")
    small_sets.forge(folder)
    with pytest.raises(ArtifactError, match="no rows"):
        read_results(folder)
    table.drop(columns="map").to_parquet(folder / "results.parquet")
    small_sets.forge(folder)
    with pytest.raises(ArtifactError, match="'map'"):
        read_results(folder)


def test_the_report_is_an_artifact_that_is_built_once(inputs: dict[str, object], tmp_path: Path) -> None:
    config = ReportConfig(**inputs)
    folder = build(config, make_report, store=tmp_path)
    assert {path.name for path in folder.iterdir()} == {"report.html", "report.md", "results.csv", "manifest.json"}
    assert build(config, lambda *_: pytest.fail("made again"), store=tmp_path) == folder


def test_making_a_report_never_imports_torch() -> None:
    code = "import sys, reid.report.render; print([m for m in ('torch', 'pyplot', 'prefect') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def gain(fraction: int, value: float, *people: float, baseline: str = "real", **more: object) -> Gain:
    return Gain(
        protocol="leak-free",
        fraction=fraction,
        arm="real+synthetic",
        baseline=baseline,
        metric="map",
        value=value,
        interval=people or None,
        **({"unit": "draw", "test_people": 40} | more),
    )


def runs_table(draws: int, seeds: int, arms: tuple[str, ...] = ARMS) -> pd.DataFrame:
    rows = [
        (fraction, d, s, arm, "leak-free", 100, 0, 0.3 + d / 10)
        for fraction in FRACTIONS
        for d in range(draws)
        for s in range(seeds)
        for arm in arms
    ]
    columns = ["fraction", "draw", "seed", "arm", "protocol", "steps", "steps_before", "map"]
    return pd.DataFrame(rows, columns=columns)


def comparison(gains: list[Gain], draws: int, seeds: int, arms: tuple[str, ...] = ARMS) -> Comparison:
    return Comparison(
        results=runs_table(draws, seeds, arms), gains=gains, protocol="leak-free", arm="real+synthetic", baseline="real"
    )


@pytest.mark.parametrize(
    ("gains", "words"),
    [
        ([gain(20, 3.0, 1.0, 5.0), gain(40, 0.4, -1.0, 2.0)], "zero for a gain at 20 %; elsewhere it includes zero."),
        ([gain(20, -3.0, -5.0, -1.0)], "excludes zero for a loss at 20 %."),
        ([gain(20, 3.0, -1.0, 7.0)], "does not exclude zero: no gain and no loss is shown."),
        ([gain(20, 3.0, 1.0, 5.0), gain(40, -2.0, -3.0, -1.0)], "for a gain at 20 % and a loss at 40 %."),
        ([gain(20, 3.0)], "There is no interval: nothing varied"),
        ([gain(20, 3.0, test_people=3)], "There is no interval: 3 test identities are too few for one."),
    ],
)
def test_a_gain_is_claimed_only_where_its_interval_excludes_zero(gains: list[Gain], words: str) -> None:
    answer = headline(comparison(gains, 5, 2), 0.95)
    assert words in answer["sentence"].replace("\N{NO-BREAK SPACE}", " ")
    assert answer["remarks"][-1].startswith("Not controlled for")


@pytest.mark.parametrize(
    ("bands", "words"),
    [
        ([(0.5, 5.5), (0.1, 4.0)], "That stands when all 6 comparisons are to hold at once."),
        ([(0.5, 5.5), (-0.5, 4.5)], "the band excludes zero for a gain at 20 %; elsewhere it includes zero."),
        ([(-0.5, 5.5), (-0.5, 4.5)], "the band does not exclude zero anywhere: no gain and no loss is shown."),
    ],
)
def test_what_is_left_of_several_comparisons_is_said(bands: list[tuple[float, float]], words: str) -> None:
    ours = [gain(f, 3.0, 1.0, 5.0, band=band, family=6) for f, band in zip(FRACTIONS, bands, strict=True)]
    assert words in headline(comparison(ours, 5, 2), 0.95)["sentence"].replace("\N{NO-BREAK SPACE}", " ")


def test_one_draw_at_a_fraction_is_not_covered_by_what_is_said_of_several_at_another() -> None:
    """The whole training split has no draws: its interval is of given images, whatever the smaller subsets have."""
    mixed = [gain(20, 3.0, 1.0, 5.0), gain(40, -1.0, -1.4, -0.6, unit="none")]
    said = headline(comparison(mixed, 5, 1), 0.95)["sentence"].replace("\N{NO-BREAK SPACE}", " ")
    assert "There is one draw at 40 %, so this speaks of these images only there" in said
    assert "over new draws and new test identities, at 20 %, excludes zero for a gain at 20 %." in said
    assert "for these images and trained networks, at 40 %, excludes zero for a loss at 40 %." in said
    caption = gain_caption(0.95, mixed)
    assert "test identities (at 20 %); new test identities, for these images and trained networks (at 40 %)" in caption
    assert "With one draw nothing is known" in plan_caption(["x"], {"draw", "none"}, 1.0, 0.8)


def test_a_comparison_that_was_declared_at_some_fractions_is_not_called_undeclared_at_all() -> None:
    ours = [gain(20, 3.0, 1.0, 5.0, band=(0.5, 5.5), family=2), gain(40, 3.0, 1.0, 5.0, declared=False, family=2)]
    said = headline(comparison(ours, 5, 2), 0.95)["sentence"].replace("\N{NO-BREAK SPACE}", " ")
    assert "The comparison at 40 % is not among those" in said and "That stands when all 2 comparisons" in said


def test_a_comparison_that_was_not_declared_is_called_that() -> None:
    answer = headline(comparison([gain(20, 3.0, 1.0, 5.0, declared=False, family=6)], 5, 2), 0.95)
    assert "not among those that were declared before the run" in answer["sentence"]


@pytest.mark.parametrize(
    ("draws", "seeds", "words"),
    [
        (1, 1, "an illustration, not evidence"),
        (1, 3, "One draw of the subset, 3 seeds"),
        (1, 2, "How much trainings differ is estimated from one difference"),
        (2, 1, "estimated from one difference"),
        (3, 1, "few for a narrow interval"),
    ],
)
def test_few_draws_and_seeds_are_cautioned_about(draws: int, seeds: int, words: str) -> None:
    answer = headline(comparison([gain(20, 3.0, 1.0, 5.0)], draws, seeds), 0.95)
    remark, _uncontrolled = answer["remarks"]
    assert words in remark


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ([(3.0, 1.0, 5.0), (2.0, 1.0, 3.0)], "do not explain the gain"),
        ([(3.0, 1.0, 5.0), (2.0, -1.0, 3.0)], "Where the interval includes zero or lies below it"),
        ([(-3.0, -5.0, -1.0), (2.0, -1.0, 3.0)], "it is not shown that the generator adds more"),
        ([(-3.0,), (2.0,)], "There is no interval"),
    ],
)
def test_the_answer_to_the_objection_of_other_people_follows_from_its_intervals(
    over: list[tuple[float, ...]], words: str
) -> None:
    gains = [gain(20, 9.0, 8.0, 10.0), gain(40, 9.0, 8.0, 10.0)]
    gains += [gain(f, *found, baseline="real-pretrained") for f, found in zip(FRACTIONS, over, strict=True)]
    answer = headline(comparison(gains, 5, 1, (*ARMS, "real-pretrained")), 0.95)
    assert words in answer["further"]
    assert answer["remarks"] == []


def test_the_reference_is_the_baseline_where_the_long_arm_lacks_a_fraction() -> None:
    gains = [gain(20, 9.0), gain(40, 9.0), gain(20, 5.0, baseline="real-long")]
    held = comparison(gains, 5, 1, (*ARMS, "real-long"))
    assert (held.reference, held.controls) == ("real", ["real-long"])
    assert any("not run at every fraction" in remark for remark in headline(held, 0.95)["remarks"])
    assert [[row["over"] for row in group] for group in gain_rows(held)] == [["real", "real"], ["real-long"]]
    assert [card["map_gain"] for card in gain_cards(held, 0.95)] == ["+9.0", "+9.0"]


def test_rendered_people_are_said_to_be_rendered() -> None:
    answer = headline(comparison([gain(20, 3.0, 1.0, 5.0)], 5, 1), 0.95, rendered=True)
    assert answer["remarks"][0].startswith("The people are rendered, not photographed.")


def test_best_and_worst_pictures_are_chosen_by_score_one_a_person() -> None:
    table = pd.DataFrame(
        {
            "key": list("abcdefg"),
            "pid": [1, 1, 2, 3, 3, 4, 5],
            "pose_score": [1.0, 0.2, 1.0, 0.1, 0.9, None, 0.0],
            "status": ["ok"] * 6 + ["flat"],
        }
    )
    best, worst = extremes(table, 2)
    assert (best["key"].to_list(), worst["key"].to_list()) == (["a", "c"], ["d", "b"])
    assert [len(found) for found in extremes(table.assign(pose_score=np.nan))] == [0, 0]


def test_rejected_pictures_show_every_reason_first_and_say_what_the_identity_check_found() -> None:
    table = pd.DataFrame({"key": list("abcdef"), "pid": [1, 1, 2, 3, 4, 5], "status": ["flat"] * 3 + ["ok"] * 3})
    check = pd.DataFrame(
        {
            "key": ["d", "e", "f"],
            "id_score": [0.5, 0.25, 0.9],
            "kept": [False, False, True],
            "reject_reason": ["another-person", "low-score", ""],
        }
    )
    assert rejected(table, [check], 4) == {
        "a": "flat",
        "e": "identity score too low (cosine 0.25)",
        "d": "nearer to another person (cosine 0.50)",
        "c": "flat",
    }
    assert rejected(table.tail(3), []) == {}


def test_costs_follow_the_inputs_through_the_store_and_count_each_artifact_once(tmp_path: Path) -> None:
    folders = {}
    for place, name in ((tmp_path / "store", "miniature"), (tmp_path / "store", "index"), (tmp_path / "other", "vae")):
        folders[name] = place / name / "key"
        folders[name].mkdir(parents=True)
        finished(folders[name], name, {"name": name}, seconds=10.0)
    manifest = json.loads((folders["index"] / "manifest.json").read_text())
    manifest["inputs"] = {name: {"path": str(folders[name]), "sha256": "0" * 64} for name in ("miniature", "vae")}
    (folders["index"] / "manifest.json").write_text(json.dumps(manifest))
    found = with_ancestors([folders["index"], folders["index"]], tmp_path / "store")
    assert sorted(m["stage"] for m in found) == ["index", "miniature"]  # the shipped model is another store's cost
    assert costs(found)["total"] == "20.0"


def test_numbers_are_written_for_people() -> None:
    assert [points(value) for value in (6.14, -0.44, 0.02, -0.04)] == ["+6.1", "−0.4", "±0.0", "±0.0"]
    assert percent([0.5]) == "50.0"
    assert percent([0.5, 0.6]) == "55.0 ± 7.1"
    assert percent([float("nan")]) == "—"
    assert [spoken_seconds(value) for value in (41.6, 365, 7800)] == ["42 s", "6 min 05 s", "2 h 10 min"]
    assert [enumeration(list(parts)) for parts in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]


def test_identity_gains_are_differences_of_mean_ap(inputs: dict[str, object]) -> None:
    runs = read_runs(inputs["runs"])
    before, after = (pd.read_parquet(runs[i].directory / "per_query.parquet") for i in (0, 1))
    assert [run.arm for run in runs[:2]] == ["real", "real+synthetic"]
    expected = 100 * (after["ap"] - before["ap"])
    np.testing.assert_allclose(identity_gains([runs[0]], [runs[1]]).to_numpy(), expected.to_numpy())


def test_winners_and_losers_are_the_people_of_the_largest_changes(inputs: dict[str, object]) -> None:
    run = read_runs(inputs["runs"])[0]
    changes = pd.Series({1: 5.0, 2: -1.0, 3: 0.0, 4: 7.0, 5: -3.0, 6: 2.0})
    found = winners_and_losers(changes, run, SourceImages(inputs["images"]), most=2)
    assert [person["note"] for person in found["winners"]] == ["+7.0", "+5.0"]
    assert [person["note"] for person in found["losers"]] == ["−3.0", "−1.0"]
    assert all(person["picture"].uri for person in [*found["winners"], *found["losers"]])


def test_shown_queries_are_chosen_by_rule_and_named_for_what_they_are() -> None:
    rows = {"query": list("abcdefg"), "pid": [1, 1, 2, 3, 4, 4, 1], "change": [0.5, 0.4, 0.2, 0.0, 0.0, -0.1, -0.3]}
    change = pd.DataFrame(rows)
    assert chosen_queries(change) == [
        ("Gains most: AP +50.0 points", "a"),
        ("Next of another person: AP +20.0 points", "c"),
        ("In the middle: AP ±0.0 points", "d"),
        ("Loses most: AP −30.0 points", "g"),
    ]
    assert chosen_queries(change.head(0)) == []
    assert chosen_queries(change.head(1)) == [("Gains most: AP +50.0 points", "a")]
    assert chosen_queries(change.tail(1).reset_index(drop=True)) == [("Loses most: AP −30.0 points", "g")]


def test_an_arm_from_outside_has_its_own_words_and_color(tmp_path: Path) -> None:
    ARMS_OF_THE_BENCHMARK.register(
        Arm(name="real+flip", text="Flipped people.", tells="x", trains_on="synthetic", color=3)
    )
    try:
        runs = make_runs(tmp_path, make_index(tmp_path), ("real", "real+synthetic", "real+flip"))
        html, _ = report_of({"benchmark": make_table(tmp_path, runs)}, tmp_path / "out")
    finally:
        del ARMS_OF_THE_BENCHMARK._items["real+flip"]
    assert '<dt><i class="dot s3"></i>real+flip</dt><dd>Flipped people.' in html
    assert "another generator" not in html


def test_arms_keep_their_colors_whatever_else_is_shown() -> None:
    assert Arms(["zoo", "real+synthetic", "real"]).names == ["real", "real+synthetic", "zoo"]
    assert Arms(["real", "real+synthetic"]).color("real+synthetic") == Arms(["real+synthetic"]).color("real+synthetic")


def test_a_chart_escapes_the_names_of_arms() -> None:
    chart = fraction_chart("mAP", [Line(name=f'"{EVIL}" $x$', points=[Point(x=20, value=3.0)])], "x")
    assert "<script" not in chart.svg and "&lt;script&gt;" in chart.svg


def test_markdown_cells_cannot_break_the_table_or_become_html() -> None:
    assert markdown_cell("a|b\n<b> [x](y)") == "a\\|b &lt;b&gt; \\[x\\](y)"


def test_a_model_card_becomes_safe_html(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text(
        f"---\nlicense: x\n---\n# Tiny {EVIL}\n\nSees `a<b>` and **bold**,\ntwice [here](javascript:x).\n\n"
        "| | |\n|---|---|\n| Data | 3 < 4 |\n\n- one\n  more\n- two\n\n```\npip <i>\n\n# no heading\n```\n"
    )
    found = read_card(card)
    assert found["title"] == f"Tiny {EVIL}"
    assert found["text"].split("\n", 3)[:3] == [
        "<p>Sees <code>a&lt;b&gt;</code> and <b>bold</b>, twice here.</p>",
        '<div class="scroll"><table class="card-table"><tbody><tr><td>Data</td><td>3 &lt; 4</td></tr>'
        "</tbody></table></div>",
        "<ul><li>one",
    ]
    assert found["text"].endswith("<li>two</li></ul>\n<pre>pip &lt;i&gt;\n\n# no heading</pre>")


HOSTILE_NAMES = ["a`;touch X;`b", "``` $(touch X) ```", "````", "a'b`c", "-x `", "$(touch X)", "a;touch X", "`"]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_command_pasted_from_the_report_runs_what_was_typed_and_nothing_else(
    inputs: dict[str, object], tmp_path: Path, name: str
) -> None:
    """CommonMark's rule for a fence: it is closed by as many backquotes as opened it, or more, alone on a line."""
    command = shlex.join(["printf", "%s\\n", "--root", f"/data/{name}"])
    report_of(inputs, tmp_path, commands=[command, "true"])
    text = (tmp_path / "report.md").read_text().split("## Make it again")[1].strip()
    fence, *lines, last = text.splitlines()
    assert set(fence) == {"`"} and last == fence
    assert not any(re.fullmatch(rf" {{0,3}}`{{{len(fence)},}}\s*", line) for line in lines)
    assert lines == [command, "true"]
    done = subprocess.run(["sh", "-c", "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"--root\n/data/{name}\n" and not (tmp_path / "X").exists()


@pytest.mark.parametrize("text", [*HOSTILE_NAMES, "plain", "", " ", "a\nb"])
def test_a_code_span_shows_any_text_as_it_is(text: str) -> None:
    span = code_span(text)
    fence = re.match("`+", span).group()
    inner = span[len(fence) : -len(fence)]
    assert span.endswith(fence) and len(fence) not in map(len, re.findall("`+", inner)) and "\n" not in span
    assert text.replace("\n", " ") in inner


def test_the_report_says_how_it_differs_from_the_regeneration_before(inputs, tmp_path):
    now = entry_of(inputs["benchmark"], inputs["images"], inputs["generators"], inputs["synthetic"])
    assert now.headline() and now.counts["training images"] == PEOPLE and now.counts["synthetic images"] >= 0
    far = [gain.model_copy(update={"value": gain.value + 500}) for gain in now.gains]
    before = now.model_copy(
        update={"gains": far, "finished": "2026-11-20T01:00:00", "config": {"steps": 2}, "images": "x"}
    )
    html, _ = report_of(inputs, tmp_path, before=before)
    text = ParsedReport(html).text
    assert "Since the regeneration of 2026-11-20" in text and "setting steps: 2 → 3" in text
    assert ("−500.0" in text and "cannot be told" in text) or "more than the intervals allow" in text
    assert "Since the regeneration of 2026-11-20" in (tmp_path / "report.md").read_text()
