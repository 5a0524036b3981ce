"""Data-set layouts: one declared object for each, from which all that depends on the layout follows.

A layout says how a folder or archive is opened, which images it lists with identity, camera and split, and what else
is particular to it. The index, the shards, pose files, pairs, the flows' checks and the data-set card read it from
here. A new one is a `Layout` that is registered (`LAYOUTS.register`), in this module or by an
extension (`datasets.runtime.registry`); docs/extending.md shows one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets.runtime.errors import DatasetLayoutError
from datasets.runtime.registry import Registry
from datasets.sources import cuhk03, deepfashion, dukemtmc, market1501, msmt17, table
from datasets.sources.files import Box, ImageSource, Listing


def _whole_image(width: int, height: int) -> Box | None:
    return None


def _nothing(root: Path) -> dict[str, object]:
    return {}


def _person(key: str, pid: int) -> object | None:
    return pid if pid > 0 else None


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a data set lies on the disk.

    Its functions are plain functions of a module (no lambdas): worker processes get them by their names.
    """

    name: str
    """As settings give it: ``--layout market1501``."""
    title: str
    """The data set's name in cards and reports."""
    expected: str
    """What a root of this layout looks like: the end of the error where another one was given."""
    list_images: Callable[[ImageSource], Listing]
    """All files of the set as index rows (`datasets.sources.files.image_record`), not yet checked."""
    marker: str = ""
    """A folder or file by which the set's own top folder is found, at most two levels down; '' if the root is it."""
    open_root: Callable[[Path], ImageSource] = ImageSource
    """Opens a root (folder, archive, table) for reading."""
    picture_box: Callable[[int, int], Box | None] = _whole_image
    """(width, height) of a stored image -> the part that is the picture, in pixels; None where that is all of it."""
    pair_group: Callable[[str, int], object | None] = _person
    """(key, pid) -> what images must share to be paired by PATN's rule; None pairs with nothing."""
    published_counts: Mapping[str, int] = field(default_factory=dict)
    """Images and identities as published ('train images': 12936 ...); where a whole set differs, the index says so."""
    key_inputs: Callable[[Path], dict[str, object]] = _nothing
    """What the index's key depends on besides the root's own fingerprint: of a table, the files that it lists."""
    coordinates: str = "image"
    """Frame that published pose files' coordinates are in: 'image', or 'deepfashion' (inferred from their values)."""
    split_hint: str = ""
    """What a user without test images can do: the end of the flows' error."""

    def open_source(self, root: Path) -> ImageSource:
        """The files of a data set, with its own top folder found inside a folder or archive.

        Raises:
            DatasetLayoutError: the root is not of this layout.
        """
        source = self.open_root(root)
        prefix = source.find_prefix(self.marker) if self.marker else ""
        if prefix is None:
            raise DatasetLayoutError(f"{root} has no '{self.marker}'; {self.expected}")
        source.prefix = prefix
        return source


MARKET1501 = Layout(
    name="market1501",
    title="Market-1501",
    expected=market1501.EXPECTED,
    marker=market1501.MARKER,
    list_images=market1501.list_images,
    published_counts=market1501.PUBLISHED_COUNTS,
)
DUKEMTMC = Layout(
    name="dukemtmc",
    title="DukeMTMC-reID",
    expected=dukemtmc.EXPECTED,
    marker=market1501.MARKER,
    list_images=dukemtmc.list_images,
    published_counts=dukemtmc.PUBLISHED_COUNTS,
)
OCCLUDED_DUKE = Layout(
    name="occluded-duke",
    title="Occluded-Duke",
    expected=dukemtmc.EXPECTED,
    marker=market1501.MARKER,
    list_images=dukemtmc.list_images,
    published_counts=dukemtmc.OCCLUDED_COUNTS,
)
CUHK03_NP = Layout(
    name="cuhk03-np",
    title="CUHK03-NP",
    expected=cuhk03.EXPECTED,
    marker=market1501.MARKER,
    list_images=cuhk03.list_images,
    published_counts=cuhk03.PUBLISHED_COUNTS,
)
MSMT17 = Layout(
    name="msmt17",
    title="MSMT17",
    expected=msmt17.EXPECTED,
    marker=msmt17.MARKER,
    list_images=msmt17.list_images,
    published_counts=msmt17.PUBLISHED_COUNTS,
)
DEEPFASHION = Layout(
    name="deepfashion",
    title="DeepFashion In-shop",
    expected=deepfashion.EXPECTED,
    list_images=deepfashion.list_images,
    picture_box=deepfashion.picture_box,
    pair_group=deepfashion.pair_group,
    coordinates="deepfashion",
    split_hint="put PATN's train.lst and test.lst, or In-shop's list_eval_partition.txt, into it",
)
TABLE = Layout(
    name="table",
    title="table",
    expected=table.EXPECTED,
    list_images=table.list_images,
    open_root=table.open_source,
    key_inputs=table.key_inputs,
    split_hint="the table's column 'split' must name train, query and gallery images",
)

LAYOUTS: Registry[Layout] = Registry(
    "layout", MARKET1501, DEEPFASHION, DUKEMTMC, OCCLUDED_DUKE, CUHK03_NP, MSMT17, TABLE
)


def layout_of(manifest: Mapping[str, Any]) -> Layout:
    """The layout that an index was made with, from the index's manifest.

    Raises:
        InputError: it is not registered; the extension that adds it is not loaded.
    """
    return LAYOUTS[LAYOUTS.known(manifest["config"]["layout"])]
