"""Training subsets of 20, 40, 60, 80 percent: nested, seeded, at least one image of each identity.

The papers' rule (PIDM section 4.5, IMAGPose section 4.3) is "at random, with at least one image per identity". Here a
draw is one order of the images: first one random image of each identity, then the others at random; a fraction is a
prefix of it. So the 20 % subset of a draw lies inside its 40 % one, and every size is exact.

An image's place in the order comes from a hash of seed, draw and its key alone. So a data set that gains or loses k
images changes about k members of each subset, and what was made from the others stays valid.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from datasets.runtime.errors import InputError
from datasets.runtime.reading.tables import read_table
from datasets.sources.config import SelectSubsetsConfig
from datasets.sources.index import read_index

logger = logging.getLogger(__name__)

SUBSETS_FILE = "subsets.parquet"
SCHEMA = pa.schema([("draw", pa.int32()), ("fraction", pa.int32()), ("key", pa.string())])


def make_subsets(config: SelectSubsetsConfig, directory: Path) -> dict[str, object]:
    """Write ``subsets.parquet`` (draw, fraction, key); returns the counts of each.

    Raises:
        InputError: the index has no usable training image of a person.
    """
    images = read_index(config.images)
    train = images[(images["split"] == "train") & (images["role"] == "person")].sort_values("key")
    if train.empty:
        raise InputError(f"{config.images} has no usable training image of a person; index a data set that has")
    keys, pids, camids = (train[column].to_numpy() for column in ("key", "pid", "camid"))
    parts, counts = [], []
    for draw in range(config.draws):
        order = draw_order(keys, pids, config.seed, draw)
        for fraction in config.fractions:
            chosen = np.sort(order[: subset_size(len(keys), len(set(pids)), fraction)])
            parts.append(pd.DataFrame({"draw": draw, "fraction": fraction, "key": keys[chosen]}))
            counts.append({"draw": draw, "fraction": fraction, **_describe(pids[chosen], camids[chosen])})
    table = pa.Table.from_pandas(pd.concat(parts), schema=SCHEMA).replace_schema_metadata(None)
    pq.write_table(table, directory / SUBSETS_FILE, compression="zstd")
    return {"training images": len(keys), "identities": len(set(pids)), "subsets": counts}


def draw_order(keys: np.ndarray, pids: np.ndarray, seed: int, draw: int) -> np.ndarray:
    """A random order of the images in which every identity appears once before any appears again.

    Args:
        keys: (N,) the images' names, each once.
        pids: (N,) identities.
        seed: of all draws.
        draw: which of them.

    Returns:
        (N,) positions.
    """
    order = np.argsort(_places(keys, f"first {seed} {draw}"))
    _, first = np.unique(pids[order], return_index=True)
    others = np.delete(order, first)
    # Drawn anew: in the first order the other images of an identity with few come late, so it would stay at one image.
    return np.concatenate([order[np.sort(first)], others[np.argsort(_places(keys[others], f"others {seed} {draw}"))]])


def _places(keys: np.ndarray, stream: str) -> np.ndarray:
    """Where each key stands in a random order: (N,) bytes, uniform, that depend on the key and the stream alone."""
    return np.array([hashlib.sha256(f"{stream} {key}".encode()).digest() for key in keys], dtype="S32")


def subset_size(images: int, identities: int, fraction: int) -> int:
    """How many images per fraction (percent) has: rounded, but never fewer than one per identity."""
    return max(round(images * fraction / 100), identities)


def _describe(pids: np.ndarray, camids: np.ndarray) -> dict[str, int]:
    _, per_identity = np.unique(pids, return_counts=True)
    cameras = pd.Series(camids).groupby(pids).nunique()
    return {
        "images": len(pids),
        "identities": len(per_identity),
        "identities with one image": int((per_identity == 1).sum()),
        "identities with fewer than four images": int((per_identity < 4).sum()),
        "identities at one camera": int((cameras == 1).sum()),
    }


def read_subset(directory: Path, fraction: int, draw: int = 0) -> list[str]:
    """The image keys of one subset, sorted.

    Raises:
        ArtifactError: not a select-subsets artifact.
        InputError: it has no such fraction or draw.
    """
    rows = read_table(directory, SUBSETS_FILE, SCHEMA, stage="select-subsets").to_pandas()
    chosen = rows[(rows["draw"] == draw) & (rows["fraction"] == fraction)]["key"]
    if chosen.empty:
        there = sorted({(int(d), int(f)) for d, f in zip(rows["draw"], rows["fraction"], strict=True)})
        raise InputError(f"{directory} has no subset of {fraction} % in draw {draw}; it has (draw, percent) {there}")
    return chosen.tolist()
