"""A data set's images by names and labels alone, with an answer to what is not of the layout that was given.

Shared by the index and by whatever checks a data set before any work: what is refused here costs no second of compute.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from datasets.runtime.errors import DatasetLayoutError
from datasets.sources.files import ImageSource, Listing, is_image_name
from datasets.sources.layouts import LAYOUTS, TABLE, Layout

TABLE_ADVICE = (
    "any other data set needs a table, a CSV with path,pid,camid,split and paths relative to it: "
    "--layout table --root FILE.csv (docs/extending.md has an example)"
)
PEOPLE_ONLY = ("train", "query")
"""Splits in which everybody is somebody."""


@dataclass(frozen=True)
class ListedSource:
    """What a layout finds in a root."""

    listing: Listing
    unsafe_names: list[str]
    """Names of archive members that lead outside it."""
    prefix: str
    """The data set's own top folder inside the root."""


def list_source(layout: Layout, root: Path) -> ListedSource:
    """All files of a data set as index rows, not yet checked.

    Raises:
        DatasetLayoutError: the root is not of this layout (the error names what it may be), or its labels name nobody
            where there must be somebody.
    """
    try:
        with layout.open_source(root) as source:
            listed = ListedSource(layout.list_images(source), source.unsafe_names(), source.prefix)
    except DatasetLayoutError as error:
        raise DatasetLayoutError(f"{error}; {advice(root, layout)}" if Path(root).exists() else str(error)) from None
    rows = listed.listing.rows
    if all(row["status"] for row in rows):
        first = f"; first: {rows[0]['path']}: {rows[0]['error']}" if rows else ""
        why = reasons(row["status"] for row in rows)
        raise DatasetLayoutError(
            f"{root} holds no usable image of layout '{layout.name}' ({why}{first}); {advice(root, layout)}"
        )
    labels = ((row["split"], row["pid"], row["path"]) for row in rows if row["role"] != "unknown")
    if (problem := nobody_problem(labels)) is not None:
        raise DatasetLayoutError(f"{root}: {problem}")
    return listed


def reasons(statuses: Iterable[str]) -> str:
    """How many files have which status, of those that cannot be used."""
    return ", ".join(f"{status}: {count}" for status, count in sorted(Counter(statuses).items())) or "none listed"


def nobody_problem(labels: Iterable[tuple[str, int, str]]) -> str | None:
    """What is wrong with labels that name nobody, in a sentence that says what to do; None if nothing is.

    As in Market-1501, pid 0 is a distractor and -1 junk: both mean nobody, which only a gallery image can be (and junk
    a training image, which nothing uses). Labels that count from 0, as many tools write them, would lose their first
    person.

    Args:
        labels: (split, pid, path or key) of each image.
    """
    zeros, junk = [], []
    for split, pid, name in labels:
        if pid == 0 and split in PEOPLE_ONLY:
            zeros.append(name)
        elif pid < 0 and split == "query":
            junk.append(name)
    if zeros:
        return (
            f"{len(zeros)} training or query images have pid 0 (first: {zeros[0]}), which means a distractor; if the "
            "labels count from 0, add 1 to every pid that is not -1, in all splits"
        )
    if junk:
        shown = f"{len(junk)} queries have pid -1 (first: {junk[0]}), which means junk"
        return f"{shown}; a query shows a person: leave them out"
    return None


def advice(root: Path, given: Layout) -> str:
    """What to give instead of a layout that a root is not of: the one that it looks like, and always the table."""
    if given.name == TABLE.name and Path(root).is_file():
        return TABLE_ADVICE
    fitting = [name for name, layout in LAYOUTS.items() if name != given.name and _fits(layout, root)]
    if fitting:
        return f"it looks like --layout {' or '.join(fitting)}; {TABLE_ADVICE}"
    if _has_folder_per_person(root):
        return f"it looks like a folder per person, which says neither camera nor split of an image; {TABLE_ADVICE}"
    return TABLE_ADVICE


def _fits(layout: Layout, root: Path) -> bool:
    """Whether a layout would take most of a root's files."""
    try:
        with layout.open_source(root) as source:
            rows = layout.list_images(source).rows
    except DatasetLayoutError:
        return False
    return 2 * sum(not row["status"] for row in rows) > len(rows)


def _has_folder_per_person(root: Path) -> bool:
    """Whether the images lie in several folders, at most two levels down, of which most hold more than one."""
    try:
        with ImageSource(Path(root)) as source:
            paths = [entry.path for entry in source.entries() if is_image_name(entry.path)]
    except DatasetLayoutError:
        return False
    folders = {path.rpartition("/")[0] for path in paths if path.count("/") in (1, 2)}
    return len(folders) > 3 and 2 * len(folders) <= len(paths)
