"""Generators' pictures from the forms that the project knows, under one description: what shows whom in which pose."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pyarrow as pa

from datasets.runtime.errors import InputError
from datasets.runtime.manifests import is_complete, manifest_of
from datasets.runtime.reading.contents import artifact_files
from datasets.runtime.reading.tables import read_table
from datasets.runtime.regular_files import read_regular
from datasets.runtime.remote.folders import fetch_folder
from datasets.shards.tars import image_of, read_chosen
from datasets.sources.folders.image_folders import read_generated_table
from imagpose.config import EvaluateGeneratorConfig
from imagpose.config.fields import Scenario

logger = logging.getLogger(__name__)

SYNTHETIC = pa.schema(
    [
        ("key", pa.string()),
        ("pid", pa.int32()),
        ("source_keys", pa.list_(pa.string())),
        ("target_pose_key", pa.string()),
        ("status", pa.string()),
    ]
)
PAIRS = pa.schema(
    [("row", pa.string()), ("pair", pa.int64()), ("source", pa.string()), ("target", pa.string()), ("pid", pa.int64())]
)


@dataclass(frozen=True, kw_only=True)
class GeneratedPicture:
    """A picture that a generator made, and what of."""

    key: str
    pid: int
    sources: tuple[str, ...] = ()
    """Keys of the real images that it shows anew; empty if the set does not say."""
    pose: str | None = None
    """Key of the real image that lent the pose; None if the set does not say."""


@dataclass(frozen=True, kw_only=True)
class GeneratedSet:
    """All usable pictures of one generator."""

    name: str
    pictures: Sequence[GeneratedPicture]
    read: Callable[[Collection[str]], dict[str, bytes]]
    """Image files' bytes by key, of some pictures."""


def read_sets(name: str, folder: Path) -> list[GeneratedSet]:
    """The pictures in a folder: of one generator, or of each scenario of an evaluation that has several.

    Raises:
        InputError: the folder holds no generated pictures, or does not tell whom they show.
    """
    if not is_complete(folder):
        found = [_plain(name, folder)]
    elif manifest_of(folder)["stage"] == EvaluateGeneratorConfig.stage:
        found = _evaluated(name, folder)
    else:
        found = [_synthesized(name, folder)]
    if empty := [one.name for one in found if not one.pictures]:
        raise InputError(f"{folder} holds no usable picture of '{empty[0]}'; give a folder of generated pictures")
    return found


def _synthesized(name: str, folder: Path) -> GeneratedSet:
    table = read_table(folder, "synthetic.parquet", SYNTHETIC).to_pandas()
    if left_out := int((table.status != "ok").sum()):
        logger.info("%s: %d pictures of another status than 'ok' are not asked about", name, left_out)
    read = partial(_members, artifact_files(folder, "synthetic-[0-9]*.tar"))
    return GeneratedSet(name=name, pictures=_described(table[table.status == "ok"]), read=read)


def _evaluated(name: str, folder: Path) -> list[GeneratedSet]:
    pairs = read_table(folder, "pairs.parquet", PAIRS, stage=EvaluateGeneratorConfig.stage).to_pandas()
    pairs["key"] = [f"{number:06d}" for number in pairs.pair]
    pairs["source_keys"] = [[source] for source in pairs.source]
    pairs = pairs.rename(columns={"target": "target_pose_key"})
    found = []
    modes = [mode for mode in get_args(Scenario) if (pairs.row == mode).any()]
    for mode in modes:
        tars = artifact_files(folder, f"pictures/{mode.replace('*', '-star')}-[0-9]*.tar")
        shown = name if len(modes) == 1 else f"{name} {mode}"
        pictures = _described(pairs[pairs.row == mode])
        found.append(GeneratedSet(name=shown, pictures=pictures, read=partial(_members, tars)))
    if not found:
        raise InputError(f"{folder} is an evaluation without a scenario; run 'imagpose evaluate' with --modes")
    return found


def _plain(name: str, folder: Path) -> GeneratedSet:
    if not fetch_folder(Path(folder)).is_dir():
        raise InputError(f"--synthetic {name}: {folder} is not a folder; give one of generated pictures")
    table = read_generated_table(folder)
    paths = dict(zip(table.key, table.path, strict=True))
    return GeneratedSet(name=name, pictures=_described(table), read=partial(_files, Path(folder), paths))


def _described(table: pd.DataFrame) -> list[GeneratedPicture]:
    """Rows of a set's table; where one is made from and in which pose is optional."""
    nothing = [None] * len(table)
    columns = (table.key, table.pid, table.get("source_keys", nothing), table.get("target_pose_key", nothing))
    return [
        GeneratedPicture(
            key=str(key),
            pid=int(pid),
            sources=tuple(map(str, sources)) if isinstance(sources, (list, tuple, np.ndarray)) else (),
            pose=pose if isinstance(pose, str) and pose else None,
        )
        for key, pid, sources, pose in zip(*columns, strict=True)
    ]


def _members(tars: Sequence[Path], keys: Collection[str]) -> dict[str, bytes]:
    """Image files' bytes in shards.

    Raises:
        InputError: a picture is in none of them.
    """
    wanted = set(keys)
    found = {}
    for tar in tars:
        for key, members in read_chosen(tar, wanted):
            try:
                found[key] = image_of(members)
            except KeyError:
                raise InputError(f"{tar}: sample {key} holds no image; make its folder again") from None
    if absent := sorted(wanted - found.keys()):
        raise InputError(f"{tars[0].parent if tars else 'a set'} lacks the picture {absent[0]} that its table names")
    return found


def _files(folder: Path, paths: dict[str, str], keys: Collection[str]) -> dict[str, bytes]:
    """Image files' bytes in a plain folder.

    Raises:
        InputError: a file cannot be read.
    """
    try:
        return {key: read_regular(folder / paths[key]) for key in sorted(keys)}
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read ({error.strerror}); the folder's table names it") from None
