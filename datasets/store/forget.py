"""``python -m datasets store forget``: which artifacts have seen a person or an image, and their removal.

An image is followed from the index along the inputs that every manifest names. Tables say themselves what they hold; of
a model or a synthetic set its subset decides, and everything that it was initialized from. Where only more can be said
than is certain (unfinished work, one share of an encoding), the artifact is named.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datasets.runtime.errors import ArtifactBusyError, ArtifactError, InputError
from datasets.store.config import ForgetConfig
from datasets.store.inventory import Inventory, StoredArtifact, spoken_size
from datasets.store.prune import remove, total
from datasets.store.records import RunRecord, is_running, read_records, store_lock

TABLES = ("poses.parquet", "subsets.parquet")
"""Files of an artifact that list the images it holds, in a column `key`."""
INDEX = "index"
"""The stage whose table says who is on which image."""
TWIN = "#query"
"""End of the key of a query that lies in the gallery too (`datasets.sources.index.QUERY_IN_GALLERY`)."""
NARROWED = ("encoded", "shards")
"""Inputs of which a stage with a subset reads that subset only."""
SUBSETS = ("subset", "subsets")
"""Inputs that name a subset."""


@dataclass
class Sightings:
    """Which of some images each artifact of a store has seen.

    Args:
        inventory: the store's artifacts.
        pids: identities whose images are looked for.
        keys: further images, by key.
        root: the only data set that is meant, by path or name; all if None.
    """

    inventory: Inventory
    pids: Iterable[int] = ()
    keys: Iterable[str] = ()
    root: str | None = None
    seen: dict[str, set[str]] = field(default_factory=dict)
    """Artifact -> keys of images that it has seen."""
    splits: dict[str, set[str]] = field(default_factory=dict)
    """Image -> the splits that an index puts it into."""

    def __post_init__(self) -> None:
        for item in self.inventory.in_order():
            found = self._in_index(item) if item.manifest.get("stage") == INDEX else self._by_inputs(item)
            if found:
                self.seen[item.name] = found

    def _in_index(self, item: StoredArtifact) -> set[str]:
        """Images of the identities, and the named ones, that an index lists."""
        if self.root is not None and self.root not in names_of_root(item):
            return set()
        table = _columns(item.folder / "images.parquet", ["key", "pid", "split"])
        pids, keys, found = set(self.pids), set(self.keys), set()
        for key, pid, split in zip(table["key"], table["pid"], table["split"], strict=True):
            if pid in pids or key in keys or key.removesuffix(TWIN) in keys:
                found.add(key)
                self.splits.setdefault(key, set()).add(split)
        return found

    def _by_inputs(self, item: StoredArtifact) -> set[str]:
        """What an artifact has seen by way of what it was made from, less what it says itself that it lacks."""
        config = item.manifest.get("config", {})
        subset = self._subset_of(config)
        found: set[str] = set()
        for name, entry in item.manifest.get("inputs", {}).items():
            keys = self._seen_by(Path(entry["path"]))
            if subset is not None and name in SUBSETS:
                continue  # it lists images, and shows none
            found |= keys & subset if subset is not None and name in NARROWED else keys
        for table in TABLES:
            if found and (item.folder / table).is_file():
                found &= set(_columns(item.folder / table, ["key"])["key"])
        if wanted := config.get("splits"):
            found = {key for key in found if self.splits.get(key, set(wanted)) & set(wanted)}
        return found

    def _seen_by(self, path: Path) -> set[str]:
        """What an input has seen; nothing of what is not in this store."""
        names = (f"{stage}/{key}" for stage, key in zip(path.parts, path.parts[1:], strict=False))
        return next((self.seen[name] for name in names if name in self.seen), set())

    def _subset_of(self, config: dict[str, Any]) -> set[str] | None:
        """The images of the subset that a config names; None without one, or if it is gone."""
        given = next((config[name] for name in SUBSETS if config.get(name)), None)
        if given is None or config.get("fraction") is None:
            return None
        path = self.inventory.store / Path(given).parent.name / Path(given).name / "subsets.parquet"
        if not path.is_file():
            return None
        wanted = [("fraction", "=", config["fraction"]), ("draw", "=", config.get("draw", 0))]
        return set(_columns(path, ["key"], wanted)["key"])


def names_of_root(index: StoredArtifact) -> tuple[str, str]:
    """What the data set that an index lists may be called: its folder or file as it was given, and that one's name."""
    root = str(index.manifest.get("config", {}).get("root", ""))
    return root, Path(root).name


def _refuse_unknown_root(root: str | None, inventory: Inventory) -> None:
    """Refuse a data set that no index is of: nothing found would read as nobody there.

    Raises:
        InputError: with the names that there are.
    """
    names = [names_of_root(item) for item in inventory.finished.values() if item.manifest.get("stage") == INDEX]
    if root is not None and root not in {name for both in names for name in both}:
        there = ", ".join(sorted({whole for whole, _ in names})) or "none"
        raise InputError(
            f"--root {root} is no data set that {inventory.store} holds an index of; give its folder or file, or the "
            f"name of that: {there}"
        )


def _columns(path: Path, names: list[str], wanted: list[tuple[str, str, int]] | None = None) -> dict[str, list[Any]]:
    """Columns of a table, whether its manifest lists it or not: what it holds is there to be found.

    Raises:
        ArtifactError: it cannot be read.
    """
    try:
        return pq.read_table(path, columns=names, filters=wanted).to_pydict()
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise ArtifactError(f"{path} cannot be read ({reason}); delete its folder and run its stage again") from None


def run_forget(config: ForgetConfig) -> int:
    """Name what has seen the images, with the pages that copies of it were published on; remove it if so requested.

    Raises:
        ArtifactBusyError: a regeneration is at work in this store.
        InputError: there is no such store or, in it, no such data set; or something in it cannot be read, so who has
            seen the images is not known.
    """
    Inventory(config.store)  # refuses a folder that is not there, before the lock makes one
    with store_lock(config.store, fcntl.LOCK_EX):
        inventory, records = Inventory(config.store), read_records(config.store)
        inventory.check_manifests()
        _refuse_unknown_root(config.root, inventory)
        sightings = Sightings(inventory, config.pid, config.key, config.root)
        seen = [item for item in reversed(inventory.in_order()) if item.name in sightings.seen]
        unfinished = list(inventory.partial.values()) if seen else []
        pages = _pages(record for record in records if record.report in sightings.seen)
        unknown = _pages(record for record in records if record.report not in inventory.finished)
        _tell(seen, unfinished, pages, unknown, sightings, removed=config.remove)
        if config.remove:
            _refuse_while_running(records, config.store)
            for folder in pages:  # first: once the artifacts are gone, nobody could tell whom the pages show
                _remove_pages(folder)
            remove([*unfinished, *seen], inventory)
    return 0


def _pages(records: Iterable[RunRecord]) -> list[Path]:
    """The folders that keep copies of their reports, each once: a run that changed nothing has the earlier one's."""
    return list(dict.fromkeys(r.pages for r in records if r.pages is not None and r.pages.is_dir()))


def _refuse_while_running(records: Iterable[RunRecord], store: Path) -> None:
    for record in records:
        if is_running(record, store):
            raise ArtifactBusyError(
                f"run {record.run} of preset '{record.preset}' is at work in {store}; stop it first"
            )


def _tell(
    seen: list[StoredArtifact],
    unfinished: list[StoredArtifact],
    pages: list[Path],
    unknown: list[Path],
    sightings: Sightings,
    *,
    removed: bool,
) -> None:
    verb = "remove" if removed else "would remove"
    for item in unfinished:
        print(f"{verb} {item.name}.partial ({spoken_size(item.bytes)}): unfinished, and may hold it")
    for item in seen:
        count = len(sightings.seen[item.name])
        print(f"{verb} {item.name} ({spoken_size(item.bytes)}): has seen {count} image{'s' if count != 1 else ''}")
    for folder in pages:
        print(f"{verb} {folder}: a copy of its report")
    for folder in unknown:
        print(f"look at {folder}: its artifacts are gone, so whether it shows it cannot be told")
    images = sorted(set().union(*sightings.seen.values()))
    said = "removed" if removed else "would be removed (nothing was: give --remove)"
    print(f"{len(images)} images in {len(seen)} artifacts, {total([*seen, *unfinished])}, {said}")


def _remove_pages(folder: Path) -> None:
    """Delete a folder of results, and the links that led there."""
    shutil.rmtree(folder)
    for path in folder.parent.iterdir():
        if path.is_symlink() and not path.exists():
            path.unlink()
