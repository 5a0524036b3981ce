"""DeepFashion In-shop Clothes Retrieval: original folders, PATN's flat names, official lists, crop rules.

Original: ``WOMEN/Dresses/id_00000002/02_1_front.jpg`` (below ``img`` or ``img_highres``). Flat, as in the file lists
and keypoint files that go back to PATN (https://github.com/tengteng95/Pose-Transfer):
``fashionWOMENDressesid0000000202_1front.jpg``. The flat name is the key in both cases, so those files fit. The first
two digits of the shot are the outfit, the third its number; there are no cameras, ``camid`` is 1.
"""

from __future__ import annotations

import re

from datasets.errors import DatasetLayoutError
from datasets.sources import ImageSource, image_key, image_record, is_ignored, printable

MARKER = ""
EXPECTED = "expected DeepFashion In-shop: WOMEN/Dresses/id_00000002/02_1_front.jpg, or PATN's flat names"
LISTS = {"train.lst": "train", "test.lst": "gallery"}
"""PATN's split: flat names, one a line. What neither lists is set apart."""

_ORIGINAL = re.compile(
    r"(?:.*/)?(?P<gender>MEN|WOMEN)/(?P<category>\w+)/id_(?P<pid>\d{8})/(?P<outfit>\d\d)_(?P<shot>\d)_(?P<side>\w+)(?:\.jpg)+"
)
_FLAT = re.compile(
    r"(?:.*/)?fashion(?P<gender>MEN|WOMEN)(?P<category>\w+?)id(?P<pid>\d{8})(?P<outfit>\d\d)_(?P<shot>\d)(?P<side>[a-z]+)(?:\.jpg)+"
)


def parse_path(path: str) -> dict[str, int | str] | None:
    """Key, identity and shot from a path in either form; None if it is neither."""
    match = (_ORIGINAL.fullmatch(path) or _FLAT.fullmatch(path)) if path.isascii() else None
    if match is None:
        return None
    key = "fashion{gender}{category}id{pid}{outfit}_{shot}{side}".format(**match.groupdict())
    return {
        "key": key, "pid": int(match["pid"]), "camid": 1, "sequence": int(match["outfit"]), "frame": int(match["shot"]),
        "role": "person",
    }  # fmt: skip


def outfit_of(key: str) -> str:
    """The part of a flat name that images of one person in one outfit share: identity, category, outfit number."""
    match = _FLAT.fullmatch(f"{key}.jpg")
    if match is None:
        raise ValueError(f"{key} is not a flat DeepFashion name")
    return "{gender}{category}id{pid}{outfit}".format(**match.groupdict())


def list_images(source: ImageSource) -> tuple[list[dict[str, object]], list[str]]:
    """Index rows, not yet checked, and files that are not images of the set.

    With ``train.lst``/``test.lst`` in the root they decide the split ('train', 'gallery') and images in neither get the
    status 'unlisted'; without, everything is 'train'.
    Raises: DatasetLayoutError: if no file has a DeepFashion name.
    """
    entries = source.entries()
    splits = _read_lists(source, [entry.path for entry in entries])
    rows, ignored = [], []
    for entry in entries:
        if (entry.refused is None and is_ignored(entry.path)) or not entry.path.lower().endswith(".jpg"):
            ignored.append(printable(entry.path))
            continue
        parsed = parse_path(entry.path)
        split = splits.get(parsed["key"]) if parsed and splits else "train"
        row = image_record(entry, split or "train", parsed, "WOMEN/Dresses/id_00000002/02_1_front.jpg")
        if split is None and not row["status"]:
            row["status"], row["error"] = "unlisted", f"is in none of {', '.join(LISTS)}"
        rows.append(row)
    if not any(row["role"] == "person" for row in rows):
        raise DatasetLayoutError(f"{source.root} holds no file with a DeepFashion name; {EXPECTED}")
    return rows, ignored


def _read_lists(source: ImageSource, paths: list[str]) -> dict[str, str]:
    splits = {}
    for name, split in LISTS.items():
        for path in (path for path in paths if path.rpartition("/")[2] == name):
            try:
                lines = source.read(path).decode("ascii").split()
            except UnicodeDecodeError as error:
                raise DatasetLayoutError(
                    f"{path} in {source.root} is not a plain list of file names ({error})"
                ) from None
            splits.update((image_key(line), split) for line in lines)
    return splits
