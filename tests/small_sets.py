"""Small data sets on disk for the tests of `datasets`: Market-1501's layout with its quirks, in a second."""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.runtime.artifacts import build
from datasets.runtime.config import StageConfig
from datasets.runtime.hashing import file_sha256, json_sha256
from datasets.runtime.manifests import MANIFEST
from datasets.runtime.registry import load_name

MAKERS = {
    "index": "datasets.sources.index:make_index",
    "import-poses": "datasets.poses.table:make_imported_poses",
    "extract-poses": "datasets.poses.extract:make_extracted_poses",
    "select-subsets": "datasets.sources.subsets:make_subsets",
    "write-shards": "datasets.shards.write:make_shards",
}


def jpeg(seed: int, *, width: int = 32, height: int = 64, mode: str = "RGB", kind: str = "JPEG") -> bytes:
    """Bytes of a small picture of noise, another one for every seed."""
    shape = (height // 8, width // 8, 3)
    picture = Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8)).resize((width, height))
    file = io.BytesIO()
    picture.convert(mode).save(file, kind)
    return file.getvalue()


def market_files(identities: int = 4, images: int = 3, test_identities: int = 3) -> dict[str, bytes]:
    """Files of a little Market-1501 by path, its quirks included: Thumbs.db, .jpg.jpg, distractors, junk, readme."""
    names = []
    for pid in range(2, 2 + identities):
        names += [f"bounding_box_train/{pid:04d}_c{1 + i % 6}s1_{100 * i:06d}_01.jpg" for i in range(images)]
    for pid in range(1001, 1001 + test_identities):
        suffix = ".jpg.jpg" if pid == 1001 else ".jpg"
        names += [f"query/{pid:04d}_c1s1_000000_00{suffix}"]
        names += [f"bounding_box_test/{pid:04d}_c{2 + i % 5}s1_{100 * i:06d}_01{suffix}" for i in range(images)]
    names += [f"bounding_box_test/0000_c1s1_{i:06d}_02.jpg" for i in range(6)]
    names += [f"bounding_box_test/-1_c1s1_{i:06d}_02.jpg" for i in range(3)]
    files = {name: jpeg(seed) for seed, name in enumerate(names)}
    files |= {f"{folder}/Thumbs.db": b"\xd0\xcf\x11\xe0" for folder in ("bounding_box_train", "query")}
    return {**files, "readme.txt": b"Market-1501", "gt_bbox/0001_c1s1_001051_00.jpg": b"not needed"}


def write_files(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def market_root(folder: Path, **sizes: int) -> Path:
    return write_files(folder / "Market-1501-v15.09.15", market_files(**sizes))


def pose_lines(files: dict[str, bytes], *, joints: int = 18, seed: int = 0) -> list[str]:
    """A published keypoint file's lines for the images of a little Market-1501; distractors are nobody."""
    rng = np.random.default_rng(seed)
    lines = ["name:keypoints_y:keypoints_x"]
    for name in sorted(files):
        if name.endswith(".jpg") and "gt_" not in name:
            y, x = rng.integers(0, 64, joints).tolist(), rng.integers(0, 32, joints).tolist()
            if "/0000_" in name:
                y = x = [-1] * joints
            lines.append(f"{name.rpartition('/')[2]}: {y}: {x}")
    return lines


def pose_csv(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "poses.csv"
    path.write_text("\n".join(pose_lines(files)) + "\n")
    return path


def forge(directory: Path) -> None:
    """Make a manifest fit its artifact's files again, as whoever changes one on purpose would."""
    manifest = json.loads((directory / MANIFEST).read_text())
    manifest["files"] = listed(directory)
    manifest.pop("own_sha256", None)
    manifest["own_sha256"] = json_sha256(manifest)
    (directory / MANIFEST).write_text(json.dumps(manifest))


def listed(folder: Path) -> list[dict[str, object]]:
    """Files of a folder as a manifest lists them."""
    return [
        {"name": str(path.relative_to(folder)), "size": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    ]


def finish(folder: Path, stage: str, key: str = "", **recorded: object) -> Path:
    """Make a folder of files a finished artifact, as `build` would; `recorded` are further fields of its manifest."""
    files = listed(folder)
    content = json_sha256([stage, key, files])
    manifest = {
        "stage": stage,
        "stage_version": 1,
        "key": key or content[:16],
        "content_sha256": content,
        "summary": {},
        "config": {},
        "inputs": {},
        "files": files,
        "started": "2026-01-01T00:00:00+00:00",
        "seconds": 1.5,
        "versions": {"python": "3.11", "numpy": "2"},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest | recorded))
    return folder


def make(config: StageConfig, store: Path) -> Path:
    """Build a stage's artifact as its command does."""
    return build(config, load_name(MAKERS[config.stage]), store=store)
