"""Image shards of Market-1501's size: writing them, and reading them beside webdataset and a Dataset over the files.

The images are Market-1501's own where MARKET1501_ROOT says where it lies, else generated JPEGs of the same sizes and
number (36,036 of about 2.5 kB). Skeletons are drawn at random; their values do not matter here. Each timed pass is
repeated, the competitors in turn, and the fastest pass of each counts: on a shared machine the others measure its
neighbors. Everything lies in the page cache, so this is the cost of the code, not of a disk. It takes some minutes and
2 GB of TMPDIR.

Writing is the whole `write-shards` stage: source bytes compared with the index, tars flushed to disk, card, hashes,
manifest. The peer's `ShardWriter` stores the same bytes and JSON, but checks, flushes and hashes nothing.
Reading is one process, JPEG to RGB array and labels, every image once:
  ours        `read_samples`, as `encode` and the trainers read shards
  webdataset  plain ``WebDataset(...).decode("rgb8")`` on the same tars
  files       ``torch.utils.data.Dataset`` over the source files, labels from the index already in memory
  decode      no reader at all: JPEGs already in memory (what any reader that decodes with Pillow is bound by)
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import webdataset
from PIL import Image

from benchmarks.machine import machine
from benchmarks.market_images import MARKET, Size, generate_images
from datasets.poses.config import ImportPosesConfig
from datasets.poses.csv_files import write_pose_csv
from datasets.poses.table import make_imported_poses, read_poses
from datasets.runtime.artifacts import build
from datasets.runtime.errors import InputError
from datasets.runtime.hashing import file_sha256
from datasets.runtime.verify import verify
from datasets.shards.config import WriteShardsConfig
from datasets.shards.tars import read_samples
from datasets.shards.write import make_shards, plan_shards, read_shard_index
from datasets.sources.config import IndexConfig
from datasets.sources.files import ImageSource
from datasets.sources.index import make_index, open_images, read_index
from datasets.sources.pictures import FORMATS, decode_pixels

SPLITS = ("train", "query", "gallery")

Sample = tuple[str, int, np.ndarray]
"""Key, pid, RGB array (H, W, 3) uint8."""


@dataclass(frozen=True)
class Cost:
    """Seconds of one pass."""

    cpu: float
    wall: float


@dataclass(frozen=True)
class Prepared:
    """What the timed passes work on."""

    config: WriteShardsConfig
    images: pd.DataFrame
    """The index's usable rows."""
    work: Path


def prepare(work: Path, size: Size) -> Prepared:
    """Images, their index and skeletons; nothing of this is timed."""
    real = os.environ.get("MARKET1501_ROOT")
    root = Path(real) if real else work / "images"
    if not real:
        generate_images(root, size)
    store = work / "inputs"
    identities = size.identities if real and size != MARKET else None
    index = build(IndexConfig(root=root, identities=identities), make_index, store=store)
    images = read_index(index)
    rng = np.random.default_rng(0)
    joints = rng.integers(0, images[["width", "height"]].min(axis=1).to_numpy()[:, None, None], (len(images), 18, 2))
    skeletons = np.concatenate([joints, np.ones((len(images), 18, 1))], 2).astype(np.float32)
    csv = work / "poses.csv"
    write_pose_csv(csv, zip(images["path"].str.rpartition("/")[2], skeletons, strict=True))
    poses = build(ImportPosesConfig(images=index, csv=[csv]), make_imported_poses, store=store)
    return Prepared(WriteShardsConfig(images=index, poses=poses, splits=list(SPLITS)), images, work)


def timed(work: Callable[[], object]) -> Cost:
    """CPU seconds of this process and wall seconds of a call."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return Cost(time.process_time() - cpu, time.perf_counter() - wall)


def best_of(competitors: dict[str, Callable[[], object]], rounds: int) -> dict[str, Cost]:
    """The fastest of `rounds` passes of each, by CPU and by wall seconds; they run in turn."""
    passes: dict[str, list[Cost]] = {name: [] for name in competitors}
    for _ in range(rounds):
        for name, work in competitors.items():
            passes[name].append(timed(work))
    return {
        name: Cost(min(cost.cpu for cost in costs), min(cost.wall for cost in costs)) for name, costs in passes.items()
    }


# Writing


def write_ours(prepared: Prepared) -> Path:
    """The whole stage, into a store of its own: beside an earlier set it would only copy that one's shards."""
    store = Path(tempfile.mkdtemp(prefix="ours-", dir=prepared.work))
    return build(prepared.config, make_shards, store=store)


def write_webdatasets(prepared: Prepared, plan: list[tuple[str, str, dict[str, object]]]) -> Path:
    """The same samples in the same order by webdataset's own writer."""
    directory = Path(tempfile.mkdtemp(prefix="webdataset-", dir=prepared.work))
    pattern = str(directory / "%05d.tar")
    with (
        open_images(prepared.config.images) as source,
        webdataset.ShardWriter(pattern, maxcount=prepared.config.images_per_shard, verbose=0) as writer,
    ):
        for key, path, facts in plan:
            writer.write({"__key__": key, "jpg": source.read(path), "json": facts})
    return directory


def peer_plan(prepared: Prepared) -> list[tuple[str, str, dict[str, object]]]:
    """Key, path and JSON fields of every sample, ready for the peer before its clock starts (ours makes its own)."""
    images = prepared.images.merge(read_poses(prepared.config.poses)[["key", "keypoints"]], on="key")
    plans = [plan for split in SPLITS for plan in plan_shards(images, split, prepared.config.images_per_shard)]
    return [(row.key, row.path, json.loads(row.json)) for plan in plans for row in plan.images.itertuples()]


# Reading


def decode(content: bytes) -> np.ndarray:
    """A JPEG's pixels, (H, W, 3) uint8, as everywhere in the pipeline (by Pillow, as in webdataset)."""
    return decode_pixels(content)


def read_ours(shards: list[Path]) -> Iterator[Sample]:
    """Our reader and the two decoders its users put behind it."""
    for shard in shards:
        for key, members in read_samples(shard):
            yield key, json.loads(members["json"])["pid"], decode(members["jpg"])


def read_webdatasets(shards: list[Path]) -> Iterator[Sample]:
    """Plain webdataset."""
    urls = [str(shard) for shard in shards]
    for sample in webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"):
        yield sample["__key__"], sample["json"]["pid"], sample["jpg"]


class FileImages(torch.utils.data.Dataset[Sample]):
    """The usual Dataset over image files."""

    def __init__(self, paths: list[Path], keys: list[str], pids: list[int]) -> None:
        self.paths, self.keys, self.pids = paths, keys, pids

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        with Image.open(self.paths[index], formats=FORMATS) as image:  # a peer: as others open files
            return self.keys[index], self.pids[index], np.asarray(image.convert("RGB"))


def files_of(prepared: Prepared) -> FileImages:
    """A Dataset over the images of the index, where they lie."""
    rows = prepared.images
    with open_images(prepared.config.images) as source:
        paths = [source.root / source.prefix / path for path in rows["path"]]
    return FileImages(paths, rows["key"].tolist(), rows["pid"].tolist())


def read_files(files: FileImages) -> Iterator[Sample]:
    """One item after the other, without a DataLoader: it could only add to the cost in one process."""
    for number in range(len(files)):
        yield files[number]


def consume(samples: Iterator[Sample]) -> int:
    """Read to the end; returns the number of pixels, so that nothing is left undone."""
    return sum(pixels.size for _, _, pixels in samples)


def _read_all(reader: Callable[[], Iterator[Sample]]) -> int:
    return consume(reader())


def fingerprints(samples: Iterator[Sample]) -> list[tuple[str, int, str]]:
    """Sorted (key, pid, hash of size and pixels)."""
    return sorted(
        (key, pid, hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest())
        for key, pid, pixels in samples
    )


# Checks


def writing_checks(prepared: Prepared, first: Path, second: Path) -> dict[str, bool]:
    """What is claimed of the written set, each checked on the files themselves."""
    shards = read_shard_index(first)["shards"]
    contents: list[tuple[str, bytes]] = []
    homes: dict[tuple[str, int], set[str]] = {}
    for shard in shards:
        for key, members in read_samples(first / shard["name"]):
            contents.append((key, members["jpg"]))
            homes.setdefault((shard["split"], json.loads(members["json"])["pid"]), set()).add(shard["name"])
    paths = dict(zip(prepared.images["key"], prepared.images["path"], strict=True))
    with open_images(prepared.config.images) as source:
        untouched = all(_same_bytes(source, paths.get(key), content) for key, content in contents)
    return {
        "source_bytes_untouched": untouched,
        "every_key_once": sorted(key for key, _ in contents) == sorted(prepared.images["key"]),
        "no_identity_in_two_shards": all(len(names) == 1 for names in homes.values()),
        "second_write_byte_identical": _file_hashes(first) == _file_hashes(second),
        "hashes_verify": verify(first) == [],
    }


def reading_checks(prepared: Prepared, readers: dict[str, Callable[[], Iterator[Sample]]]) -> dict[str, bool]:
    """Whether the readers agree on every image's key, identity and pixels, and on how many there are."""
    found = [fingerprints(reader()) for reader in readers.values()]
    return {
        "equal_pixels_and_labels_across_readers": all(rows == found[0] for rows in found),
        "every_reader_reads_every_image": all(len(rows) == len(prepared.images) for rows in found),
    }


def _same_bytes(source: ImageSource, path: str | None, content: bytes) -> bool:
    return path is not None and source.read(path) == content


def jpeg_hashes(directory: Path) -> list[tuple[str, str]]:
    """Sorted (key, SHA-256) of the JPEGs in a folder's tars, read by webdataset, as the peer wrote PAX headers."""
    urls = [str(shard) for shard in sorted(directory.glob("*.tar"))]
    samples = webdataset.WebDataset(urls, shardshuffle=False)
    return sorted((sample["__key__"], hashlib.sha256(sample["jpg"]).hexdigest()) for sample in samples)


def _file_hashes(directory: Path) -> dict[str, str]:
    """Of every file but the manifest, which holds times."""
    return {path.name: file_sha256(path) for path in directory.iterdir() if path.name != "manifest.json"}


# The report


def measure(size: Size, rounds: int) -> dict[str, Any]:
    """Write, read and check; returns what the last line prints."""
    with tempfile.TemporaryDirectory(prefix="benchmark-shards-") as folder:
        prepared = prepare(Path(folder), size)
        count = len(prepared.images)
        plan = peer_plan(prepared)
        written: list[Path] = []
        peers: list[Path] = []
        writing = best_of(
            {
                "ours": lambda: written.append(write_ours(prepared)),
                "webdataset": lambda: peers.append(write_webdatasets(prepared, plan)),
            },
            max(rounds, 2),
        )
        checks = writing_checks(prepared, written[0], written[1])
        checks["peer_wrote_the_same_images"] = jpeg_hashes(written[0]) == jpeg_hashes(peers[0])
        shards = [written[0] / shard["name"] for shard in read_shard_index(written[0])["shards"]]
        files = files_of(prepared)
        in_memory = [members["jpg"] for shard in shards for _, members in read_samples(shard)]
        readers: dict[str, Callable[[], Iterator[Sample]]] = {
            "ours": lambda: read_ours(shards),
            "webdataset": lambda: read_webdatasets(shards),
            "files": lambda: read_files(files),
        }
        checks |= reading_checks(prepared, readers)  # before the clock runs: it also fills the page cache
        passes: dict[str, Callable[[], object]] = {
            name: functools.partial(_read_all, reader) for name, reader in readers.items()
        }
        passes["decode"] = lambda: sum(decode(content).size for content in in_memory)
        reading = best_of(passes, rounds)
        megabytes = sum(map(len, in_memory)) / 1e6
    return report(count, megabytes, writing, reading, checks)


def report(
    count: int, megabytes: float, writing: dict[str, Cost], reading: dict[str, Cost], checks: dict[str, bool]
) -> dict[str, Any]:
    """The figures by name; images/s are per CPU second, that is per core, and once more by the clock (`_wall`)."""
    result: dict[str, object] = {
        "benchmark": "shards",
        "data": "Market-1501" if os.environ.get("MARKET1501_ROOT") else "generated",
        "images": count,
        "jpeg_megabytes": round(megabytes, 1),
        # Ours against the faster of the two peers.
        "ratio": round(min(reading["webdataset"].cpu, reading["files"].cpu) / reading["ours"].cpu, 2),
        "read_ratio_webdataset": round(reading["webdataset"].cpu / reading["ours"].cpu, 2),
        "read_ratio_files": round(reading["files"].cpu / reading["ours"].cpu, 2),
        "write_ratio_webdataset": round(writing["webdataset"].cpu / writing["ours"].cpu, 2),
        # How much of our reading is the decoding that no reader can spare itself.
        "read_decode_share": round(reading["decode"].cpu / reading["ours"].cpu, 2),
    }
    for kind, costs in (("write", writing), ("read", reading)):
        for name, cost in costs.items():
            prefix = f"{kind}_" if name == "ours" else f"{kind}_{name}_"
            result[f"{prefix}images_per_s"] = round(count / cost.cpu)
            result[f"{prefix}images_per_s_wall"] = round(count / cost.wall)
    return {**result, "checks": checks, "machine": machine("pillow", "webdataset", "torch")}


def main(size: Size = MARKET, rounds: int = 3) -> int:
    """Print the figures, and as the last line all of them as JSON; returns 1 if a check fails, 2 without data."""
    torch.set_num_threads(1)
    try:
        result = measure(size, rounds)
    except InputError as error:  # most likely MARKET1501_ROOT leads nowhere
        print(f"shards: {error}", file=sys.stderr)
        return 2
    origin = f"{result['data']}, {result['jpeg_megabytes']} MB"
    print(f"{result['images']:,} JPEGs ({origin}): images per CPU second (by the clock)")
    for kind, names in (("write", ("", "webdataset_")), ("read", ("", "webdataset_", "files_", "decode_"))):
        for name in names:
            rate, wall = (result[f"{kind}_{name}images_per_s{clock}"] for clock in ("", "_wall"))
            print(f"  {kind:5s} {name.rstrip('_') or 'ours':10s} {rate:8,} ({wall:,})")
    print(f"  decoding is {result['read_decode_share']:.0%} of our reading; goal of writing: 3,000")
    for name, passed in result["checks"].items():
        print(f"  {'yes' if passed else 'NO '} {name.replace('_', ' ')}")
    print(json.dumps(result))
    return 0 if all(result["checks"].values()) else 1
