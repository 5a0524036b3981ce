import io
import json
import os
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from datasets.runtime.artifacts import build
from datasets.runtime.config import StageConfig
from datasets.runtime.errors import InputError
from reid.config import (
    AugmentationConfig,
    BatchConfig,
    EmbedConfig,
    EvaluateReidConfig,
    ExportConfig,
    NetworkConfig,
    ScheduleConfig,
    TrainReidConfig,
)
from reid.evaluation.evaluate import make_evaluation
from reid.export import export
from reid.export.embed import make_features
from reid.export.export import make_export
from reid.training.train import make_run


class ShardsConfig(StageConfig):
    stage: ClassVar[str] = "write-shards"
    package: ClassVar[str] = "tests"


def picture(pid, rng):
    colors = np.random.default_rng(pid).integers(0, 256, (4, 1, 3))
    return np.clip(np.repeat(colors, 8, axis=0).repeat(16, axis=1) + rng.normal(0, 20, (32, 16, 3)), 0, 255)


def write_shard(folder, split, pids, images, rng):
    with tarfile.open(folder / f"{split}-00000.tar", "w") as tar:
        for key, pid, camid in [(f"{split}{pid}_{i}", pid, 1 + i % 2) for pid in pids for i in range(images)]:
            file = io.BytesIO()
            Image.fromarray(picture(pid, rng).astype(np.uint8)).save(file, "JPEG")
            facts = json.dumps({"key": key, "pid": pid, "camid": camid, "split": split}).encode()
            for suffix, data in (("jpg", file.getvalue()), ("json", facts)):
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Shards of a few striped people and a network that was trained on them for a moment."""
    store = tmp_path_factory.mktemp("export")
    rng = np.random.default_rng(0)

    def make_shards(_config, folder):
        write_shard(folder, "train", range(1, 7), 4, rng)
        write_shard(folder, "query", range(11, 16), 1, rng)
        write_shard(folder, "gallery", range(11, 16), 4, rng)
        return {}

    shards = build(ShardsConfig(), make_shards, store=store)
    config = TrainReidConfig(
        shards=shards,
        test_shards=shards,
        network=NetworkConfig(backbone="test_resnet.r160_in1k", weights="none", height=32, width=16),
        augmentation=AugmentationConfig(padding=1),
        batch=BatchConfig(identities=4, images=4),
        schedule=ScheduleConfig(steps=5, learning_rate=6e-3, decay="cosine"),
    )
    return {"store": store, "shards": shards, "run": build(config, make_run, store=store)}


def figures(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_embedded_features_are_tested_as_the_network_itself(world):
    embedded = build(EmbedConfig(images=world["shards"], run=world["run"]), make_features, store=world["store"])
    table = pd.read_parquet(embedded / "features.parquet")
    assert table.columns.tolist() == ["key", "split", "pid", "camid", "feature"]
    assert table.split.value_counts().to_dict() == {"train": 24, "query": 5, "gallery": 20}
    tested = build(EvaluateReidConfig(features=embedded / "features.parquet"), make_evaluation, store=world["store"])
    own, found = figures(world["run"]), figures(tested)
    assert {name: own[name] for name in found} == found


def test_a_folder_of_pictures_without_labels_gets_keys_paths_and_features(world, tmp_path):
    rng = np.random.default_rng(1)
    for name in ("a.png", "below/b.jpg", "below/c.jpeg"):
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(3, rng).astype(np.uint8)).save(tmp_path / "pictures" / name)
    config = EmbedConfig(images=tmp_path / "pictures", run=world["run"], batch_size=2)
    assert make_features(config, tmp_path)["images"] == 3
    table = pd.read_parquet(tmp_path / "features.parquet")
    assert table.columns.tolist() == ["key", "path", "feature"]
    assert table.key.tolist() == ["a", "below_b", "below_c"]
    assert table.path.tolist() == ["a.png", "below/b.jpg", "below/c.jpeg"]
    (tmp_path / "pictures" / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"a\.jpg and a\.png both get the key 'a'"):
        make_features(config, tmp_path)
    (tmp_path / "pictures" / "a.png").unlink()
    undecodable = Path(os.fsdecode(os.fsencode(tmp_path / "pictures") + b"/\xff.png"))
    undecodable.write_bytes(b"no picture")
    with pytest.raises(InputError, match="UTF-8"):
        make_features(config, tmp_path)  # Parquet would refuse the key after the work
    undecodable.unlink()
    with pytest.raises(InputError, match="sample 'a' cannot be read"):
        make_features(config, tmp_path)


def test_a_folder_in_market1501s_layout_is_embedded_with_its_labels(world, tmp_path):
    rng = np.random.default_rng(2)
    for name in ("query/0011_c1s1_000001_01.jpg", "bounding_box_test/0011_c2s1_000002_01.jpg"):
        (tmp_path / "set" / name).parent.mkdir(parents=True)
        Image.fromarray(picture(11, rng).astype(np.uint8)).save(tmp_path / "set" / name)
    summary = make_features(EmbedConfig(images=tmp_path / "set", run=world["run"]), tmp_path)
    assert summary["splits"] == {"query": 1, "gallery": 1}
    assert pd.read_parquet(tmp_path / "features.parquet").pid.tolist() == [11, 11]


def test_a_missing_library_is_named_with_the_way_to_get_it_before_any_work(world, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)  # as if it were not installed
    monkeypatch.setattr(export, "load_network", lambda run: pytest.fail("work was begun"))
    with pytest.raises(InputError, match="onnx is not installed; run 'pip install onnx onnxruntime'"):
        make_export(ExportConfig(run=world["run"]), tmp_path)


def test_an_exported_network_gives_the_runs_own_figures_and_says_what_it_is(world):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    exported = build(ExportConfig(run=world["run"]), make_export, store=world["store"])
    facts = json.loads((exported / "model.json").read_text())
    assert facts["checked"]["difference"] <= 1e-4
    assert facts["normalization"]["mean"] == pytest.approx([0.485, 0.456, 0.406])
    assert facts["card"]["training"]["steps"] == 5
    kept = {entry.key: entry.value for entry in onnx.load(str(exported / "model.onnx")).metadata_props}
    assert json.loads(kept["reid"])["input"] == facts["input"]
    assert "(batch, 3, 32, 16), uint8" in (exported / "README.md").read_text()
    embedded = build(EmbedConfig(images=world["shards"], exported=exported), make_features, store=world["store"])
    config = EvaluateReidConfig(features=embedded / "features.parquet")
    tested = build(config, make_evaluation, store=world["store"])
    assert figures(tested)["map"] == pytest.approx(figures(world["run"])["map"], abs=1e-9)


def test_an_export_that_differs_from_pytorch_is_not_written_as_finished(world, tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(InputError, match="differs from PyTorch's"):
        build(ExportConfig(run=world["run"]), make_export, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_export_whose_features_are_no_numbers_is_not_taken_for_equal(world, tmp_path, monkeypatch):
    class Session:
        def __init__(self, *_args, **_options): ...

        def run(self, _names, given):
            return [np.full((len(given["images"]), 256), np.nan, np.float32)]

    graph = export.EmbeddingGraph(export.load_network(world["run"])[0]).eval()
    monkeypatch.setattr(graph, "forward", lambda images: torch.zeros(len(images), 256))
    settings = NetworkConfig(backbone="test_resnet.r160_in1k", weights="none", height=32, width=16)
    library = SimpleNamespace(InferenceSession=Session)
    assert not export.largest_difference(library, graph, settings, tmp_path / "model.onnx") <= export.TOLERANCE
