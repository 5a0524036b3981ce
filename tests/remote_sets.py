"""A little data set for the tests of remote data: laid down here or at an address, and made into shards."""

from __future__ import annotations

from pathlib import Path

import fsspec

from datasets.poses.config import ImportPosesConfig
from datasets.runtime.manifests import manifest_of
from datasets.runtime.reading.contents import artifact_file
from datasets.runtime.remote.addresses import path_of, spelled
from datasets.shards.config import WriteShardsConfig
from datasets.sources.config import IndexConfig
from tests import small_sets


def at(address: str) -> Path:
    """The path that stands for an address."""
    return Path(str(path_of(address)))


def put_folder(folder: Path, address: str) -> None:
    """Copy a folder to an address, as any tool would."""
    storage, _ = fsspec.url_to_fs(address)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            storage.pipe(f"{address}/{path.relative_to(folder)}", path.read_bytes())


def market(tmp_path: Path) -> tuple[Path, Path]:
    """A little Market-1501 and its keypoint file."""
    files = small_sets.market_files()
    return small_sets.write_files(tmp_path / "data" / "Market", files), small_sets.pose_csv(tmp_path, files)


def shards_of(root: Path | str, csv: Path | str, store: str | Path) -> list[Path]:
    """Index, poses and shards of a data set, each made from what the one before returned."""
    store = at(store) if isinstance(store, str) else store
    index = small_sets.make(IndexConfig(root=root, workers=1), store)
    poses = small_sets.make(ImportPosesConfig(images=spelled(index), csv=[csv]), store)
    config = WriteShardsConfig(images=spelled(index), poses=spelled(poses), images_per_shard=3)
    return [index, poses, small_sets.make(config, store)]


def contents(folder: Path) -> dict[str, bytes]:
    """The files that an artifact's manifest lists."""
    return {file["name"]: artifact_file(folder, file["name"]).read_bytes() for file in manifest_of(folder)["files"]}
