"""``python -m datasets store`` and ``store prune``: what lies in a store, and what no kept result needs.

Kept are the newest results of each preset and of each set of other settings, every run that works or can be resumed,
whatever is young, and all that these were made from. The rest may leave.
"""

from __future__ import annotations

import fcntl
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from datasets.runtime.errors import ArtifactBusyError, InputError
from datasets.runtime.manifests import MANIFEST
from datasets.store.config import PruneStoreConfig, StoreConfig
from datasets.store.inventory import DAY, Inventory, StoredArtifact, config_files, lock_file, spoken_size
from datasets.store.records import RUNS, RunRecord, clock, is_locked, is_running, read_records, store_lock

logger = logging.getLogger(__name__)

REPORT = "report"
"""The stage that a regeneration ends with; its inputs are all that the result was made from."""
RESULT, RUNNING, RESUMABLE, YOUNG = "result", "running", "resumable", "young"


@dataclass
class Retention:
    """What of a store is kept, and why.

    Args:
        inventory: the store's artifacts.
        records: its runs.
        keep_runs: results kept of each series.
        older_than: days; what is younger is kept.
        keep: ``STAGE/KEY`` of what is kept besides.
    """

    inventory: Inventory
    records: list[RunRecord]
    keep_runs: int
    older_than: float
    keep: Sequence[str] = ()

    @cached_property
    def reasons(self) -> dict[str, str]:
        """Artifact or working folder -> why it is kept itself (not only because another was made from it)."""
        found: dict[str, str] = {}
        for name in [*self.inventory.finished, *self.inventory.partial]:
            if self._days_unused(name) < self.older_than:
                found[name] = YOUNG
        for item in self.inventory.partial.values():
            if is_locked(lock_file(item)):
                found[item.name] = RUNNING
        for record in self.open_runs:
            reason = RUNNING if is_running(record, self.inventory.store) else RESUMABLE
            found |= dict.fromkeys([*record.artifacts, record.report], reason)
        for names in (*self.kept_results.values(), self.keep):
            found |= dict.fromkeys(names, RESULT)
        return found

    @cached_property
    def kept(self) -> set[str]:
        """Everything that stays, ancestors included."""
        named = set(self.reasons)
        return self.inventory.with_ancestors(named) | (named & self.inventory.partial.keys())

    @property
    def removable(self) -> list[StoredArtifact]:
        """What may leave: working folders first, then artifacts, each before what it was made from."""
        partial = [item for item in self.inventory.partial.values() if item.name not in self.kept]
        finished = [item for item in reversed(self.inventory.in_order()) if item.name not in self.kept]
        return [*partial, *finished]

    @cached_property
    def open_runs(self) -> list[RunRecord]:
        """Runs at work, and unfinished ones that can be resumed: young, or nothing of their series came later."""
        newest = {_series(record): record.run for record in self.records}
        return [
            record
            for record in self.records
            if not record.finished
            and (
                is_running(record, self.inventory.store)
                or newest[_series(record)] == record.run
                or (clock() - record.used.timestamp()) / DAY < self.older_than
            )
        ]

    @cached_property
    def kept_results(self) -> dict[str, set[str]]:
        """Report -> what its runs used, of the newest different results of each series."""
        used: dict[str, set[str]] = {}
        series: dict[tuple[str, str], list[str]] = {}
        finished = [record for record in self.records if record.finished and record.report]
        for record in reversed(finished):
            used.setdefault(record.report, {record.report}).update(record.artifacts)
            reports = series.setdefault(_series(record), [])
            if record.report not in reports:
                reports.append(record.report)
        for item in self._reports_without_a_record(used):  # made before there were records, or by hand
            used[item.name] = {item.name}
            series.setdefault((str(item.manifest["config"].get("preset", "")), ""), []).append(item.name)
        return {report: used[report] for reports in series.values() for report in reports[: self.keep_runs]}

    def _reports_without_a_record(self, known: Mapping[str, object]) -> list[StoredArtifact]:
        found = [
            i for i in self.inventory.finished.values() if i.stage == REPORT and i.manifest and i.name not in known
        ]
        return sorted(found, key=lambda item: item.changed, reverse=True)

    def _days_unused(self, name: str) -> float:
        items = (self.inventory.finished.get(name), self.inventory.partial.get(name))
        times = [item.changed for item in items if item is not None]
        times += [self._last_used[name]] if name in self._last_used else []
        return (clock() - max(times)) / DAY

    @cached_property
    def _last_used(self) -> dict[str, float]:
        """When a run last used an artifact; seconds since the epoch."""
        return {name: record.used.timestamp() for record in self.records for name in record.artifacts}


def _series(record: RunRecord) -> tuple[str, str]:
    return record.preset, record.variant


def run_list(config: StoreConfig) -> int:
    """Print a line for every artifact: size, age, who needs it; and the runs that results come from."""
    inventory = Inventory(config.store)
    records, defaults = read_records(config.store), PruneStoreConfig()
    retention = Retention(inventory, records, defaults.keep_runs, defaults.older_than)
    runs = _runs_by_artifact(records)
    items = [*inventory.in_order(), *inventory.partial.values()]
    width = max((len(item.name) for item in items), default=0) + len(".partial")
    for item in items:
        name = item.name + (".partial" if item.partial else "")
        print(f"{name:<{width}}  {spoken_size(item.bytes):>9}  {item.age():6.1f} d  {_needed(item, inventory, runs)}")
    leaving = retention.removable
    print(
        f"{len(items)} artifacts, {total(items)}; 'store prune' with its defaults would remove {len(leaving)} "
        f"({total(leaving)})"
    )
    return 0


def _runs_by_artifact(records: Iterable[RunRecord]) -> dict[str, list[RunRecord]]:
    runs: dict[str, list[RunRecord]] = {}
    for record in records:
        for name in record.artifacts:
            runs.setdefault(name, []).append(record)
    return runs


def _needed(item: StoredArtifact, inventory: Inventory, runs: Mapping[str, list[RunRecord]]) -> str:
    """Who needs an artifact: the artifacts made from it, by stage, and the runs that used it."""
    stages = [name.partition("/")[0] for name in inventory.needed_by.get(item.name, [])]
    counts = [f"{stages.count(stage)} {stage}" for stage in sorted(set(stages))]
    users = runs.get(item.name, [])
    counts += [f"{len(users)} runs, last {users[-1].preset} {users[-1].used:%Y-%m-%d}"] if users else []
    return f"needed by {', '.join(counts)}" if counts else "needed by none"


def run_prune(config: PruneStoreConfig) -> int:
    """List what no kept result needs, and remove it if so requested.

    Raises:
        InputError: there is no such store, a manifest or record in it cannot be read, or `keep` names what is not
            there.
    """
    inventory = Inventory(config.store)  # refuses a folder that is not there, before the lock makes one
    with store_lock(config.store, fcntl.LOCK_EX):
        inventory = Inventory(config.store)
        inventory.check_manifests()
        _refuse_unknown(config.keep, inventory)
        retention = Retention(inventory, read_records(config.store), config.keep_runs, config.older_than, config.keep)
        leaving = retention.removable
        for item in leaving:
            print(f"{'remove' if config.remove else 'would remove'} {_described(item)}")
        if config.remove:
            remove(leaving, inventory)
            _remove_old_files(retention, config.older_than)
    said = "removed" if config.remove else "would be removed (nothing was: give --remove)"
    kept = [item for item in inventory.finished.values() if item.name in retention.kept]
    print(f"{len(leaving)} artifacts, {total(leaving)}, {said}; {len(kept)} kept, {total(kept)}")
    return 0


def _refuse_unknown(keep: Sequence[str], inventory: Inventory) -> None:
    """Refuse a name under which nothing lies: what it was meant to keep would be removed."""
    if absent := [name for name in keep if name not in inventory.finished and name not in inventory.partial]:
        raise InputError(
            f"--keep {absent[0]} names no artifact of {inventory.store}; give STAGE/KEY as 'python -m datasets store "
            f"--store {inventory.store}' lists them"
        )


def _described(item: StoredArtifact) -> str:
    return f"{item.name}{'.partial' if item.partial else ''} ({spoken_size(item.bytes)}, {item.age():.1f} days)"


def total(items: Iterable[StoredArtifact]) -> str:
    """The size of several artifacts."""
    return spoken_size(sum(item.bytes for item in items))


def remove(items: Iterable[StoredArtifact], inventory: Inventory) -> None:
    """Delete artifacts with their settings files and locks; a reader never sees half of one under its name.

    Raises:
        ArtifactBusyError: one is being made right now.
    """
    for item in items:
        lock = lock_file(item)
        if is_locked(lock):
            raise ArtifactBusyError(f"{item.folder} is being made right now; stop that run first, or try again later")
        leaving = item.folder.with_name(f".{item.folder.name}.removed")
        shutil.rmtree(leaving, ignore_errors=True)
        item.folder.rename(leaving)
        (leaving / MANIFEST).unlink(missing_ok=True)  # nobody takes what is left after an interruption for an artifact
        shutil.rmtree(leaving)
        for path in (lock, *config_files(inventory.store, item)):
            path.unlink(missing_ok=True)


def _remove_old_files(retention: Retention, days: float) -> None:
    """Logs, records of runs whose results are not kept and have no page either, what an interrupted removal left."""
    store, limit = retention.inventory.store, clock() - days * DAY
    for path in store.glob("*/.*.removed"):
        shutil.rmtree(path)
    for path in (store / "logs").glob("*.log"):
        if path.stat().st_mtime < limit:
            path.unlink()
    open_runs = {record.run for record in retention.open_runs}
    for record in retention.records:
        gone = record.report not in retention.kept_results and record.run not in open_runs
        if gone and record.used.timestamp() < limit and (record.pages is None or not record.pages.is_dir()):
            (store / RUNS / f"{record.run}.json").unlink(missing_ok=True)
