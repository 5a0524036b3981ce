"""Artifacts that somebody changed: refused where they are read, in one line, before anything is made of them."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from datasets.__main__ import COMMANDS
from datasets.poses.config import ImportPosesConfig
from datasets.runtime.command_line import main
from datasets.runtime.errors import ArtifactError, InputError
from datasets.runtime.hashing import file_sha256
from datasets.runtime.manifests import MANIFEST, manifest_of
from datasets.runtime.reading.contents import CHECK_HASHES, artifact_file, artifact_files
from datasets.shards.config import WriteShardsConfig
from datasets.shards.encoded import EncodedImages
from datasets.shards.samples import sample_facts, sample_picture
from datasets.shards.tars import read_samples, write_tar
from datasets.shards.write import read_shard_index
from datasets.sources.config import IndexConfig, SelectSubsetsConfig
from datasets.sources.files import ImageSource, UnreadableFileError
from datasets.sources.index import open_images, read_index, write_index
from datasets.sources.subsets import read_subset
from imagpose.frozen.crops import load_crops
from reid.data.images import read_images
from tests.small_encoded import encoded_artifact
from tests.small_sets import finish, forge, make, market_files, pose_csv, write_files

OUTSIDE = ("../../../victim/newfile", "/etc/passwd", "a/../../b.tar", "..", "", "train-00000.tar\n", "a\0b")


@pytest.fixture
def index(tmp_path: Path) -> Path:
    root = write_files(tmp_path / "set", market_files())
    return make(IndexConfig(root=root, workers=1, max_error_percent=5), tmp_path / "store")


@pytest.fixture
def shards(tmp_path: Path, index: Path) -> Path:
    config = ImportPosesConfig(images=index, csv=[pose_csv(tmp_path, market_files())])
    poses = make(config, tmp_path / "store")
    splits = ["train", "query", "gallery"]
    return make(WriteShardsConfig(images=index, poses=poses, splits=splits), tmp_path / "store")


def change_index(shards: Path, **changes: object) -> None:
    index = json.loads((shards / "index.json").read_text())
    index["shards"][0] |= changes
    (shards / "index.json").write_text(json.dumps(index))
    forge(shards)


def only_line(error: pytest.ExceptionInfo[InputError], *words: str) -> None:
    assert "\n" not in str(error.value) and all(word in str(error.value) for word in words), str(error.value)


# Manifests.

DEEP = "[" * 100_000
NO_MANIFESTS = ["", "{}", "[]", "null", "1", '"x"', DEEP, '{"stage":' + '{"a":' * 50_000, "\xff", "{]", '{"stage": 1}']


@pytest.mark.parametrize("content", NO_MANIFESTS, ids=range(len(NO_MANIFESTS)))
def test_a_manifest_that_is_none_is_told_in_one_line_with_exit_code_2(tmp_path, capsys, content):
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / MANIFEST).write_text(content, encoding="latin-1")
    arguments = ["--images", str(tmp_path / "index"), "--store", str(tmp_path / "store")]
    assert main("datasets", COMMANDS, ["select-subsets", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "cannot be read" in error


@pytest.mark.parametrize("field", ["key", "content_sha256", "config", "inputs", "files", "summary", "stage_version"])
@pytest.mark.parametrize("value", [None, 7, [], {"a": 1}, [{"name": "x"}], "absent"])
def test_a_manifest_with_a_field_absent_or_of_another_type_is_refused_or_harmless(index, field, value):
    manifest = json.loads((index / MANIFEST).read_text())
    manifest[field] = value
    if value == "absent":
        del manifest[field]
    (index / MANIFEST).write_text(json.dumps(manifest))
    try:
        read_index(index)
        SelectSubsetsConfig(images=index).further_inputs()
    except ArtifactError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(value, dict | int) and field in ("config", "summary", "stage_version")


def test_what_a_manifest_does_not_record_is_an_error_of_the_artifact(index):
    manifest = json.loads((index / MANIFEST).read_text())
    manifest["config"] = {}
    (index / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="records no 'layout'"):
        manifest_of(index)["config"]["layout"]


@pytest.mark.parametrize("name", OUTSIDE[:5])
def test_a_manifest_that_lists_files_outside_is_refused(index, name):
    manifest = json.loads((index / MANIFEST).read_text())
    manifest["files"][0]["name"] = name
    (index / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"files\.0\.name: .* leads outside"):
        manifest_of(index)


def test_a_manifest_too_large_to_be_one_is_not_read_into_memory(index):
    with (index / MANIFEST).open("r+b") as file:
        file.truncate(8 << 30)
    with pytest.raises(ArtifactError, match="has more than"):
        manifest_of(index)


# Names in index.json, and bytes that contradict it.


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_shard_named_outside_the_store_is_refused(shards, name):
    change_index(shards, name=name)
    with pytest.raises(ArtifactError) as error:
        read_shard_index(shards)
    only_line(error, "shards.0.name", "index.json")


@pytest.mark.parametrize(
    "changes", [{"sha256": "0" * 64}, {"name": "train-00007.tar"}, {"samples": -1}, {"samples": "3"}, {"sha256": None}]
)
def test_an_index_that_contradicts_the_manifest_is_refused(shards, changes):
    change_index(shards, **changes)
    with pytest.raises(ArtifactError) as error:
        read_shard_index(shards)
    only_line(error, "index.json")


def test_an_index_that_names_a_shard_twice_is_refused(shards):
    index = json.loads((shards / "index.json").read_text())
    index["shards"] *= 2
    (shards / "index.json").write_text(json.dumps(index))
    forge(shards)
    with pytest.raises(ArtifactError, match="occurs twice"):
        read_shard_index(shards)


READERS = {
    "crops": lambda shards: load_crops(shards, 32, 16),
    "images": lambda shards: read_images(shards, "train", (32, 16)),
    "test images": lambda shards: __import__("imagpose.evaluation.data", fromlist=["x"]).HeldOutImages(
        shards, (32, 16), (32, 16)
    ),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["byte", "cut", "gone", "link", "replaced"])
def test_every_reader_refuses_a_shard_whose_bytes_are_not_those_of_the_manifest(shards, reader, kind):
    READERS[reader](shards)
    split = "query" if reader == "test images" else "train"
    path = shards / f"{split}-00000.tar"
    content = path.read_bytes()
    path.unlink()
    if kind == "byte":
        place = content.index(b'"pid":') + 6
        path.write_bytes(content[:place] + b"7" + content[place + 1 :])
    elif kind == "cut":
        path.write_bytes(content[:-512])
    elif kind == "link":
        (shards.parent / "elsewhere").write_bytes(content)
        path.symlink_to(shards.parent / "elsewhere")
    elif kind == "replaced":
        path.write_bytes((shards / "gallery-00000.tar").read_bytes())
    with pytest.raises(ArtifactError) as error:
        READERS[reader](shards)
    only_line(error, str(path))


def test_a_shard_that_was_planted_beside_the_others_is_not_read(shards):
    count = len(read_images(shards, "train", (32, 16)))
    (shards / "train-00001.tar").write_bytes((shards / "gallery-00000.tar").read_bytes())
    assert len(read_images(shards, "train", (32, 16))) == count


def test_hashes_are_compared_once_a_file_and_not_at_all_where_that_is_switched_off(shards, monkeypatch):
    path = shards / "train-00000.tar"
    hashed = []
    monkeypatch.setattr(
        "datasets.runtime.reading.contents.file_sha256", lambda path: hashed.append(path) or file_sha256(path)
    )
    assert artifact_files(shards, "train-*.tar") == artifact_files(shards, "train-*.tar") == [path]
    assert hashed.count(path) == 1
    content = path.read_bytes()
    path.write_bytes(content[:600] + bytes([content[600] ^ 1]) + content[601:])
    with pytest.raises(ArtifactError, match="has other bytes than its manifest says"):
        artifact_file(shards, path.name)
    monkeypatch.setenv(CHECK_HASHES, "0")
    assert artifact_file(shards, path.name) == path
    path.write_bytes(content[:-1])
    with pytest.raises(ArtifactError, match=r"bytes, .* by its manifest"):
        artifact_file(shards, path.name)
    monkeypatch.setenv(CHECK_HASHES, "no")
    with pytest.raises(InputError, match=r"IMAGPOSE_REID_CHECK_HASHES is 'no'; set it to 1 .* or 0"):
        artifact_file(shards, "gallery-00000.tar")


def test_encoded_features_that_were_changed_are_refused_when_they_are_opened(tmp_path):
    directory = encoded_artifact(tmp_path)
    assert len(EncodedImages(directory))
    path = directory / "train-00000.tar"
    content = path.read_bytes()
    path.write_bytes(content[:-2000] + bytes([content[-2000] ^ 1]) + content[-1999:])
    with pytest.raises(ArtifactError, match="has other bytes than its manifest says"):
        EncodedImages(directory)


@pytest.mark.parametrize(
    "changes",
    [
        {"latent_shape": [10**30, 8, 4]},
        {"latent_shape": [2**21, 2**21, 2**22]},
        {"token_shape": [5]},
        {"view_size": [0, 16]},
        {"view_size": "32"},
        {"files": {}},
        {"files": [{"name": "../x.tar", "split": "train", "samples": 1}]},
        {"samples": 1e400},
    ],
)
def test_an_encoded_index_of_impossible_shapes_or_names_is_refused(tmp_path, changes):
    directory = encoded_artifact(tmp_path)
    index = json.loads((directory / "index.json").read_text())
    (directory / "index.json").write_text(json.dumps(index | changes))
    forge(directory)
    with pytest.raises(ArtifactError) as error:
        EncodedImages(directory)
    only_line(error, "index.json")


# Rows of tables.


def change_rows(index: Path, **columns: str) -> pd.DataFrame:
    rows = read_index(index, usable=False)
    for name, value in columns.items():
        rows.loc[rows["status"] == "ok", name] = value
    write_index(rows, index)
    forge(index)
    return rows


@pytest.mark.parametrize("path", ["../../../etc/passwd", "/etc/passwd", "", "a/../../b.jpg", "..\\b.jpg", "c:/x.jpg"])
def test_an_index_row_that_leads_outside_is_refused_where_it_is_read(index, path):
    change_rows(index, path=path)
    with pytest.raises(ArtifactError, match="leads out of the data set"):
        read_index(index)


@pytest.mark.parametrize("key", ["../../x", "/x", "a/b", "", "a\nb", "a\x1b[2J"])
def test_an_index_row_whose_key_is_no_files_name_is_refused(index, key):
    change_rows(index, key=key)
    with pytest.raises(ArtifactError, match="is not a file's name"):
        read_index(index)


def test_a_source_reads_nothing_outside_whoever_asks(tmp_path):
    write_files(tmp_path, {"victim": b"secret", "set/a.jpg": b"x"})
    source = ImageSource(tmp_path / "set")
    for path in ("../victim", str(tmp_path / "victim"), "a/../../victim"):
        with pytest.raises(UnreadableFileError, match="leads outside"):
            source.read(path)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(200) + b"PAR1", b"text"])
def test_a_table_that_is_no_parquet_or_of_other_columns_is_refused_in_one_line(index, content):
    for file in (content, None):
        if file is None:
            pd.DataFrame({"key": ["a"], "status": ["ok"]}).to_parquet(index / "images.parquet")
        else:
            (index / "images.parquet").write_bytes(file)
        forge(index)
        with pytest.raises(ArtifactError) as error:
            read_index(index)
        only_line(error, "images.parquet")


def test_a_subset_table_that_was_changed_is_refused(tmp_path, index):
    subsets = make(SelectSubsetsConfig(images=index), tmp_path / "store")
    pd.DataFrame({"draw": ["first"], "fraction": [20], "key": ["x"]}).to_parquet(subsets / "subsets.parquet")
    with pytest.raises(ArtifactError, match=r"subsets\.parquet has"):
        read_subset(subsets, 20)
    forge(subsets)
    with pytest.raises(ArtifactError, match="cannot be read as a table"):
        read_subset(subsets, 20)


@pytest.mark.parametrize("name", ["key", "path", "status", "sha256"])
def test_text_that_is_not_utf8_is_refused_where_the_table_is_read(index, name):
    """Found by the fuzz run: the row was read, and whoever looked at the cell first got a UnicodeDecodeError."""
    table = pq.read_table(index / "images.parquet")
    broken = pa.array([b"\xb0002"] * len(table), pa.binary()).view(pa.string())
    pq.write_table(table.set_column(table.column_names.index(name), name, broken), index / "images.parquet")
    forge(index)
    with pytest.raises(ArtifactError, match="cannot be read as a table"):
        read_index(index)


@pytest.mark.parametrize("value", [["market1501"], {"a": 1}, None, 7, ""])
def test_a_manifest_that_records_something_else_as_layout_or_root_is_refused(index, value):
    """Found by the fuzz run: a layout that is a list cannot be looked up by name."""
    manifest = json.loads((index / MANIFEST).read_text())
    for field in ("layout", "root"):
        changed = manifest | {"config": manifest["config"] | {field: value}}
        (index / MANIFEST).write_text(json.dumps(changed))
        with pytest.raises(InputError, match=r"is no layout|records no path as 'root'"):
            open_images(index)


@pytest.mark.parametrize("value", ["6", [6], {"a": 6}, None, 1.5, True])
def test_a_figure_of_a_summary_that_is_no_number_is_refused_where_it_is_read(tmp_path, index, value):
    """Found by the fuzz run: a card formatted whatever the index's summary called a count."""
    poses = make(ImportPosesConfig(images=index, csv=[pose_csv(tmp_path, market_files())]), tmp_path / "store")
    manifest = json.loads((index / MANIFEST).read_text())
    manifest["summary"]["turned_or_gray"] = value
    (index / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"the summary in a manifest of stage 'index' .*turned_or_gray"):
        make(WriteShardsConfig(images=index, poses=poses), tmp_path / "store")


@pytest.mark.parametrize("header", [b"{'descr': ('<f2", b"((((", b"[" * 500, b"\xff" * 60, b"{}", b"{'a':"])
def test_a_features_header_that_is_none_is_told_with_file_and_sample(tmp_path, header):
    """Found by the fuzz run: NumPy's reader of headers lets a TokenError through."""
    directory = encoded_artifact(tmp_path)
    path = directory / "train-00000.tar"
    content = path.read_bytes()
    start = content.index(b"{'descr'")
    path.write_bytes(content[:start] + header.ljust(100)[:100] + content[start + 100 :])
    forge(directory)
    with pytest.raises(ArtifactError, match=r"sample '.*' is corrupt"):
        EncodedImages(directory)


# Samples.


PLACE = Path("train-00000.tar")
GOOD = {"pid": 1, "camid": 1, "split": "train", "width": 4, "height": 8, "keypoints": [[None, None, 0.0]] * 18}
BAD_FACTS = [
    b"",
    b"[]",
    b"null",
    DEEP.encode(),
    b'{"a":' * 100_000,
    b"\xff\xfe",
    b'{"pid": 1' + b" " * (2 << 20) + b"}",
    *(
        json.dumps(GOOD | changes).encode()
        for changes in (
            {"pid": "1"},
            {"pid": 1.5},
            {"pid": 2**40},
            {"pid": None},
            {"camid": True},
            {"width": 0},
            {"height": -8},
            {"width": 1e999},
            {"keypoints": []},
            {"keypoints": [[1, 2]] * 18},
            {"keypoints": [[1, 2, "x"]] * 18},
            {"keypoints": [[float("nan"), 2, 1]] * 18},
            {"keypoints": [[1e300, 2, 1]] * 18},
            {"keypoints": {}},
            {"crop": [0, 0, 4]} | {"width": None},
            *({"crop": box} for box in ([], [0, 0, 4], [0, 0, 0, 4], [0, 0, 1_000, 4], [-1, 0, 4, 4])),
            {"key": "another"},
        )
    ),
]


@pytest.mark.parametrize("content", BAD_FACTS, ids=range(len(BAD_FACTS)))
def test_a_samples_json_that_is_not_one_is_told_with_file_and_sample(content):
    with pytest.raises(ArtifactError) as error:
        sample_facts(PLACE, "a", {"json": content}, "pid", "camid", "width", "height", "keypoints")
    only_line(error, str(PLACE), "sample 'a'")


def picture(size: tuple[int, int], kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("1", size).convert("RGB" if kind == "JPEG" else "1").save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("content", [picture((20_000, 20_000)), b"", b"\xff\xd8\xff", b"%!PS-Adobe", None])
def test_a_bomb_or_what_is_no_picture_in_a_shard_is_told_with_file_and_sample(content):
    members = {} if content is None else {"jpg": content}
    with pytest.raises(ArtifactError) as error:
        sample_picture(PLACE, "a", members, GOOD)
    only_line(error, str(PLACE), "sample 'a'")


@pytest.mark.parametrize("reader", ["crops", "images"])
@pytest.mark.parametrize("kind", ["bomb", "deep", "list"])
def test_a_forged_shard_is_told_in_one_line_by_its_readers(tmp_path, reader, kind):
    jpeg = picture((20_000, 20_000)) if kind == "bomb" else picture((4, 8), "JPEG")
    facts = {"bomb": json.dumps(GOOD), "deep": '{"pid": 1, "camid": 1, "x": ' + DEEP, "list": "[]"}[kind]
    write_tar(tmp_path / "train-00000.tar", iter([("a.jpg", jpeg), ("a.json", facts.encode())]))
    with pytest.raises(ArtifactError) as error:
        READERS[reader](finish(tmp_path, "write-shards"))
    only_line(error, "sample 'a'")


def test_facts_of_a_real_sample_pass_unchanged(shards):
    for path in artifact_files(shards, "*.tar"):
        for key, members in read_samples(path):
            facts = sample_facts(path, key, members, "pid", "camid", "split", "width", "height", "keypoints")
            assert facts == json.loads(members["json"])
            assert np.asarray(sample_picture(path, key, members, facts)).shape == (64, 32, 3)
