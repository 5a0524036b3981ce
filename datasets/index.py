"""The image index: every file of a data set, checked, with identity, camera, split and a status.

Layouts (`datasets.market1501`, `datasets.deepfashion`, `datasets.table`) list the files; this module picks a slice,
decodes every file in several processes, sets apart what cannot be used, and writes ``images.parquet``.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from datasets import deepfashion, market1501, table
from datasets.artifacts import manifest_of
from datasets.config import IndexConfig
from datasets.errors import DatasetLayoutError, InputError
from datasets.image_check import ImageCheck, check_image
from datasets.processes import end_with_parent
from datasets.progress import Progress
from datasets.sources import ImageSource, UnreadableFileError

logger = logging.getLogger(__name__)

INDEX_FILE = "images.parquet"
LAYOUTS = {"market1501": market1501, "deepfashion": deepfashion, "table": table}
SCHEMA = pa.schema(
    [
        ("key", pa.string()), ("path", pa.string()), ("split", pa.string()), ("pid", pa.int32()), ("camid", pa.int32()),
        ("sequence", pa.int32()), ("frame", pa.int32()), ("role", pa.string()), ("width", pa.int32()),
        ("height", pa.int32()), ("sha256", pa.string()), ("status", pa.string()), ("error", pa.string()),
    ]
)  # fmt: skip
CHUNK = 256


def make_index(config: IndexConfig, directory: Path) -> dict[str, object]:
    """Write ``images.parquet`` of a data set; returns counts by status, split and role.

    Raises:
        DatasetLayoutError: the root does not look as its layout demands.
        InputError: more files than `max_error_percent` cannot be used, or the slice is larger than the set.
    """
    with open_source(config.root, config.layout) as source:
        rows, ignored = LAYOUTS[config.layout].list_images(source)
        unsafe = source.unsafe_names()
        prefix = source.prefix
    if unsafe:
        logger.warning(
            "%s: %d names lead outside the archive and are never read: %s", config.root, len(unsafe), unsafe[:3]
        )
    rows = [row for row, wanted in zip(rows, _in_slice(rows, config), strict=True) if wanted]
    _check_files(rows, config, prefix)
    _set_duplicates_apart(rows)
    images = pd.DataFrame(rows, columns=SCHEMA.names).sort_values(["split", "path"], ignore_index=True)
    _refuse_too_many_errors(images, len(unsafe), config)
    write_index(images, directory)
    summary = {**summarise(images), "ignored": ignored[:20], "unsafe_names": unsafe[:20], "prefix": prefix}
    if config.layout == "market1501" and config.identities is None:
        summary["deviations"] = _deviations(images)
    return summary


def open_source(root: Path, layout: str) -> ImageSource:
    """The files of a data set, with the data set's own top folder found inside a folder or zip.

    Raises: DatasetLayoutError: if it cannot be found.
    """
    module = LAYOUTS[layout]
    if module is table:
        return table.open_source(root)
    source = ImageSource(root)
    prefix = source.find_prefix(module.MARKER) if module.MARKER else ""
    if prefix is None:
        raise DatasetLayoutError(f"{root} has no folder '{module.MARKER}'; {module.EXPECTED}")
    source.prefix = prefix
    return source


def open_images(directory: Path, root: Path | None = None) -> ImageSource:
    """The source that an index's paths belong to, for reading its images.

    Args:
        directory: the index.
        root: where the data set lies now, if it has moved since.
    """
    config = manifest_of(directory, "index")["config"]
    return open_source(root or Path(config["root"]), config["layout"])


def write_index(images: pd.DataFrame, directory: Path) -> None:
    """Write an index's rows; equal rows give equal bytes."""
    rows = pa.Table.from_pandas(images, schema=SCHEMA, preserve_index=False).replace_schema_metadata(None)
    pq.write_table(rows, directory / INDEX_FILE, compression="zstd")


def read_index(directory: Path, *, usable: bool = True) -> pd.DataFrame:
    """The rows of a finished index, sorted by split and path; with `usable`, only those with status 'ok'."""
    manifest_of(directory, "index")
    images = pq.read_table(Path(directory) / INDEX_FILE).to_pandas()
    return images[images["status"] == "ok"].reset_index(drop=True) if usable else images


def _in_slice(rows: list[dict[str, object]], config: IndexConfig) -> list[bool]:
    """Which rows a slice takes. Told from names alone, so that only the slice's files need be opened."""
    if config.identities is None:
        if config.outside_slice:
            raise InputError("outside_slice needs identities: it is what a slice of that many leaves out")
        return [True] * len(rows)
    train = sorted({row["pid"] for row in rows if row["split"] == "train" and row["role"] == "person"})
    if config.identities > len(train):
        raise InputError(
            f"identities {config.identities} is more than the {len(train)} training identities of {config.root}"
        )
    taken = set(np.random.default_rng(config.seed).permutation(train)[: config.identities].tolist())
    if config.outside_slice:
        return [row["split"] == "train" and row["role"] == "person" and row["pid"] not in taken for row in rows]
    query = {row["pid"] for row in rows if row["split"] == "query" and row["role"] == "person"}
    gallery = {row["pid"] for row in rows if row["split"] == "gallery" and row["role"] == "person"}
    test = sorted(query & gallery if query else gallery)  # DeepFashion has no queries
    test_taken = set(np.random.default_rng([config.seed, 1]).permutation(test)[: config.identities].tolist())
    share = len(test_taken) / len(test) if test else 0.0
    others = _sampled_others(rows, share, config.seed)
    return [
        position in others
        or (row["role"] == "person" and row["pid"] in (taken if row["split"] == "train" else test_taken))
        for position, row in enumerate(rows)
    ]


def _sampled_others(rows: list[dict[str, object]], share: float, seed: int) -> set[int]:
    """Positions of a slice's distractors and junk images: the same share of each as of the test identities."""
    positions: set[int] = set()
    for stream, role in enumerate(("distractor", "junk"), start=2):
        found = [i for i, row in enumerate(rows) if row["role"] == role and row["split"] != "train"]
        positions.update(np.random.default_rng([seed, stream]).permutation(found)[: round(share * len(found))].tolist())
    return positions


def _check_files(rows: list[dict[str, object]], config: IndexConfig, prefix: str) -> None:
    """Fill in size, hash and status of every row that has no status yet."""
    waiting = [row for row in rows if not row["status"]]
    paths = [row["path"] for row in waiting]
    progress = Progress(logger, "index", len(waiting), "images")
    for row, check in zip(waiting, _checks(paths, config, prefix), strict=True):
        row.update(status=check.status, error=check.error, width=check.width, height=check.height, sha256=check.sha256)
        progress.update()
    for row in rows:
        row.setdefault("width", 0)
        row.setdefault("height", 0)
        row.setdefault("sha256", "")


def _checks(paths: list[str], config: IndexConfig, prefix: str) -> Iterator[ImageCheck]:
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    if config.workers == 1 or len(chunks) < 3:  # a pool would take longer to start than the work
        _open_in_worker(config.root, config.layout, prefix)
        for chunk in chunks:
            yield from _check_chunk(chunk)
        return
    arguments = (config.root, config.layout, prefix)
    with ProcessPoolExecutor(config.workers, initializer=_start_worker, initargs=arguments) as pool:
        for checks in pool.map(_check_chunk, chunks):
            yield from checks


_worker_source: ImageSource | None = None


def _open_in_worker(root: Path, layout: str, prefix: str) -> None:
    global _worker_source
    _worker_source = table.open_source(root) if layout == "table" else ImageSource(root, prefix)


def _start_worker(root: Path, layout: str, prefix: str) -> None:
    end_with_parent()
    _open_in_worker(root, layout, prefix)


def _check_chunk(paths: list[str]) -> list[ImageCheck]:
    return [_check_path(path) for path in paths]


def _check_path(path: str) -> ImageCheck:
    try:
        content = _worker_source.read(path)
    except UnreadableFileError as error:
        return ImageCheck(error.status, str(error))
    return check_image(content)


def _set_duplicates_apart(rows: list[dict[str, object]]) -> None:
    """Keep the first of equal keys and of equal bytes (by path); a repeated key is replaced, to stay unique."""
    keys: dict[str, str] = {}
    contents: dict[str, str] = {}
    for position, row in enumerate(sorted(rows, key=lambda row: (row["status"] != "ok", row["path"]))):
        first = keys.get(row["key"])
        keys.setdefault(row["key"], row["path"])
        if first is not None:
            row["key"] = f"{row['path']}#{position}"
            if row["status"] == "ok":
                row["status"], row["error"] = "duplicate", f"has the same name as {first}"
        if row["status"] == "ok":
            first = contents.setdefault(row["sha256"], row["path"])
            if first != row["path"]:
                row["status"], row["error"] = "duplicate", f"has the same bytes as {first}"


def _refuse_too_many_errors(images: pd.DataFrame, unsafe: int, config: IndexConfig) -> None:
    bad = images[images["status"] != "ok"]
    total = len(images) + unsafe
    if not total or len(bad) == len(images):
        raise DatasetLayoutError(f"{config.root} holds no usable image ({_reasons(bad)})")
    percent = 100 * (len(bad) + unsafe) / total
    if not bad.empty:
        logger.warning("%d of %d files cannot be used: %s", len(bad), len(images), _reasons(bad))
    if percent > config.max_error_percent:
        first = bad.iloc[0] if not bad.empty else None
        example = f"; first: {first['path']}: {first['error']}" if first is not None else ""
        raise InputError(
            f"{len(bad) + unsafe} of {total} files of {config.root} cannot be used ({_reasons(bad)}), more than "
            f"max_error_percent {config.max_error_percent:g}{example}; mend them or raise the limit"
        )


def _reasons(bad: pd.DataFrame) -> str:
    return ", ".join(f"{status}: {count}" for status, count in sorted(Counter(bad["status"]).items())) or "none listed"


def summarise(images: pd.DataFrame) -> dict[str, object]:
    """Counts of an index: files by status, and usable images and identities by split and role."""
    usable = images[images["status"] == "ok"]
    splits = {}
    for split, part in usable.groupby("split"):
        people = part[part["role"] == "person"]
        splits[split] = {
            "images": len(part),
            "identities": int(people["pid"].nunique()),
            "cameras": int(part["camid"].nunique()),
            **{f"{role} images": int(count) for role, count in part["role"].value_counts().sort_index().items()},
        }
    statuses = {status: int(count) for status, count in images["status"].value_counts().sort_index().items()}
    return {"files": len(images), "statuses": statuses, "splits": splits}


def _deviations(images: pd.DataFrame) -> list[str]:
    """Where a Market-1501 differs from what was published; said, not fatal."""
    splits = summarise(images)["splits"]
    found = []
    for name, published in market1501.PUBLISHED_COUNTS.items():
        split, _, count_name = name.partition(" ")
        counted = splits.get(split, {}).get(count_name, 0)
        if counted != published:
            found.append(f"{name}: {counted:,} usable, {published:,} published")
    if found:
        logger.info("differs from the published Market-1501 in %d counts, first %s", len(found), found[0])
    return found
