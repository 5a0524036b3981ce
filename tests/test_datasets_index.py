"""The image index: layouts, slices, checks and what is set apart."""

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from datasets.__main__ import COMMANDS
from datasets.runtime.command_line import main
from datasets.runtime.errors import DatasetLayoutError, InputError
from datasets.runtime.manifests import manifest_of
from datasets.sources.config import IndexConfig
from datasets.sources.deepfashion import outfit_of
from datasets.sources.index import open_images, read_index
from datasets.sources.market1501 import parse_name
from tests.small_sets import jpeg, make, market_files, market_root, write_files


def index(root: Path, **settings: object) -> Path:
    return make(IndexConfig(root=root, workers=1, **settings), root.parent / "store")


def is_running(pid: int) -> bool:
    """Whether a process is there and not a zombie that nobody has collected yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def cpu_seconds() -> float:
    """Processor time of this process and of its finished children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def zipped(root: Path, *, top: str = "Market-1501-v15.09.15/") -> Path:
    archive = root.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(root.rglob("*"), reverse=True):
            file.write(path, f"{top}{path.relative_to(root)}")
    return archive


def test_names_tell_identity_camera_sequence_frame_and_role():
    assert parse_name("0002_c1s1_000451_03.jpg") == {
        "pid": 2,
        "camid": 1,
        "sequence": 1,
        "frame": 451,
        "role": "person",
    }
    assert parse_name("-1_c6s2_000001_05.jpg")["role"] == "junk"
    assert parse_name("0000_c6s2_000001_05.jpg")["role"] == "distractor"
    assert parse_name("1488_c1s6_023021_00.jpg.jpg")["pid"] == 1488
    for name in (
        "Thumbs.db",
        "0002_c1s1_000451.jpg",
        "0002_c0s1_000451_03.jpg",
        "0002_c1s1_000451_03.gif",
        "٢٢٢٢_c1s1_1_1.jpg",
    ):
        assert parse_name(name) is None
    assert parse_name("99999999999999_c1s1_000451_03.jpg") is None


def test_a_market_folder_with_its_quirks_gives_one_row_per_image(tmp_path):
    directory = index(market_root(tmp_path))
    images = read_index(directory)
    assert images["key"].is_unique and len(images) == 4 * 3 + 3 + 3 * 3 + 6 + 3
    assert images["split"].value_counts().to_dict() == {"gallery": 18, "train": 12, "query": 3}
    assert images["role"].value_counts().to_dict() == {"person": 24, "distractor": 6, "junk": 3}
    row = images.set_index("key").loc["1001_c1s1_000000_00"]
    assert row["path"] == "query/1001_c1s1_000000_00.jpg.jpg" and (row["width"], row["height"]) == (32, 64)
    with open_images(directory) as source:
        assert source.read(row["path"]) == (source.root / row["path"]).read_bytes()
    summary = manifest_of(directory)["summary"]
    assert summary["ignored"] == ["bounding_box_train/Thumbs.db", "query/Thumbs.db"]
    assert "train images: 12 usable, 12,936 published" in summary["deviations"]


def test_folder_its_parent_and_zip_give_the_same_index_byte_for_byte(tmp_path):
    root = market_root(tmp_path / "data" / "inner")
    folder = (index(root) / "images.parquet").read_bytes()
    assert (index(root.parent) / "images.parquet").read_bytes() == folder
    assert (index(root.parent.parent) / "images.parquet").read_bytes() == folder
    archive = index(zipped(root))
    assert (archive / "images.parquet").read_bytes() == folder
    with open_images(archive) as source:
        path = read_index(archive)["path"][0]
        assert source.read(path) == (root / path).read_bytes()


def test_several_processes_give_the_same_index_as_one(tmp_path):
    root = market_root(tmp_path, identities=60, images=10)
    one = index(root)
    two = make(IndexConfig(root=root, workers=2), tmp_path / "other")
    assert (one / "images.parquet").read_bytes() == (two / "images.parquet").read_bytes()


def test_a_slice_takes_its_identities_and_a_share_of_the_rest_and_outside_it_lies_the_remainder(tmp_path):
    root = market_root(tmp_path, identities=9, test_identities=6)
    whole, part, outside = (
        read_index(index(root, **s)) for s in ({}, {"identities": 3}, {"identities": 3, "outside_slice": True})
    )
    people = part[part["role"] == "person"]
    train, query, gallery = (set(people[people["split"] == split]["pid"]) for split in ("train", "query", "gallery"))
    assert len(train) == 3 and len(query) == 3 and query == gallery
    assert (part["role"] == "distractor").sum() == 3 and (part["role"] == "junk").sum() in (1, 2)
    assert set(outside["split"]) == {"train"} and not set(outside["pid"]) & train
    assert set(outside["pid"]) | train == set(whole[whole["split"] == "train"]["pid"])
    assert len(part[part["split"] == "train"]) == 9  # every image of an identity comes along
    other = read_index(index(root, identities=3, seed=1))
    assert set(other["pid"]) != set(part["pid"])


def test_a_larger_slice_contains_the_smaller_one_of_the_same_seed(tmp_path):
    root = market_root(tmp_path, identities=9, test_identities=6)
    small, large = (set(read_index(index(root, identities=n))["key"]) for n in (3, 5))
    assert small < large


def test_each_broken_file_is_set_apart_with_its_reason(tmp_path):
    files = market_files()
    names = [name for name in files if name.startswith("bounding_box_train/0")]
    files[names[0]] = b""
    files[names[1]] = files[names[1]][:-200]
    files[names[2]] = b"<html>404</html>"
    files[names[3]] = jpeg(1, mode="L")
    files[names[4]] = jpeg(2, kind="GIF")
    files[names[5]] = files[names[6]]
    files["bounding_box_train/photo.jpg"] = jpeg(3)
    root = write_files(tmp_path / "set", files)
    (root / "bounding_box_train" / "0009_c1s1_000000_01.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(root / "bounding_box_train" / "0009_c2s1_000000_01.jpg")
    directory = index(root, max_error_percent=50)
    images = read_index(directory, usable=False).set_index("path")
    expected = ["empty", "truncated", "unreadable", "not-rgb", "not-jpeg", "ok", "duplicate"]
    assert images.loc[names[:7], "status"].tolist() == expected
    assert images.loc["bounding_box_train/photo.jpg", "status"] == "bad-name"
    assert images.loc["bounding_box_train/0009_c1s1_000000_01.jpg", "status"] == "unreadable"
    assert images.loc["bounding_box_train/0009_c2s1_000000_01.jpg", "status"] == "not-a-file"
    assert (images["error"] != "")[images["status"] != "ok"].all()
    assert manifest_of(directory)["summary"]["statuses"]["duplicate"] == 1
    assert len(read_index(directory)) == (images["status"] == "ok").sum()


def test_past_the_limit_of_unusable_files_the_index_is_refused(tmp_path):
    files = market_files()
    files["bounding_box_train/0002_c1s1_000000_01.jpg"] = b""
    root = write_files(tmp_path / "set", files)
    with pytest.raises(InputError, match=r"1 of 33 files .* cannot be used \(empty: 1\).*max_error_percent 1"):
        index(root)
    assert len(read_index(index(root, max_error_percent=5))) == 32


def test_two_files_with_the_same_key_never_become_one_record(tmp_path):
    files = market_files()
    files["bounding_box_train/0002_c1s1_000000_01.jpg.jpg"] = jpeg(99)
    images = read_index(index(write_files(tmp_path / "set", files), max_error_percent=5), usable=False)
    twins = images[images["path"].str.contains("0002_c1s1_000000_01")]
    assert twins["status"].tolist() == ["ok", "duplicate"] and twins["key"].is_unique


@pytest.mark.parametrize("kind", ["empty folder", "no test folder", "text file", "nowhere", "other zip"])
def test_a_root_that_is_not_market_is_answered_in_one_line_with_exit_code_2(tmp_path, capsys, kind):
    root = tmp_path / "root"
    if kind == "empty folder":
        root.mkdir()
    elif kind == "no test folder":
        shutil.rmtree(market_root(tmp_path).rename(root) / "bounding_box_test")
    elif kind == "text file":
        root.write_text("hello")
    elif kind == "other zip":
        with zipfile.ZipFile(root, "w") as file:
            file.writestr("a.txt", "hello")
    assert main("datasets", COMMANDS, ["index", "--root", str(root), "--store", str(tmp_path / "store")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(root) in error and "Traceback" not in error


def test_more_identities_than_there_are_is_refused(tmp_path):
    with pytest.raises(InputError, match="more than the 4 training identities"):
        index(market_root(tmp_path), identities=5)
    with pytest.raises(InputError, match="outside_slice needs identities"):
        index(market_root(tmp_path), outside_slice=True)


def test_a_table_of_any_images_is_indexed(tmp_path):
    files = {f"shots/day.{i}/{i}.jpg": jpeg(i) for i in range(6)}
    write_files(tmp_path / "own", files)
    labels = [(1, "train"), (1, "train"), (2, "train"), (0, "gallery"), (-1, "gallery"), (7, "gallery")]
    good = [(path, pid, 1, split) for path, (pid, split) in zip(files, labels, strict=True)]
    bad = [("shots/day.0/0.jpg", 9, 1, "train"), ("../secret.jpg", 9, 1, "train"), ("shots/x.jpg", "x", 1, "train")]
    rows = pd.DataFrame(good + bad, columns=["path", "pid", "camid", "split"])
    for file in (tmp_path / "own" / "table.csv", tmp_path / "own" / "table.parquet"):
        rows.to_csv(file, index=False) if file.suffix == ".csv" else rows.astype(str).to_parquet(file)
        images = read_index(index(file, layout="table", max_error_percent=50), usable=False)
        assert (images["status"] == "ok").sum() == 6 and set(images["status"]) == {"ok", "duplicate", "bad-name"}
        assert images[images["status"] == "ok"]["key"].str.contains(r"^\w+$").all()
        assert images[images["path"] == "shots/day.3/3.jpg"]["role"].item() == "distractor"


def test_deepfashion_gives_the_same_keys_from_original_folders_and_from_flat_names(tmp_path):
    shots = {("WOMEN", "Tees_Tanks", "00002219", "02", "3_back"), ("MEN", "Denim", "00000080", "01", "1_front")}
    original = {f"Img/img/{g}/{c}/id_{i}/{o}_{s}.jpg": jpeg(n) for n, (g, c, i, o, s) in enumerate(sorted(shots))}
    flat = {
        f"fashion{g}{c}id{i}{o}_{s.replace('_', '')}.jpg": jpeg(n) for n, (g, c, i, o, s) in enumerate(sorted(shots))
    }
    tables = [
        read_index(index(write_files(tmp_path / name, files), layout="deepfashion")).set_index("key").sort_index()
        for name, files in (("original", original), ("flat", flat))
    ]
    assert tables[0].index.tolist() == [
        "fashionMENDenimid0000008001_1front",
        "fashionWOMENTees_Tanksid0000221902_3back",
    ]
    pd.testing.assert_frame_equal(tables[0].drop(columns="path"), tables[1].drop(columns="path"))
    assert tables[0]["pid"].tolist() == [80, 2219] and tables[0]["sequence"].tolist() == [1, 2]


def test_a_deepfashion_name_whose_outfit_cannot_be_told_is_set_apart(tmp_path):
    files = {f"WOMEN/Dresses/id_00000002/{shot}.jpg": jpeg(n) for n, shot in enumerate(("02_1_front", "02_2_Side_b"))}
    made = index(write_files(tmp_path, files), layout="deepfashion", max_error_percent=50)
    images = read_index(made, usable=False).set_index("path")
    assert images["status"].tolist() == ["ok", "bad-name"]
    assert [outfit_of(key) for key in read_index(made)["key"]] == ["WOMENDressesid0000000202"]


def test_official_deepfashion_lists_decide_the_split(tmp_path):
    files = {f"fashionMENDenimid0000008{i}01_1front.jpg": jpeg(i) for i in range(3)}
    names = list(files)
    files |= {"train.lst": names[0].encode() + b"\n", "test.lst": names[1].encode() + b"\n"}
    images = read_index(
        index(write_files(tmp_path / "df", files), layout="deepfashion", max_error_percent=50), usable=False
    )
    assert images.set_index("path").loc[names, ["split", "status"]].to_numpy().tolist() == [
        ["train", "ok"],
        ["gallery", "ok"],
        ["train", "unlisted"],
    ]


def test_touching_a_file_makes_a_new_index_of_the_same_content(tmp_path):
    root = market_root(tmp_path)
    first = index(root)
    os.utime(root / "bounding_box_train" / "0002_c1s1_000000_01.jpg", (1, 1))
    second = index(root)
    assert first != second and manifest_of(first)["content_sha256"] == manifest_of(second)["content_sha256"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DatasetLayoutError, match="has no files in 'query'"):
        files = {name: content for name, content in market_files().items() if not name.startswith("query/")}
        index(write_files(tmp_path / "set", files))


@pytest.mark.realdata
def test_real_market_has_the_published_counts_and_is_checked_in_two_minutes_of_cpu(tmp_path, market1501_root):
    started = cpu_seconds()
    directory = make(IndexConfig(root=market1501_root), tmp_path)
    assert cpu_seconds() - started < 120
    summary = manifest_of(directory)["summary"]
    assert summary["deviations"] == [] and summary["statuses"] == {"ok": 36_036}, json.dumps(summary)
    assert summary["splits"]["gallery"]["junk images"] == 3_819


def test_workers_end_with_a_process_that_is_killed(repository):
    script = """
import os, sys
from concurrent.futures import ProcessPoolExecutor
from datasets.runtime.processes import end_with_parent
import time
def nap(_):
    os.write(1, b"%d\\n" % os.getpid())  # in one piece: the two share the pipe
    time.sleep(60)
pool = ProcessPoolExecutor(2, initializer=end_with_parent)
pool.submit(nap, 0), pool.submit(nap, 1)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=repository, stdout=subprocess.PIPE, text=True) as process:
        workers = [int(process.stdout.readline()) for _ in range(2)]
        process.kill()
        process.wait()
        deadline = time.monotonic() + 10
        while any(is_running(worker) for worker in workers) and time.monotonic() < deadline:
            time.sleep(0.02)
    assert not any(is_running(worker) for worker in workers)


def test_a_relative_root_is_found_again_from_another_folder(tmp_path, monkeypatch):
    market_root(tmp_path)
    monkeypatch.chdir(tmp_path)
    directory = make(IndexConfig(root=Path("Market-1501-v15.09.15"), workers=1), tmp_path / "store")
    monkeypatch.chdir("/")
    with open_images(directory) as source:
        assert source.read("query/1002_c1s1_000000_00.jpg")
