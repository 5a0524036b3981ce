"""What must hold after each week, found from the files alone: the data set, the store, the results, the history."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pandas as pd

from benchmarks.year.commands import DATA, RESULTS, STORE
from benchmarks.year.data import answerable_queries, counts_of, hashes
from benchmarks.year.plan import FRACTION, TRAIN, Week, pid_of
from datasets.runtime.manifests import local_path
from datasets.shards.tars import image_of, read_samples
from datasets.store.forget import Sightings
from datasets.store.inventory import Inventory
from flows.alerts import DATA_SHRANK, Limits, alerts_of
from reid.config import HistoryEntry
from reid.history.compare import changes
from reid.history.table import HISTORY, read_history


@dataclass(frozen=True)
class State:
    """What lies there after a week."""

    entries: Sequence[HistoryEntry]
    """The history, oldest first."""
    pages: Sequence[str]
    """Folders of results, sorted."""
    artifacts: frozenset[str]
    bytes: int
    reports: int


def state_of(folder: Path) -> State:
    """Look at a year's folder."""
    results = folder / RESULTS
    pages = [path.name for path in results.glob("20*") if path.is_dir()] if results.is_dir() else []
    items = Inventory(folder / STORE).finished.values() if (folder / STORE).is_dir() else []
    return State(
        entries=read_history(results / HISTORY),
        pages=sorted(pages),
        artifacts=frozenset(item.name for item in items),
        bytes=sum(item.bytes for item in items),
        reports=sum(item.stage == "report" for item in items),
    )


@dataclass(frozen=True)
class Checker:
    """The checks of one week.

    Args:
        folder: the year's.
        weeks: this week and all before it.
        before: what lay there before it; of an interrupted week, when it was last begun.
        rows: how many rows the history had after the week before.
        most_reports: how many results may be left after pruning.
    """

    folder: Path
    weeks: Sequence[Week]
    before: State
    rows: int
    most_reports: int

    def problems(self) -> list[str]:
        """One line for each thing that is not as it must be."""
        after = state_of(self.folder)
        parts = (self._data(after), self._pages(after), self._history(after), self._store(after), self._consent())
        return [problem for part in parts for problem in part]

    @property
    def week(self) -> Week:
        """The week that is checked."""
        return self.weeks[-1]

    @property
    def changed(self) -> bool:
        """Whether the data are others than a week before."""
        return len(self.weeks) < 2 or self.weeks[-2].files != self.week.files

    def _last_change(self) -> datetime:
        pairs = zip(self.weeks[-2::-1], self.weeks[::-1], strict=False)
        return next((late.date for early, late in pairs if early.files != late.files), self.weeks[0].date)

    def _data(self, after: State) -> Iterator[str]:
        """The latest result's index, shards and synthetic set hold what the data set holds, and nothing else."""
        run = json.loads((self.folder / RESULTS / "latest" / "run.json").read_text())
        inventory, live = Inventory(self.folder / STORE), hashes(self.folder / DATA)
        used = [inventory.finished[name] for name in inventory.with_ancestors([run["report"]])]
        own = [item for item in used if Path(str(item.manifest["config"].get("root", ""))).name == DATA]
        latest = local_path(inventory.finished[run["report"]].manifest["config"]["images"]).name
        # what was made from training images that are the same as before may rest on an earlier index of them
        table = pd.read_parquet(next(item.folder for item in own if item.folder.name == latest) / "images.parquet")
        if dict(zip(table["path"], table["sha256"], strict=True)) != live:
            yield "stale: the index of the latest result lists other pictures than the data set holds"
        indices = {item.name for item in own}
        shards = [item for item in used if item.stage == "write-shards" and not indices.isdisjoint(item.inputs)]
        packed = {sample for item in shards for sample in _packed(item.folder)}
        if packed != {(Path(name).stem, digest) for name, digest in live.items()}:
            yield "stale: the shards of the latest result hold other pictures than the data set"
        training = {Path(name).stem for name in live if name.startswith(TRAIN)}
        for item in (item for item in used if item.stage == "synthesize"):
            sources = pd.read_parquet(item.folder / "synthetic.parquet", columns=["source_keys"]).source_keys
            if gone := {key for keys in sources for key in keys} - training:
                yield f"stale: synthetic images were drawn from {len(gone)} pictures that are not there"

    def _pages(self, after: State) -> Iterator[str]:
        """The results that must be there; `latest` leads to the newest; its counts are right."""
        dates, may_be = dates_of_results(self.weeks)
        found = [name[:10] for name in after.pages]
        if [date for date in found if date not in may_be] != dates:
            yield f"results of {', '.join(found)}; expected were those of {', '.join(dates)}"
        base = self.folder / RESULTS
        if (base / "latest").resolve().name[:10] != f"{self._last_change():%Y-%m-%d}":
            yield f"latest leads to {(base / 'latest').resolve().name}"
        counts, report = counts_of(self.folder / DATA), (base / "report.md").read_text()
        queries = answerable_queries(self.folder / DATA)
        said = f"tested on {queries} queries against {counts['gallery images']} gallery images"
        if said not in report:
            yield f"the report does not say: {said}"
        real = max(round(counts["training images"] * FRACTION / 100), counts["training people"])
        row = f"| {FRACTION} % | real | 1 | {real} | 0 |"
        if row not in report:
            yield f"the report has no row: {row}"

    def _history(self, after: State) -> Iterator[str]:
        """A row for each other result, dated and counted; marked as what it is; an alert where the data shrank."""
        added = len(after.entries) - self.rows
        if added != self.changed:
            yield f"{added} rows were added to the history; data {'changed' if self.changed else 'did not change'}"
        if not self.changed and (new := after.artifacts - self.before.artifacts):
            yield f"nothing changed, and yet made: {', '.join(sorted(new))}"
        last, counts = after.entries[-1], counts_of(self.folder / DATA)
        counts["synthetic images"] = counts["training images"] - max(
            round(counts["training images"] * FRACTION / 100), counts["training people"]
        )
        if last.counts != counts:
            yield f"the history's last row counts {last.counts}, the data {counts}"
        if last.finished[:10] != f"{self._last_change():%Y-%m-%d}":
            yield f"the history's last row is of {last.finished[:10]}"
        if self.changed and len(after.entries) > 1:
            yield from self._marks(after.entries[-2], last)

    def _marks(self, old: HistoryEntry, new: HistoryEntry) -> Iterator[str]:
        if not any(line.startswith("data: ") for line in changes(old, new)):
            yield "the history does not mark that the data changed"
        images = [entry.counts["training images"] for entry in (old, new)]
        shrank = images[1] < images[0] * (1 - Limits().data_percent / 100)
        told = any(alert.event == DATA_SHRANK for alert in alerts_of([old, new]))
        if shrank != told:
            yield f"data went from {images[0]} to {images[1]} training images; alert: {told}"

    def _store(self, after: State) -> Iterator[str]:
        if after.reports > self.most_reports:
            yield f"{after.reports} results are left in the store; at most {self.most_reports} may be"

    def _consent(self) -> Iterator[str]:
        """No artifact has seen anybody who has withdrawn consent."""
        inventory = Inventory(self.folder / STORE)
        if self.week.withdrawn and (seen := Sightings(inventory, pids=self.week.withdrawn, root=DATA).seen):
            yield f"{len(seen)} artifacts have seen people who withdrew consent: {', '.join(sorted(seen))}"


def dates_of_results(weeks: Sequence[Week]) -> tuple[list[str], set[str]]:
    """Dates of the folders of results that must lie there after the last week, oldest first, and of those that may.

    There is one for each change of the data. When somebody withdraws consent, those that show them go, and those whose
    artifacts were pruned, of which nobody knows whom they show; so of the earlier ones only some of the others stay.
    """
    since = max((week.number for week in weeks if week.leaving is not None), default=0)
    pairs = zip([None, *weeks], weeks, strict=False)
    changed = [late for early, late in pairs if early is None or early.files != late.files]
    innocent = [week for week in changed if weeks[-1].withdrawn.isdisjoint(map(pid_of, week.files))]
    must = [f"{week.date:%Y-%m-%d}" for week in changed if week.number >= since]
    return must, {f"{week.date:%Y-%m-%d}" for week in innocent if week.number < since}


def _packed(shards: Path) -> Iterator[tuple[str, str]]:
    for tar in sorted(shards.glob("*.tar")):
        for key, members in read_samples(tar):
            yield key, hashlib.sha256(image_of(members)).hexdigest()
