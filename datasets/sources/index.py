"""The image index: every file of a data set, checked, with identity, camera, split and a status.

A layout (`datasets.sources.layouts`) lists the files; this module picks a slice, decodes every file in several
processes, sets apart what cannot be used, and writes ``images.parquet``.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from datasets.runtime.errors import ArtifactError, DatasetLayoutError, InputError
from datasets.runtime.manifests import finished_beside, installed_versions, manifest_of, recorded_path
from datasets.runtime.processes import end_with_parent
from datasets.runtime.progress import Progress
from datasets.runtime.reading.contents import AGAIN
from datasets.runtime.reading.names import is_file_name, is_safe_path
from datasets.runtime.reading.tables import read_table
from datasets.runtime.remote.addresses import spelled
from datasets.runtime.verify import verify
from datasets.sources.config import IndexConfig
from datasets.sources.files import LONGEST_KEY, ImageSource, Row, UnreadableFileError
from datasets.sources.holdout import hold_identities_out
from datasets.sources.image_check import ImageCheck, check_image, is_plain
from datasets.sources.layouts import LAYOUTS, Layout, layout_of
from datasets.sources.listing import advice, list_source, reasons

logger = logging.getLogger(__name__)

INDEX_FILE = "images.parquet"
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("path", pa.string()),
        ("split", pa.string()),
        ("pid", pa.int32()),
        ("camid", pa.int32()),
        ("sequence", pa.int32()),
        ("frame", pa.int32()),
        ("role", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("sha256", pa.string()),
        ("status", pa.string()),
        ("error", pa.string()),
    ]
)
CHUNK = 256
QUERY_IN_GALLERY = "#query"
"""End of the key of a query that lies in the gallery under the same name; the rest is the gallery image's key."""
TURNED_OR_GRAY = "turned_or_gray"
"""Entry of the summary: usable images that other readers show turned, or gray."""
ORDER = ("train", "query", "gallery")
OF_THE_BYTES = ("ok", "unreadable", "truncated", "not-jpeg", "not-rgb", "bomb", "duplicate")
"""Statuses of files that were read and decoded as far as it went."""


def make_index(config: IndexConfig, directory: Path) -> dict[str, object]:
    """Write ``images.parquet`` of a data set; returns counts by status, split and role.

    Raises:
        DatasetLayoutError: the root does not look as its layout demands.
        InputError: more files than `max_error_percent` cannot be used, or the slice is larger than the set.
    """
    layout = LAYOUTS[config.layout]
    listed = list_source(layout, config.root)
    listing, unsafe, prefix = listed.listing, listed.unsafe_names, listed.prefix
    if listing.ignored:
        logger.info("%s: %d files are no images of the set: %s", config.root, len(listing.ignored), listing.ignored[:3])
    if unsafe:
        logger.warning(
            "%s: %d names lead outside the archive and are never read: %s", config.root, len(unsafe), unsafe[:3]
        )
    rows = [row for row, wanted in zip(listing.rows, _in_slice(listing.rows, config), strict=True) if wanted]
    if config.validation_identities is not None:
        rows = hold_identities_out(rows, config.validation_identities, config.seed)
    known = earlier_checks(directory, config)
    decoded = _check_files(rows, config, prefix, known)
    _set_duplicates_apart(rows)
    images = pd.DataFrame(rows, columns=SCHEMA.names).sort_values(["split", "path"], ignore_index=True)
    _refuse_too_many_errors(images, len(unsafe), config)
    write_index(images, directory)
    summary = {
        **summarize(images),
        **listing.notes,
        "ignored": listing.ignored[:20],
        "ignored_files": len(listing.ignored),
        "unsafe_names": unsafe[:20],
        "prefix": prefix,
        "files_decoded": decoded,
        TURNED_OR_GRAY: sum(row["status"] == "ok" and not row["plain"] for row in rows),
    }
    if layout.published_counts and config.identities is None and config.validation_identities is None:
        summary["deviations"] = _deviations(images, layout.published_counts)
    _log_counts(summary, layout.title)
    return summary


def _log_counts(summary: dict[str, Any], title: str) -> None:
    """Say what there is, split by split, and whether it is what was published."""
    for split, counts in sorted(summary["splits"].items(), key=lambda item: ORDER.index(item[0])):
        roles = ", ".join(f"{count:,} {name}" for name, count in counts.items() if name.endswith(" images"))
        logger.info("%s: %s images, %s identities (%s)", split, f"{counts['images']:,}", counts["identities"], roles)
    if "deviations" in summary:
        result = "; ".join(summary["deviations"]) or "as published"
        logger.info("counts of %s: %s", title, result)


def open_images(directory: Path, root: Path | None = None) -> ImageSource:
    """The source that an index's paths belong to, for reading its images.

    Args:
        directory: the index.
        root: where the data set lies now, if it has moved since.
    """
    manifest = manifest_of(directory, "index")
    return layout_of(manifest).open_source(root or recorded_path(manifest, "root"))


def write_index(images: pd.DataFrame, directory: Path) -> None:
    """Write an index's rows; equal rows give equal bytes."""
    rows = pa.Table.from_pandas(images, schema=SCHEMA, preserve_index=False).replace_schema_metadata(None)
    pq.write_table(rows, directory / INDEX_FILE, compression="zstd")


def read_index(directory: Path, *, usable: bool = True) -> pd.DataFrame:
    """The rows of a finished index, sorted by split and path; with `usable`, only those with status 'ok'.

    Raises:
        ArtifactError: no such artifact, corrupt, or a usable row whose path leads out of the data set, or whose key is
            no file's name or that of another row.
    """
    images = read_table(directory, INDEX_FILE, SCHEMA, stage="index").to_pandas()
    good = images[images["status"] == "ok"].reset_index(drop=True)
    if bad := [path for path in good["path"] if not (path and is_safe_path(path))]:
        raise ArtifactError(f"{directory}/{INDEX_FILE} names '{bad[0]}', which leads out of the data set; {AGAIN}")
    if bad := [key for key in good["key"] if not (key and is_file_name(key))]:
        raise ArtifactError(f"{directory}/{INDEX_FILE}: key '{bad[0]}' is not a file's name; {AGAIN}")
    if repeated := good["key"][good.duplicated(["split", "key"])].tolist():
        raise ArtifactError(f"{directory}/{INDEX_FILE}: key '{repeated[0]}' occurs twice; {AGAIN}")
    return good if usable else images


def _in_slice(rows: list[Row], config: IndexConfig) -> list[bool]:
    """Which rows a slice takes. Inferred from names alone, so that only the slice's files need be opened."""
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


def _sampled_others(rows: list[Row], share: float, seed: int) -> set[int]:
    """Positions of a slice's distractors and junk images: the same share of each as of the test identities."""
    positions: set[int] = set()
    for stream, role in enumerate(("distractor", "junk"), start=2):
        found = [i for i, row in enumerate(rows) if row["role"] == role and row["split"] != "train"]
        positions.update(np.random.default_rng([seed, stream]).permutation(found)[: round(share * len(found))].tolist())
    return positions


def earlier_checks(directory: Path, config: IndexConfig) -> dict[str, ImageCheck]:
    """What earlier indexes of the same root in the store found out, by SHA-256 of a file's bytes.

    Whether bytes are a whole picture depends on nothing but them and the decoder, so every file is still read and
    hashed, and only bytes that no earlier index has seen are decoded. An index made by another decoder does not count.
    """
    known: dict[str, ImageCheck] = {}
    versions = installed_versions()
    for artifact in finished_beside(directory):
        try:
            manifest = manifest_of(artifact, config.stage)
            settings = [manifest["config"][name] for name in ("root", "gray_as_rgb")]
            same = (manifest["stage_version"], manifest["versions"]["pillow"], *settings)
            wanted = (config.stage_version, versions["pillow"], spelled(config.root), config.gray_as_rgb)
            if same != wanted or verify(artifact):
                continue
            rows = read_index(artifact, usable=False)
        except (ArtifactError, KeyError, TypeError, OSError, pa.ArrowException):
            continue
        looked_at = rows[rows["sha256"].ne("") & rows["status"].isin(OF_THE_BYTES)]
        for row in looked_at.itertuples():
            result = (
                ("ok", "") if row.status == "duplicate" else (row.status, row.error)
            )  # of others, it was decoded whole
            known[row.sha256] = ImageCheck(*result, row.width, row.height, row.sha256)
    return known


def _check_files(rows: list[Row], config: IndexConfig, prefix: str, known: dict[str, ImageCheck]) -> int:
    """Fill in size, hash and status of every row that has no status yet; returns how many had to be decoded."""
    waiting = [row for row in rows if not row["status"]]
    paths = [row["path"] for row in waiting]
    progress = Progress(logger, "index", len(waiting), "images")
    decoded = 0
    for row, check in zip(waiting, _checks(paths, config, prefix, known), strict=True):
        decoded += bool(check.sha256) and check.sha256 not in known
        row.update(status=check.status, error=check.error, width=check.width, height=check.height, sha256=check.sha256)
        row["plain"] = check.plain
        progress.update()
    for row in rows:
        row.setdefault("plain", True)
        row.setdefault("width", 0)
        row.setdefault("height", 0)
        row.setdefault("sha256", "")
    return decoded


def _checks(paths: list[str], config: IndexConfig, prefix: str, known: dict[str, ImageCheck]) -> Iterator[ImageCheck]:
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    arguments = (config.root, LAYOUTS[config.layout], prefix, known, config.gray_as_rgb)
    if config.workers == 1 or len(chunks) < 3:  # a pool would take longer to start than the work
        _open_in_worker(*arguments)
        for chunk in chunks:
            yield from _check_chunk(chunk)
        return
    with ProcessPoolExecutor(config.workers, initializer=_start_worker, initargs=arguments) as pool:
        for checks in pool.map(_check_chunk, chunks):
            yield from checks


_worker_source: ImageSource | None = None
_worker_known: dict[str, ImageCheck] = {}
_worker_gray_as_rgb = False
_worker_arguments: tuple[Any, ...] = ()


def _open_in_worker(root: Path, layout: Layout, prefix: str, known: dict[str, ImageCheck], gray_as_rgb: bool) -> None:
    global _worker_source, _worker_known, _worker_gray_as_rgb
    _worker_source = layout.open_root(root)
    _worker_source.prefix = prefix
    _worker_known, _worker_gray_as_rgb = known, gray_as_rgb


def _start_worker(*arguments: Any) -> None:
    global _worker_arguments
    end_with_parent()
    _worker_arguments = arguments  # opened with the first chunk: an error in here would only break the pool


def _check_chunk(paths: list[str]) -> list[ImageCheck]:
    global _worker_arguments
    if _worker_arguments:
        _open_in_worker(*_worker_arguments)
        _worker_arguments = ()
    assert _worker_source is not None  # _open_in_worker opened it
    _worker_source.bring(paths)
    return [_check_path(path) for path in paths]


def _check_path(path: str) -> ImageCheck:
    assert _worker_source is not None  # _open_in_worker opened it
    try:
        content = _worker_source.read(path)
    except UnreadableFileError as error:
        return ImageCheck(error.status, str(error))
    known = _worker_known.get(hashlib.sha256(content).hexdigest())
    if known is None:
        return check_image(content, gray_as_rgb=_worker_gray_as_rgb)
    return replace(known, plain=is_plain(content))


def _set_duplicates_apart(rows: list[Row]) -> None:
    """Keep the first of equal keys and of equal bytes (by path); a repeated key is replaced, to stay unique.

    A query may lie in the gallery too: the evaluation leaves it out, as an image of the same person at the same camera.
    Both are kept, and the query's key tells them apart.
    """
    keys: dict[str, Row] = {}
    contents: dict[object, Row] = {}
    for position, row in enumerate(sorted(rows, key=lambda row: (row["status"] != "ok", row["path"], row["split"]))):
        first = keys.setdefault(row["key"], row)
        if first is not row:
            twin = f"{row['key']}{QUERY_IN_GALLERY}"
            of_both = _is_query_in_gallery(first, row) and twin not in keys
            if of_both and len(twin.encode()) <= LONGEST_KEY:
                row["key"] = twin
            else:
                row["key"] = f"{row['path']}#{position}"
                if row["status"] == "ok":
                    reason = f", and '{twin}' is longer than {LONGEST_KEY} bytes" if of_both else ""
                    row["status"], row["error"] = "duplicate", f"has the same name as {first['path']}{reason}"
            keys[row["key"]] = row
        if row["status"] == "ok":
            first = contents.setdefault(row["sha256"], row)
            again = contents.setdefault((row["sha256"], row["split"]), row)
            if first is not row and not (_is_query_in_gallery(first, row) and again is row):
                row["status"], row["error"] = "duplicate", f"has the same bytes as {first['path']}"


def _is_query_in_gallery(one: Row, other: Row) -> bool:
    """Whether two files are one image that is a query and in the gallery, with the same person and camera."""
    return (
        {one["split"], other["split"]} == {"query", "gallery"}
        and one["status"] == other["status"] == "ok"
        and all(one[name] == other[name] for name in ("sha256", "pid", "camid"))
    )


def _refuse_too_many_errors(images: pd.DataFrame, unsafe: int, config: IndexConfig) -> None:
    bad = images[images["status"] != "ok"]
    total = len(images) + unsafe
    if not total or len(bad) == len(images):
        first = f"; first: {bad.iloc[0]['path']}: {bad.iloc[0]['error']}" if not bad.empty else ""
        raise DatasetLayoutError(f"{config.root} holds no usable image ({reasons(bad['status'])}{first})")
    percent = 100 * (len(bad) + unsafe) / total
    if not bad.empty:
        logger.warning("%d of %d files cannot be used: %s", len(bad), len(images), reasons(bad["status"]))
    if percent > config.max_error_percent:
        first = bad.iloc[0] if not bad.empty else None
        example = f"; first: {first['path']}: {first['error']}" if first is not None else ""
        raise InputError(
            f"{len(bad) + unsafe} of {total} files of {config.root} cannot be used ({reasons(bad['status'])}), more "
            f"than max_error_percent {config.max_error_percent:g}{example}; {_way_out(bad, total, config)}"
        )


def _way_out(bad: pd.DataFrame, total: int, config: IndexConfig) -> str:
    if 2 * (bad["status"] == "bad-name").sum() > total:
        return advice(config.root, LAYOUTS[config.layout])
    return "fix them, or raise the limit (--max-error-percent; of a regeneration: --index.max-error-percent)"


def summarize(images: pd.DataFrame) -> dict[str, Any]:
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


def _deviations(images: pd.DataFrame, published_counts: Mapping[str, int]) -> list[str]:
    """Where a data set differs from what was published; said, not fatal."""
    splits = summarize(images)["splits"]
    found = []
    for name, published in published_counts.items():
        split, _, count_name = name.partition(" ")
        counted = splits.get(split, {}).get(count_name, 0)
        if counted != published:
            found.append(f"{name}: {counted:,} usable, {published:,} published")
    return found
