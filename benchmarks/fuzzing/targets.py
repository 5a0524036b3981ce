"""What is fuzzed: a small valid store, and functions that change something in it and call everything that reads it."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import strategies as st
from PIL import Image

from benchmarks.fuzzing.mutations import LEAVES, OUTSIDE, VALUES, bytes_of, json_text
from datasets.poses.config import ImportPosesConfig
from datasets.poses.csv_files import HEADER
from datasets.poses.table import make_imported_poses, read_poses
from datasets.poses.views import open_picture
from datasets.runtime.artifacts import build
from datasets.runtime.hashing import file_sha256, json_sha256
from datasets.runtime.manifests import MANIFEST, manifest_of
from datasets.runtime.reading.contents import artifact_files
from datasets.runtime.verify import problems_of
from datasets.shards.config import WriteShardsConfig
from datasets.shards.encoded import EncodedImages, keypoints_to_json
from datasets.shards.samples import sample_facts, sample_picture
from datasets.shards.tars import locate_samples, read_chosen, read_samples, write_tar
from datasets.shards.write import make_shards, read_shard_index
from datasets.sources.config import IndexConfig, SelectSubsetsConfig
from datasets.sources.image_check import check_image
from datasets.sources.index import make_index, open_images, read_index
from datasets.sources.subsets import make_subsets, read_subset
from imagpose.evaluation.data import HeldOutImages
from imagpose.frozen.crops import load_crops
from reid.data.images import read_images

Draw = Callable[[st.SearchStrategy[Any]], Any]
SIZE = (32, 16)
IN_HAND = "in-hand"
"""Folder of the store that holds the changed copy of an artifact."""


def jpeg(seed: int, kind: str = "JPEG", **options: Any) -> bytes:
    """A picture of noise, 16 wide and 32 high."""
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 2, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((16, 32)).save(file, kind, **options)
    return file.getvalue()


class Store:
    """A data set of a few pictures and everything that is made of it without a model; `root` holds no more."""

    def __init__(self, root: Path) -> None:
        self.root, self.store = root, root / "store"
        (root / "outside").mkdir(parents=True)
        (root / "outside" / "secret").write_text("secret")
        self._write_pictures(root / "set")
        index = IndexConfig(root=root / "set", workers=1)
        self.index = build(index, make_index, store=self.store)
        poses = ImportPosesConfig(images=self.index, csv=[root / "set" / "poses.csv"])
        self.poses = build(poses, make_imported_poses, store=self.store)
        self.subsets = build(SelectSubsetsConfig(images=self.index), make_subsets, store=self.store)
        shards = WriteShardsConfig(images=self.index, poses=self.poses, splits=["train", "query", "gallery"])
        self.shards = build(shards, make_shards, store=self.store)
        self.encoded = self._encoded()

    def _write_pictures(self, root: Path) -> None:
        names = [f"bounding_box_train/{pid:04d}_c{1 + i}s1_{i:06d}_01.jpg" for pid in (2, 3, 4) for i in range(2)]
        names += [f"query/{pid:04d}_c1s1_000000_00.jpg" for pid in (11, 12)]
        names += [f"bounding_box_test/{pid:04d}_c2s1_000000_01.jpg" for pid in (11, 12)]
        lines = [HEADER]
        for seed, name in enumerate(names):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(jpeg(seed))
            lines.append(f"{Path(name).name}: {list(range(18))}: {[8] * 18}")
        (root / "poses.csv").write_text("\n".join(lines) + "\n")

    def _encoded(self) -> Path:
        """Features of noise, laid down as `encode` does."""
        folder = self.store / "encode" / ("0" * 16)
        folder.mkdir(parents=True)
        joints = keypoints_to_json(np.random.default_rng(0).random((18, 3)) * 16)
        members = []
        for number in range(3):
            facts = {"pid": 1 + number, "camid": 1, "split": "train", "keypoints": joints, "view": [32, 16]}
            members.append((f"k{number}.json", json.dumps(facts).encode()))
            for name, shape in (("latent", (2, 4, 4, 2)), ("tokens", (2, 3, 8))):
                buffer = io.BytesIO()
                np.save(buffer, np.ones(shape, np.float16))
                members.append((f"k{number}.{name}.npy", buffer.getvalue()))
        write_tar(folder / "train-00000.tar", iter(members))
        files = [{"name": "train-00000.tar", "split": "train", "samples": 3}]
        index = {"files": files, "samples": 3, "view_size": [32, 16], "flipped": True}
        index |= {"latent_shape": [4, 4, 2], "token_shape": [3, 8]}
        (folder / "index.json").write_text(json.dumps(index))
        manifest = manifest_of(self.shards) | {"stage": "encode", "files": []}
        (folder / MANIFEST).write_text(json.dumps(manifest))
        forge(folder)
        return folder

    def copy(self, artifact: Path) -> Path:
        """A fresh copy of an artifact that may be changed, at one and the same place."""
        folder = self.store / artifact.parent.name / IN_HAND
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(artifact, folder)
        return folder


def forge(directory: Path) -> None:
    """Make a manifest fit its files again, as whoever changes an artifact on purpose would."""
    manifest = json.loads((directory / MANIFEST).read_text())
    manifest["files"] = [
        {"name": str(path.relative_to(directory)), "size": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    ]
    manifest.pop("own_sha256", None)
    manifest["own_sha256"] = json_sha256(manifest)
    (directory / MANIFEST).write_text(json.dumps(manifest))


def tolerate(call: Callable[[], object]) -> None:
    """A reader's call; what it refuses in the documented way is fine, and the next reader has its turn."""
    from benchmarks.fuzzing.driver import DOCUMENTED

    with contextlib.suppress(*DOCUMENTED):
        call()


def fuzz_manifest(draw: Draw, store: Store) -> None:
    """The manifest of any artifact, changed as text or value by value."""
    artifact = draw(st.sampled_from([store.index, store.poses, store.subsets, store.shards, store.encoded]))
    folder = store.copy(artifact)
    text = json_text(draw, manifest_of(artifact), kept=("root",))
    (folder / MANIFEST).write_text(text, encoding="utf-8", errors="surrogatepass")
    _read_everything(folder, store)


def fuzz_index(draw: Draw, store: Store) -> None:
    """`index.json` of shards or features, its manifest made to fit."""
    artifact = draw(st.sampled_from([store.shards, store.encoded]))
    folder = store.copy(artifact)
    index = json.loads((artifact / "index.json").read_text())
    (folder / "index.json").write_text(json_text(draw, index), encoding="utf-8", errors="surrogatepass")
    forge(folder)
    _read_everything(folder, store)


def fuzz_table(draw: Draw, store: Store) -> None:
    """A Parquet table with other cells, columns or bytes, its manifest made to fit."""
    artifact, name = draw(
        st.sampled_from(
            [(store.index, "images.parquet"), (store.poses, "poses.parquet"), (store.subsets, "subsets.parquet")]
        )
    )
    folder = store.copy(artifact)
    if draw(st.booleans()):
        (folder / name).write_bytes(bytes_of(draw, (artifact / name).read_bytes()))
    else:
        table = pd.read_parquet(artifact / name)
        column = draw(st.sampled_from(list(table.columns)))
        how = draw(st.sampled_from(["cell", "cell", "drop", "column"]))
        if how == "drop":
            table = table.drop(columns=column)
        else:
            values = table[column].astype(object).tolist()
            wanted = st.sampled_from(OUTSIDE) if how == "cell" and isinstance(values[0], str) else LEAVES
            changed = range(len(values)) if how == "column" else [draw(st.integers(0, len(values) - 1))]
            value = draw(wanted)
            table[column] = [value if row in changed else old for row, old in enumerate(values)]
        try:
            table.to_parquet(folder / name)
        except Exception:  # a column of mixed kinds, which no Parquet holds
            return
    forge(folder)
    _read_everything(folder, store)


def fuzz_tar(draw: Draw, store: Store) -> None:
    """A tar with changed bytes, mostly in headers, its manifest made to fit."""
    artifact = draw(st.sampled_from([store.shards, store.encoded]))
    folder = store.copy(artifact)
    path = draw(st.sampled_from(sorted(folder.glob("*.tar"))))
    content = path.read_bytes()
    if draw(st.booleans()):  # one header alone, with a checksum that fits
        start = 512 * draw(st.integers(0, len(content) // 512 - 1))
        header = bytearray(bytes_of(draw, content[start : start + 512])[:512].ljust(512, b"\0"))
        header[148:156] = b" " * 8
        header[148:156] = f"{sum(header):06o}\0 ".encode()
        content = content[:start] + bytes(header) + content[start + 512 :]
    else:
        content = bytes_of(draw, content)
    path.write_bytes(content)
    forge(folder)
    _read_everything(folder, store)


def fuzz_sample_json(draw: Draw, store: Store) -> None:
    """The JSON of a sample in a well-formed tar."""
    artifact = draw(st.sampled_from([store.shards, store.encoded]))
    folder = store.copy(artifact)
    path = draw(st.sampled_from(sorted(folder.glob("*.tar"))))
    samples = [(key, dict(members)) for key, members in read_samples(path)]
    chosen = draw(st.integers(0, len(samples) - 1))
    members = samples[chosen][1]
    text = json_text(draw, json.loads(members["json"]) | ({"crop": draw(VALUES)} if draw(st.booleans()) else {}))
    members["json"] = text.encode("utf-8", "surrogatepass")
    write_tar(path, ((f"{key}.{kind}", content) for key, kinds in samples for kind, content in kinds.items()))
    forge(folder)
    _read_everything(folder, store)


KINDS = ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM")


def fuzz_picture(draw: Draw, store: Store) -> None:
    """The header of a picture: baseline or progressive JPEG mostly, and other kinds under the same name."""
    del store
    kind = draw(st.sampled_from(["JPEG"] * 6 + list(KINDS)))
    options = {"progressive": True} if kind == "JPEG" and draw(st.booleans()) else {}
    content = bytes_of(draw, jpeg(draw(st.integers(0, 3)), kind=kind, **options), first=700)
    facts = {"pid": 1, "camid": 1, "width": 16, "height": 32, "keypoints": [[None, None, 0.0]] * 18}
    check_image(content)
    tolerate(lambda: sample_picture(Path("x.tar"), "k", {"jpg": content}, facts))
    with contextlib.suppress(OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        open_picture(content, facts)


TARGETS = {
    "manifest": fuzz_manifest,
    "index.json": fuzz_index,
    "table": fuzz_table,
    "tar": fuzz_tar,
    "sample JSON": fuzz_sample_json,
    "picture header": fuzz_picture,
}


def _read_everything(folder: Path, store: Store) -> None:
    """Every reader on a changed artifact, whatever its stage was."""
    problems_of(folder)
    stage = folder.parent.name
    tolerate(lambda: artifact_files(folder, "*"))
    if stage == "index":
        tolerate(lambda: read_index(folder))
        tolerate(lambda: _read_pictures(folder))
        config = WriteShardsConfig(images=folder, poses=store.poses)
        tolerate(lambda: make_shards(config, _empty(store)))
        tolerate(lambda: make_subsets(SelectSubsetsConfig(images=folder), _empty(store)))
    elif stage == "import-poses":
        tolerate(lambda: read_poses(folder))
        tolerate(lambda: make_shards(WriteShardsConfig(images=store.index, poses=folder), _empty(store)))
    elif stage == "select-subsets":
        tolerate(lambda: read_subset(folder, 20))
    elif stage == "write-shards":
        _read_shards(folder)
    elif stage == "encode":
        tolerate(lambda: _read_features(EncodedImages(folder)))


def _empty(store: Store) -> Path:
    """A new working folder, deep enough that names with three ``..`` end beside the store."""
    folder = store.store / "made" / IN_HAND
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _read_pictures(folder: Path) -> None:
    with open_images(folder) as source:
        for path in read_index(folder)["path"]:
            tolerate(lambda path=path: source.read(path))


def _read_shards(folder: Path) -> None:
    tolerate(lambda: read_shard_index(folder))
    tolerate(lambda: read_images(folder, "train", SIZE, workers=1))
    tolerate(lambda: load_crops(folder, *SIZE))
    tolerate(lambda: _read_held_out(HeldOutImages(folder, SIZE, SIZE)))
    for path in sorted(folder.glob("*.tar")):
        tolerate(lambda path=path: [sample_facts(path, key, members, "pid") for key, members in read_samples(path)])
        tolerate(lambda path=path: list(locate_samples(path, {"json"})))
        tolerate(lambda path=path: list(read_chosen(path, {"0002_c1s1_000000_01"})))


def _read_held_out(images: HeldOutImages) -> None:
    images.all_pairs()
    for key in images.keys:
        images.keypoints(key)
        images.in_view(key)


def _read_features(images: EncodedImages) -> None:
    rows = range(len(images))
    if len(images):
        images.latents(rows)
        images.tokens(rows, flipped=True)
        images.keypoints(0)
