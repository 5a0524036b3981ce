"""Two hundred malformed inputs: each ends with a named status or a clear error, none with a library's traceback."""

import io
import random
import stat
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.poses.config import ImportPosesConfig
from datasets.poses.csv_files import HEADER, parse_pose_line, read_pose_csv
from datasets.poses.skeleton import present_joints
from datasets.poses.table import read_poses
from datasets.runtime.errors import InputError
from datasets.sources.config import IndexConfig
from datasets.sources.image_check import check_image
from datasets.sources.index import read_index
from tests.small_sets import jpeg, make, market_files, pose_lines, write_files

STATUSES = {"ok", "empty", "unreadable", "truncated", "not-jpeg", "not-rgb", "bomb"}
POSE_STATUSES = {"malformed", "not-a-number", "wrong-length", "half-missing"}
GOOD_LIST = str(list(range(1, 19)))


def with_size(content: bytes, width: int, height: int) -> bytes:
    """A JPEG whose header claims another size."""
    start = content.index(b"\xff\xc0") + 5
    return content[:start] + struct.pack(">HH", height, width) + content[start + 4 :]


def broken_pictures() -> list[tuple[str, bytes, set[str]]]:
    rng = random.Random(0)
    whole = jpeg(0)
    body = whole.index(b"\xff\xda") + 20
    cases = [("empty", b"", {"empty"}), ("zeros", bytes(500), {"unreadable"})]
    cases += [(f"cut at {n}", whole[:n], {"unreadable", "truncated"}) for n in rng.sample(range(1, body), 25)]
    cases += [(f"cut at {n}", whole[:n], {"truncated"}) for n in rng.sample(range(body, len(whole) - 60), 15)]
    for n in range(40):
        flipped = bytearray(whole)
        for _ in range(rng.randint(1, 8)):
            flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        cases.append((f"bits flipped {n}", bytes(flipped), STATUSES))  # some survive; none may raise
    cases += [(f"noise {n}", rng.randbytes(rng.randint(1, 3000)), {"unreadable"}) for n in range(10)]
    cases += [(kind, jpeg(1, kind=kind), {"not-jpeg"}) for kind in ("GIF", "BMP", "TIFF", "WEBP", "PPM")]
    cases += [(mode, jpeg(1, mode=mode), {"not-rgb"}) for mode in ("L", "CMYK")]
    cases += [("bomb", with_size(whole, 65_000, 65_000), {"bomb"}), ("large", with_size(whole, 9_000, 9_000), {"bomb"})]
    cases += [("no pixels", with_size(whole, 0, 64), {"unreadable", "truncated"})]
    cases += [("text", b"<html>Not found</html>", {"unreadable"}), ("svg", b"<svg/>", {"unreadable"})]
    return cases


PICTURES = broken_pictures()


def test_broken_pictures_get_a_status_and_a_reason():
    for name, content, expected in PICTURES:
        found = check_image(content)
        assert found.status in expected, (name, found)
        assert (found.error == "") == (found.status == "ok"), name


ROWS = [
    "",
    "[]",
    "[1]: [2]",
    "[]: []",
    f"{GOOD_LIST}",
    f"{GOOD_LIST}: {GOOD_LIST}: {GOOD_LIST}",
    f"{GOOD_LIST}: ",
    f"{GOOD_LIST}: {GOOD_LIST[:-1]}",
    f"{GOOD_LIST}: {GOOD_LIST[1:]}",
    f"{GOOD_LIST} {GOOD_LIST}",
    f"{GOOD_LIST}: {list(range(1, 18))}",
    f"{list(range(1, 20))}: {GOOD_LIST}",
    f"{[]}: {GOOD_LIST}",
    f"{GOOD_LIST}: {GOOD_LIST.replace('7', 'NaN')}",
    f"{GOOD_LIST.replace('7', 'inf')}: {GOOD_LIST}",
    f"{GOOD_LIST}: {GOOD_LIST.replace(' 7', ' seven')}",
    f"{GOOD_LIST}: {GOOD_LIST.replace(' 7', ' 0x7')}",
    f"{GOOD_LIST}: {GOOD_LIST.replace(' 7', ' None')}",
    f"{GOOD_LIST}: {GOOD_LIST.replace(' 7', ' [7]')}",
    f"{GOOD_LIST}: {GOOD_LIST.replace(' 7,', ' -1,')}",
    f"{GOOD_LIST.replace(' 7,', ' -1,')}: {GOOD_LIST}",
    f"{GOOD_LIST}: {GOOD_LIST.replace(' 7', ' 1e999')}",
    f"{GOOD_LIST}: {GOOD_LIST.replace(' 7', ' 7-')}",
    f"{GOOD_LIST}: {GOOD_LIST.replace(' 7', ' ' + chr(0))}",
    f"{GOOD_LIST}: {GOOD_LIST.replace(',', ';')}",
    f"({GOOD_LIST[1:-1]}): ({GOOD_LIST[1:-1]})",
    "{}: {}",
    "null: null",
    "\x00: \x00",
    "[[1,2]]: [[1,2]]",
    f"{GOOD_LIST}: {GOOD_LIST.replace(' 7', '')}",
    f"{GOOD_LIST}: {GOOD_LIST.replace(',', '')[::-1]}",
]


def test_malformed_rows_get_a_status_and_no_joint():
    for content in ROWS:
        name, row = parse_pose_line(f"0002_c1s1_000000_01.jpg: {content}")
        assert name == "0002_c1s1_000000_01.jpg" and row.status in POSE_STATUSES and row.error, content
        assert not present_joints(row.keypoints).any()


def test_malformed_and_outlying_rows_become_statuses_of_their_images_only(tmp_path):
    files = market_files(identities=len(ROWS))
    lines = pose_lines(files)
    index = make(IndexConfig(root=write_files(tmp_path / "set", files), workers=1), tmp_path / "store")
    train = sorted(name.rpartition("/")[2] for name in files if name.startswith("bounding_box_train/0"))
    broken = {name: f"{name}: {content}" for name, content in zip(train[::3], ROWS, strict=True)}
    broken[train[1]] = f"{train[1]}: {GOOD_LIST}: {[40] * 18}"  # the image is 32 wide
    broken[train[2]] = f"{train[2]}: {GOOD_LIST}: {GOOD_LIST}\n{train[2]}: {GOOD_LIST}: {GOOD_LIST}"
    lines = [broken.get(line.partition(":")[0], line) for line in lines]
    (tmp_path / "poses.csv").write_text("\n".join([*lines, f"0000_c9s9_999999_99.jpg: {GOOD_LIST}: {GOOD_LIST}"]))
    config = ImportPosesConfig(images=index, csv=[tmp_path / "poses.csv"])
    poses = read_poses(make(config, tmp_path / "store")).set_index("key")
    bad = poses[~poses["status"].isin(["ok", "no-person", "missing"])]
    assert sorted(bad.index) == sorted(name.removesuffix(".jpg") for name in broken)
    assert (
        poses.loc[train[1][:-4], "status"] == "out-of-image" and poses.loc[train[2][:-4], "status"] == "duplicate-row"
    )
    assert not present_joints(np.stack(bad["keypoints"])).any()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with ''"),
        (b"\xff\xfe" + HEADER.encode("utf-16-le"), "line 1: not UTF-8"),
        (HEADER.encode() + b"\n\n0002_c1s1_000000_01\xff.jpg: []: []", "line 3: not UTF-8"),
        (b"name,keypoints_y,keypoints_x\n", "expected the header"),
        (b"\x89PNG\r\n\x1a\n", "not UTF-8"),
        (b"PK\x03\x04", "expected the header"),
        (HEADER.encode() + b"\n0002_c1s1_0000", "line 2: '0002_c1s1_0000' names no image"),
        (HEADER.encode() + b"\n: [1]: [1]", "names no image"),
        (HEADER.encode() + b"\n../x.jpg: [1]: [1]", "names no image"),
        (HEADER.encode() + b"\n\x1b[2J: [1]", r"line 2: '\\x1b\[2J"),
    ],
)
def test_files_that_are_no_keypoint_files_are_refused_with_the_line(tmp_path, content, message):
    (tmp_path / "bad.csv").write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_pose_csv(tmp_path / "bad.csv")
    assert "bad.csv" in str(error.value) and "\n" not in str(error.value)


def hostile_archive(path: Path) -> Path:
    """A Market-1501 zip with members that no archive should have."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in market_files().items():
            archive.writestr(name, content)
        for name in (
            "../x.jpg",
            "../../etc/cron.d/x.jpg",
            "/etc/passwd",
            "bounding_box_train/../../x.jpg",
            "C:\\x.jpg",
            "bounding_box_train/..\\x.jpg",
            "bounding_box_train//../0077_c1s1_000000_01.jpg",
        ):
            archive.writestr(name, jpeg(50))
        link = zipfile.ZipInfo("bounding_box_train/0078_c1s1_000000_01.jpg")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("bounding_box_train/0079_c1s1_000000_01.jpg", jpeg(51))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("bounding_box_train/0079_c1s1_000000_01.jpg", jpeg(52))
        archive.writestr("bounding_box_train/0080_c1s1_000000_01.jpg/inner.jpg", jpeg(53))
        archive.writestr("bounding_box_train/0081_c1s1_000000_01.jpg", bytes(65 << 20), zipfile.ZIP_DEFLATED)
        archive.writestr("bounding_box_train/0083_c1s1_000000_01.jpg", bytes(65 << 20), zipfile.ZIP_STORED)
        archive.writestr("bounding_box_train/0082_c1s1_000000_01.jpg", jpeg(54))
        archive.writestr("bounding_box_train/\x1b[2J\u202e.jpg", jpeg(55))
    content = bytearray(path.read_bytes())
    content[content.index(jpeg(54)) + 300] ^= 0xFF  # its checksum no longer fits
    path.write_bytes(bytes(content))
    return path


def test_hostile_archive_members_are_set_apart_and_nothing_is_written(tmp_path):
    archive = hostile_archive(tmp_path / "Market-1501.zip")
    before = set(tmp_path.rglob("*"))
    directory = make(IndexConfig(root=archive, workers=1, max_error_percent=60), tmp_path / "store")
    images = read_index(directory, usable=False)
    by_name = images.set_index(images["path"].str[-24:-4])["status"]
    assert by_name["/0078_c1s1_000000_01"] == "link"
    assert by_name.loc[["/0079_c1s1_000000_01"]].tolist() == ["duplicate", "duplicate"]
    assert by_name["/0081_c1s1_000000_01"] == "bomb" and by_name["/0083_c1s1_000000_01"] == "too-large"
    assert by_name["/0082_c1s1_000000_01"] == "truncated"
    assert (images["status"] == "unsafe-path").sum() == 3 and (images["status"] == "bad-name").sum() == 2
    assert (images["status"] == "ok").sum() == 33
    assert not images["path"].str.contains("\x1b").any() and images["key"].is_unique
    assert {path for path in tmp_path.rglob("*") if "store" not in path.parts} <= before | {tmp_path / "store"}


@pytest.mark.parametrize("kind", ["cut", "directory cut", "noise", "empty", "encrypted"])
def test_a_broken_archive_is_refused_or_its_members_set_apart(tmp_path, kind):
    path = tmp_path / "Market-1501.zip"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in market_files().items():
            archive.writestr(name, content)
    content = bytearray(buffer.getvalue())
    if kind == "encrypted":
        for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            start = -1
            while (start := content.find(signature, start + 1)) >= 0:
                content[start + offset] |= 1
    changed = {
        "cut": content[: len(content) // 2],
        "directory cut": content[:-300],
        "noise": random.Random(1).randbytes(5000),
        "empty": b"",
        "encrypted": content,
    }[kind]
    path.write_bytes(bytes(changed))
    with pytest.raises(InputError, match=r"readable zip|no usable image") as error:
        make(IndexConfig(root=path, workers=1), tmp_path / "store")
    assert "\n" not in str(error.value)


TABLES = [
    b"",
    b"\x00",
    b"path,pid\na.jpg,1\n",
    b"\xff\xfe\x00",
    b'path,pid,camid,split\n"a.jpg,1,1,train\n',
    b"PAR1",
    b"path,pid,camid,split\n",
    b"path,pid,camid,split\n../a.jpg,1,1,train\n",
    b"path,pid,camid,split\na.jpg,1.5,1,train\n",
    b"path,pid,camid,split\na.jpg,1,0,train\n",
    b"path,pid,camid,split\na.jpg,1,1,validation\n",
    b"path,pid,camid,split\na.jpg,99999999999999,1,train\n",
    b"path,pid,camid,split\n/etc/passwd,1,1,train\n",
    b"path,pid,camid,split\nnowhere.jpg,1,1,train\n",
    b"path,pid,camid,split\na.jpg,1,1,train,extra,extra\nb.jpg\n",
    b"path,pid,camid,split\n,1,1,train\n",
]


@pytest.mark.parametrize("number", range(len(TABLES)))
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_malformed_tables_are_refused_in_one_line(tmp_path, number, suffix):
    file = write_files(tmp_path, {f"table{suffix}": TABLES[number]}) / f"table{suffix}"
    with pytest.raises(InputError) as error:
        make(IndexConfig(root=file, layout="table", workers=1), tmp_path / "store")
    assert "\n" not in str(error.value) and "table" in str(error.value)


def test_names_in_a_folder_that_are_no_text_are_set_apart(tmp_path):
    root = write_files(tmp_path / "set", market_files())
    strange = [
        "0002_c1s1_000451_03\udcff.jpg",
        "0002_c1s1_000451_03\n.jpg",
        " .jpg",
        "x" * 200 + ".jpg",
        "0002_c1s1.jpg",
    ]
    for name in strange:
        (root / "bounding_box_train" / name).write_bytes(jpeg(60))
    images = read_index(make(IndexConfig(root=root, workers=1, max_error_percent=20), tmp_path / "store"), usable=False)
    assert (images["status"] == "bad-name").sum() == len(strange) and (images["status"] == "ok").sum() == 33


def test_a_picture_with_trailing_bytes_or_metadata_is_still_a_picture():
    file = io.BytesIO()
    Image.new("RGB", (32, 64)).save(file, "JPEG", exif=b"Exif\0\0" + b"\0" * 10)
    assert check_image(file.getvalue() + b"trailing").status == "ok"


def test_there_are_two_hundred_malformed_inputs():
    assert len(PICTURES) + 2 * len(ROWS) + 10 + 12 + 5 + 2 * len(TABLES) + 5 >= 200
