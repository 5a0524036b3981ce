"""``python -m benchmarks year``: does a year of weekly regenerations hold?

A data set of rendered people grows and changes week by week by a plan made from a seed: images are added, removed,
replaced, people join, and some withdraw consent. Each week is the documented sequence (`store forget` where somebody
leaves, ``flows direct``, `store prune`), dated by the clock that the store's commands and results take from the
environment (`datasets.store.records.CLOCK`); files get that date too. After each week `benchmarks.year.checks` compares
what is there with the data set. A line a week, and a verdict. A year that was interrupted goes on at its week.

Not part of it: Prefect's server, its schedules and its notifications, which have tests of their own.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

from pydantic import Field

from benchmarks.machine import machine
from benchmarks.year.checks import Checker, state_of
from benchmarks.year.commands import DATA, POOL, FailedCommandError, last_words, run_week
from benchmarks.year.data import make_pool, pictures_below, put
from benchmarks.year.plan import Week, plan_year, training_images
from datasets.runtime.atomic import write_text_atomically
from datasets.runtime.config import Config, Seed
from datasets.runtime.errors import InputError
from datasets.store.inventory import spoken_size

STATE = "year.json"
GROWTH = 1.5
"""How much larger the store may become after the weeks in which it fills, against the largest it was in them."""


class YearConfig(Config):
    """Simulate a year of weekly regenerations; 52 weeks take about half an hour of processor time."""

    folder: Path = Path("runs/a-year")
    """Where the data set, the store and the results lie; an interrupted year in it goes on."""
    weeks: int = Field(52, ge=1)
    """How many."""
    seed: Seed = 0
    """Of what happens to the data set."""
    keep_runs: int = Field(3, ge=1)
    """Results that pruning keeps."""
    older_than: float = Field(15.0, ge=0)
    """Days; what is younger stays in the store as well."""


def run(config: YearConfig) -> int:
    """Simulate the weeks that are not done; returns 1 if anything was not as it must be.

    Raises:
        InputError: the folder holds a year with other settings.
    """
    folder = config.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    pool = make_pool(folder / POOL)
    plan, done = plan_year(pictures_below(pool), config.weeks, config.seed), _resumed(folder, config)
    for week in plan[len(done) :]:
        done.append(_simulate(config, folder, pool, plan[: week.number + 1], done))
        write_text_atomically(
            folder / STATE, json.dumps({"settings": _settings(config), "weeks": done}, indent=1) + "\n"
        )
        print(_line(week, done[-1]), flush=True)
        for problem in done[-1]["problems"]:
            print(f"    {problem}", flush=True)
    return _verdict(config, folder, plan, done)


def _settings(config: YearConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", include={"seed", "keep_runs", "older_than"})


def _resumed(folder: Path, config: YearConfig) -> list[dict[str, Any]]:
    path = folder / STATE
    if not path.is_file():
        return []
    state = json.loads(path.read_text())
    if state["settings"] != _settings(config):
        raise InputError(f"{folder} holds a year with other settings ({state['settings']}); give another --folder")
    return state["weeks"][: config.weeks]


def _simulate(
    config: YearConfig, folder: Path, pool: Path, weeks: list[Week], done: list[dict[str, Any]]
) -> dict[str, Any]:
    """One week: what it took, what lies there then, and what is wrong with it."""
    week, before = weeks[-1], state_of(folder)
    put(week, pool, folder / DATA)
    try:
        cost = run_week(folder, week, config.keep_runs, config.older_than)
    except FailedCommandError as error:
        sys.exit(f"week {week.number} ({week.event}): {error}")
    young = math.ceil(config.older_than / 7)
    rows = done[-1]["rows"] if done else 0
    problems = Checker(folder, weeks, before, rows, max(config.keep_runs, young)).problems()
    after = state_of(folder)
    return {
        "week": week.number,
        "event": week.event,
        "problems": problems,
        "rows": len(after.entries),
        "bytes": after.bytes,
        "artifacts": len(after.artifacts),
        "seconds": round(cost.seconds, 1),
        "cpu": round(cost.cpu, 1),
    }


def _line(week: Week, found: dict[str, Any]) -> str:
    images = training_images(week.files)
    people = len({name.rpartition("/")[2][:4] for name in images})
    return (
        f"week {week.number:2d}  {week.date:%Y-%m-%d}  {week.event:<8}  {len(images):3d} images of {people:2d} people  "
        f"{found['rows']:2d} rows  store {spoken_size(found['bytes']):>8} in {found['artifacts']:3d} artifacts  "
        f"{found['cpu']:5.1f} CPU s  {'ok' if not found['problems'] else 'NOT AS IT MUST BE'}"
    )


def _verdict(config: YearConfig, folder: Path, plan: list[Week], done: list[dict[str, Any]]) -> int:
    wrong = [week["week"] for week in done if week["problems"]]
    filling = max(config.keep_runs, math.ceil(config.older_than / 7)) + 1
    sizes = [week["bytes"] for week in done]
    # The data grow too: bytes a training image, so that only what is left behind counts.
    each = [size / len(training_images(week.files)) for size, week in zip(sizes, plan, strict=True)]
    bounded = len(each) <= filling or max(each[filling:]) <= GROWTH * max(each[:filling])
    try:
        said, intact = last_words(folder, plan[-1]), True
    except FailedCommandError as error:
        said, intact = f"{error}\n", False
    print(said, end="")
    checks = {"every_week_right": not wrong, "store_bounded": bounded, "store_intact": intact}
    result = {
        "weeks": len(done),
        "wrong_weeks": wrong,
        "largest_store_bytes": max(sizes),
        "cpu_s": round(sum(week["cpu"] for week in done), 1),
        "cpu_s_of_a_week": round(sum(week["cpu"] for week in done) / len(done), 1),
        "events": {event: sum(week.event == event for week in plan) for event in sorted({week.event for week in plan})},
        "checks": checks,
        "machine": machine("torch", "pyarrow"),
    }
    print(json.dumps(result))
    return 0 if all(checks.values()) else 1
