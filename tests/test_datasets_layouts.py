"""One declared object for each layout, pose backend and image encoder: what is registered from outside works."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from datasets.miniature.config import MiniatureConfig
from datasets.miniature.layouts import RENDERED_LAYOUTS
from datasets.poses.backends import POSE_BACKENDS, PoseBackend
from datasets.poses.config import ExtractPosesConfig
from datasets.runtime.manifests import manifest_of
from datasets.shards.config import WriteShardsConfig
from datasets.shards.tars import read_samples
from datasets.sources.config import IndexConfig
from datasets.sources.files import ImageSource, Listing, SourceEntry, image_record
from datasets.sources.layouts import LAYOUTS, Layout
from tests.small_sets import make


class Nobody:
    """A pose network that sees nobody."""

    name, weights_sha256 = "nobody", ""

    def __init__(self, weights, *, device):
        pass

    def estimate(self, images):
        return [np.empty((0, 18, 3), np.float32) for _ in images]


def list_shop(source: ImageSource) -> Listing:
    rows = []
    for entry in source.entries():
        person = int(entry.path.partition("-")[0])
        parsed = {"pid": person, "camid": 1, "sequence": 0, "frame": 0, "role": "person"}
        rows.append(image_record(entry, "train", parsed, ""))
    return Listing(rows, [])


def upper_half(width: int, height: int) -> tuple[int, int, int, int]:
    return 0, 0, width, height // 2


def photograph_shop(folder: Path) -> Path:
    folder.mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{1 + number // 2}-{number}.jpg")
    return folder


@pytest.fixture
def registered(monkeypatch):
    """A layout and a pose backend that only this test knows."""
    layout = Layout(name="shop", title="Our shop", expected="", list_images=list_shop, picture_box=upper_half)
    backend = PoseBackend(name="nobody", opener=f"{__name__}:Nobody")
    monkeypatch.setattr(LAYOUTS, "_items", {**LAYOUTS._items, "shop": layout})
    monkeypatch.setattr(POSE_BACKENDS, "_items", {**POSE_BACKENDS._items, "nobody": backend})


def test_a_layout_and_a_pose_backend_from_outside_work_from_the_index_to_the_shards(tmp_path, registered):
    store = tmp_path / "store"
    index = make(IndexConfig(root=photograph_shop(tmp_path / "shop"), layout="shop", workers=1), store)
    assert manifest_of(index)["summary"]["splits"]["train"] == {
        "images": 4,
        "identities": 2,
        "cameras": 1,
        "person images": 4,
    }
    poses = make(ExtractPosesConfig(images=index, backend="nobody", workers=1, device="cpu"), store)
    assert manifest_of(poses)["summary"]["statuses"] == {"no-person": 4}
    shards = make(WriteShardsConfig(images=index, poses=poses), store)
    assert manifest_of(shards)["summary"]["cropped_images"] == 4
    assert "\n# Image shards (Our shop layout)\n" in (shards / "README.md").read_text()
    assert [key for key, _ in read_samples(shards / "train-00000.tar")] == ["1-0", "1-1", "2-2", "2-3"]


@pytest.mark.parametrize(("field", "value"), [("frame", 20261128121500), ("pid", 2**31), ("key", "1-0.small")])
def test_what_neither_index_nor_shards_can_hold_is_set_apart_before_any_image_is_opened(field, value):
    parsed = {"pid": 1, "camid": 1, "sequence": 0, "frame": 0, "role": "person", "key": "1-0"}
    row = image_record(SourceEntry("1-0.jpg"), "train", parsed | {field: value}, "")
    assert (row["status"], row["role"]) == ("bad-name", "unknown") and str(value) in row["error"]
    assert image_record(SourceEntry("1-0.jpg"), "train", parsed, "")["status"] == ""


@pytest.mark.parametrize(
    ("config", "fields", "known"),
    [
        (
            IndexConfig,
            {"root": ".", "layout": "imagenet"},
            "'market1501', 'deepfashion', 'dukemtmc', 'occluded-duke', .*, 'table'",
        ),
        (ExtractPosesConfig, {"images": ".", "backend": "yolo"}, "'openpose-tiny', 'openpose'"),
        (MiniatureConfig, {"layout": "table"}, "'market1501', 'deepfashion'"),
    ],
)
def test_an_unknown_name_is_answered_with_the_known_ones(config, fields, known):
    with pytest.raises(ValidationError, match=f"known: {known}$|known: {known} "):
        config(**fields)


def test_every_layout_that_can_be_rendered_can_be_read():
    assert set(RENDERED_LAYOUTS) <= set(LAYOUTS)


def test_a_layout_of_an_extension_that_is_not_loaded_is_said_before_any_shard(tmp_path, registered, monkeypatch):
    store = tmp_path / "store"
    index = make(IndexConfig(root=photograph_shop(tmp_path / "shop"), layout="shop", workers=1), store)
    poses = make(ExtractPosesConfig(images=index, backend="nobody", workers=1, device="cpu"), store)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="'shop' is no layout"):
        make(WriteShardsConfig(images=index, poses=poses), store)
    assert not list(store.glob("write-shards/*/*.tar"))
