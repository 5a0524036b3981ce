"""Where the results of each regeneration stay, and what `latest` shows."""

from __future__ import annotations

import json
from pathlib import Path

from datasets.__main__ import COMMANDS
from datasets.miniature.config import MiniatureConfig
from datasets.runtime.artifacts import build
from datasets.runtime.command_line import main
from datasets.runtime.keys import artifact_directory, artifact_key
from datasets.store.records import read_records
from flows.config import RegenerateConfig
from flows.runs.history import of_series
from flows.runs.notes import RunNotes
from flows.runs.overrides import regenerate_command, variant
from flows.runs.results import RUN_FILE, KeptResults, keep_results
from reid.config import HistoryEntry


def kept(folder: Path, monkeypatch, run: str, page: str, *samples: str, **fields: object) -> KeptResults:
    """Results of a run of preset 'demo', in a working folder of the test's own."""
    monkeypatch.chdir(folder)
    source = folder / "made"
    source.mkdir(exist_ok=True)
    files = {"report.html": source / "page", "results.txt": source / "table"}
    files |= dict.fromkeys(samples, source / "sheet")
    for path in files.values():
        path.write_text(page)
    return keep_results(RegenerateConfig(preset="demo", **fields), files, run, {"report": "report/0"})


def pages(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir() and not path.is_symlink()}


def test_each_run_has_a_folder_of_its_own_and_the_known_path_shows_the_newest(tmp_path, monkeypatch):
    first = kept(tmp_path, monkeypatch, "11111111-aaaa", "week 1")
    second = kept(tmp_path, monkeypatch, "22222222-bbbb", "week 2")
    assert first.folder.name.endswith("-11111111") and second.folder.name.endswith("-22222222")
    assert (first.folder / "report.html").read_text() == "week 1"
    assert (tmp_path / "runs/demo/report.html").read_text() == "week 2"
    assert (tmp_path / "runs/demo/latest").resolve() == second.folder and second.latest == tmp_path / "runs/demo"
    assert json.loads((second.folder / RUN_FILE).read_text())["run"] == "22222222-bbbb"


def test_an_unchanged_run_leaves_nothing_behind(tmp_path, monkeypatch):
    first = kept(tmp_path, monkeypatch, "11111111", "week 1", "samples-20-0.png")
    again = kept(tmp_path, monkeypatch, "22222222", "week 1", "samples-20-0.png")
    assert (again.folder, again.new) == (first.folder, False)
    assert pages(tmp_path / "runs/demo") == {first.folder.name}


def test_a_run_with_other_settings_does_not_replace_the_regular_report(tmp_path, monkeypatch):
    regular = kept(tmp_path, monkeypatch, "11111111", "regular", "samples-20-0.png")
    other = kept(tmp_path, monkeypatch, "22222222", "other", "samples-40-0.png", fractions=[40])
    base = tmp_path / "runs/demo"
    assert (base / "report.html").read_text() == "regular" and (base / "latest").resolve() == regular.folder
    assert other.latest.name.startswith("latest-") and (other.latest / "report.html").read_text() == "other"
    assert not (base / "samples-40-0.png").exists()


def test_a_picture_that_the_newest_run_does_not_have_is_not_shown_beside_its_report(tmp_path, monkeypatch):
    first = kept(tmp_path, monkeypatch, "11111111", "week 1", "samples-20-0.png")
    kept(tmp_path, monkeypatch, "22222222", "week 2", "samples-60-0.png")
    assert sorted(path.name for path in (tmp_path / "runs/demo").glob("samples-*")) == ["samples-60-0.png"]
    assert (first.folder / "samples-20-0.png").is_file()


def test_files_of_the_layout_before_are_set_aside_not_lost(tmp_path, monkeypatch):
    old = tmp_path / "runs/demo"
    old.mkdir(parents=True)
    (old / "report.html").write_text("of an earlier version")
    kept(tmp_path, monkeypatch, "11111111", "week 1")
    assert (old / "earlier/report.html").read_text() == "of an earlier version"
    assert (old / "report.html").read_text() == "week 1"


def test_settings_are_another_variant_only_if_they_can_change_a_result(tmp_path):
    assert variant(RegenerateConfig(preset="demo", workers=7, device="cpu")) == ""
    assert len(variant(RegenerateConfig(preset="demo", fractions=[20]))) == 8
    assert variant(RegenerateConfig(preset="demo", fractions=[20], output=tmp_path)) == ""
    assert variant(RegenerateConfig(preset="demo", synthetic={"gan": tmp_path})) != ""


def test_the_reports_command_names_other_generators_images_and_other_people(tmp_path):
    config = RegenerateConfig(preset="demo", synthetic={"gan": tmp_path / "sets/gan-{fraction}/draw-{draw}"})
    assert "--synthetic 'gan=gan-{fraction}/draw-{draw}'" in regenerate_command(config)
    people = {"people": {"root": tmp_path / "others.csv"}}
    assert "--pretrain.people.root others.csv" in regenerate_command(RegenerateConfig(preset="demo", pretrain=people))


def test_a_regeneration_is_not_compared_with_another_presets_of_the_same_output(tmp_path):
    presets = ("demo", "study", "demo")
    entries = [HistoryEntry(benchmark=str(number), preset=name) for number, name in enumerate(presets)]
    config = RegenerateConfig(preset="demo", output=tmp_path)
    assert [entry.benchmark for entry in of_series(entries, config)] == ["0", "2"]


def test_a_run_names_in_its_store_what_it_uses_and_a_resumed_one_forgets_none_of_it(tmp_path):
    config = RegenerateConfig(preset="demo", store=tmp_path / "store", fractions=[20])
    used = [MiniatureConfig(seed=seed) for seed in (1, 2)]
    RunNotes(config, "run-1", tmp_path / "a.lock").uses(used[:1])
    notes = RunNotes(config, "run-1", tmp_path / "a.lock")
    notes.uses(used[1:])
    (record,) = read_records(config.store)
    assert record.artifacts == [f"miniature/{artifact_key(stage)}" for stage in used]
    assert (record.preset, record.variant, record.finished) == ("demo", variant(config), False)
    notes.finish(Path("store/report/1"), tmp_path / "pages")
    (record,) = read_records(config.store)
    assert (record.finished, record.report, record.pages) == (True, "report/1", tmp_path / "pages")


def test_a_year_of_weekly_changes_keeps_every_report_and_a_store_of_a_few_weeks(tmp_path, monkeypatch):
    store = tmp_path / "store"
    for week in range(52):
        config = RegenerateConfig(preset="demo", store=store)
        notes = RunNotes(config, f"{week:08d}", store / "locks/demo.lock")
        index, report = MiniatureConfig(seed=week), MiniatureConfig(seed=1000 + week)
        notes.uses([index, report])
        folders = [artifact_directory(stage, store) for stage in (index, report)]
        for stage, folder in zip((index, report), folders, strict=True):
            build(stage, lambda _, to: (to / "data").write_text("x" * 1000) and {}, output=folder)
        results = kept(tmp_path, monkeypatch, f"{week:08d}", f"week {week}")
        notes.finish(folders[1], results.folder)
        prune = ["store", "prune", "--store", str(store), "--keep-runs", "3", "--older-than", "0", "--remove"]
        assert main("datasets", COMMANDS, prune) == 0
        assert len(list(store.glob("miniature/*/manifest.json"))) <= 6
        assert (tmp_path / "runs/demo/report.html").read_text() == f"week {week}"
    base = tmp_path / "runs/demo"
    shown = {(base / name / "report.html").read_text() for name in pages(base)}
    assert shown == {f"week {week}" for week in range(52)}
