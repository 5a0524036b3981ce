"""Plain folders as people have them: every suffix, labels from 0, queries that lie in the gallery, odd tables."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from datasets.poses.config import ImportPosesConfig
from datasets.poses.csv_files import HEADER
from datasets.runtime.errors import DatasetLayoutError
from datasets.shards.config import WriteShardsConfig
from datasets.shards.tars import read_samples
from datasets.sources.config import IndexConfig
from datasets.sources.files import IMAGE_SUFFIXES
from datasets.sources.folders.image_folders import iterate_folder, read_generated_table, read_table
from datasets.sources.folders.output_forms import pictures_below
from reid.data.images import read_images
from reid.data.training_set import read_synthetic_table
from reid.evaluation.ranking import rank_features
from tests.small_sets import jpeg, make, write_files

SIZE = (32, 16)


def photos(folder: str, count: int, suffixes: tuple[str, ...], first: int = 1) -> dict[str, bytes]:
    """Images of `first`, `first + 1` ... whose names end in the suffixes in turn."""
    files = {}
    for i in range(count):
        suffix = suffixes[i % len(suffixes)]
        kind = "PNG" if "png" in suffix.lower() else "JPEG"
        files[f"{folder}/{first + i // 2:04d}_c{1 + i % 2}s1_{i:06d}_01{suffix}".lstrip("/")] = jpeg(i, kind=kind)
    return files


def csv_of(folder: Path, rows: list[tuple], columns: str = "path,pid,camid,split", name: str = "images.csv") -> Path:
    write_files(folder, {row[0].replace("\\", "/"): jpeg(i) for i, row in enumerate(rows)})
    pd.DataFrame(rows, columns=columns.split(",")).to_csv(folder / name, index=False)
    return folder


ANY_CASE = tuple(case(suffix) for suffix in IMAGE_SUFFIXES for case in (str.lower, str.upper))


def test_a_folder_gives_the_images_of_every_suffix_that_the_index_takes(tmp_path):
    root = write_files(tmp_path, photos("bounding_box_train", 12, ANY_CASE))
    assert len(read_images(root, "train", SIZE)) == 12


def test_what_a_folder_is_not_read_from_is_counted_and_named(tmp_path, caplog):
    files = photos("bounding_box_train", 4, (".jpg",)) | {
        "bounding_box_train/Thumbs.db": b"",
        "bounding_box_train/0009_c1s1_000000_01.webp": jpeg(90, kind="WEBP"),
        "bounding_box_train/holiday.jpg": jpeg(91),
    }
    assert len(read_images(write_files(tmp_path, files), "train", SIZE)) == 4
    (line,) = [record.getMessage() for record in caplog.records if "passed over" in record.getMessage()]
    assert "2 files are passed over" in line and "0009_c1s1_000000_01.webp" in line and "holiday.jpg" in line


def test_a_synthetic_folder_of_png_and_jpeg_is_read_whole(tmp_path):
    root = write_files(tmp_path, photos("", 8, (".png", ".jpg")))
    assert len(read_synthetic_table(root)) == 8


def test_two_images_of_one_name_are_refused(tmp_path):
    files = photos("bounding_box_train", 2, (".jpg",))
    (root := write_files(tmp_path, files)) and (root / "bounding_box_train" / "0001_c1s1_000000_01.PNG").write_bytes(
        jpeg(5, kind="PNG")
    )
    with pytest.raises(DatasetLayoutError, match="holds 0001_c1s1_000000_01 twice"):
        list(iterate_folder(root, "train"))


def test_rows_left_out_for_their_status_are_counted(tmp_path, caplog):
    rows = [("a.jpg", 1, 1, "ok"), ("b.jpg", 1, 1, "failed"), ("c.jpg", 1, 1, "no-person")]
    folder = csv_of(tmp_path, rows, "path,pid,camid,status")
    assert len(read_table(folder / "images.csv")) == 1
    assert "2 rows are left out for their status (failed: 1, no-person: 1)" in caplog.text


@pytest.mark.parametrize("split", ["train", "query"])
@pytest.mark.parametrize("by", ["names", "table"])
def test_labels_that_count_from_zero_are_refused_in_folders(tmp_path, split, by):
    if by == "names":
        folder = "bounding_box_train" if split == "train" else "query"
        root = write_files(tmp_path, photos(folder, 6, (".jpg",), first=0))
    else:
        root = csv_of(tmp_path, [(f"{i}.jpg", i // 2, 1 + i % 2, split) for i in range(6)])
    with pytest.raises(DatasetLayoutError, match=r"2 training or query images have pid 0 .* add 1 to every pid"):
        read_images(root, split, SIZE)


def test_a_query_that_lies_in_the_gallery_is_left_out_by_the_camera_rule(tmp_path):
    rows = [
        ("q.jpg", 7, 1, "query"),
        ("q.jpg", 7, 1, "gallery"),
        ("g.jpg", 7, 2, "gallery"),
        ("n.jpg", 8, 2, "gallery"),
    ]
    root = csv_of(tmp_path, rows)
    query, gallery = (read_images(root, split, SIZE) for split in ("query", "gallery"))
    assert gallery.keys == ["g", "n", "q"] and query.keys == ["q"]
    features = np.array([[0.6, 0.8], [0.9, 0.1], [1.0, 0.0]])  # itself is nearest, then somebody else
    ranking = rank_features(np.array([[1.0, 0.0]]), features, query.labels, gallery.labels)
    assert ranking.matches.tolist() == [1] and ranking.first_rank.tolist() == [2]
    with pytest.raises(DatasetLayoutError, match="names q twice"):
        read_images(csv_of(tmp_path / "other", [*rows, ("q.jpg", 7, 1, "train")]), "query", SIZE)


def test_a_table_with_backslashes_names_files_in_folders(tmp_path):
    root = csv_of(tmp_path, [("day\\1.jpg", 1, 1, "train"), ("day/2.jpg", 2, 1, "train")])
    assert read_images(root, "train", SIZE).keys == ["day_1", "day_2"]
    with pytest.raises(DatasetLayoutError, match=r"names \.\./3.jpg, which does not lie below it"):
        read_images(csv_of(tmp_path / "in", [("..\\3.jpg", 1, 1, "train")]), "train", SIZE)


@pytest.mark.parametrize("pid", ["1.5", "one", "", "nan", "1e400"])
def test_a_label_that_is_no_whole_number_is_refused_and_not_rounded(tmp_path, pid):
    (tmp_path / "images.csv").write_text(f"path,pid,camid\na.jpg,{pid},1\n")
    with pytest.raises(DatasetLayoutError, match=r"images.csv is no table with path, pid, camid"):
        read_table(tmp_path / "images.csv")


@pytest.mark.parametrize("pid", [1e30, -(2.0**63), 2.0**31])
def test_a_label_beyond_any_identity_is_refused_and_not_turned_into_another(tmp_path, pid):
    pd.DataFrame({"path": ["a.jpg"], "pid": [pid], "camid": [1]}).to_parquet(tmp_path / "images.parquet")
    with pytest.raises(DatasetLayoutError, match="is no whole number up to"):
        read_table(tmp_path / "images.parquet")


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("split", "Train", "the split 'Train', expected one of train, query, gallery, synthetic"),
        ("split", None, "the split '(None|nan)'"),
        ("key", None, "the key '(None|nan)', expected a text"),
        ("key", "", "the key '', expected a text"),
        ("key", 7, "the key '7', expected a text"),
    ],
)
def test_a_row_that_no_reader_would_ask_for_is_refused_and_not_left_out_unsaid(tmp_path, column, value, said):
    good = 8 if value == 7 else "train"
    table = {"path": ["a.jpg", "b.jpg"], "pid": [1, 2], "camid": [1, 1], column: [good, value]}
    pd.DataFrame(table).to_parquet(tmp_path / "images.parquet")
    with pytest.raises(DatasetLayoutError, match=said if value != 7 else "expected a text"):
        read_table(tmp_path / "images.parquet")


def test_hidden_files_and_macos_shadows_are_no_generated_pictures(tmp_path):
    name = "0002_c1s1_000451_03_to_0002_c3s1_000551_01.png"
    write_files(tmp_path, {name: jpeg(1), f"._{name}": b"\0", f"__MACOSX/{name}": b"\0"})
    assert [path.name for path in pictures_below(tmp_path)] == [name]
    assert read_generated_table(tmp_path)["path"].tolist() == [name]


def test_png_images_go_through_index_and_shards_byte_for_byte(tmp_path):
    files = {
        f"bounding_box_train/{pid:04d}_c{c}_{pid}{c}.png": jpeg(10 * pid + c, kind="PNG")
        for pid in (1, 2)
        for c in (1, 2)
    }
    files |= {"query/0003_c1_1.png": jpeg(50, kind="PNG"), "bounding_box_test/0003_c2_2.jpg": jpeg(51)}
    store = tmp_path / "store"
    index = make(IndexConfig(root=write_files(tmp_path / "set", files), layout="cuhk03-np", workers=1), store)
    keys = [Path(name).stem for name in files]
    (tmp_path / "poses.csv").write_text("\n".join([HEADER, *(f"{key}.jpg: {[9] * 18}: {[9] * 18}" for key in keys)]))
    poses = make(ImportPosesConfig(images=index, csv=[tmp_path / "poses.csv"]), store)
    shards = make(WriteShardsConfig(images=index, poses=poses, splits=["train", "query", "gallery"]), store)
    kinds = {
        split: {kind for _, m in read_samples(shards / f"{split}-00000.tar") for kind in m}
        for split in ("train", "gallery")
    }
    assert kinds == {"train": {"png", "json"}, "gallery": {"jpg", "json"}}
    images = read_images(shards, "train", (64, 32))
    for key, pixels in zip(images.keys, images.pixels, strict=True):
        content = files[f"bounding_box_train/{key}.png"]
        assert (np.asarray(Image.open(io.BytesIO(content))).transpose(2, 0, 1) == pixels.numpy()).all()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.one_of(
        st.binary(max_size=200),
        st.lists(
            st.lists(
                st.sampled_from(
                    ["a.jpg", "..\\b", "/c", "1", "0", "-1", "9" * 30, "x", "", '"', "\0", "é", "1.5", "inf"]
                )
            ).map(",".join),
            max_size=4,
        ).map(lambda lines: "\n".join(["path,pid,camid,split", *lines]).encode()),
    )
)
def test_no_bytes_make_the_reader_of_tables_raise_anything_but_its_own_error(tmp_path, content):
    (tmp_path / "images.csv").write_bytes(content)
    try:
        for _ in iterate_folder(tmp_path, "train"):
            pass
    except DatasetLayoutError as error:
        assert "\n" not in str(error)
