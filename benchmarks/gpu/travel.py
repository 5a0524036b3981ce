"""Which files of a store travel to another machine, and which come back.

An artifact travels whole if something that is still to be made reads it, else thin: manifest, tables and JSON, enough
to be found complete, to be a part of other artifacts' names and to stand in the table. Encoded images never travel:
they are many times as large as their images, and made again in seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from datasets.runtime.atomic import write_text_atomically
from datasets.runtime.config import StageConfig
from datasets.runtime.manifests import MANIFEST, SCRATCH, is_complete, manifest_of
from reid.arms import ARMS, PRETRAINING

logger = logging.getLogger(__name__)

DATA = ("index", "import-poses", "extract-poses", "select-subsets", "write-shards")
"""Stages whose artifacts are read at every later step."""
ENCODED, RUN = "encode", "train-reid"
THIN = (".json", ".jsonl", ".parquet")
LEFT_OUT = ("ranked.parquet",)
"""Half of what a run's tables take; only the report's pictures need it."""
SITTING_FILE = "sitting.json"


def going_there(found: Iterable[Path], missing: Sequence[StageConfig], arms: Sequence[str]) -> list[Path]:
    """The files of complete artifacts that a machine needs that makes the rest.

    What came back thin from an earlier sitting and is read again stays here, and is made again there.

    Args:
        found: complete artifacts.
        missing: what the first step that is not ready lacks; empty: nothing is missing.
        arms: those of the table.
    """
    stage = missing[0].stage if missing else ""
    read = {path for config in missing for path in _paths(config)}
    files: list[Path] = []
    for folder in dict.fromkeys(found):
        if folder.parent.name == ENCODED and folder in read:
            continue  # made again there
        if not _is_read(folder, stage, read, arms):
            files += _thin(folder)
        elif len(_listed(folder)) == len(manifest_of(folder)["files"]):
            files += _whole(folder)
        else:
            logger.warning("%s is here in name only, and will be made again", folder)
    return files


def _paths(config: StageConfig) -> list[Path]:
    """The inputs that a config names."""
    values = [getattr(config, name) for name in type(config).model_fields]
    listed = [item for value in values for item in (value if isinstance(value, list) else [value])]
    return [item for item in listed if isinstance(item, Path)]


def _is_read(folder: Path, stage: str, read: set[Path], arms: Sequence[str]) -> bool:
    """Whether something that is still to be made may read an artifact's content."""
    kind = folder.parent.name
    if kind in DATA or folder in read or kind == "synthesize":
        return True
    if kind == RUN:
        arm = manifest_of(folder)["config"]["arm"]
        return arm == PRETRAINING or (arm == "real" and any(ARMS[other].starts_from == "real" for other in arms))
    return stage != RUN and kind not in (ENCODED, "miniature")


def _listed(folder: Path) -> list[Path]:
    """An artifact's files: what its manifest lists and is there."""
    names = [file["name"] for file in manifest_of(folder)["files"]]
    return [path for path in (folder / name for name in names) if path.is_file()]


def _whole(folder: Path) -> list[Path]:
    return [folder / MANIFEST, *_listed(folder)]


def _thin(folder: Path) -> list[Path]:
    small = [path for path in _listed(folder) if path.suffix in THIN and path.name not in LEFT_OUT]
    return [folder / MANIFEST, *small]


def coming_back(store: Path, came: set[str], budget: int) -> list[Path]:
    """The files that a store's owner wants back, at most `budget` bytes of them.

    First everything thin; then whole what later sittings start from: networks that others are initialized from, then
    synthetic sets and generators, the small ones first. What does not fit is made again.

    Args:
        store: the store that was worked in.
        came: names of the files that it arrived with.
    """
    made = [folder for folder in _artifacts(store) if str((folder / MANIFEST).relative_to(store)) not in came]
    files = [path for folder in made for path in _thin(folder)]
    left = budget - _size(files)
    for folder in sorted(made, key=lambda folder: (_rank(folder), _size(_whole(folder)))):
        rest = [path for path in _whole(folder) if path not in files]
        if _rank(folder) < NOT_WANTED and _size(rest) <= left:
            files += rest
            left -= _size(rest)
    return files


NOT_WANTED = 9


def _rank(folder: Path) -> int:
    """How much an artifact's content is wanted back, 0 most."""
    kind = folder.parent.name
    if kind == RUN:
        return 0 if manifest_of(folder)["config"]["arm"] == PRETRAINING else NOT_WANTED
    return {"train-vae": 1, "synthesize": 2, "train-imagpose": 3, "distill-imagpose": 3}.get(kind, NOT_WANTED)


def _artifacts(store: Path) -> list[Path]:
    """All complete artifacts of a store."""
    folders = sorted(path.parent for path in store.glob(f"*/*/{MANIFEST}"))
    return [folder for folder in folders if not folder.name.endswith(".partial") and is_complete(folder)]


def _size(files: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in files)


def write_list(path: Path, store: Path, files: Iterable[Path]) -> None:
    """Write names relative to the store, a line each, as ``tar -T`` reads them, the sitting's settings among them."""
    names = dict.fromkeys(str(file.relative_to(store)) for file in files if SCRATCH not in file.parts)
    if (store / SITTING_FILE).is_file():
        names[SITTING_FILE] = None
    write_text_atomically(path, "".join(f"{name}\n" for name in names))
