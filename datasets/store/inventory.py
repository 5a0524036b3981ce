"""Everything that lies in a store, and which artifact was made from which."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from datasets.runtime.errors import ArtifactError, InputError
from datasets.runtime.manifests import MANIFEST, is_complete, manifest_of
from datasets.store.records import clock

PARTIAL = ".partial"
NOT_STAGES = frozenset({"configs", "logs", "locks", "runs", "prefect"})
"""Folders of a store that hold no artifacts."""
DAY = 86_400.0


@dataclass(frozen=True)
class StoredArtifact:
    """A folder of a store: a finished artifact, or the working folder of one."""

    name: str
    """``STAGE/KEY``."""
    folder: Path
    partial: bool
    bytes: int
    """Size of its files. A file that several artifacts share by hard links counts in each."""
    changed: float
    """When it was finished, or last written to; seconds since the epoch."""
    inputs: frozenset[str] = frozenset()
    """Artifacts of this store that it was made from."""
    manifest: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def stage(self) -> str:
        """The stage's name."""
        return self.name.partition("/")[0]

    def age(self) -> float:
        """Days since it was finished or last written to."""
        return (clock() - self.changed) / DAY


class Inventory:
    """The finished artifacts of a store and its unfinished ones.

    Args:
        store: its root.

    Raises:
        InputError: there is no such folder.
    """

    def __init__(self, store: Path) -> None:
        if not store.is_dir():
            raise InputError(f"--store {store} is not a folder; give a store's root")
        self.store = store
        found = [_look_at(folder) for folder in _artifact_folders(store)]
        self.finished = {item.name: item for item in found if not item.partial}
        self.partial = {item.name: item for item in found if item.partial}

    @cached_property
    def needed_by(self) -> dict[str, list[str]]:
        """Artifact -> the finished artifacts that were made from it directly."""
        users: dict[str, list[str]] = {name: [] for name in self.finished}
        for item in self.finished.values():
            for name in item.inputs & self.finished.keys():
                users[name].append(item.name)
        return users

    def check_manifests(self) -> None:
        """Refuse to go on where it is not known what an artifact needs.

        Raises:
            ArtifactError: a manifest cannot be read.
        """
        for item in self.finished.values():
            if not item.manifest:
                raise ArtifactError(
                    f"{item.folder} has a {MANIFEST} that cannot be read, so what it needs is not known; "
                    "look at it with 'python -m datasets verify', then delete the folder"
                )

    def with_ancestors(self, names: Iterable[str]) -> set[str]:
        """These artifacts and all that they were made from, as far as they are in the store."""
        found: set[str] = set()
        waiting = [name for name in names if name in self.finished]
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += self.finished[name].inputs & self.finished.keys()
        return found

    def in_order(self) -> list[StoredArtifact]:
        """Finished artifacts, each after what it was made from."""
        done: dict[str, StoredArtifact] = {}

        def take(item: StoredArtifact) -> None:
            if item.name not in done:
                for name in sorted(item.inputs & self.finished.keys()):
                    take(self.finished[name])
                done[item.name] = item

        for name in sorted(self.finished):
            take(self.finished[name])
        return list(done.values())


def _artifact_folders(store: Path) -> Iterator[Path]:
    for stage in sorted(path for path in store.iterdir() if path.is_dir() and path.name not in NOT_STAGES):
        for folder in sorted(stage.iterdir()):
            if folder.is_symlink() or not folder.is_dir() or folder.name.startswith("."):
                continue
            if is_complete(folder) or folder.name.endswith(PARTIAL):
                yield folder


def _look_at(folder: Path) -> StoredArtifact:
    name = f"{folder.parent.name}/{folder.name.removesuffix(PARTIAL)}"
    if folder.name.endswith(PARTIAL):
        size, changed = _size_and_change(folder)
        return StoredArtifact(name, folder, True, size, changed)
    try:
        manifest = manifest_of(folder)
    except ArtifactError:  # it is listed; see `Inventory.check_manifests`
        manifest = {}
    size = sum(file["size"] for file in manifest.get("files", [])) or _size_and_change(folder)[0]
    inputs = frozenset(name for path in _input_paths(manifest) for name in _names_in(path))
    return StoredArtifact(name, folder, False, size, (folder / MANIFEST).stat().st_mtime, inputs - {name}, manifest)


def _size_and_change(folder: Path) -> tuple[int, float]:
    size, changed = 0, folder.stat().st_mtime
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.lstat(os.path.join(place, name))
            except FileNotFoundError:  # a stage is at work here
                continue
            size, changed = size + status.st_size, max(changed, status.st_mtime)
    return size, changed


def _input_paths(manifest: dict[str, Any]) -> Iterator[Path]:
    for item in manifest.get("inputs", {}).values():
        yield Path(item["path"])


def _names_in(path: Path) -> Iterator[str]:
    """What of a path may be ``STAGE/KEY``: a store that was moved is still known by these two parts."""
    for stage, key in itertools.pairwise(path.parts):
        yield f"{stage}/{key}"


def config_files(store: Path, item: StoredArtifact) -> Iterator[Path]:
    """Where the settings that an artifact was made from are kept (``configs/PACKAGE-STAGE-KEY.json``)."""
    stage, _, key = item.name.partition("/")
    yield from (store / "configs").glob(f"*-{stage}-{key}.json")


def lock_file(item: StoredArtifact) -> Path:
    """The lock that whoever makes an artifact holds."""
    return item.folder.with_name(f".{item.name.partition('/')[2]}.lock")


def spoken_size(size: float) -> str:
    """1.5 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
