"""What people's own data sets look like: other suffixes, labels, layouts, separators."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datasets.__main__ import COMMANDS
from datasets.poses.config import ExportPosesConfig, ImportPosesConfig
from datasets.poses.csv_files import read_pose_csv
from datasets.poses.table import read_poses, run_export
from datasets.runtime.command_line import main
from datasets.runtime.errors import DatasetLayoutError, InputError
from datasets.runtime.manifests import manifest_of
from datasets.sources.config import IndexConfig
from datasets.sources.index import read_index
from datasets.sources.layouts import LAYOUTS
from datasets.sources.listing import list_source
from datasets.sources.table import listed_files
from tests.small_sets import jpeg, make, market_files, market_root, pose_lines, write_files

DUKE = {
    **{f"bounding_box_train/{pid:04d}_c{c}_f{100 * c:07d}.jpg": "train" for pid in (1, 2) for c in (1, 2)},
    **{f"query/{pid:04d}_c1_f0046182.jpg": "query" for pid in (5, 6)},
    **{f"bounding_box_test/{pid:04d}_c2_f0046182.jpg": "gallery" for pid in (5, 6, 7)},
}
CUHK = {
    **{f"bounding_box_train/{pid:04d}_c{c}_{10 * pid + c}.png": "train" for pid in (1, 2) for c in (1, 2)},
    **{f"query/{pid:04d}_c1_{pid}.png": "query" for pid in (5, 6)},
    **{f"bounding_box_test/{pid:04d}_c2_{pid}.png": "gallery" for pid in (5, 6)},
}
MSMT = {
    "list_train.txt": ["0000/0000_000_01_0303morning_0015_0.jpg 0", "0001/0001_001_14_0113noon_1015_0_ex.jpg 1"],
    "list_val.txt": ["0000/0000_002_03_0303morning_0016_1.jpg 0"],
    "list_query.txt": ["0000/0000_000_01_0303morning_0008_0.jpg 0"],
    "list_gallery.txt": ["0000/0000_001_02_0303morning_0009_0.jpg 0", "0001/0001_000_15_0303morning_0001_0.jpg 1"],
}


def index(root: Path, **settings: object) -> Path:
    return make(IndexConfig(root=root, workers=1, **settings), root.parent / "store")


def pictures(names) -> dict[str, bytes]:
    return {name: jpeg(i, kind="PNG" if name.endswith(".png") else "JPEG") for i, name in enumerate(names)}


def table(folder: Path, rows: list[tuple], name: str = "table.csv") -> Path:
    write_files(folder, {path.replace("\\", "/"): jpeg(i) for i, path in enumerate(dict.fromkeys(r[0] for r in rows))})
    pd.DataFrame(rows, columns=["path", "pid", "camid", "split"]).to_csv(folder / name, index=False)
    return folder / name


def msmt_root(folder: Path, *, version: int = 1) -> Path:
    train, test = ("train", "test") if version == 1 else ("mask_train_v2", "mask_test_v2")
    names = [
        f"{train if name in ('list_train.txt', 'list_val.txt') else test}/{line.split()[0]}"
        for name, lines in MSMT.items()
        for line in lines
    ]
    lists = {name: "\n".join(lines).encode() + b"\n" for name, lines in MSMT.items()}
    return write_files(folder / "MSMT17", pictures(names) | lists)


# Suffixes.


def test_one_rule_says_in_every_layout_which_suffixes_are_images(tmp_path):
    files = market_files()
    old = [name for name in files if name.startswith("bounding_box_train/0")]
    for number, suffix in enumerate((".JPG", ".jpeg", ".JPEG", ".png", ".PNG")):
        name = old[number]
        files[name.removesuffix(".jpg") + suffix] = jpeg(
            500 + number, kind="PNG" if "png" in suffix.lower() else "JPEG"
        )
        del files[name]
    images = read_index(index(write_files(tmp_path / "set", files)))
    assert len(images) == 33 and images["key"].is_unique
    assert not images["key"].str.contains(".", regex=False).any()


def test_what_is_none_of_the_data_sets_is_counted_and_named(tmp_path, caplog):
    caplog.set_level("INFO")
    directory = index(market_root(tmp_path))
    assert manifest_of(directory)["summary"]["ignored_files"] == 2
    assert "2 files are no images of the set: ['bounding_box_train/Thumbs.db', 'query/Thumbs.db']" in caplog.text


# Labels.


@pytest.mark.parametrize("split", ["train", "query"])
def test_labels_that_count_from_zero_are_refused_before_any_image_is_opened(tmp_path, capsys, split):
    rows = [
        (f"{i}.jpg", i % 3 + (split == "query" and i < 6), 1 + i % 2, "train" if i < 6 else "query") for i in range(9)
    ]
    root = table(tmp_path / "own", rows)
    for path in root.parent.glob("*.jpg"):
        path.unlink()
    command = ["index", "--root", str(root), "--layout", "table", "--store", str(tmp_path / "store")]
    assert main("datasets", COMMANDS, command) == 2
    error = capsys.readouterr().err
    assert "have pid 0" in error and "add 1 to every pid" in error and error.count("\n") == 1


def test_distractors_in_the_gallery_and_junk_in_train_are_no_labels_from_zero_but_a_query_of_nobody_is(tmp_path):
    rows = [("a.jpg", 1, 1, "train"), ("b.jpg", -1, 1, "train"), ("c.jpg", 0, 1, "gallery"), ("d.jpg", 2, 1, "query")]
    assert len(read_index(index(table(tmp_path / "good", rows), layout="table"))) == 4
    with pytest.raises(DatasetLayoutError, match=r"1 queries have pid -1 \(first: e.jpg\)"):
        index(table(tmp_path / "bad", [*rows, ("e.jpg", -1, 1, "query")]), layout="table")


# The same image as query and in the gallery.


def test_an_image_may_be_a_query_and_in_the_gallery_with_the_same_camera_only(tmp_path):
    files = market_files()
    for name in [name for name in files if name.startswith("query/1")]:
        files["bounding_box_test/" + name.partition("/")[2]] = files[name]
    images = read_index(index(write_files(tmp_path / "set", files)), usable=False)
    assert set(images["status"]) == {"ok"} and images["key"].is_unique
    assert images[images["split"] == "query"]["key"].str.endswith("_00#query").all()
    files["bounding_box_test/1001_c6s1_000000_00.jpg"] = files["query/1001_c1s1_000000_00.jpg.jpg"]
    files["query/1001_c1s1_000000_09.jpg"] = files["query/1001_c1s1_000000_00.jpg.jpg"]
    images = read_index(index(write_files(tmp_path / "set", files), max_error_percent=9), usable=False)
    bad = images[images["status"] == "duplicate"]["path"].tolist()
    assert bad == ["bounding_box_test/1001_c6s1_000000_00.jpg", "query/1001_c1s1_000000_09.jpg"]


def test_a_path_may_stand_in_a_table_as_query_and_as_gallery_image(tmp_path):
    rows = [("a.jpg", 1, 1, "train"), ("b.jpg", 2, 1, "query"), ("b.jpg", 2, 1, "gallery"), ("c.jpg", 2, 2, "gallery")]
    images = read_index(index(table(tmp_path / "own", [*rows, rows[0]]), layout="table", max_error_percent=50))
    assert dict(zip(images["key"], images["split"], strict=True)) == {
        "a": "train",
        "b": "gallery",
        "b#query": "query",
        "c": "gallery",
    }


def test_the_query_in_the_gallery_has_the_skeleton_of_its_name_and_is_exported_once(tmp_path):
    files = market_files()
    name = "1002_c1s1_000000_00.jpg"
    files[f"bounding_box_test/{name}"] = files[f"query/{name}"]
    images = index(write_files(tmp_path / "set", files))
    lines = dict.fromkeys(pose_lines({k: v for k, v in files.items() if not k.startswith("query/1002")}))
    (tmp_path / "poses.csv").write_text("\n".join(lines) + "\n")
    poses = make(ImportPosesConfig(images=images, csv=[tmp_path / "poses.csv"]), tmp_path / "store")
    rows = read_poses(poses).set_index("key")
    key = name.removesuffix(".jpg")
    assert rows.at[key, "status"] == rows.at[f"{key}#query", "status"] == "ok"
    assert (rows.at[key, "keypoints"] == rows.at[f"{key}#query", "keypoints"]).all()
    assert run_export(ExportPosesConfig(images=images, poses=poses, csv=tmp_path / "again.csv")) == 0
    assert {row.status for row in read_pose_csv(tmp_path / "again.csv").values()} == {"ok", "no-person"}


# Layouts.


def test_duke_and_occluded_duke_are_read_by_their_names(tmp_path):
    root = write_files(tmp_path / "DukeMTMC-reID", pictures(DUKE))
    for layout in ("dukemtmc", "occluded-duke"):
        images = read_index(index(root, layout=layout)).set_index("path")
        assert images["split"].to_dict() == DUKE and set(images["role"]) == {"person"}
        row = images.loc["query/0005_c1_f0046182.jpg"]
        assert (row["pid"], row["camid"], row["frame"], row["key"]) == (5, 1, 46182, "0005_c1_f0046182")


def test_cuhk03_np_is_read_as_png_and_its_two_folders_are_two_data_sets(tmp_path):
    root = write_files(tmp_path / "CUHK03-NP", {f"detected/{name}": data for name, data in pictures(CUHK).items()})
    images = read_index(index(root, layout="cuhk03-np")).set_index("path")
    assert images["split"].to_dict() == CUHK and images.loc["query/0005_c1_5.png", "camid"] == 1
    write_files(root / "labeled", pictures(CUHK))
    with pytest.raises(DatasetLayoutError, match=r"several data sets with .*: detected, labeled; give one"):
        list_source(LAYOUTS["cuhk03-np"], root)
    assert len(list_source(LAYOUTS["cuhk03-np"], root / "labeled").listing.rows) == len(CUHK)


@pytest.mark.parametrize("version", [1, 2])
def test_msmt17_is_read_by_its_lists_and_nobody_has_the_number_of_somebody_else(tmp_path, version):
    images = read_index(index(msmt_root(tmp_path, version=version), layout="msmt17"))
    assert images["split"].value_counts().to_dict() == {"train": 3, "gallery": 2, "query": 1}
    assert set(images[images["split"] == "train"]["pid"]) == {1, 2}
    assert set(images[images["split"] != "train"]["pid"]) == {10_001, 10_002}
    assert sorted(images["camid"]) == [1, 1, 2, 3, 14, 15] and set(images["role"]) == {"person"}
    assert images["key"].str.match(r"(train|test)_\w+$").all() and images["key"].is_unique


def test_what_msmt17s_lists_and_folders_do_not_share_is_told(tmp_path):
    root = msmt_root(tmp_path)
    (root / "test" / "0000" / "0000_000_01_0303morning_0008_0.jpg").rename(root / "test" / "0000" / "other.jpg")
    images = read_index(index(root, layout="msmt17", max_error_percent=50), usable=False).set_index("path")
    assert images.loc["test/0000/0000_000_01_0303morning_0008_0.jpg", "status"] == "unreadable"
    assert images.loc["test/0000/other.jpg", "status"] == "unlisted"
    (root / "list_val.txt").write_text("0000/a.jpg zero\n")
    with pytest.raises(DatasetLayoutError, match=r"list_val.txt, line 1: '0000/a.jpg zero' is not an image's path and"):
        index(root, layout="msmt17", max_error_percent=50)
    (root / "list_val.txt").unlink()
    with pytest.raises(DatasetLayoutError, match=r"list_val.txt cannot be read \(No such file"):
        index(root, layout="msmt17", max_error_percent=50)


@pytest.mark.parametrize(
    ("make_root", "given", "said"),
    [
        (
            lambda folder: write_files(folder / "duke", pictures(DUKE)),
            "market1501",
            "like --layout dukemtmc or occluded-duke",
        ),
        (lambda folder: write_files(folder / "cuhk", pictures(CUHK)), "market1501", "like --layout cuhk03-np"),
        (msmt_root, "market1501", "like --layout msmt17"),
        (market_root, "deepfashion", "like --layout market1501"),
        (market_root, "dukemtmc", "like --layout market1501"),
        (
            lambda folder: write_files(folder / "people", pictures(f"{p}/{i}.jpg" for p in "abcd" for i in range(3))),
            "market1501",
            "a folder per person, which says neither camera nor split",
        ),
        (lambda folder: write_files(folder / "flat", pictures(f"{i}.jpg" for i in range(3))), "market1501", "a table"),
    ],
)
def test_a_root_of_another_layout_is_answered_with_what_it_looks_like_and_with_the_table(
    tmp_path, capsys, make_root, given, said
):
    root = make_root(tmp_path)
    command = ["index", "--root", str(root), "--layout", given, "--store", str(tmp_path / "store")]
    assert main("datasets", COMMANDS, command) == 2
    error = capsys.readouterr().err
    assert said in error and "--layout table" in error and "path,pid,camid,split" in error
    assert error.count("\n") == 1


def test_a_root_of_mostly_other_names_is_answered_with_the_table_too(tmp_path):
    files = pictures([f"bounding_box_train/{i}.jpg" for i in range(99)]) | market_files()
    with pytest.raises(InputError, match=r"bad-name: 99\), more than max_error_percent 1;.*--layout table"):
        index(write_files(tmp_path / "set", files))


# Separators.


def test_a_zip_with_backslashes_is_read_as_folders(tmp_path):
    files = market_files()
    archive = tmp_path / "Market.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("Market-1501-v15.09.15\\", b"")
        for name, content in files.items():
            file.writestr("Market-1501-v15.09.15\\" + name.replace("/", "\\"), content)
        file.writestr("..\\secret.jpg", b"x")
    directory = index(archive, max_error_percent=5)
    folder = index(write_files(tmp_path / "other" / "Market-1501-v15.09.15", files))
    assert (directory / "images.parquet").read_bytes() == (folder / "images.parquet").read_bytes()
    assert manifest_of(directory)["summary"]["unsafe_names"] == ["../secret.jpg"]


def test_a_table_with_backslashes_is_read_as_folders(tmp_path):
    rows = [("day\\1.jpg", 1, 1, "train"), ("day/2.jpg", 1, 2, "train"), ("..\\3.jpg", 2, 1, "train")]
    images = read_index(index(table(tmp_path / "own" / "in", rows), layout="table", max_error_percent=50), usable=False)
    assert images["path"].tolist() == ["../3.jpg", "day/1.jpg", "day/2.jpg"]
    assert images["status"].tolist() == ["bad-name", "ok", "ok"] and images["key"].tolist()[1:] == ["day_1", "day_2"]


def test_the_same_name_with_both_separators_is_one_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as file:
        for name, content in market_files().items():
            file.writestr(name, content)
        file.writestr("query\\1002_c1s1_000000_00.jpg", jpeg(999))
    with pytest.raises(InputError, match="duplicate: 2"):
        index(tmp_path / "m.zip")


# Any bytes.

FIELDS = [
    "a.jpg",
    "day\\b.jpg",
    "../c",
    "/d",
    "1",
    "0",
    "-1",
    "7" * 30,
    "x",
    "",
    '"',
    "\0",
    "\x1b",
    "é",
    "train",
    "query",
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.one_of(
        st.binary(max_size=200),
        st.lists(st.lists(st.sampled_from(FIELDS)).map(",".join), max_size=5).map(
            lambda lines: "\n".join(["path,pid,camid,split", *lines]).encode()
        ),
    )
)
def test_no_bytes_make_the_reader_of_tables_raise_anything_but_its_own_error(tmp_path, content):
    file = tmp_path / "table.csv"
    file.write_bytes(content)
    try:
        listed = list_source(LAYOUTS["table"], file)
        listed_files(file)
    except DatasetLayoutError as error:
        assert "\n" not in str(error) and str(file) in str(error)
    else:
        assert all(row["status"] in ("", "bad-name", "duplicate") for row in listed.listing.rows)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("x" * 90, "more than the 89 bytes"),
        ("é" * 45, "more than the 89 bytes"),
        (".jpg", "has a dot"),
    ],
    ids=["long", "long in UTF-8", "no name"],
)
def test_an_image_whose_key_no_shard_takes_is_set_apart_by_the_index_and_not_after_the_skeletons(
    tmp_path, name, reason
):
    path = name if name == ".jpg" else f"{name}.jpg"
    rows = [("a.jpg", 1, 1, "train"), (path, 2, 1, "train")]
    images = read_index(index(table(tmp_path, rows), layout="table", max_error_percent=50), usable=False)
    bad = images[images["path"] == path].iloc[0]
    assert bad["status"] == "bad-name" and reason in bad["error"]


def test_a_query_whose_key_would_become_too_long_in_the_gallery_is_set_apart(tmp_path):
    path = f"{'x' * 85}.jpg"
    rows = [("a.jpg", 1, 1, "train"), (path, 2, 1, "query"), (path, 2, 1, "gallery"), ("c.jpg", 2, 2, "gallery")]
    images = read_index(index(table(tmp_path, rows), layout="table", max_error_percent=50), usable=False)
    assert "longer than 89 bytes" in images[images["split"] == "query"].iloc[0]["error"]
