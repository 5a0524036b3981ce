"""Data sets of turned and gray images: every stage sees them upright and in RGB, shards keep their bytes."""

import io
import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.poses.config import ImportPosesConfig
from datasets.poses.extract import _read
from datasets.poses.sheets import read_picture
from datasets.poses.tiny.people import read_pixels
from datasets.poses.views import open_picture
from datasets.runtime.errors import DatasetLayoutError, InputError
from datasets.runtime.manifests import manifest_of
from datasets.shards.config import WriteShardsConfig
from datasets.shards.tars import CorruptTarError, read_samples
from datasets.sources.config import IndexConfig
from datasets.sources.index import open_images, read_index
from reid.data.images import read_images
from reid.report.pictures.embed import SourceImages, embed_file
from tests.small_sets import make, market_files, pose_csv, write_files

UNDO = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
"""EXIF orientation -> what a camera does to the pixels that it writes beside it."""


def stored(content: bytes, orientation: int = 1, mode: str = "RGB") -> bytes:
    """A JPEG's picture stored turned or in another mode."""
    picture = Image.open(io.BytesIO(content)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    if orientation != 1:
        picture = picture.transpose(UNDO[orientation])
    picture.save(file, "JPEG", quality=100, subsampling=0 if mode == "RGB" else -1, exif=exif)
    return file.getvalue()


def turned_files() -> tuple[dict[str, bytes], dict[str, bytes]]:
    """A little Market-1501 upright, and the same with every image stored turned."""
    files = market_files()
    images = sorted(name for name, content in files.items() if content.startswith(b"\xff\xd8"))
    orientations = dict(zip(images, [3, 6, 8] * len(images), strict=False))
    upright = files | {name: stored(files[name]) for name in images}
    return upright, files | {name: stored(files[name], orientations[name]) for name in images}


def index(folder, files, **settings):
    return make(IndexConfig(root=write_files(folder / "set", files), workers=1, **settings), folder / "store")


def alike(one: object, other: object) -> bool:
    return np.abs(np.asarray(one).astype(int) - np.asarray(other)).max() <= 3  # two JPEGs of the same picture


def test_a_data_set_of_turned_images_is_read_upright_by_every_stage(tmp_path):
    upright, turned = turned_files()
    directory = index(tmp_path / "turned", turned)
    rows, truth = read_index(directory), read_index(index(tmp_path / "upright", upright))
    columns = ["key", "width", "height", "pid"]
    assert rows[columns].equals(truth[columns]) and set(rows["width"]) == {32}
    poses = make(ImportPosesConfig(images=directory, csv=[pose_csv(tmp_path, turned)]), tmp_path / "turned" / "store")
    every = WriteShardsConfig(images=directory, poses=poses, splits=["train", "query", "gallery"])
    shards = make(every, tmp_path / "turned" / "store")
    samples = {key: members for tar in sorted(shards.glob("*.tar")) for key, members in read_samples(tar)}
    report = SourceImages(directory)
    with open_images(directory) as source:
        for row in rows.itertuples():
            true = np.asarray(Image.open(io.BytesIO(upright[row.path])))
            assert samples[row.key]["jpg"] == turned[row.path]
            assert alike(open_picture(samples[row.key]["jpg"], json.loads(samples[row.key]["json"])), true)
            assert alike(_read(source, row.path, row.sha256), true)
            assert alike(read_pixels(source, row.path, row.sha256, 64, 32), true)
            assert alike(read_picture(source, row.path), true)
            assert alike(report.open(row.key), true)
    pixels = read_images(shards, "train", (64, 32)).pixels
    keys = read_images(shards, "train", (64, 32)).keys
    paths = truth.set_index("key")["path"]
    expected = [np.asarray(Image.open(io.BytesIO(upright[paths[key]]))).transpose(2, 0, 1) for key in keys]
    assert alike(pixels, torch.from_numpy(np.stack(expected)))
    assert manifest_of(directory)["summary"]["turned_or_gray"] == len(rows)
    assert f"{len(rows)} images of the data set are gray, or stored turned" in (shards / "README.md").read_text()


def test_gray_images_are_refused_with_the_way_out_and_taken_with_it(tmp_path):
    files = market_files()
    gray = sorted(name for name in files if name.startswith("bounding_box_train/") and name.endswith(".jpg"))[:3]
    files |= {name: stored(files[name], mode="L") for name in gray}
    with pytest.raises(InputError, match=r"not-rgb: 3.*is gray \(mode L\); read it with --gray-as-rgb"):
        index(tmp_path, files)
    refused = read_index(index(tmp_path, files, max_error_percent=20), usable=False).set_index("path")
    assert set(refused.loc[gray, "status"]) == {"not-rgb"}
    taken = index(tmp_path, files, gray_as_rgb=True)  # not what the index before found out of the same bytes
    rows = read_index(taken)
    assert set(gray) <= set(rows["path"]) and manifest_of(taken)["summary"]["turned_or_gray"] == 3
    poses = make(ImportPosesConfig(images=taken, csv=[pose_csv(tmp_path, files)]), tmp_path / "store")
    shards = make(WriteShardsConfig(images=taken, poses=poses, splits=["train"]), tmp_path / "store")
    samples = {key: members for tar in sorted(shards.glob("*.tar")) for key, members in read_samples(tar)}
    for row in rows[rows["path"].isin(gray)].itertuples():
        assert samples[row.key]["jpg"] == files[row.path]
        picture = np.asarray(open_picture(files[row.path], json.loads(samples[row.key]["json"])))
        assert picture.shape == (64, 32, 3) and (np.ptp(picture, axis=2) == 0).all()


def test_a_second_index_counts_turned_images_whose_check_it_takes_over(tmp_path):
    _, turned = turned_files()
    first = index(tmp_path, turned)
    second = index(tmp_path, turned, identities=3)
    assert manifest_of(second)["summary"]["files_decoded"] == 0
    assert manifest_of(second)["summary"]["turned_or_gray"] == len(read_index(second)) < len(read_index(first))


def test_the_card_says_nothing_of_turned_images_where_there_are_none(tmp_path):
    files = market_files()
    directory = index(tmp_path, files)
    poses = make(ImportPosesConfig(images=directory, csv=[pose_csv(tmp_path, files)]), tmp_path / "store")
    shards = make(WriteShardsConfig(images=directory, poses=poses, splits=["train"]), tmp_path / "store")
    assert "EXIF" not in (shards / "README.md").read_text()


# Pipes and devices where files are expected.


def synthetic_folder(folder, name: str):
    files = {f"000{n}_c1s0_00000{n}_01.jpg": content for n, content in enumerate(market_files().values(), start=2)}
    root = write_files(folder / "synthetic", dict(list(files.items())[:3]))
    return root, root / name


@pytest.mark.parametrize("kind", ["pipe", "device", "folder of a table"])
def test_a_folder_of_generated_images_never_waits_for_a_pipe_or_device(tmp_path, kind):
    root, path = synthetic_folder(tmp_path, "0009_c1s0_000009_01.jpg")
    if kind == "device":
        path.symlink_to("/dev/zero")
    else:
        os.mkfifo(path)
    if kind == "folder of a table":
        (root / "synthetic.csv").write_text(f"path,pid,camid\n{path.name},9,1\n")
    with pytest.raises(DatasetLayoutError, match=r"0009_c1s0_000009_01\.jpg cannot be read .*no regular file"):
        read_images(root, "synthetic", (64, 32))


def test_a_report_shows_an_empty_frame_for_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "sheet.png")
    assert embed_file(tmp_path / "sheet.png").note == "cannot be read"


def test_a_shard_that_is_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "train-00000.tar")
    with pytest.raises(CorruptTarError, match="no regular file"):
        next(read_samples(tmp_path / "train-00000.tar"))


def test_keypoint_tables_and_pair_lists_that_are_pipes_are_refused(tmp_path):
    from datasets.poses.csv_files import read_pose_csv
    from datasets.poses.openpose.weights import load_network
    from datasets.poses.pairs import read_pairs

    os.mkfifo(tmp_path / "pipe")
    for reader in (read_pose_csv, read_pairs):
        with pytest.raises(InputError, match="no regular file"):
            reader(tmp_path / "pipe")
    with pytest.raises(InputError, match="is a pipe or a device"):
        load_network(tmp_path / "pipe", None)
