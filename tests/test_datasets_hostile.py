"""More inputs that nobody should send: archives, names, turned and cut pictures, tables, rows, files that change."""

import csv
import io
import os
import random
import stat
import threading
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from datasets.__main__ import COMMANDS
from datasets.poses.config import ImportPosesConfig
from datasets.poses.csv_files import HEADER, parse_pose_line, read_pose_csv
from datasets.poses.skeleton import present_joints
from datasets.runtime.command_line import main
from datasets.runtime.errors import InputError
from datasets.runtime.keys import artifact_key
from datasets.runtime.manifests import manifest_of
from datasets.shards.config import WriteShardsConfig
from datasets.sources import image_check
from datasets.sources import index as index_module
from datasets.sources.config import IndexConfig
from datasets.sources.image_check import check_image
from datasets.sources.index import read_index
from datasets.sources.market1501 import parse_name
from tests.small_sets import jpeg, make, market_files, market_root, pose_csv, write_files

GOOD = str(list(range(1, 19)))


def index(root: Path, **settings: object) -> Path:
    return make(IndexConfig(root=root, workers=1, **settings), root.parent / "store")


def statuses(directory: Path) -> dict[str, str]:
    return dict(read_index(directory, usable=False)[["path", "status"]].itertuples(index=False))


# Pictures.


def saved(picture: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def moving(mode: str, kind: str) -> bytes:
    return saved(Image.new(mode, (32, 64)), kind, save_all=True, append_images=[Image.new(mode, (32, 64), 9)])


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(Image.new("RGB", (32, 64)), exif=exif)


STRANGE = [
    *((f"EXIF orientation {n}", turned(n), "ok") for n in range(2, 9)),
    ("EXIF upright", turned(1), "ok"),
    ("EXIF of no known orientation", turned(9), "ok"),
    ("broken EXIF", saved(Image.new("RGB", (32, 64)), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"), "ok"),
    ("CMYK", saved(Image.new("CMYK", (32, 64))), "not-rgb"),
    ("gray", saved(Image.new("L", (32, 64))), "not-rgb"),
    ("16 bits", saved(Image.new("I;16", (32, 64)), "PNG"), "not-rgb"),
    ("palette", saved(Image.new("P", (32, 64)), "PNG"), "not-rgb"),
    ("with alpha", saved(Image.new("RGBA", (32, 64)), "PNG"), "not-rgb"),
    ("animated", moving("P", "GIF"), "not-jpeg"),
    ("animated PNG", moving("RGB", "PNG"), "ok"),
    ("progressive", saved(Image.effect_noise((32, 64), 50).convert("RGB"), progressive=True), "ok"),
    ("two JPEGs in one", jpeg(1) + jpeg(2), "ok"),
    ("two nul bytes", b"\0\0", "unreadable"),
    ("newline", b"\n", "unreadable"),
]


@pytest.mark.parametrize(("content", "expected"), [case[1:] for case in STRANGE], ids=[case[0] for case in STRANGE])
def test_strange_pictures_get_their_status(content, expected):
    found = check_image(content)
    assert found.status == expected and (found.error == "") == (expected == "ok")


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("tenth", range(10))
def test_a_picture_cut_at_any_tenth_is_never_ok(tenth, progressive):
    whole = saved(Image.effect_noise((64, 128), 80).convert("RGB"), progressive=progressive)
    found = check_image(whole[: len(whole) * tenth // 10])
    assert found.status in ("empty", "unreadable", "truncated") and found.error


# Names and folders.


@pytest.mark.parametrize(
    "name",
    [
        "0002_c1s1_000451_03.jpg\n",
        "0002_c1s1_000451_03.jpg.jpg.jpg",
        "\u0660\u0660\u0660\u0662_c1s1_1_1.jpg",
        "0" * 5000 + "2_c1s1_1_1.jpg",
        "0002_c" + "1" * 5000 + "s1_1_1.jpg",
        "0002_c1s1_1_" + "1" * 5000 + ".jpg",
        "-2_c1s1_000451_03.jpg",
        "+002_c1s1_1_1.jpg",
        "0002_c-1s1_1_1.jpg",
        "0002_C1S1_1_1.jpg\0",
        "2147483648_c1s1_1_1.jpg",
        "0002_c1s1_1_1.jpegs",
        "0002_c1s1_1_1",
        "0002_c1s1_1_1.jpg/",
        "0002_c1s1_1_1 .jpg",
        "\ufeff0002_c1s1_1_1.jpg",
    ],
)
def test_names_that_only_look_right_are_not_parsed(name):
    assert parse_name(name) is None


def test_links_loops_pipes_and_devices_in_a_folder_are_set_apart_and_never_waited_for(tmp_path):
    root = write_files(tmp_path / "set", market_files())
    train = root / "bounding_box_train"
    (train / "loop").symlink_to(train)
    (train / "elsewhere").symlink_to("/etc")
    (train / "0901_c1s1_000000_01.jpg").symlink_to(train / "0901_c1s1_000000_01.jpg")
    (train / "0902_c1s1_000000_01.jpg").symlink_to("/dev/zero")
    (train / "0903_c1s1_000000_01.jpg").mkdir()
    os.mkfifo(train / "0904_c1s1_000000_01.jpg")
    (train / "0905_c1s1_000000_01.jpg").symlink_to(train / "0002_c1s1_000000_01.jpg")
    found = statuses(index(root, max_error_percent=50))
    train_statuses = {path.rpartition("/")[2]: status for path, status in found.items() if "train/" in path}
    assert train_statuses["loop"] == train_statuses["elsewhere"] == "link"
    assert train_statuses["0901_c1s1_000000_01.jpg"] == "unreadable"
    assert train_statuses["0902_c1s1_000000_01.jpg"] == train_statuses["0904_c1s1_000000_01.jpg"] == "not-a-file"
    assert "0903_c1s1_000000_01.jpg" not in train_statuses  # an empty folder
    assert train_statuses["0905_c1s1_000000_01.jpg"] == "duplicate" and list(found.values()).count("ok") == 33


def test_files_that_vanish_or_change_while_they_are_checked_are_told_or_recorded_as_they_were_read(
    tmp_path, monkeypatch
):
    root = market_root(tmp_path)
    gone, other = sorted((root / "bounding_box_train").glob("*.jpg"))[:2]
    real = index_module._check_path

    def change(path):
        gone.unlink(missing_ok=True)
        other.write_bytes(jpeg(77))
        return real(path)

    monkeypatch.setattr(index_module, "_check_path", change)
    directory = index(root, max_error_percent=10)
    images = read_index(directory, usable=False).set_index("path")
    assert images.at[f"bounding_box_train/{gone.name}", "status"] == "unreadable"
    assert images.at[f"bounding_box_train/{other.name}", "sha256"] == check_image(jpeg(77)).sha256
    monkeypatch.undo()
    assert index(root, max_error_percent=10) != directory  # the next run sees that files have other dates


def test_a_folder_that_cannot_be_listed_is_told(tmp_path, monkeypatch):
    root = market_root(tmp_path)
    (root / "bounding_box_train" / "closed").mkdir()
    real = os.scandir

    def scandir(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert statuses(index(root, max_error_percent=10))["bounding_box_train/closed"] == "unreadable"


# Archives.


def archive_of(path: Path, extra: dict[str, bytes], **options: object) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # duplicate names are meant
        for name, content in [*market_files().items(), *extra.items()]:
            archive.writestr(name, content)
    return path


def test_archive_members_of_hostile_names_are_set_apart_one_by_one(tmp_path):
    train = "bounding_box_train/"
    extra = {
        train + "0901_c1s1_000000_01.jpg\n": jpeg(60),
        train + "0902\r_c1s1_000000_01.jpg": jpeg(61),
        train + "0903_c1s1_000000_01\u202egpj.jpg": jpeg(62),
        train + "x" * 5000 + ".jpg": jpeg(63),
        train + "0" * 5000 + "2_c1s1_1_1.jpg": jpeg(64),
        train + "\xff\xfe_c1s1_1_1.jpg": jpeg(65),
        train + "0904_C1S1_000000_01.JPG": jpeg(66),
        train + "0904_c1s1_000000_01.JPG": jpeg(76),
        train + "0904_c1s1_000000_01.jpg": jpeg(67),
        train + "0905_c1s1_000000_01.jpg\t": jpeg(68),
        "/" + train + "0906_c1s1_000000_01.jpg": jpeg(69),
        train + "../../0907_c1s1_000000_01.jpg": jpeg(70),
        "C:/0908_c1s1_000000_01.jpg": jpeg(71),
        train + "./0909_c1s1_000000_01.jpg": jpeg(72),
        "__MACOSX/" + train + "._0002_c1s1_000000_01.jpg": b"\0\5\26\7",
    }
    found = statuses(index(archive_of(tmp_path / "set.zip", extra), max_error_percent=60))
    assert list(found.values()).count("ok") == 34  # the 33 and one of the two that differ in case alone
    assert all(name.isprintable() for name in found)
    assert {"bad-name", "duplicate", "unsafe-path"} <= set(found.values())
    keys = read_index(next((tmp_path / "store" / "index").glob("[!.]*")))["key"]
    assert keys.is_unique and keys.str.fullmatch(r"[-\w]+").all()


def test_members_that_unpack_to_a_multiple_of_their_size_are_not_unpacked(tmp_path):
    extra = {f"bounding_box_train/09{n:02d}_c1s1_000000_01.jpg": bytes(30 << 20) for n in range(20)}
    archive = archive_of(tmp_path / "set.zip", extra, compression=zipfile.ZIP_DEFLATED)
    started = os.times().user
    found = statuses(index(archive, max_error_percent=60))
    assert list(found.values()).count("bomb") == 20 and os.times().user - started < 3


def test_an_encrypted_archive_says_what_to_do(tmp_path):
    content = bytearray(archive_of(tmp_path / "set.zip", {}).read_bytes())
    start = -1
    while (start := content.find(b"PK\x01\x02", start + 1)) >= 0:
        content[start + 8] |= 1
    (tmp_path / "set.zip").write_bytes(content)
    with pytest.raises(InputError, match=r"encrypted: 35; first: .* unpack the archive with its password"):
        index(tmp_path / "set.zip")


def test_links_in_archives_are_not_followed(tmp_path):
    path = archive_of(tmp_path / "set.zip", {})
    with zipfile.ZipFile(path, "a") as archive:
        for number, kind in enumerate((stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR)):
            member = zipfile.ZipInfo(f"bounding_box_train/090{number}_c1s1_000000_01.jpg")
            member.create_system, member.external_attr = 3, (kind | 0o777) << 16
            archive.writestr(member, "/etc/passwd")
    found = statuses(index(path, max_error_percent=60))
    assert [found[f"bounding_box_train/090{n}_c1s1_000000_01.jpg"] for n in range(3)] == [
        "link",
        "unreadable",
        "unreadable",
    ]


@pytest.mark.parametrize("number", range(24))
def test_an_archive_with_flipped_bits_gives_statuses_or_one_line(tmp_path, number):
    rng = random.Random(number)
    content = bytearray(archive_of(tmp_path / "set.zip", {}, compression=zipfile.ZIP_DEFLATED).read_bytes())
    tail = len(content) - 6000 if number % 2 else 0  # every other one in the archive's own lists
    for _ in range(rng.randint(1, 30)):
        content[rng.randrange(tail, len(content))] ^= 1 << rng.randrange(8)
    (tmp_path / "set.zip").write_bytes(content)
    good = {check_image(picture).sha256 for picture in market_files().values() if picture[:2] == b"\xff\xd8"}
    try:
        images = read_index(index(tmp_path / "set.zip", max_error_percent=100))
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert set(images["sha256"]) <= good  # what passed is what was put in


# Keypoint rows and files.


def seven(text: str) -> str:
    """A row whose seventh x is this text."""
    return f"{GOOD}: {GOOD.replace(' 7,', f' {text},')}"


BAD_ROWS = [
    (seven("-7"), "ok"),  # a place outside the image, which the image decides
    (seven("1_0"), "not-a-number"),
    (seven("\u0667"), "not-a-number"),
    (seven("infinity"), "not-a-number"),
    (seven("-Inf"), "not-a-number"),
    (seven("nan"), "not-a-number"),
    (seven("1e300"), "out-of-image"),
    (seven("-1e300"), "out-of-image"),
    (seven("1e999"), "not-a-number"),
    (seven("9999999"), "out-of-image"),
    (f"{GOOD}: [{'7, ' * 20000}]", "malformed"),
    (f"{GOOD}: [{'9' * 9000}]", "wrong-length"),
    (seven("7\0"), "not-a-number"),
    (f'{GOOD}: "{GOOD}"', "malformed"),
    (seven("-1.5"), "ok"),
    (seven("--7"), "not-a-number"),
    (seven("7e"), "not-a-number"),
    (seven("0b1"), "not-a-number"),
    (seven("True"), "not-a-number"),
]


@pytest.mark.parametrize(("content", "expected"), BAD_ROWS, ids=range(len(BAD_ROWS)))
def test_rows_with_strange_numbers_get_their_status(content, expected):
    name, row = parse_pose_line(f"0002_c1s1_000000_01.jpg: {content}")
    assert name == "0002_c1s1_000000_01.jpg" and row.status == expected
    assert present_joints(row.keypoints).any() == (expected == "ok")


def test_joints_outside_their_image_never_become_a_record(tmp_path):
    files = market_files(identities=40)
    directory = index(write_files(tmp_path / "set", files))
    file = pose_csv(tmp_path, files)
    lines = file.read_text().splitlines()
    for number, wrong in enumerate(("-3", "32", "1000", "-0.5", "1e5"), start=1):
        name = lines[number].partition(":")[0]
        lines[number] = f"{name}: {[10] * 18}: [{wrong}{', 10' * 17}]"
    file.write_text("\n".join(lines))
    summary = manifest_of(make(ImportPosesConfig(images=directory, csv=[file]), tmp_path / "store"))["summary"]
    assert summary["statuses"]["out-of-image"] == 5


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_and_byte_order_marks_of_any_editor_are_read(tmp_path, line_end, mark):
    (tmp_path / "a.csv").write_bytes(f"{mark}{line_end.join([HEADER, f'a.jpg: {GOOD}: {GOOD}', ''])}".encode())
    assert [row.status for row in read_pose_csv(tmp_path / "a.csv").values()] == ["ok"]


@pytest.mark.parametrize(
    "content",
    [
        HEADER.encode("utf-16"),
        HEADER.encode("utf-32"),
        b"\xef\xbb\xbf",
        HEADER.encode() + b"\n\0\0\0",
        b"\0" * 5000,
        HEADER.encode() + b"\n" + b"x" * 300_000,
        f'"{HEADER}"\n'.encode(),
        HEADER.replace(":", ";").encode(),
        HEADER.encode() + f'\n"a.jpg": {GOOD}: {GOOD}'.encode(),
        HEADER.encode() + f"\na.txt: {GOOD}: {GOOD}".encode(),
    ],
)
def test_files_in_other_encodings_or_shapes_are_refused_in_one_line(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(InputError) as error:
        read_pose_csv(tmp_path / "a.csv")
    assert "\n" not in str(error.value) and "\0" not in str(error.value) and "a.csv" in str(error.value)


# Tables.

HEAD = "path,pid,camid,split\n"
ROWS = [
    ("a.jpg,1_0,1,train", "bad-name"),
    ("a.jpg,\u0661,1,train", "bad-name"),
    ("a.jpg, 1,1,train", "bad-name"),
    ("a.jpg,1,1,Train", "bad-name"),
    ("a.jpg,1,1", "bad-name"),
    ("a.jpg,1,1,train,x", "bad-name"),
    ("a.jpg", "bad-name"),
    ("a.jpg,1e3,1,train", "bad-name"),
    ("a.jpg,-2,1,train", "bad-name"),
    ("a.jpg,nan,1,train", "bad-name"),
    ("a.jpg,+1,1,train", "bad-name"),
    ("/etc/passwd,1,1,train", "bad-name"),
    ("..\\a.jpg,1,1,train", "bad-name"),
    ("a.jpg\0,1,1,train", "bad-name"),
    (",1,1,train", "bad-name"),
    (".,1,1,train", "bad-name"),
    ("sub,1,1,train", "not-a-file"),
    ("pipe,1,1,train", "not-a-file"),
    ("gone.jpg,1,1,train", "unreadable"),
    ('"a\nb.jpg",1,1,train', "bad-name"),
    ("x" * 3000 + ".jpg,1,1,train", "bad-name"),
    ("table.csv,1,1,train", "unreadable"),
    ("\u202ea.jpg,1,1,train", "bad-name"),
]


@pytest.mark.parametrize(("line", "expected"), ROWS, ids=range(len(ROWS)))
@pytest.mark.parametrize("kind", ["csv", "bom", "crlf"])
def test_rows_of_a_table_that_are_none_are_set_apart(tmp_path, line, expected, kind):
    write_files(tmp_path / "own", {"good.jpg": jpeg(1), "a.jpg": jpeg(2), "sub/b.jpg": jpeg(3)})
    os.mkfifo(tmp_path / "own" / "pipe")
    text = {"csv": "", "bom": "\ufeff", "crlf": ""}[kind] + HEAD + "good.jpg,1,1,train\n" + line + "\n"
    (tmp_path / "own" / "table.csv").write_text(text, newline="\r\n" if kind == "crlf" else "")
    images = read_index(index(tmp_path / "own" / "table.csv", layout="table", max_error_percent=60), usable=False)
    assert sorted(images["status"]) == sorted(["ok", expected]) and images["path"].map(str.isprintable).all()
    assert images[images["status"] == "ok"]["pid"].tolist() == [1]


@pytest.mark.parametrize(
    "content",
    [
        HEAD.encode("utf-16"),
        b"path;pid;camid;split\n",
        b"path\tpid\tcamid\tsplit\n",
        b"path,pid,camid,split,pid\n",
        b"\n\n",
        HEAD.encode() + b'"a.jpg,1,1,train\n',
        HEAD.encode() + b"a\xff.jpg,1,1,train\n",
        HEAD.encode() + b'"' + b"x" * 200_000,
        HEAD.encode() + b'a.jpg,1,1,"train"x\n',
    ],
)
def test_tables_in_other_encodings_or_shapes_are_refused_in_one_line(tmp_path, content):
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(InputError) as error:
        index(tmp_path / "table.csv", layout="table")
    assert "\n" not in str(error.value) and "table.csv" in str(error.value)


def test_parquet_tables_of_other_types_are_read_or_refused_but_never_misread(tmp_path):
    write_files(tmp_path, {f"{n}.jpg": jpeg(n) for n in range(3)})
    columns = {"path": ["0.jpg", "1.jpg", "2.jpg"], "pid": [1, 2, None], "camid": [1, 1, 1], "split": ["train"] * 3}
    for number, change in enumerate(
        ({}, {"pid": pa.array([1.0, 2.0, None])}, {"split": pa.array(["train"] * 3).dictionary_encode()})
    ):
        pq.write_table(pa.table({**columns, **change}), tmp_path / f"{number}.parquet")
        images = read_index(index(tmp_path / f"{number}.parquet", layout="table", max_error_percent=50), usable=False)
        assert images["status"].tolist() == ["ok", "ok", "bad-name"] and images["pid"].tolist() == [1, 2, -1]
    for number, change in enumerate(({"pid": [[1], [2], [3]]}, {"path": [b"\xff\xfe"] * 3}, {"pid": [1.5, 2.5, 3.5]})):
        pq.write_table(pa.table({**columns, **change}), tmp_path / f"bad{number}.parquet")
        with pytest.raises(InputError) as error:
            index(tmp_path / f"bad{number}.parquet", layout="table")
        assert "\n" not in str(error.value)


def test_images_of_a_table_that_changed_make_a_new_index(tmp_path):
    files = {f"{n}.jpg": jpeg(n) for n in range(4)}
    write_files(tmp_path / "own", files)
    table = tmp_path / "own" / "table.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["path", "pid", "camid", "split"], *([name, 1, 1, "train"] for name in files)])
    config = IndexConfig(root=table, layout="table", workers=1)
    first = artifact_key(config)
    assert artifact_key(config) == first
    (tmp_path / "own" / "unlisted.jpg").write_bytes(jpeg(9))
    assert artifact_key(config) == first  # what the table does not list does not count
    (tmp_path / "own" / "2.jpg").write_bytes(jpeg(10))
    second = artifact_key(config)
    (tmp_path / "own" / "3.jpg").unlink()
    assert len({first, second, artifact_key(config)}) == 3


# A second index of a data set that grew.


def test_only_bytes_that_no_earlier_index_has_seen_are_decoded_again(tmp_path, monkeypatch):
    files = {**market_files(identities=8), "bounding_box_train/0900_c1s1_000000_01.jpg": b"", "query/bad.jpg": jpeg(70)}
    files["bounding_box_train/0901_c1s1_000000_01.jpg"] = jpeg(71)[:-300]
    files["bounding_box_train/0902_c1s1_000000_01.jpg"] = files["bounding_box_train/0002_c1s1_000000_01.jpg"]
    root = write_files(tmp_path / "set", files)
    first = index(root, max_error_percent=20)
    added = {f"bounding_box_train/05{n:02d}_c1s1_000000_01.jpg": jpeg(200 + n) for n in range(50)}
    write_files(root, added)
    changed = root / "bounding_box_train" / "0003_c1s1_000000_01.jpg"
    old = changed.stat()
    assert len(jpeg(3)) and changed.exists()
    content = bytearray(changed.read_bytes())
    content[-3] ^= 1  # same size, same date: only the hash can tell
    changed.write_bytes(content)
    os.utime(changed, ns=(old.st_atime_ns, old.st_mtime_ns))
    decoded = []
    real = image_check.check_image
    monkeypatch.setattr(index_module, "check_image", lambda content, **_: decoded.append(content) or real(content))
    second = index(root, max_error_percent=20)
    assert len([content for content in decoded if content]) == 51 == manifest_of(second)["summary"]["files_decoded"]
    monkeypatch.undo()
    alone = make(IndexConfig(root=root, workers=1, max_error_percent=20), tmp_path / "another store")
    assert (alone / "images.parquet").read_bytes() == (second / "images.parquet").read_bytes()
    assert first != second


def test_an_earlier_index_that_is_corrupt_or_of_another_decoder_is_not_believed(tmp_path):
    root = market_root(tmp_path)
    first = index(root)
    write_files(root, {"bounding_box_train/0900_c1s1_000000_01.jpg": jpeg(99)})
    content = (first / "images.parquet").read_bytes()
    (first / "images.parquet").write_bytes(content[:-1])
    assert manifest_of(index(root))["summary"]["files_decoded"] == 34


# The command line.

FUZZ = [
    "",
    "-1",
    "nan",
    "null",
    "{}",
    "[]",
    "\udcff",
    "a" * 5000,
    "../..",
    "/dev/null",
    "\n",
    "1e999",
    "'",
    "0x1",
    "--",
]
COMMAND_FIELDS = [
    ("index", ["--root", "--layout", "--identities", "--seed", "--max-error-percent", "--workers", "--outside-slice"]),
    ("import-poses", ["--images", "--csv", "--coordinates"]),
    ("export-poses", ["--images", "--poses", "--csv"]),
    ("export-pairs", ["--images", "--poses", "--csv", "--published", "--split"]),
    ("select-subsets", ["--images", "--fractions", "--draws", "--seed"]),
    ("verify", ["--artifacts"]),
    ("index", ["--store", "--output", "--config"]),
    ("miniature", ["--layout", "--train-identities", "--width", "--seed"]),
]


@pytest.mark.parametrize(
    ("command", "fields"), COMMAND_FIELDS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_any_value_of_any_field_is_answered_without_a_traceback(tmp_path, capsys, monkeypatch, command, fields):
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")  # so that ../.. is ours too
    root = market_root(tmp_path, identities=3, images=2, test_identities=1)
    images = index(root)
    poses = make(
        ImportPosesConfig(
            images=images, csv=[pose_csv(tmp_path, market_files(identities=3, images=2, test_identities=1))]
        ),
        tmp_path / "store",
    )
    given = {
        "index": ["--root", str(root), "--workers", "1"],
        "import-poses": ["--images", str(images), "--csv", str(tmp_path / "poses.csv")],
        "export-poses": ["--images", str(images), "--poses", str(poses), "--csv", "out.csv"],
        "export-pairs": ["--images", str(images), "--poses", str(poses), "--csv", "out.csv"],
        "select-subsets": ["--images", str(images)],
        "verify": ["--artifacts", str(images)],
        "miniature": [
            "--train-identities",
            "3",
            "--test-identities",
            "0",
            "--distractors",
            "0",
            "--junk",
            "0",
            "--images-per-identity",
            "2",
            "--width",
            "16",
            "--height",
            "32",
            "--workers",
            "1",
        ],
    }[command]
    for field in fields:
        for value in FUZZ:
            arguments = [command, *given, f"{field}={value}"]
            if field not in ("--store", "--output", "--config") and command in (
                "index",
                "import-poses",
                "select-subsets",
                "miniature",
            ):
                arguments += ["--store", "store"]
            code = main("datasets", COMMANDS, arguments)
            error = capsys.readouterr().err
            assert code in (0, 1, 2), (field, value)
            assert "Traceback" not in error and (code != 2 or error.count("\n") == 1), (field, value, error)


def test_an_output_never_replaces_a_pipe_or_a_device(tmp_path, capsys):
    images = index(market_root(tmp_path))
    csv = pose_csv(tmp_path, market_files())
    poses = make(ImportPosesConfig(images=images, csv=[csv]), tmp_path / "store")
    os.mkfifo(tmp_path / "pipe")
    for command in ("export-poses", "export-pairs"):
        arguments = [command, "--images", str(images), "--poses", str(poses), "--csv", str(tmp_path / "pipe")]
        assert main("datasets", COMMANDS, arguments) == 2
        assert "is not a regular file" in capsys.readouterr().err
    assert (tmp_path / "pipe").is_fifo()


def test_a_pipe_or_a_device_for_a_file_is_refused_at_once(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    images = index(market_root(tmp_path))
    done = threading.Event()

    def attack():
        for path in (str(tmp_path / "pipe"), "/dev/zero", "/dev/stdin"):
            assert main("datasets", COMMANDS, ["index", "--root", path]) == 2
            assert main("datasets", COMMANDS, ["index", "--root", path, "--layout", "table"]) == 2
            assert main("datasets", COMMANDS, ["import-poses", "--images", str(images), "--csv", path]) == 2
            assert main("datasets", COMMANDS, ["index", "--config", path]) == 2
        done.set()

    # In the main thread, for the signal handler; the watcher opens the pipe, so that a reader would come free.
    watcher = threading.Timer(30, lambda: os.close(os.open(tmp_path / "pipe", os.O_WRONLY | os.O_NONBLOCK)))
    watcher.daemon = True
    watcher.start()
    attack()
    watcher.cancel()
    assert done.is_set() and "Traceback" not in capsys.readouterr().err


def test_names_of_a_table_in_any_script_become_samples_or_a_clear_error(tmp_path):
    names = ["caf\u00e9.jpg", "\u4eba.jpg", "with space.jpg", "a#b.jpg", "UPPER.JPG", "upper.jpg", "two.dots.jpg"]
    write_files(tmp_path / "own", {name: jpeg(n) for n, name in enumerate(names)})
    with (tmp_path / "own" / "table.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path", "pid", "camid", "split"], *([name, 1, 1, "train"] for name in names)])
    images = index(tmp_path / "own" / "table.csv", layout="table")
    assert len(read_index(images)) == len(names)
    (tmp_path / "poses.csv").write_text("\n".join([HEADER, *(f"{name}: {GOOD}: {GOOD}" for name in names)]))
    poses = make(ImportPosesConfig(images=images, csv=[tmp_path / "poses.csv"]), tmp_path / "store")
    try:
        make(WriteShardsConfig(images=images, poses=poses), tmp_path / "store")
    except InputError as error:
        assert "\n" not in str(error)


def test_there_are_many_more_than_two_hundred_malformed_inputs_in_both_files():
    here = len(STRANGE) + 20 + 16 + 7 + 14 + 20 + 24 + len(BAD_ROWS) + 10 + 3 * len(ROWS) + 9 + 6
    assert here + len(FUZZ) * sum(len(fields) for _, fields in COMMAND_FIELDS) > 600
    assert np.isfinite(here)
