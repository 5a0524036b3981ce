"""MSMT17: two folders of people and four lists (Wei et al., CVPR 2018).

V1 has the folders ``train`` and ``test``, V2 (faces blurred) ``mask_train_v2`` and ``mask_test_v2``. Each line of
``list_train.txt, list_val.txt, list_query.txt, list_gallery.txt`` is an image and its person's label, as in
``0000/0000_000_01_0303morning_0015_0.jpg 0``; the name's third number is the camera (1 to 15).

- Labels count from 0, in training and in test alike, for different people. Here a pid of 0 is a distractor, so training
  pids are label + 1, test pids label + 10001: nobody shares a number with somebody else.
- ``list_val.txt`` is a part of the training images that the authors hold out; the published 32,621 training images
  contain it, and so does the training split here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from datasets.runtime.errors import DatasetLayoutError, printable
from datasets.sources.files import (
    SUFFIX_PATTERN,
    ImageSource,
    Listing,
    Row,
    SourceEntry,
    UnreadableFileError,
    image_record,
    is_ignored,
    is_safe_path,
    slashed,
)

MARKER = "list_train.txt"
LISTS = {"list_train.txt": "train", "list_val.txt": "train", "list_query.txt": "query", "list_gallery.txt": "gallery"}
"""List -> split."""
FOLDERS = {"train": ("train", "mask_train_v2"), "test": ("test", "mask_test_v2")}
"""Names of the folder of training and of test images, of V1 and V2."""
EXPECTED = (
    "expected MSMT17: list_train.txt, list_val.txt, list_query.txt, list_gallery.txt and the folders train and test "
    "(V1) or mask_train_v2 and mask_test_v2 (V2)"
)
PROBLEM = "the name is not of the form 0000/0000_000_01_0303morning_0015_0.jpg"
FIRST_PID = {"train": 1, "query": 10_001, "gallery": 10_001}
"""pid of the person with label 0."""
PUBLISHED_COUNTS = {
    "train images": 32_621,
    "train identities": 1_041,
    "query images": 11_659,
    "query identities": 3_060,
    "gallery images": 82_161,
    "gallery identities": 3_060,
}
"""Of Wei et al. 2018, table 1."""

_NAME = re.compile(
    r"\d+/\d+_(?P<sequence>\d{1,9})_(?P<camid>\d{1,2})_[^_/]+_(?P<frame>\d{1,9})(?:_\w+)?" + SUFFIX_PATTERN
)


def list_images(source: ImageSource) -> Listing:
    """Index rows of all images that a list names, not yet checked; images that none names are 'unlisted'.

    Raises:
        DatasetLayoutError: a folder or list is missing, or a list is none.
    """
    folders = {which: _folder(source, which) for which in FOLDERS}
    rows, listed = [], set()
    for name, split in LISTS.items():
        folder = folders["train" if split == "train" else "test"]
        for path, label in _lines(source, name):
            listed.add(f"{folder}/{path}")
            rows.append(image_record(SourceEntry(f"{folder}/{path}"), split, _parsed(path, label, split), PROBLEM))
    others, ignored = [], []
    for which, folder in folders.items():
        for entry in source.entries(folder):
            if entry.refused is None and is_ignored(entry.path):
                ignored.append(printable(entry.path))
            elif entry.path not in listed or entry.refused is not None:
                others.append(_unlisted(entry, "train" if which == "train" else "gallery"))
    return Listing(rows + others, ignored, {"split_by": sorted(LISTS)})


def _unlisted(entry: SourceEntry, split: str) -> Row:
    status, reason = entry.refused or ("unlisted", f"is in none of {', '.join(LISTS)}")
    return image_record(SourceEntry(entry.path, (status, reason)), split, None, "")


def _folder(source: ImageSource, which: str) -> str:
    there = [name for name in FOLDERS[which] if source.has_folder(name)]
    if len(there) != 1:
        found = f"both of {', '.join(there)}" if there else f"no folder {' or '.join(FOLDERS[which])}"
        raise DatasetLayoutError(f"{source.root} has {found}; {EXPECTED}")
    return there[0]


def _lines(source: ImageSource, name: str) -> Iterator[tuple[str, int]]:
    """(path below the split's folder, label) of each line of a list."""
    try:
        lines = source.read(name).decode("utf-8-sig").splitlines()
    except (UnreadableFileError, UnicodeDecodeError) as error:
        raise DatasetLayoutError(f"{source.root}: {name} cannot be read ({error}); {EXPECTED}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        path, _, label = line.strip().rpartition(" ")
        path = slashed(path.strip())
        if not (path and is_safe_path(path) and label.isascii() and label.isdigit() and len(label) < 8):
            raise DatasetLayoutError(
                f"{source.root}: {name}, line {number}: '{printable(line[:80])}' is not an image's path and a label"
            )
        yield path, int(label)


def _parsed(path: str, label: int, split: str) -> Row | None:
    match = _NAME.fullmatch(path) if path.isascii() else None
    if match is None or int(match["camid"]) < 1:
        return None
    numbers = {name: int(match[name]) for name in ("camid", "sequence", "frame")}
    # The names of training and test people overlap, so the split is a part of the key.
    key = f"{'train' if split == 'train' else 'test'}_{path.rpartition('/')[2].partition('.')[0]}"
    return {"key": key, "pid": label + FIRST_PID[split], "role": "person", **numbers}
