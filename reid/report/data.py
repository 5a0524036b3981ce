"""What the report says in numbers and words: the benchmark's table, gains, curves, counts and costs.

Reads finished artifacts only and computes nothing that the benchmark has not: a figure has one origin. Shares are kept
in [0, 1] as the artifacts have them and become percent where they are printed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic_core import from_json

from datasets.runtime.errors import ArtifactError
from datasets.runtime.manifests import is_complete, manifest_of
from datasets.runtime.reading.tables import read_table
from reid.arms import ARMS, PALETTE, arm_rank
from reid.config import TrainReidConfig

logger = logging.getLogger(__name__)

MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True, kw_only=True)
class ReidRun:
    """One re-ID run's folder and which run it is."""

    directory: Path
    manifest: dict[str, Any]
    protocol: str
    fraction: int
    draw: int
    seed: int
    arm: str

    @property
    def label(self) -> str:
        """For legends and captions."""
        return f"{self.fraction} %, {self.arm}"


@dataclass
class Arms:
    """Colors of the arms that a report shows."""

    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.names = sorted(self.names, key=arm_rank)

    def color(self, name: str) -> int:
        """Place in the palette: an arm's own, whatever else is shown; unregistered ones take the last two in turn."""
        if name in ARMS:
            return ARMS[name].color
        unknown = [other for other in self.names if other not in ARMS]
        return PALETTE - 2 + (unknown.index(name) % 2 if name in unknown else 0)

    def legend(self) -> list[dict[str, Any]]:
        """Name and color of each, for the report."""
        return [{"name": name, "color": self.color(name)} for name in self.names]


def read_runs(directories: Iterable[Path]) -> list[ReidRun]:
    """The runs, sorted by protocol, fraction, arm, draw and seed."""
    runs = []
    for directory in directories:
        manifest = manifest_of(directory, TrainReidConfig.stage)
        if manifest["config"].get("arm") is None:
            raise ArtifactError(f"{directory} is no re-ID run (its config names no arm); give folders of 'reid train'")
        config = manifest["config"]
        names = ("protocol", "fraction", "draw", "seed", "arm")
        runs.append(ReidRun(directory=Path(directory), manifest=manifest, **{name: config[name] for name in names}))
    return sorted(runs, key=lambda run: (run.protocol, run.fraction, arm_rank(run.arm), run.draw, run.seed))


RESULT_COLUMNS = (
    "protocol",
    "fraction",
    "draw",
    "seed",
    "arm",
    "rank1",
    "map",
    "steps",
    "synthetic_images",
    "queries",
    "gallery",
    "backbone",
    "weights",
    "height",
    "width",
    "run",
)


def read_results(directory: Path) -> pd.DataFrame:
    """The benchmark's rows, one per run, sorted; the columns that a report cannot do without are checked."""
    results = read_table(directory, "results.parquet", stage="benchmark").to_pandas()
    absent = [name for name in RESULT_COLUMNS if name not in results]
    if absent or results.empty:
        raise ArtifactError(
            f"{directory}/results.parquet has {'no rows' if not absent else f'no {absent}'}; run reid benchmark again"
        )
    order = results["arm"].map(arm_rank)
    return results.assign(_arm=order).sort_values(["protocol", "fraction", "_arm", "draw", "seed"]).drop(columns="_arm")


def read_statistics(directory: Path) -> pd.DataFrame:
    """Mean, sd and interval of each protocol, fraction, arm and metric, as shares."""
    return read_table(directory, "statistics.parquet").to_pandas()


def per_query(run: ReidRun) -> pd.DataFrame:
    """A run's matched queries: ``query, pid, matches, first_rank, ap``; empty if the run has no such file."""
    columns = ["query", "pid", "matches", "first_rank", "ap"]
    path = run.directory / "per_query.parquet"
    if not path.is_file():
        return pd.DataFrame(columns=columns)
    table = read_table(run.directory, path.name).to_pandas()[columns]
    return table[table["first_rank"] > 0]


def read_log(directory: Path, names: Sequence[str] = ("logs/train.jsonl", "log.jsonl")) -> pd.DataFrame:
    """Steps and losses of a training; empty if there is no log. Corrupt lines (a killed run's last) are left out."""
    rows = []
    for name in names:
        path = Path(directory) / name
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                row = from_json(line)
            except ValueError:
                continue
            if isinstance(row, dict) and "step" in row and isinstance(row.get("loss"), int | float):
                rows.append({"step": float(row["step"]), "loss": float(row["loss"])})
    table = pd.DataFrame(rows, columns=["step", "loss"])
    return table.drop_duplicates("step", keep="last").sort_values("step")  # a resumed run repeats some steps


def with_ancestors(folders: Iterable[Path], store: Path) -> list[dict[str, Any]]:
    """Manifests of artifacts and of all that they were made from in the same store, each once.

    Artifacts of other stores (shipped models) are not this regeneration's cost, and the user's files are none at all.
    """
    store, waiting = store.resolve(), [Path(folder) for folder in folders]
    given, found = {folder.resolve() for folder in waiting}, {}
    while waiting:
        folder = waiting.pop().resolve()
        if folder in found or not (folder in given or (store in folder.parents and is_complete(folder))):
            continue
        found[folder] = manifest = manifest_of(folder)
        waiting += [Path(item["path"]) for item in manifest.get("inputs", {}).values()]
    unique = {(m["stage"], m["key"]): m for m in found.values()}
    return sorted(unique.values(), key=lambda m: (str(m.get("started", "")), m["stage"], m["key"]))


def costs(manifests: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Seconds by stage, in the order of the manifests, and how long it took from the first start to the last end."""
    manifests = list(manifests)
    groups: dict[str, list[dict[str, Any]]] = {}
    for manifest in manifests:
        groups.setdefault(_stage_title(manifest), []).append(manifest)
    seconds = {name: sum(float(m.get("seconds", 0)) for m in members) for name, members in groups.items()}
    total, longest = sum(seconds.values()), max(seconds.values(), default=0) or 1
    rows = [
        {
            "stage": name,
            "count": len(groups[name]),
            "seconds": f"{value:,.1f}",
            "share": f"{100 * value / (total or 1):.0f} %",
            "percent": f"{100 * value / longest:.1f}",
        }
        for name, value in seconds.items()
    ]
    return {
        "rows": rows,
        "total": f"{total:,.1f}",
        "count": len(manifests),
        "spoken": spoken_seconds(total),
        "elapsed": _elapsed(manifests, total),
    }


def _elapsed(manifests: Sequence[dict[str, Any]], total: float) -> str:
    """First start to last end; empty where long pauses lie between, or no start is known."""
    begun = [
        (datetime.fromisoformat(m["started"]).timestamp(), float(m.get("seconds", 0)))
        for m in manifests
        if m.get("started")
    ]
    if not begun:
        return ""
    span = max(start + seconds for start, seconds in begun) - min(start for start, _ in begun)
    return spoken_seconds(span) if 0 < span < 2 * total else ""


def _stage_title(manifest: dict[str, Any]) -> str:
    titles = {
        "train-imagpose": "train (generator)",
        "distill-imagpose": "distill (generator)",
        TrainReidConfig.stage: "train (re-ID)",
    }
    return titles.get(manifest["stage"], manifest["stage"])


def spoken_seconds(seconds: float) -> str:
    """A duration for people: 42 s, 6 min 05 s, 2 h 10 min."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def points(value: float) -> str:
    """A difference in points with its sign: +6.1, −0.4."""
    rounded = round(float(value), 1) + 0.0
    return f"{MINUS if rounded < 0 else '+' if rounded > 0 else '±'}{abs(rounded):.1f}"


def enumeration(parts: Sequence[str]) -> str:
    """a; a and b; a, b and c."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def percent(values: Sequence[float] | float) -> str:
    """Mean (and standard deviation of several runs) of shares in [0, 1], in percent."""
    array = np.atleast_1d(np.asarray(values, float))
    array = 100 * array[np.isfinite(array)]
    if not len(array):
        return "—"
    return f"{array.mean():.1f}" if len(array) == 1 else f"{array.mean():.1f} ± {array.std(ddof=1):.1f}"
