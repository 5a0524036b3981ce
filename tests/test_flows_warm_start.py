"""What training is initialized from when the data have changed."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datasets.miniature.config import MiniatureConfig
from datasets.runtime.artifacts import build
from datasets.runtime.keys import artifact_directory
from datasets.shards.config import EncodeConfig, WriteShardsConfig
from datasets.sources.config import IndexConfig, SelectSubsetsConfig
from datasets.sources.index import write_index
from datasets.sources.subsets import SCHEMA, SUBSETS_FILE
from flows.warm_start import starting_point
from imagpose.config import TrainGeneratorConfig

KEYS = [f"{number:04d}" for number in range(20)]


class Store:
    """Artifacts of the right stages with next to nothing in them."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "store"
        self.model = folder / "model"
        self.model.mkdir()
        (self.model / "config.json").write_text("{}")

    def made(self, config, **files: bytes) -> Path:
        def write(_, directory: Path) -> dict[str, object]:
            for name, content in files.items():
                (directory / name).write_bytes(content)
            return {}

        return build(config, write, store=self.root)

    def encoded(self, content: str) -> Path:
        blank = self.made(MiniatureConfig(seed=sum(content.encode())), images=content.encode())
        shards = self.made(WriteShardsConfig(images=blank, poses=blank), tar=content.encode())
        return self.made(
            EncodeConfig(shards=shards, vae=self.model, image_encoder=self.model), features=content.encode()
        )

    def index(self, content: str) -> Path:
        rows = [
            {"key": key, "path": f"{key}.jpg", "split": "train", "pid": 1, "camid": 1, "role": "person"}
            | {
                "sequence": 1,
                "frame": 1,
                "width": 64,
                "height": 128,
                "sha256": content + key,
                "status": "ok",
                "error": "",
            }
            for key in KEYS
        ]
        root = self.root / f"people-{content}"
        root.mkdir(parents=True, exist_ok=True)
        return build(
            IndexConfig(root=root),
            lambda _, directory: write_index(pd.DataFrame(rows), directory) or {},
            store=self.root / content,
        )

    def subset(self, keys: list[str], seed: int, content: str = "a") -> Path:
        def write(_, directory: Path) -> dict[str, object]:
            rows = [{"draw": 0, "fraction": 40, "key": key} for key in keys]
            pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), directory / SUBSETS_FILE)
            return {}

        images = self.index(content)
        return build(SelectSubsetsConfig(images=images, seed=seed), write, store=self.root)

    def trained(self, config: TrainGeneratorConfig) -> Path:
        return self.made(config, unet=str(config.encoded).encode())


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def test_the_first_training_starts_from_scratch(store):
    wanted = TrainGeneratorConfig(encoded=store.encoded("old"))
    assert starting_point(wanted, store.root) == wanted


def test_new_images_are_learned_from_where_the_last_training_ended(store):
    first = store.trained(TrainGeneratorConfig(encoded=store.encoded("old")))
    wanted = starting_point(TrainGeneratorConfig(encoded=store.encoded("new")), store.root)
    assert wanted.init_from == first


def test_the_same_data_again_are_not_learned_twice(store):
    store.trained(TrainGeneratorConfig(encoded=store.encoded("old")))
    second = store.trained(starting_point(TrainGeneratorConfig(encoded=store.encoded("new")), store.root))
    for content, folder in (("new", second), ("new", second)):
        again = starting_point(TrainGeneratorConfig(encoded=store.encoded(content)), store.root)
        assert artifact_directory(again, store.root) == folder


def test_a_third_change_goes_on_from_the_second(store):
    store.trained(TrainGeneratorConfig(encoded=store.encoded("old")))
    second = store.trained(starting_point(TrainGeneratorConfig(encoded=store.encoded("new")), store.root))
    manifest = second / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"started": "2', '"started": "9'))  # the newest without doubt
    wanted = starting_point(TrainGeneratorConfig(encoded=store.encoded("newer")), store.root)
    assert wanted.init_from == second


def test_other_settings_are_not_gone_on_from(store):
    store.trained(TrainGeneratorConfig(encoded=store.encoded("old")))
    wanted = TrainGeneratorConfig(encoded=store.encoded("new"), learning_rate=2e-3)
    assert starting_point(wanted, store.root) == wanted
    runtime = TrainGeneratorConfig(encoded=store.encoded("new"), log_every=7, device="cpu")
    assert starting_point(runtime, store.root).init_from is not None


@pytest.mark.parametrize(("new_keys", "goes_on"), [(KEYS[:12], True), (KEYS[1:13], False)])
def test_a_generator_that_saw_an_image_outside_the_new_subset_is_not_gone_on_from(store, new_keys, goes_on):
    part = {"fraction": 40, "draw": 0}
    first = store.trained(TrainGeneratorConfig(encoded=store.encoded("old"), subset=store.subset(KEYS[:8], 1), **part))
    wanted = TrainGeneratorConfig(encoded=store.encoded("new"), subset=store.subset(new_keys, 2), **part)
    assert starting_point(wanted, store.root).init_from == (first if goes_on else None)


PART = {"fraction": 40, "draw": 0}


def test_a_generator_that_saw_other_images_of_the_same_names_is_not_gone_on_from(store):
    store.trained(TrainGeneratorConfig(encoded=store.encoded("old"), subset=store.subset(KEYS[:8], 1), **PART))
    wanted = TrainGeneratorConfig(encoded=store.encoded("new"), subset=store.subset(KEYS[:12], 2, "b"), **PART)
    assert starting_point(wanted, store.root) == wanted


@pytest.mark.parametrize("earliest", [{"subset": KEYS[6:14], **PART}, {}], ids=["another subset", "all images"])
def test_what_an_earlier_generator_was_itself_continued_from_counts_as_well(store, earliest):
    if earliest:
        earliest = earliest | {"subset": store.subset(earliest["subset"], 3)}
    oldest = store.trained(TrainGeneratorConfig(encoded=store.encoded("oldest"), **earliest))
    by_hand = {"subset": store.subset(KEYS[:8], 1), "init_from": oldest, **PART}
    store.trained(TrainGeneratorConfig(encoded=store.encoded("old"), **by_hand))
    wanted = TrainGeneratorConfig(encoded=store.encoded("new"), subset=store.subset(KEYS[:12], 2), **PART)
    assert starting_point(wanted, store.root) == wanted


def test_a_generator_that_is_older_than_a_setting_is_gone_on_from(store):
    first = store.trained(TrainGeneratorConfig(encoded=store.encoded("old")))
    manifest = json.loads((first / "manifest.json").read_text())
    del manifest["config"]["model"]["joint_canvas"]  # an `AddedLater`, which leaves the key as it was
    (first / "manifest.json").write_text(json.dumps(manifest))
    wanted = starting_point(TrainGeneratorConfig(encoded=store.encoded("new")), store.root)
    assert wanted.init_from == first
