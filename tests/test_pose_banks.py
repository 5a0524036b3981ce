"""Poses of another data set: read into the view, refused where an image is shared, recorded, and judged by re-ID."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest

from datasets.poses.bank import read_pose_bank
from datasets.poses.config import ImportPosesConfig
from datasets.runtime.artifacts import build
from datasets.runtime.config import Artifact, StageConfig
from datasets.runtime.errors import InputError
from datasets.runtime.keys import artifact_key, describe_config
from datasets.runtime.manifests import manifest_of
from datasets.shards.encoded import EncodedImages, keypoints_to_json
from datasets.shards.tars import read_samples, write_tar
from datasets.sources.config import IndexConfig
from imagpose.config import SynthesizeConfig
from imagpose.synthesis.lent_poses import lend_poses
from imagpose.synthesis.synthesize import make_synthetic
from reid.data.training_set import read_synthetic_table, refuse_leak
from tests import small_sets
from tests.test_imagpose_pipeline import HEIGHT, LATENTS, TOKENS, WIDTH, pose, tiny_pipeline


class ShardsConfig(StageConfig):
    stage: ClassVar[str] = "write-shards"
    package: ClassVar[str] = "tests"
    images: Artifact


class EncodeConfig(StageConfig):
    stage: ClassVar[str] = "encode"
    package: ClassVar[str] = "tests"
    shards: Artifact


class TrainConfig(StageConfig):
    stage: ClassVar[str] = "train-imagpose"
    package: ClassVar[str] = "tests"
    encoded: Artifact


def make_encoded(config: EncodeConfig, folder: Path) -> dict[str, Any]:
    """Two people of two images each."""
    members, rng = [], np.random.default_rng(0)
    for number in range(4):
        key = f"{2 + number // 2:04d}_c{1 + number % 2}s1_{number:06d}_01"
        facts = {"pid": 2 + number // 2, "camid": 1 + number % 2, "split": "train", "role": "person"}
        facts |= {"width": WIDTH, "height": HEIGHT, "keypoints": keypoints_to_json(pose(number))}
        members.append((f"{key}.json", json.dumps(facts).encode()))
        for name, shape in (("latent", LATENTS), ("tokens", TOKENS)):
            buffer = io.BytesIO()
            np.save(buffer, rng.normal(size=(1, *shape)).astype(np.float16))
            members.append((f"{key}.{name}.npy", buffer.getvalue()))
    write_tar(folder / "train-00000.tar", iter(members))
    index = {"files": [{"name": "train-00000.tar", "split": "train", "samples": 4}], "samples": 4, "flipped": False}
    index |= {"view_size": [HEIGHT, WIDTH], "latent_shape": LATENTS, "token_shape": TOKENS}
    (folder / "index.json").write_text(json.dumps(index))
    return {}


def skeletons(store: Path, index: Path) -> Path:
    """Skeletons of every image of an index, by a keypoint file; person 1001, who is tested, stands elsewhere."""
    lines = ["name:keypoints_y:keypoints_x"]
    for row in pd.read_parquet(index / "images.parquet").itertuples():
        x = 5 if row.pid == 1001 else 15
        name = row.path.rpartition("/")[2]
        lines.append(f"{name}: {[10 + 2 * joint for joint in range(18)]}: {[x] * 18}")
    file = store / f"{index.name}.csv"
    file.write_text("\n".join(lines) + "\n")
    return small_sets.make(ImportPosesConfig(images=index, csv=[file]), store)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    store = tmp_path_factory.mktemp("banks")
    own, other = (store / name for name in ("own", "other"))
    small_sets.market_root(own)
    files = small_sets.market_files()
    for seed, name in enumerate(name for name in files if name.endswith("jpg")):
        files[name] = small_sets.jpeg(1000 + seed)
    small_sets.write_files(other / "Market-1501-v15.09.15", files)
    indexes = [
        small_sets.make(IndexConfig(root=root / "Market-1501-v15.09.15", layout="market1501"), store)
        for root in (own, other)
    ]
    shards = build(ShardsConfig(images=indexes[0]), lambda *_: {}, store=store)
    encoded = build(EncodeConfig(shards=shards), make_encoded, store=store)

    def save(_config: TrainConfig, folder: Path) -> dict[str, Any]:
        tiny_pipeline().save_pretrained(folder)
        return {}

    return {
        "store": store,
        "index": indexes[1],
        "encoded": encoded,
        "generator": build(TrainConfig(encoded=encoded), save, store=store),
        "bank": skeletons(store, indexes[1]),
        "own": skeletons(store, indexes[0]),
    }


def config_of(made: dict[str, Path], **fields: Any) -> SynthesizeConfig:
    settings = {"steps": 1, "images": 6, "showcase": 0, "device": "cpu", "pose_bank": made["bank"], **fields}
    return SynthesizeConfig(generator=made["generator"], encoded=made["encoded"], **settings)


def test_a_bank_holds_its_training_people_alone_in_pixels_of_the_view(made) -> None:
    bank = read_pose_bank(made["bank"], (HEIGHT, WIDTH))
    index = pd.read_parquet(made["index"] / "images.parquet")
    train = index[(index.split == "train") & (index.status == "ok")]
    assert bank.keys == [f"bank:{key}" for key in sorted(train.key)] and len(bank.keys) == 12
    expected_x = (15 + 0.5) * WIDTH / 32 - 0.5  # the pictures are 32 wide and 64 high
    np.testing.assert_allclose(bank.keypoints[:, :, 0], expected_x)
    np.testing.assert_allclose(bank.keypoints[0, :, 1], (np.arange(10, 46, 2) + 0.5) * HEIGHT / 64 - 0.5, rtol=1e-6)
    assert bank.contents == frozenset(train.sha256)


def test_a_bank_that_shares_an_image_with_the_data_set_is_refused(made) -> None:
    images = EncodedImages(made["encoded"])
    with pytest.raises(InputError, match="holds 12 images of the data set itself, test images perhaps among them"):
        lend_poses(config_of(made, pose_bank=made["own"]), images)
    with pytest.raises(ValueError, match="'reconstruction' keeps the source's own pose, so leave pose_bank out"):
        config_of(made, pose_policy="reconstruction")


def test_pictures_in_lent_poses_say_which_and_where_the_bank_is_from(made, tmp_path) -> None:
    folder = build(config_of(made), make_synthetic, output=tmp_path / "set")
    table = pd.read_parquet(folder / "synthetic.parquet")
    assert len(table) == 6 and table.target_pose_key.str.startswith("bank:").all()
    manifest = manifest_of(folder)
    recorded = manifest["summary"]["pose_bank"]
    assert (recorded["poses"], recorded["shared_images"], recorded["data_set"]) == (12, 0, "market1501")
    assert recorded["index_sha256"] == manifest_of(made["index"])["content_sha256"]
    assert Path(manifest["inputs"]["pose_bank"]["path"]) == made["bank"]
    _, members = next(iter(read_samples(next(folder.glob("synthetic-*.tar")))))
    assert json.loads(members["json"])["keypoints"][0][0] == pytest.approx((15.5 * WIDTH / 32) - 0.5, abs=1e-3)
    own = set(EncodedImages(made["encoded"]).keys)
    refuse_leak(folder, read_synthetic_table(folder), own)


def test_re_id_takes_lent_poses_only_from_a_set_that_vouches_for_its_bank(tmp_path) -> None:
    table = pd.DataFrame({"key": ["s"], "source_keys": [["a"]], "target_pose_key": ["bank:x"]})
    with pytest.raises(InputError, match=r"1 images outside the subset \(bank:x\)"):
        refuse_leak(tmp_path, table, {"a"})  # a plain folder
    for number, bank in enumerate(({"shared_images": 3}, {"shared_images": 0})):
        folder = tmp_path / str(number)
        folder.mkdir()
        small_sets.finish(folder, "synthesize", str(number), summary={"pose_bank": bank})
    with pytest.raises(InputError, match="outside the subset"):
        refuse_leak(tmp_path / "0", table, {"a"})
    refuse_leak(tmp_path / "1", table, {"a"})
    with pytest.raises(InputError, match=r"\(b\)"):
        refuse_leak(tmp_path / "1", table.assign(source_keys=[["b"]]), {"a"})


def test_a_setting_that_came_later_leaves_the_keys_of_earlier_artifacts_as_they_were(made) -> None:
    without = config_of(made, pose_bank=None)
    assert "pose_bank" not in describe_config(without)
    assert "pose_bank" in describe_config(config_of(made))
    assert artifact_key(without) != artifact_key(config_of(made))
