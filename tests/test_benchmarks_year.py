"""The simulated year: its plan, its clock, and a few weeks of it."""

import json
from datetime import UTC, datetime
from itertools import pairwise

import pytest

from benchmarks.year import driver
from benchmarks.year.checks import Checker, dates_of_results, state_of
from benchmarks.year.commands import DATA, RESULTS, FailedCommandError
from benchmarks.year.commands import POOL as POOL_FOLDER
from benchmarks.year.data import pictures_below, put
from benchmarks.year.driver import STATE, YearConfig, run
from benchmarks.year.plan import FEWEST_IMAGES, FEWEST_PEOPLE, FIRST, LATER, Week, plan_year, training_images
from datasets.runtime.errors import InputError
from datasets.store.records import CLOCK, clock, now
from reid.history.table import HISTORY, read_history

POOL = [f"bounding_box_train/{pid:04d}_c{1 + i % 3}s1_{i:06d}_00.jpg" for pid in range(1, 13) for i in range(6)]
POOL += [f"query/{pid:04d}_c1s1_000000_00.jpg" for pid in range(101, 106)]
POOL += [f"bounding_box_test/{pid:04d}_c2s1_{i:06d}_00.jpg" for pid in range(101, 106) for i in range(3)]


def test_a_year_is_the_same_for_the_same_seed_and_its_beginning_does_not_depend_on_its_length():
    assert plan_year(POOL, 52, 3) == plan_year(list(reversed(POOL)), 52, 3)
    assert plan_year(POOL, 52, 3)[:9] == plan_year(POOL, 9, 3)
    assert plan_year(POOL, 52, 3) != plan_year(POOL, 52, 4)


@pytest.mark.parametrize("seed", range(5))
def test_in_a_year_everything_happens_and_nobody_comes_back_who_has_withdrawn(seed):
    plan = plan_year(POOL, 52, seed)
    assert {week.event for week in plan} == {*FIRST, *LATER}
    assert sum(week.leaving is not None for week in plan) >= 3
    for before, week in pairwise(plan):
        assert (week.event == "nothing") == (week.files == before.files)
        assert before.withdrawn <= week.withdrawn
        people = [int(name.rpartition("/")[2][:4]) for name in training_images(week.files)]
        assert not week.withdrawn & set(people)
        assert len(set(people)) >= FEWEST_PEOPLE and min(map(people.count, people)) >= FEWEST_IMAGES
        assert (week.date - before.date).days == 7


def test_results_of_before_a_withdrawal_may_stay_if_they_do_not_show_the_person():
    one, two = ({f"bounding_box_train/{pid:04d}_c1s1_000000_00.jpg": 0} for pid in (1, 2))
    weeks = [
        Week(0, "start", one),
        Week(1, "nothing", one),
        Week(2, "person", {**one, **two}),
        Week(3, "withdraw", one, frozenset({2}), 2),
        Week(4, "nothing", one, frozenset({2})),
    ]
    assert dates_of_results(weeks[:3]) == (["2027-01-04", "2027-01-18"], set())
    assert dates_of_results(weeks) == (["2027-01-25"], {"2027-01-04"})


def test_a_clock_that_the_environment_gives_dates_runs_and_a_wrong_one_is_refused(monkeypatch):
    monkeypatch.setenv(CLOCK, "2027-03-01T06:00:00+01:00")
    assert now() == datetime(2027, 3, 1, 5, tzinfo=UTC) and clock() == now().timestamp()
    for wrong in ("2027-03-01T06:00:00", "next week"):
        monkeypatch.setenv(CLOCK, wrong)
        with pytest.raises(InputError, match=f"{CLOCK} is '{wrong}', no time with its zone"):
            now()
    monkeypatch.delenv(CLOCK)
    assert abs((datetime.now(UTC) - now()).total_seconds()) < 5


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_weeks_hold_a_stale_result_is_noticed_and_a_year_goes_on_where_it_stood(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert run(YearConfig(folder=tmp_path, weeks=1)) == 0
    weeks, pool = plan_year(pictures_below(tmp_path / POOL_FOLDER), 2, 0), tmp_path / POOL_FOLDER
    put(weeks[1], pool, tmp_path / DATA)  # the data change, and nothing is regenerated
    found = "\n".join(Checker(tmp_path, weeks, state_of(tmp_path), 1, 3).problems())
    assert "stale: the index" in found and "stale: the shards" in found and "0 rows were added" in found
    assert "the report has no row" in found and "expected were those of 2027-01-04, 2027-01-11" in found
    assert run(YearConfig(folder=tmp_path, weeks=2)) == 0
    done = (tmp_path / STATE).read_text()
    assert run(YearConfig(folder=tmp_path, weeks=2)) == 0 and (tmp_path / STATE).read_text() == done
    said = capsys.readouterr().out
    assert said.count("week  0  2027-01-04  start") == 1 and said.count('"every_week_right": true') == 3
    rows = read_history(tmp_path / RESULTS / HISTORY)
    assert [row.finished[:10] for row in rows] == ["2027-01-04", "2027-01-11"]
    with pytest.raises(InputError, match="holds a year with other settings"):
        run(YearConfig(folder=tmp_path, weeks=3, seed=1))


@pytest.mark.parametrize("corrupt", [False, True])
def test_the_verdict_says_whether_the_store_is_intact(corrupt, tmp_path, monkeypatch, capsys):
    def words(*_):
        if corrupt:
            raise FailedCommandError("python -m datasets verify: exit code 1")
        return "a line of the history\n"

    monkeypatch.setattr(driver, "last_words", words)
    week = {"week": 0, "problems": [], "bytes": 1000, "cpu": 1.0}
    assert driver._verdict(YearConfig(folder=tmp_path), tmp_path, plan_year(POOL, 1, 0), [week]) == int(corrupt)
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["checks"] == {"every_week_right": True, "store_bounded": True, "store_intact": not corrupt}
