"""Cards of data sets: README.md and croissant.json beside the tars; Croissant's own reader gives what ours gives."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml

from datasets.poses.config import ImportPosesConfig
from datasets.runtime.cards.card import Column, DataSetCard, Table, Tar
from datasets.runtime.cards.croissant import croissant_of
from datasets.runtime.cards.markdown import readme_of
from datasets.runtime.hashing import file_sha256, json_sha256
from datasets.runtime.manifests import CARD_FILES, MANIFEST, manifest_of
from datasets.runtime.reading.names import plain_text
from datasets.runtime.verify import problems_of
from datasets.shards.card import RENDERED
from datasets.shards.config import WriteShardsConfig
from datasets.shards.tars import image_of, read_samples
from datasets.sources.config import IndexConfig
from tests.small_sets import finish, jpeg, make, market_files, market_root, pose_csv, write_files

READ_CROISSANT = """
import json, sys
import mlcroissant
dataset = mlcroissant.Dataset(sys.argv[1])
records = []
for record in dataset.records("samples"):
    record = {name.partition("/")[2]: value for name, value in record.items()}
    image = record.pop("image")
    text = {name: value.decode() for name, value in record.items() if isinstance(value, bytes)}
    records.append({**record, **text, "image": image.fp.getvalue().hex()})
issues = dataset.metadata.ctx.issues
found = {"errors": sorted(issues.errors), "warnings": sorted(issues.warnings), "records": records}
print(json.dumps(found, default=lambda value: value.decode() if isinstance(value, bytes) else float(value)))
"""


def read_croissant(folder, cache):
    """What `mlcroissant` says of a set, in a process and with a cache of its own: it finds unpacked tars by name."""
    pytest.importorskip(
        "mlcroissant", reason="mlcroissant is not installed: pip install -c constraints.txt -e '.[test]'"
    )
    result = subprocess.run(
        [sys.executable, "-c", READ_CROISSANT, str(folder / "croissant.json")],
        env={**os.environ, "CROISSANT_CACHE": str(cache)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout)


def our_samples(folder):
    return {key: members for tar in sorted(folder.glob("*.tar")) for key, members in read_samples(tar)}


def shards_of(root, files, store, *, splits=("train", "query"), per_shard=4):
    index = make(IndexConfig(root=root), store)
    poses = make(ImportPosesConfig(images=index, csv=[pose_csv(store, files)]), store)
    config = WriteShardsConfig(images=index, poses=poses, splits=list(splits), images_per_shard=per_shard)
    return make(config, store)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cards")
    files = market_files()
    (folder / "store").mkdir()
    return shards_of(market_root(folder), files, folder / "store")


def test_croissants_own_reader_gives_the_pictures_and_labels_that_ours_gives(shards, tmp_path):
    found = read_croissant(shards, tmp_path / "cache")
    assert found["errors"] == []
    assert len(found["warnings"]) == 1 and "datePublished" in found["warnings"][0]  # a date would change equal sets
    ours = our_samples(shards)
    assert len(list(shards.glob("*.tar"))) > 2 and len(found["records"]) == len(ours)
    for record in found["records"]:
        members = ours[record["key"]]
        facts = json.loads(members["json"])
        assert bytes.fromhex(record["image"]) == image_of(members)
        for name in ("pid", "camid", "split", "role", "width", "height"):
            assert record[name] == facts[name]
        joints = np.array(record["keypoints"]).reshape(18, 3)
        np.testing.assert_array_equal(joints, np.array(facts["keypoints"], dtype=float))


def test_a_card_counts_what_is_there_and_hashes_every_tar(shards):
    readme, croissant = (shards / "README.md").read_text(), json.loads((shards / "croissant.json").read_text())
    ours = our_samples(shards)
    pids = {json.loads(members["json"])["pid"] for members in ours.values()}
    assert f"| images | {len(ours)} |" in readme and f"| people | {len(pids)} |" in readme
    assert "Market-1501 is for non-commercial research only" in readme and "Zheng et al." in croissant["citeAs"]
    listed = {item["@id"]: item.get("sha256") for item in croissant["distribution"]}
    for tar in shards.glob("*.tar"):
        assert listed[tar.name] == file_sha256(tar) and file_sha256(tar) in readme
    assert manifest_of(shards)["key"] in readme


def test_equal_sets_have_equal_cards_wherever_they_lie(shards, tmp_path):
    (tmp_path / "store").mkdir()
    again = shards_of(market_root(tmp_path / "elsewhere"), market_files(), tmp_path / "store")
    for name in CARD_FILES:
        assert (again / name).read_bytes() == (shards / name).read_bytes()


def test_cards_do_not_count_in_the_content_hash_but_are_verified(shards, tmp_path):
    copy = shutil.copytree(shards, tmp_path / shards.name)
    manifest = manifest_of(copy)
    assert {file["name"] for file in manifest["files"] if not file.get("counted", True)} == CARD_FILES
    assert problems_of(copy) == []
    (copy / "README.md").write_text("something else\n")
    assert len(problems_of(copy)) == 1


def test_a_manifest_of_before_the_cards_is_intact_and_a_tar_cannot_be_left_out_of_the_count(shards, tmp_path):
    old = shutil.copytree(shards, tmp_path / shards.name)
    for name in CARD_FILES - {"README.md"}:
        (old / name).unlink()
    manifest = json.loads((old / MANIFEST).read_text())
    manifest.pop("code")
    manifest["files"] = [
        {name: value for name, value in file.items() if name != "counted"}
        for file in manifest["files"]
        if file["name"] not in CARD_FILES - {"README.md"}
    ]
    manifest["content_sha256"] = json_sha256([[file["name"], file["sha256"]] for file in manifest["files"]])
    manifest["own_sha256"] = json_sha256({name: value for name, value in manifest.items() if name != "own_sha256"})
    (old / MANIFEST).write_text(json.dumps(manifest))
    assert problems_of(old) == []
    tar = next(file for file in manifest["files"] if file["name"].endswith(".tar"))
    tar["counted"] = False
    manifest["own_sha256"] = json_sha256({name: value for name, value in manifest.items() if name != "own_sha256"})
    (old / MANIFEST).write_text(json.dumps(manifest))
    assert problems_of(old) == []  # it counts all the same
    tar["sha256"] = "0" * 64
    (old / MANIFEST).write_text(json.dumps(manifest))
    assert problems_of(old) == [f"{old / MANIFEST}: content changed"]


HOSTILE = "<script>alert(1)</script> | `x` [a](b) *c* &amp;"


def test_a_rendered_set_that_has_moved_is_still_said_to_show_nobody(tmp_path):
    files, store = market_files(), tmp_path / "store"
    root, moved = finish(market_root(tmp_path), "miniature"), tmp_path / "moved"
    index = make(IndexConfig(root=root), store)
    poses = make(ImportPosesConfig(images=index, csv=[pose_csv(store, files)]), store)
    root.rename(moved)
    shards = make(WriteShardsConfig(images=index, poses=poses, root=moved), store)
    assert RENDERED in (shards / "README.md").read_text()


def test_names_in_a_card_stay_text():
    card = DataSetCard(
        name="x",
        title=HOSTILE,
        description=HOSTILE,
        version=1,
        terms=HOSTILE,
        tars=[Tar("train-00000.tar", "train", 1, 10, "0" * 64)],
        table=Table("samples.parquet", "1" * 64, [Column("key", "sc:Text", HOSTILE)]),
        counts={HOSTILE: 1},
        identities={"train": 1},
        provenance={"source": HOSTILE, "1. |": HOSTILE},
        people=HOSTILE,
    )
    readme = readme_of(card)
    _, front, body = readme.split("---\n", 2)
    assert "<" not in body.replace("&lt;", "")
    rows = [line for line in body.splitlines() if line.startswith("|")]
    assert all(line.replace("\\|", "").count("|") in (3, 4, 5) for line in rows)
    assert yaml.safe_load(front)["pretty_name"] == HOSTILE
    assert croissant_of(card)["license"] == HOSTILE


@pytest.mark.parametrize("text", ["# a", "1. a", "- a", "a\n# b", "~~a~~", "a_b_c"])
def test_plain_text_is_one_line_of_text(text):
    shown = plain_text(text)
    assert "\n" not in shown and shown.replace("\\", "") == " ".join(text.split())
    assert shown.split()[0] not in ("#", "-", "1.")


NAMES = ("a|b", "<b>bold<b>", "0002", "NA", "x y&z")


def test_a_key_with_marks_of_html_and_tables_is_read_by_croissant(tmp_path):
    files = {f"{name}.jpg": jpeg(seed) for seed, name in enumerate(NAMES)}
    (tmp_path / "store").mkdir()
    rows = "\n".join(f'"{name}",{pid + 1},1,train' for pid, name in enumerate(files))
    root = write_files(tmp_path / "set", files) / "images.csv"
    root.write_text("path,pid,camid,split\n" + rows + "\n")
    index = make(IndexConfig(root=root, layout="table"), tmp_path / "store")
    csv = tmp_path / "poses.csv"
    csv.write_text(f"name:keypoints_y:keypoints_x\n0002.jpg: {[1] * 18}: {[1] * 18}\n")
    poses = make(ImportPosesConfig(images=index, csv=[csv]), tmp_path / "store")
    folder = make(WriteShardsConfig(images=index, poses=poses), tmp_path / "store")
    found = read_croissant(folder, tmp_path / "cache")
    assert {record["key"] for record in found["records"]} == set(our_samples(folder))
    assert len(found["records"]) == len(NAMES)
