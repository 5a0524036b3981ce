"""Pairs of images (source, target) by PATN's rule, which all later pose-transfer papers follow.

An image can be in a pair if its skeleton has both shoulders and both hips. Market-1501: all ordered pairs of different
images of one person (no distractors, no junk). DeepFashion: of one person, category and outfit number.
Counts of the published keypoints: 263,632 for Market-1501 train, 8,570 for DeepFashion test
(https://github.com/tengteng95/Pose-Transfer, ``create_pairs_dataset.py``).
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.poses.config import ExportPairsConfig
from datasets.poses.skeleton import present_joints
from datasets.poses.table import read_poses
from datasets.runtime.atomic import write_text_atomically
from datasets.runtime.errors import InputError, printable
from datasets.runtime.manifests import manifest_of
from datasets.runtime.regular_files import read_regular
from datasets.sources.files import image_key, is_image_name
from datasets.sources.index import read_index
from datasets.sources.layouts import DEEPFASHION, MARKET1501, layout_of

logger = logging.getLogger(__name__)

Pair = tuple[str, str]
"""Keys of source and target."""
HEADER = ["from", "to"]
SPLITS = {"train": ["train"], "test": ["query", "gallery"]}

TORSO = (2, 5, 8, 11)
"""Both shoulders and both hips."""


def has_torso(keypoints: np.ndarray) -> np.ndarray:
    """Whether skeletons have both shoulders and both hips: (..., 18, 3) -> bool (...)."""
    return np.asarray(present_joints(keypoints)[..., TORSO].all(-1))


def groups_by_names(keys: Sequence[str], pids: Sequence[int]) -> list[object | None]:
    """The group of each image of shards, which do not name their layout.

    An outfit where all keys are DeepFashion's flat names, else the person.

    Args:
        keys: image keys.
        pids: identities, one per key; 0 and -1 pair with nothing.
    """
    try:
        return [DEEPFASHION.pair_group(key, pid) for key, pid in zip(keys, pids, strict=True)]
    except ValueError:  # other names
        return [MARKET1501.pair_group(key, pid) for key, pid in zip(keys, pids, strict=True)]


def ordered_pairs(keys: Sequence[str], groups: Sequence[object | None], keypoints: np.ndarray) -> Iterator[Pair]:
    """All ordered pairs of different images of a group, groups and images in sorted order.

    Args:
        keys: image keys.
        groups: what may be paired together, one per image; None pairs with nothing.
        keypoints: (N, 18, 3) skeletons.
    """
    members: dict[Any, list[str]] = {}  # groups of one data set are all numbers or all texts
    for key, group, usable in zip(keys, groups, has_torso(keypoints), strict=True):
        if group is not None and usable:
            members.setdefault(group, []).append(key)
    for group in sorted(members):
        images = sorted(members[group])
        yield from ((source, target) for source in images for target in images if source != target)


def read_pairs(file: Path) -> list[Pair]:
    """Pairs of a CSV file with the columns ``from`` and ``to``, as keys, in file order.

    Raises:
        InputError: another header, a half line, or no pair.
    """
    try:
        text = read_regular(file).decode("utf-8-sig")
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file} cannot be read as a list of pairs: {error}") from None
    if not rows or [name.strip() for name in rows[0]] != HEADER:
        shown = printable(",".join(rows[0])[:60]) if rows else ""
        raise InputError(f"{file}: expected the header 'from,to', got '{shown}'")
    pairs = []
    for number, row in enumerate(rows[1:], start=2):
        names = [name.strip() for name in row]
        if len(names) != 2 or not all(map(is_image_name, names)):
            shown = printable(",".join(row)[:120])
            raise InputError(f"{file}, line {number}: expected two image names, got '{shown}' (cut off?)")
        pairs.append((image_key(names[0]), image_key(names[1])))
    if not pairs:
        raise InputError(f"{file} lists no pair")
    return pairs


def write_pairs(file: Path, pairs: Iterable[Pair]) -> None:
    """Write pairs of keys as `read_pairs` reads them; the file's folder is made if need be."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(HEADER)
    table.writerows((f"{source}.jpg", f"{target}.jpg") for source, target in pairs)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(file, text.getvalue())


def run_export(config: ExportPairsConfig) -> int:
    """Write all pairs of a split, after comparing them with a published file where one is given.

    Raises:
        InputError: poses of another index, a published file that is none, or no pair at all.
    """
    images = read_index(config.images)
    images = images[images["split"].isin(SPLITS[config.split])]
    by_key = read_poses(config.poses).set_index("key")["keypoints"]
    if absent := sorted(set(images["key"]) - set(by_key.index)):
        raise InputError(f"{config.poses} lacks {len(absent)} images of {config.images}, first {absent[0]}")
    keys = images["key"].tolist()
    group = layout_of(manifest_of(config.images, "index")).pair_group
    groups = [group(key, pid) for key, pid in zip(keys, images["pid"].tolist(), strict=True)]
    keypoints = np.stack(by_key.loc[keys]) if keys else np.empty((0, 18, 3), np.float32)
    pairs = list(ordered_pairs(keys, groups, keypoints))
    if not pairs:
        raise InputError(f"{config.images} has no two images of a person with shoulders and hips in '{config.split}'")
    if config.published is not None:
        _compare(pairs, set(keys), config.published)
    write_pairs(config.csv, pairs)
    logger.info("%d ordered pairs of %d images written to %s", len(pairs), len({s for s, _ in pairs}), config.csv)
    return 0


def _compare(pairs: Sequence[Pair], keys: set[str], file: Path) -> None:
    published = read_pairs(file)
    distinct, by_rule = set(published), set(pairs)
    unknown = {key for pair in distinct for key in pair} - keys
    counts = {
        "pairs": len(published),
        "repeated": len(published) - len(distinct),
        "images that the index lacks": len(unknown),
        "pairs of images that the rule does not pair": sum(not unknown & set(pair) for pair in distinct - by_rule),
        "pairs of the rule that it lacks": len(by_rule - distinct),
    }
    logger.info("%s: %s", file, ", ".join(f"{count} {what}" for what, count in counts.items()))
