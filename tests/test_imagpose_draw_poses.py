"""Test images in standard poses: the rule that chooses them, the set, and whom its generator may have seen."""

import io
import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest

from datasets.runtime.artifacts import build
from datasets.runtime.config import Artifact, ModelFolder, SourceTree, StageConfig
from datasets.runtime.errors import InputError
from datasets.runtime.manifests import manifest_of
from datasets.shards.encoded import keypoints_to_json
from datasets.shards.tars import read_samples, write_tar
from imagpose.config import BUILT_IN, DrawPosesConfig
from imagpose.synthesis import draw_poses
from imagpose.synthesis.draw_poses import make_drawn
from imagpose.synthesis.seen import identities_seen
from imagpose.synthesis.standard_poses import STANDARD_POSES, choose_standard_poses, direction, stride
from tests.test_imagpose_pipeline import HEIGHT, LATENTS, TOKENS, WIDTH, tiny_pipeline

HEAD = [[50, 8], [50, 18]]
ARMS = [[38, 18], [34, 33], [32, 46], [62, 18], [66, 33], [68, 46]]
LEGS = [[43, 50], [42, 71], [42, 92], [57, 50], [58, 71], [58, 92]]
EYES_AND_EARS = [[48, 6], [52, 6], [45, 7], [55, 7]]
STANDING = np.array([*HEAD, *ARMS, *LEGS, *EYES_AND_EARS], dtype=float)
"""A person seen from the front, percent of width and height."""


def body(facing: str, apart: float = 16, noise: int | None = None) -> np.ndarray:
    """(18, 3) keypoints in view pixels; the ankles `apart` percent from each other."""
    points = STANDING.copy()
    points[[10, 13], 0] = 50 - apart / 2, 50 + apart / 2
    if facing == "back":
        points[:, 0] = 100 - points[:, 0]
    elif facing in ("left", "right"):
        points[[2, 5, 8, 11], 0] = 50
        points[[0, 14, 15, 16, 17], 0] = 40 if facing == "left" else 60
    if noise is not None:
        points += np.random.default_rng(noise).normal(0, 0.2, points.shape)
    pixels = points / 100 * [WIDTH - 1, HEIGHT - 1]
    return np.column_stack([pixels, np.ones(18)]).astype(np.float32)


class IndexConfig(StageConfig):
    stage: ClassVar[str] = "index"
    package: ClassVar[str] = "tests"
    root: SourceTree
    contents: list[str]


class ShardsConfig(StageConfig):
    stage: ClassVar[str] = "write-shards"
    package: ClassVar[str] = "tests"
    images: Artifact


class EncodeConfig(StageConfig):
    stage: ClassVar[str] = "encode"
    package: ClassVar[str] = "tests"
    shards: Artifact
    people: dict[str, list[int]]


class TrainConfig(StageConfig):
    stage: ClassVar[str] = "train-imagpose"
    package: ClassVar[str] = "tests"
    encoded: Artifact
    init_from: ModelFolder | None = None


class StudentConfig(StageConfig):
    stage: ClassVar[str] = "distill-imagpose"
    package: ClassVar[str] = "tests"
    encoded: Artifact
    teacher: ModelFolder


def make_index(config: IndexConfig, folder: Path) -> dict[str, Any]:
    pd.DataFrame({"sha256": [*config.contents, ""]}).to_parquet(folder / "images.parquet")
    return {}


def make_shards(config: ShardsConfig, folder: Path) -> dict[str, Any]:
    (folder / "images.parquet").write_bytes((config.images / "images.parquet").read_bytes())
    return {}


def make_encoded(config: EncodeConfig, folder: Path) -> dict[str, Any]:
    """Two images a person of each split; training poses face every way, with short and long strides."""
    files = []
    for split, people in config.people.items():
        rng = np.random.default_rng(len(split))
        members = []
        for number, pid in enumerate(pid for pid in people for _ in range(2)):
            key = f"{pid:04d}_c{1 + number % 2}s1_{number:06d}_{len(split):02d}"
            joints = body(("front", "back", "left", "right")[number % 4], 4 + 3 * (number // 4), noise=number)
            joints = np.full_like(joints, np.nan) if pid == 0 else joints  # a distractor is often nobody
            facts = {"pid": pid, "camid": 1 + number % 2, "split": split, "keypoints": keypoints_to_json(joints)}
            members.append((f"{key}.json", json.dumps(facts).encode()))
            for name, shape in (("latent", LATENTS), ("tokens", TOKENS)):
                buffer = io.BytesIO()
                np.save(buffer, rng.normal(size=(1, *shape)).astype(np.float16))
                members.append((f"{key}.{name}.npy", buffer.getvalue()))
        write_tar(folder / f"{split}-00000.tar", iter(members))
        files.append({"name": f"{split}-00000.tar", "split": split, "samples": 2 * len(people)})
    index = {
        "files": files,
        "samples": sum(file["samples"] for file in files),
        "view_size": [HEIGHT, WIDTH],
        "latent_shape": LATENTS,
        "token_shape": TOKENS,
    }
    (folder / "index.json").write_text(json.dumps({**index, "flipped": False}))
    return {}


def make_generator(_config: TrainConfig, folder: Path) -> dict[str, Any]:
    tiny_pipeline().save_pretrained(folder)
    return {}


def nothing(_config: StageConfig, _folder: Path) -> dict[str, Any]:
    return {}


def encoded(store: Path, root: str, people: dict[str, list[int]], *contents: str) -> Path:
    (store / root).mkdir(exist_ok=True)
    (store / root / "an-image").write_text(root)
    index = build(IndexConfig(root=store / root, contents=list(contents)), make_index, store=store)
    shards = build(ShardsConfig(images=index), make_shards, store=store)
    return build(EncodeConfig(shards=shards, people=people), make_encoded, store=store)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A data set with people to train on (1 to 10) and others to test on, and generators that have seen either."""
    store = tmp_path_factory.mktemp("drawn")
    people = {"train": list(range(1, 11)), "query": [21, 22], "gallery": [21, 22, 0, -1]}
    everything = encoded(store, "market", people)
    slipped = encoded(store, "market", {"train": [21, 30]})
    others = encoded(store, "other", {"train": [21, 22, 30]}, "another-image")
    copied = encoded(store, "copy", {"train": [22]}, "shared-image", "one-image")
    marked = encoded(store, "marked", people, "shared-image", "two-image")
    return {
        "encoded": everything,
        "marked": marked,
        "good": build(TrainConfig(encoded=everything), make_generator, store=store),
        "leaky": build(TrainConfig(encoded=slipped), make_generator, store=store),
        "others": others,
        "foreign": build(TrainConfig(encoded=others), nothing, store=store),
        "copied": build(TrainConfig(encoded=copied), nothing, store=store),
        "store": store,
    }


# --- the rule -------------------------------------------------------------------


def test_the_rule_tells_where_a_body_faces_and_how_long_its_stride_is() -> None:
    bodies = np.stack([body(facing) for facing in ("front", "back", "left", "right")])
    assert direction(bodies).tolist() == [0, 1, 2, 3]
    unclear = body("left")
    unclear[0] = [np.nan, np.nan, 0]
    assert direction(unclear[None]).tolist() == [-1]
    short, long = stride(np.stack([body("front", 4), body("front", 30)]))
    assert long > 5 * short
    unclear[10] = [np.nan, np.nan, 0]
    assert np.isnan(stride(unclear[None])).all()


def test_one_standing_and_one_striding_pose_of_each_facing_is_chosen() -> None:
    ways = [
        (facing, apart, i)
        for i, apart in enumerate((4, 5, 6, 20, 22, 24))
        for facing in ("front", "back", "left", "right")
    ]
    keys = [f"{facing}-{apart}" for facing, apart, _ in ways]
    keypoints = np.stack([body(facing, apart) for facing, apart, _ in ways])
    chosen = choose_standard_poses(keys, keypoints, 8)
    assert [pose.name for pose in chosen] == list(STANDARD_POSES)
    for pose in chosen:
        facing, _, way = pose.name.partition("-")
        assert pose.key.startswith(facing)
        assert (int(pose.key.split("-")[1]) < 10) == (way == "standing")
    order = np.random.default_rng(0).permutation(len(keys))
    again = choose_standard_poses([keys[i] for i in order], keypoints[order], 4)
    assert [(pose.name, pose.key) for pose in again] == [(pose.name, pose.key) for pose in chosen[:4]]


def test_a_group_is_stood_for_by_the_pose_nearest_to_all_others() -> None:
    odd = body("front")
    odd[[4, 7], 1] = 1  # both hands up
    keypoints = np.stack([odd, *(body("front", noise=i) for i in range(6))])
    assert choose_standard_poses(list("abcdefg"), keypoints, 1)[0].key != "a"
    with pytest.raises(InputError, match="none of 1 training poses shows 14 joints"):
        choose_standard_poses(["a"], np.full((1, 18, 3), np.nan), 8)


# --- the set --------------------------------------------------------------------


def config_of(made: dict[str, Path], **fields: Any) -> DrawPosesConfig:
    defaults = {"generator": made["good"], "encoded": made["encoded"], "steps": 1, "images_per_shard": 20}
    return DrawPosesConfig(**(defaults | fields), device="cpu")


def test_every_ranked_test_image_is_drawn_in_the_standard_poses_of_training_images(
    made: dict[str, Path], tmp_path: Path
) -> None:
    folder = build(config_of(made, poses=4), make_drawn, output=tmp_path / "set")
    table = pd.read_parquet(folder / "synthetic.parquet")
    sources = table.source_keys.map(lambda keys: keys[0])
    assert sorted(table.pid.unique()) == [0, 21, 22]  # junk is not ranked, a distractor is
    assert sources.value_counts().eq(4).all() and sources.nunique() == 10
    published = json.loads((folder / "standard_poses.json").read_text())["poses"]
    assert [row["name"] for row in published] == list(STANDARD_POSES[:4])
    assert set(table.target_pose_key) == {row["key"] for row in published}
    assert all(1 <= int(key[:4]) <= 10 for key in table.target_pose_key)
    samples = dict(s for tar in sorted(folder.glob("synthetic-*.tar")) for s in read_samples(tar))
    assert list(samples) == table.key.tolist() and table.key.is_unique
    summary = manifest_of(folder)["summary"]
    assert (summary["test_identities_seen"], summary["drawn_images"], summary["images"]) == (0, 10, 40)
    assert json.loads(samples[table.key[0]]["json"])["keypoints"] == published[0]["keypoints"]
    took = json.loads((folder / "logs" / "drawing.json").read_text())
    assert took["pictures"] == 40 and took["seconds"] > 0


def test_reconstructions_keep_each_images_own_pose(made: dict[str, Path], tmp_path: Path) -> None:
    config = config_of(made, pose_policy="reconstruction", poses=1)
    folder = build(config, make_drawn, output=tmp_path / "set")
    table = pd.read_parquet(folder / "synthetic.parquet")
    assert len(table) == 8
    assert manifest_of(folder)["summary"]["without_pose"] == 2  # without a skeleton there is no own pose
    assert all(row.source_keys.tolist() == [row.target_pose_key] for row in table.itertuples())


def test_reconstructions_without_any_skeleton_are_refused(made: dict[str, Path], tmp_path: Path, monkeypatch) -> None:
    """Market-1501's published keypoints have no queries: an empty set would only fail later, and elsewhere."""
    monkeypatch.setattr(draw_poses, "visible_keypoints", lambda _: 0)
    with pytest.raises(InputError, match=r"none of the 10 images of query, gallery .* has a skeleton"):
        make_drawn(config_of(made, pose_policy="reconstruction"), tmp_path)


# --- what the generator has seen ------------------------------------------------


def test_a_generator_that_was_trained_on_drawn_people_is_refused(made: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="was trained on 1 of the people who are to be drawn"):
        make_drawn(config_of(made, generator=made["leaky"]), tmp_path)
    config = config_of(made, generator=made["leaky"], protocol="paper", poses=1, splits=["query"])
    assert make_drawn(config, tmp_path)["test_identities_seen"] == 1


def test_people_are_compared_within_a_data_set_and_along_the_chain_of_bases(made: dict[str, Path]) -> None:
    test = {21, 22}
    assert identities_seen(made["foreign"], made["encoded"], test) == 0  # other people under the same numbers
    assert identities_seen(made["copied"], made["marked"], test) == 1  # another folder with an image of this set
    config = TrainConfig(encoded=made["encoded"], init_from=made["leaky"])
    heir = build(config, nothing, store=made["store"])
    assert identities_seen(heir, made["encoded"], test) == 1
    student = build(StudentConfig(encoded=made["others"], teacher=heir), nothing, store=made["store"])
    assert identities_seen(student, made["encoded"], test) == 1
    assert identities_seen(BUILT_IN, made["encoded"], test) == 0
    assert identities_seen(made["store"], made["encoded"], test) is None  # it does not say
