"""Cards of synthetic sets: what Croissant's reader gives, whom the generator had seen, how pictures are marked."""

import json
from pathlib import Path

import pandas as pd

from datasets.runtime.artifacts import build
from datasets.shards.encoded import EncodedImages
from imagpose.config import BUILT_IN
from imagpose.pictures.synthetic_jpeg import SOURCE_TYPE, is_marked_synthetic
from imagpose.synthesis.card import UNKNOWN_PROTOCOL, seen_by
from imagpose.synthesis.draw_poses import make_drawn
from imagpose.synthesis.synthesize import make_synthetic
from imagpose.synthesis.tables import TABLE_SCHEMA
from tests.test_datasets_cards import our_samples, read_croissant
from tests.test_imagpose_draw_poses import StudentConfig, TrainConfig, nothing
from tests.test_imagpose_draw_poses import config_of as drawing
from tests.test_imagpose_draw_poses import made as made
from tests.test_imagpose_synthesize import config_of
from tests.test_imagpose_synthesize import inputs as inputs


def test_croissants_own_reader_gives_a_synthetic_set_as_ours_does(inputs: dict[str, Path], tmp_path: Path) -> None:
    folder = build(config_of(inputs, images=5), make_synthetic, output=tmp_path / "set")
    readme = (folder / "README.md").read_text()
    assert SOURCE_TYPE in readme and "| images | 5 |" in readme and "synthetic-00000.tar" in readme
    found = read_croissant(folder, tmp_path / "cache")
    assert found["errors"] == [] and len(found["records"]) == 5
    ours = our_samples(folder)
    table = pd.read_parquet(folder / "synthetic.parquet").set_index("key")
    for record in found["records"]:
        members = ours[record["key"]]
        facts = json.loads(members["json"])
        assert bytes.fromhex(record["image"]) == members["jpg"] and is_marked_synthetic(members["jpg"])
        for name in ("pid", "camid", "seed", "status", "target_pose_key", "generator_sha256"):
            assert record[name] == facts[name] == table.loc[record["key"], name]
        assert record["source_keys"] == facts["source_keys"]


def test_every_column_of_the_table_is_described(inputs: dict[str, Path], tmp_path: Path) -> None:
    folder = build(config_of(inputs, images=3), make_synthetic, output=tmp_path / "set")
    (records,) = json.loads((folder / "croissant.json").read_text())["recordSet"]
    assert [field["name"] for field in records["field"]] == ["key", "image", *TABLE_SCHEMA.names[1:]]


def test_a_card_says_whom_the_generator_had_seen(made: dict[str, Path]) -> None:
    keys = EncodedImages(made["encoded"], split="train").keys

    def seen(generator: Path) -> str:
        return seen_by(generator, made["encoded"], keys)

    assert "Protocol: leak-free" in seen(made["good"])
    assert "trained on 3 images" in seen_by(made["good"], made["encoded"], keys[3:])
    assert "Protocol: the papers'" in seen(made["leaky"])
    assert "Protocol: leak-free" in seen(made["foreign"]) and "another one" in seen(made["foreign"])
    heir = build(TrainConfig(encoded=made["encoded"], init_from=made["leaky"]), nothing, store=made["store"])
    assert "Protocol: the papers'" in seen(heir)
    assert "built-in generator" in seen(BUILT_IN) and "Protocol: leak-free" in seen(BUILT_IN)
    adapted = build(TrainConfig(encoded=made["encoded"], init_from=BUILT_IN), nothing, store=made["store"])
    assert "built-in generator" in seen(adapted)
    student = build(StudentConfig(encoded=made["encoded"], teacher=BUILT_IN), nothing, store=made["store"])
    assert "built-in generator" in seen(student)


def test_a_generator_whose_data_are_gone_is_not_called_leak_free(inputs: dict[str, Path]) -> None:
    assert UNKNOWN_PROTOCOL in seen_by(inputs["generator"], inputs["encoded"], [])


def test_drawn_test_images_have_a_card_too(made: dict[str, Path], tmp_path: Path) -> None:
    config = drawing(made, pose_policy="reconstruction", poses=1)
    readme = (build(config, make_drawn, output=tmp_path / "set") / "README.md").read_text()
    assert "Protocol: leak-free. Of the people who are drawn the generator had seen: 0." in readme


def test_without_the_subset_that_a_generator_was_trained_on_no_protocol_is_claimed(made: dict[str, Path]) -> None:
    class TrainOnSubset(TrainConfig):
        subset: Path = Path("gone/select-subsets/0123456789abcdef")

    generator = build(TrainOnSubset(encoded=made["encoded"]), nothing, store=made["store"])
    assert UNKNOWN_PROTOCOL in seen_by(generator, made["encoded"], EncodedImages(made["encoded"], split="train").keys)
