"""Whom a generator has seen, found in the manifests of what it was trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from datasets.runtime.errors import ArtifactError
from datasets.runtime.manifests import input_path, is_complete, local_path, manifest_of
from datasets.runtime.reading.contents import artifact_file
from datasets.shards.encoded import EncodedImages
from datasets.sources.subsets import read_subset
from imagpose.config import BUILT_IN


@dataclass(frozen=True)
class DataSet:
    """Where encoded images come from, as far as it can be told that two come from the same place."""

    root: str
    fingerprint: str
    contents: frozenset[str]
    """SHA-256 of its indexed images."""

    def same_as(self, other: DataSet) -> bool:
        """One folder, equal folders, or a shared image."""
        told = self.root == other.root or self.fingerprint == other.fingerprint
        return told or not self.contents.isdisjoint(other.contents)


def data_set_of(encoded: Path) -> DataSet | None:
    """The data set of encoded images, through the manifests of shards and index; None where one is gone."""
    index = index_of(encoded)
    if index is None:
        return None
    try:
        root = manifest_of(index)["inputs"]["root"]
        contents = pd.read_parquet(artifact_file(index, "images.parquet"), columns=["sha256"]).sha256
    except (ArtifactError, OSError, KeyError):
        return None
    return DataSet(root["path"], root["sha256"], frozenset(contents[contents != ""]))


def index_of(encoded: Path) -> Path | None:
    """The index of encoded images, through the manifest of their shards; None where one is gone."""
    try:
        shards = input_path(manifest_of(encoded, "encode"), "shards")
        index = input_path(manifest_of(shards, "write-shards"), "images")
        manifest_of(index, "index")
    except (ArtifactError, KeyError):
        return None
    return index


def trainings_of(generator: Path) -> Iterator[tuple[dict[str, Any], Path]]:
    """The trainings behind a generator, its own first, then its base's or its teacher's.

    Yields:
        The manifest of each, and the encoded images it saw.
    """
    current: Path | None = generator
    while current is not None and is_complete(current):
        manifest = manifest_of(current)
        yield manifest, input_path(manifest, "encoded") if "encoded" in manifest["inputs"] else Path()
        base = next((name for name in ("init_from", "teacher") if name in manifest["inputs"]), None)
        current = None if base is None else input_path(manifest, base)


def identities_seen(generator: Path, encoded: Path, pids: set[int]) -> int | None:
    """How many of some people a generator, its base or its teacher has seen; None if it cannot be told.

    People of the same data set are compared by their number, whatever slice was used; those of another data set have
    numbers of their own. The chain of bases and teachers ends at one that is no artifact: Stable Diffusion's UNet or
    the built-in generator, which have seen nobody of a data set by name.

    Args:
        encoded: the images that are drawn.
        pids: who is in them.
    """
    if not is_complete(generator):
        return 0 if Path(generator).resolve() == BUILT_IN else None
    own = data_set_of(encoded)
    seen: set[int] = set()
    for manifest, trained_on in trainings_of(Path(generator)):
        other = data_set_of(trained_on)
        if own is None or other is None:
            return None
        if other.same_as(own):
            seen |= pids & set(trained_images(trained_on, manifest["config"]).pids.tolist())
    return len(seen)


def trained_images(encoded: Path, config: dict[str, Any]) -> EncodedImages:
    """The training split (the subset of it) that a generator was trained on.

    Args:
        encoded: what it was trained from.
        config: its settings.
    """
    keys = None
    subset = config.get("subset") and local_path(config["subset"])
    if subset and is_complete(subset):
        keys = read_subset(subset, config["fraction"], config["draw"])
    return EncodedImages(encoded, keys, None if keys is not None else "train")
