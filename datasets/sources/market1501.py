"""Market-1501's folders, file names and published counts (Zheng et al., ICCV 2015).

``0002_c1s1_000451_03.jpg`` is person 2 at camera 1 in sequence 1, frame 451, box 3. Person ``0000`` is a distractor
(nobody among the queries), ``-1`` junk (a badly cut box that an evaluation ignores). Some names end in ``.jpg.jpg``,
every folder holds a ``Thumbs.db``; ``gt_bbox`` and ``gt_query`` are not needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from datasets.runtime.errors import DatasetLayoutError, printable
from datasets.sources.files import MAX_NUMBER, SUFFIX_PATTERN, ImageSource, Listing, Row, image_record, is_ignored

FOLDERS = {"bounding_box_train": "train", "query": "query", "bounding_box_test": "gallery"}
"""Folder -> split."""

MARKER = "bounding_box_train"
"""The folder that tells where the data set begins."""

EXPECTED = "expected the unpacked Market-1501-v15.09.15 or its zip: bounding_box_train, bounding_box_test, query"

PUBLISHED_COUNTS = {
    "train images": 12_936,
    "train identities": 751,
    "query images": 3_368,
    "query identities": 750,
    "gallery images": 19_732,
    "gallery person images": 13_115,
    "gallery distractor images": 2_798,
    "gallery junk images": 3_819,
}
"""Of the readme and the official lists."""

_NAME = re.compile(
    r"(?P<pid>-1|\d{4,10})_c(?P<camid>\d{1,10})s(?P<sequence>\d{1,10})_(?P<frame>\d{1,10})_\d{1,10}" + SUFFIX_PATTERN
)
PROBLEM = "the name is not of the form 0002_c1s1_000451_03.jpg"


def parse_name(name: str) -> Row | None:
    """Identity, camera, sequence, frame and role from a file's name; None if it is not one of Market-1501's."""
    return row_of_numbers(_NAME, name)


def row_of_numbers(pattern: re.Pattern[str], name: str) -> Row | None:
    """Identity, camera, sequence, frame (0 where the pattern has none) and role; None where the name does not fit."""
    match = pattern.fullmatch(name) if name.isascii() else None
    if match is None:
        return None
    found = match.groupdict()
    numbers = {field: int(found.get(field, 0)) for field in ("pid", "camid", "sequence", "frame")}
    if max(numbers.values()) > MAX_NUMBER or numbers["camid"] < 1:
        return None
    role = {-1: "junk", 0: "distractor"}.get(numbers["pid"], "person")
    return {**numbers, "role": role}


def list_images(source: ImageSource) -> Listing:
    """Index rows of all files in the three folders, not yet checked, and the files that are none of the data set's.

    Raises:
        DatasetLayoutError: if a folder is missing.
    """
    return list_folders(source, parse_name, PROBLEM, EXPECTED)


def list_folders(source: ImageSource, parse: Callable[[str], Row | None], problem: str, expected: str) -> Listing:
    """As `list_images`, for any data set in these three folders.

    Args:
        source: the data set.
        parse: pid, camid, sequence, frame and role from a file's name; None if it is not a proper one.
        problem: what is wrong with a name that is not, in a sentence.
        expected: what the data set looks like: the end of the error where a folder is missing.

    Raises:
        DatasetLayoutError: if a folder is missing.
    """
    rows, ignored = [], []
    for folder, split in FOLDERS.items():
        entries = source.entries(folder)
        if not entries and (split == "train" or not source.has_folder(folder)):  # a set without tests trains only
            raise DatasetLayoutError(f"{source.root} has no files in '{folder}'; {expected}")
        for entry in entries:
            if entry.refused is None and is_ignored(entry.path):
                ignored.append(printable(entry.path))
                continue
            name = entry.path.rpartition("/")[2]
            parsed = parse(name) if entry.path == f"{folder}/{name}" else None
            rows.append(image_record(entry, split, parsed, problem))
    return Listing(rows, ignored)
