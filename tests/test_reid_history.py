"""The history of a preset: what is remembered, how two regenerations differ, the table and the page."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pandas as pd
import pytest

from datasets.runtime.command_line import main
from datasets.runtime.errors import InputError
from reid.__main__ import COMMANDS
from reid.config import HistoryEntry, RememberedGain
from reid.history.compare import changes, shifts, verdict
from reid.history.show import history_charts, write_page
from reid.history.table import HISTORY, append, entry_before, read_history


def week(number: int, value: float = 5.0, half: float | None = 2.0, **fields: object) -> HistoryEntry:
    """A regeneration with one gain and its interval."""
    ends = {} if half is None else {"low": value - half, "high": value + half}
    gain = {"protocol": "leak-free", "fraction": 20, "arm": "real+synthetic", "baseline": "real", "unit": "draw"}
    values = {"before": 30.0, "after": 30.0 + value, "value": value} | ends
    about = {"benchmark": f"b{number}", "images": f"i{number}", "finished": f"2026-{1 + number // 4:02d}-01T01:00:00"}
    about |= {"arm": "real+synthetic", "reference": "real", "protocol": "leak-free", "pages": f"week-{number}"}
    about |= {"counts": {"training images": 100 + number}, "preset": "market", "seconds": 3600.0}
    return HistoryEntry(**about | {"gains": [RememberedGain(**gain | values)]} | fields)


@pytest.mark.parametrize(
    ("before", "after", "half", "said"),
    [
        (5.0, 7.0, 2.0, "No gain changed by more"),  # the intervals allow 2.8
        (5.0, 8.0, 2.0, "by more than the intervals allow at 20 %"),
        (8.0, 5.0, 2.0, "by more than the intervals allow at 20 %"),
        (5.0, 50.0, None, "cannot be told"),
    ],
)
def test_a_change_counts_only_beyond_both_intervals(before, after, half, said):
    (shift,) = found = shifts(week(1, before, half), week(2, after, half))
    assert shift.value == after - before and said in verdict(found)


def test_a_change_of_given_images_says_that_the_draw_may_explain_it():
    one_draw = [week(n, value).model_copy(deep=True) for n, value in ((1, 1.0), (2, 9.0))]
    entries = [
        e.model_copy(update={"gains": [g.model_copy(update={"unit": "none"}) for g in e.gains]}) for e in one_draw
    ]
    assert "luck of the draw" in verdict(shifts(*entries))


def test_other_arms_are_not_compared():
    other = week(1).gains[0].model_copy(update={"baseline": "real-long"})
    assert shifts(week(1, gains=[other]), week(2)) == []


def test_settings_that_one_of_two_versions_of_the_code_does_not_have_are_told_from_changed_ones():
    before = week(1, images="same", config={"train": {"steps": 80, "old": 3}, "depth": 2})
    after = week(2, images="same", config={"train": {"steps": None, "young": True}, "depth": {"of": 2}})
    assert changes(before, after) == [
        "setting train.steps: 80 → none",
        "setting train.old: gone, was 3",
        "setting train.young: new, True",
        "setting depth: 2 → {'of': 2}",
    ]


@pytest.mark.parametrize(("seconds", "unit"), [(30, "seconds"), (300, "minutes"), (30_000, "hours")])
def test_cost_is_drawn_in_a_unit_that_suits_it(seconds, unit):
    titles = [chart.title for chart in history_charts([week(1, seconds=1.0), week(2, seconds=float(seconds))])]
    assert f"Cost in {unit}" in titles


def test_what_changed_besides_is_named_data_settings_versions_and_code():
    before = week(1, config={"train": {"steps": 80, "seed": 0}}, versions={"torch": "2.9"}, code="a" * 40)
    after = week(2, config={"train": {"steps": 100, "seed": 0}}, versions={"torch": "2.10"}, code="b" * 40)
    assert changes(before, after) == [
        "data: +1 training images",
        "setting train.steps: 80 → 100",
        "version of torch: 2.9 → 2.10",
        f"code: {'a' * 12} → {'b' * 12}",
    ]
    assert changes(before, before) == []
    dirty = before.model_copy(update={"code": "a" * 12 + "-dirty"})
    assert changes(dirty, after)[-1] == f"code: {'a' * 12}-dirty → {'b' * 12}"


def test_an_entry_survives_the_file_and_the_file_only_grows(tmp_path):
    path = tmp_path / HISTORY
    entries = [week(1, config={"a": [1, None]}, quality={"pose score": 0.5}), week(2, half=None)]
    for entry in entries:
        append(path, entry)
    assert read_history(path) == entries
    assert [item.name for item in tmp_path.iterdir()] == [HISTORY]


def test_a_run_that_changes_nothing_is_compared_with_the_same_one_as_before():
    entries = [week(1), week(2), week(3, variant="1a2b3c4d")]
    assert entry_before(entries[:1], "b2", "") == entries[0]
    assert entry_before(entries, "b2", "") == entries[0]
    assert entry_before(entries, "b1", "") == entries[1]  # the data went back to what they were
    assert entry_before(entries, "b3", "1a2b3c4d") is None


def test_a_file_that_is_no_history_is_refused_in_one_line(tmp_path, capsys):
    (tmp_path / HISTORY).write_text("no Parquet")
    with pytest.raises(InputError, match="no history of regenerations"):
        read_history(tmp_path / HISTORY)
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "results.parquet")  # another table of ours
    assert main("reid", COMMANDS, ["history", "--history", str(tmp_path / "results.parquet")]) == 2
    assert "is no history of regenerations" in capsys.readouterr().err
    assert main("reid", COMMANDS, ["history", "--history", str(tmp_path / "none.parquet")]) == 2
    assert "holds no regeneration" in capsys.readouterr().err


def test_the_command_prints_a_line_each_and_marks_what_changed(tmp_path, capsys):
    for entry in (week(1), week(2, 5.5, code="b"), week(3, 15.0)):
        append(tmp_path / HISTORY, entry)
    page = tmp_path / "history.html"
    assert main("reid", COMMANDS, ["history", "--history", str(tmp_path / HISTORY), "--html", str(page)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    assert len(lines) == 3 and "20 %: +5.0 (+3.0 to +7.0)" in lines[0]
    assert [" (changed by more" in line for line in lines] == [False, False, True]
    assert 'href="week-3/report.html"' in page.read_text()


def test_the_command_prints_in_any_locale(tmp_path):
    """Settings change with an arrow, which Latin-1 and ASCII do not have."""
    for entry in (week(1, config={"steps": 80}), week(2, config={"steps": 100})):
        append(tmp_path / HISTORY, entry)
    command = [sys.executable, "-m", "reid", "history", "--history", str(tmp_path / HISTORY)]
    environment = os.environ | {"PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0 and rb"setting steps: 80 \u2192 100" in done.stdout, done.stderr


def test_a_year_fits_on_the_page_and_nothing_in_it_can_be_more_than_text(tmp_path):
    evil = "<script>alert(1)</script>"
    entries = [week(n, 5 + n % 3, config={"root": evil if n > 20 else "a"}, code=evil) for n in range(44)]
    write_page(entries, tmp_path / "a.html")
    write_page(entries, tmp_path / "b.html")
    html = (tmp_path / "a.html").read_text()
    assert html == (tmp_path / "b.html").read_text() and "<script" not in html
    assert html.count("/report.html") == 44 and len(html) < 1_000_000
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_there_is_a_chart_a_fraction_and_one_for_each_other_figure():
    entries = [week(n, quality={"validation loss": 0.3}) for n in range(3)]
    titles = [chart.title for chart in history_charts(entries)]
    assert titles[0].startswith("Gain in mAP at 20 %")
    assert titles[1:] == ["Training images", "Validation loss", "Cost in hours"]
