"""DeepFashion In-shop Clothes Retrieval: original folders, PATN's flat names, official lists, queries.

Original: ``WOMEN/Dresses/id_00000002/02_1_front.jpg`` (below ``img`` or ``img_highres``). Flat, as in the file lists
and keypoint files that go back to PATN (https://github.com/tengteng95/Pose-Transfer):
``fashionWOMENDressesid0000000202_1front.jpg``. The flat name is the key in both cases, so those files fit. The first
two digits of the shot are the outfit, the third its number.

Which split an image is in, by the first of these that is there:

1. PATN's ``train.lst`` and ``test.lst``, on which the pose-transfer papers report. They name no queries, and 513 of
   the 930 test identities are in train too, in other outfits. So of each outfit with two test images or more, of an
   identity that is not in train, the first image by name is a query; all other test images are the gallery.
2. In-shop retrieval's own ``list_eval_partition.txt``: train, query and gallery as it says.
3. Neither: everything is train.

There are no cameras. Queries get ``camid`` 2, all others 1, so that the rule of Market-1501's evaluation, to leave out
what the query's own camera saw, leaves out nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from datasets.runtime.errors import DatasetLayoutError, printable
from datasets.sources.files import (
    SUFFIX_PATTERN,
    Box,
    ImageSource,
    Listing,
    Row,
    SourceEntry,
    UnreadableFileError,
    image_record,
    is_ignored,
    is_image_name,
)

MARKER = ""
EXPECTED = "expected DeepFashion In-shop: WOMEN/Dresses/id_00000002/02_1_front.jpg, or PATN's flat names"
PROBLEM = "the name is not of the form WOMEN/Dresses/id_00000002/02_1_front.jpg or its flat one"
PATN_LISTS = {"train.lst": "train", "test.lst": "gallery"}
"""PATN's split: flat names, one per line. What neither lists is set apart."""
PARTITION = "list_eval_partition.txt"
"""In-shop retrieval's split: a count, a header, then ``img/WOMEN/.../02_1_front.jpg id_00000002 train`` a line."""
PARTITION_SPLITS = ("train", "query", "gallery")
HIGH_RESOLUTION = "img_highres"
"""Folder of the 750x1101 images; where it lies beside ``img``, it is taken and ``img`` passed over."""
QUERY_CAMERA, CAMERA = 2, 1
SQUARE, MARGIN, PROPER_WIDTH = 256, 40, 176
"""The low-resolution originals: side, left (and right) margin, and width of the picture proper."""

_ORIGINAL = re.compile(
    r"(?:.*/)?(?P<gender>MEN|WOMEN)/(?P<category>\w+)/id_(?P<pid>\d{8})/(?P<outfit>\d\d)_(?P<shot>\d)_(?P<side>[a-z]+)"
    + SUFFIX_PATTERN
)
_FLAT = re.compile(
    r"(?:.*/)?fashion(?P<gender>MEN|WOMEN)(?P<category>\w+?)id(?P<pid>\d{8})(?P<outfit>\d\d)_(?P<shot>\d)(?P<side>[a-z]+)"
    + SUFFIX_PATTERN
)


def parse_path(path: str) -> Row | None:
    """Key, identity and shot from a path in either form; None if it is neither."""
    match = (_ORIGINAL.fullmatch(path) or _FLAT.fullmatch(path)) if path.isascii() else None
    if match is None:
        return None
    key = "fashion{gender}{category}id{pid}{outfit}_{shot}{side}".format(**match.groupdict())
    return {
        "key": key,
        "pid": int(match["pid"]),
        "camid": CAMERA,
        "sequence": int(match["outfit"]),
        "frame": int(match["shot"]),
        "role": "person",
    }


def picture_box(width: int, height: int) -> Box | None:
    """The picture proper of a stored image of this size in pixels; None where that is all of it.

    Only the square originals have margins: columns 40 to 215 of 256 are the picture, as PATN crops them
    (``crop((40, 0, 216, 256))``).
    """
    if width != height:
        return None
    return round(width * MARGIN / SQUARE), 0, round(width * (MARGIN + PROPER_WIDTH) / SQUARE), height


def pair_group(key: str, pid: int) -> str:
    """What images must share to be paired: identity, category and outfit."""
    return outfit_of(key)


def outfit_of(key: str) -> str:
    """The part of a flat name that images of one person in one outfit share: identity, category, outfit number."""
    match = _FLAT.fullmatch(f"{key}.jpg")
    if match is None:
        raise ValueError(f"{key} is not a flat DeepFashion name")
    return "{gender}{category}id{pid}{outfit}".format(**match.groupdict())


def list_images(source: ImageSource) -> Listing:
    """Index rows, not yet checked, and files that are not images of the set; images that no list names are 'unlisted'.

    Raises:
        DatasetLayoutError: if no file has a DeepFashion name, or a list is none.
    """
    entries, passed_over = _one_resolution(source.entries())
    rows, ignored = [], [printable(entry.path) for entry in passed_over]
    splits, notes = read_splits(source, [entry.path for entry in entries])
    for entry in entries:
        if entry.refused is None and (is_ignored(entry.path) or not is_image_name(entry.path)):
            ignored.append(printable(entry.path))
            continue
        parsed = parse_path(entry.path)
        split = splits.get(parsed["key"]) if parsed and splits else "train"
        row = image_record(entry, split or "train", parsed, PROBLEM)
        row["camid"] = QUERY_CAMERA if split == "query" else row["camid"]
        if split is None and not row["status"]:
            row["status"], row["error"] = "unlisted", f"is in none of {', '.join(notes['split_by'])}"
        rows.append(row)
    if not any(row["role"] == "person" for row in rows):
        raise DatasetLayoutError(f"{source.root} holds no file with a DeepFashion name; {EXPECTED}")
    notes["listed_but_missing"] = len(splits.keys() - {row["key"] for row in rows})
    return Listing(rows, ignored, notes)


def _one_resolution(entries: list[SourceEntry]) -> tuple[list[SourceEntry], list[SourceEntry]]:
    """The entries to take, and the images that the high-resolution release has too."""
    keys = {}
    for entry in entries:
        parsed = parse_path(entry.path)
        if parsed is not None:
            keys[entry.path] = parsed["key"]
    large = {key for path, key in keys.items() if HIGH_RESOLUTION in path.split("/")}
    repeated = {path for path, key in keys.items() if key in large and HIGH_RESOLUTION not in path.split("/")}
    return [e for e in entries if e.path not in repeated], [e for e in entries if e.path in repeated]


def read_splits(source: ImageSource, paths: Iterable[str]) -> tuple[dict[str, str], dict[str, Any]]:
    """Split by key from the official lists among `paths`, and where it comes from; an empty dict where there is none.

    Raises:
        DatasetLayoutError: a list cannot be read, a line names no image, or two lines contradict each other.
    """
    lists: dict[str, list[str]] = {name: [] for name in (*PATN_LISTS, PARTITION)}
    for path in paths:
        name = path.rpartition("/")[2]
        if name in lists and not is_ignored(path):
            lists[name].append(path)
    patn = {path: split for name, split in PATN_LISTS.items() for path in lists[name]}
    chosen = patn or dict.fromkeys(lists[PARTITION], "")
    splits: dict[str, str] = {}
    for path, split in chosen.items():
        for number, key, said in _list_lines(source, path, split):
            if splits.setdefault(key, said) != said:
                raise DatasetLayoutError(
                    f"{path} in {source.root}, line {number}: {key} is in '{said}' here, elsewhere in '{splits[key]}'"
                )
    notes: dict[str, Any] = {"split_by": sorted(chosen)}
    if patn:
        queries, shared = choose_queries(splits)
        splits.update(dict.fromkeys(queries, "query"))
        notes["queries"] = "the first image of each outfit of two or more, of identities that are not in train"
        notes["test_identities_in_train"] = shared
    return splits, notes


def _list_lines(source: ImageSource, path: str, split: str) -> Iterable[tuple[int, str, str]]:
    """(line number, key, split) of a list; `split` is '' for In-shop's partition, which says it itself."""
    try:
        lines = source.read(path).decode("utf-8-sig").splitlines()
    except (UnreadableFileError, UnicodeDecodeError) as error:
        raise DatasetLayoutError(f"{path} in {source.root} cannot be read as a list of files: {error}") from None
    for number, line in enumerate(lines, start=1):
        words = line.split()
        header = not split and (number == 1 or words[:1] == ["image_name"])
        if not words or header:
            continue
        parsed = parse_path(words[0])
        said = split or (words[2] if len(words) == 3 else "")
        if parsed is None or said not in PARTITION_SPLITS:
            form = "a flat name" if split else f"'PATH ID {'|'.join(PARTITION_SPLITS)}'"
            raise DatasetLayoutError(
                f"{path} in {source.root}, line {number}: '{printable(line[:80])}' is not {form} of an image"
            )
        yield number, parsed["key"], said


def choose_queries(splits: Mapping[str, str]) -> tuple[list[str], int]:
    """Queries among PATN's test images, and how many test identities are in train too (and so have none)."""
    in_train = {_identity(key) for key, split in splits.items() if split == "train"}
    tested = sorted(key for key, split in splits.items() if split != "train")
    shared = {_identity(key) for key in tested} & in_train
    sizes = Counter(outfit_of(key) for key in tested)
    first: dict[str, str] = {}
    for key in tested:
        if sizes[outfit_of(key)] > 1 and _identity(key) not in shared:
            first.setdefault(outfit_of(key), key)
    return list(first.values()), len(shared)


def _identity(key: str) -> str:
    match = _FLAT.fullmatch(f"{key}.jpg")
    if match is None:
        raise ValueError(f"{key} is not a flat DeepFashion name")
    return match["pid"]
