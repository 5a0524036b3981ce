"""Synthetic sets: the plan, the shards, resuming, marks and checks."""

import io
import json
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from datasets.runtime.artifacts import build
from datasets.runtime.config import StageConfig
from datasets.runtime.errors import ArtifactError, InputError
from datasets.runtime.hashing import file_sha256
from datasets.runtime.manifests import model_sha256
from datasets.runtime.verify import verify
from datasets.shards.encoded import EncodedImages, keypoints_from_json, keypoints_to_json
from datasets.shards.tars import read_samples, write_tar
from imagpose.config import ShowPicturesConfig, SynthesizeConfig
from imagpose.pictures.image_checks import check_generated_image
from imagpose.pictures.synthetic_jpeg import encode_synthetic_jpeg, is_marked_synthetic
from imagpose.sampling.pose_check import pose_score
from imagpose.synthesis.plan import check_leak_free, cut_shards, make_plan
from imagpose.synthesis.show_pictures import run_show_pictures
from imagpose.synthesis.synthesize import make_synthetic, plan_for
from imagpose.synthesis.synthesizer import Synthesizer
from imagpose.synthesis.viewpoints import FACINGS, facing, rarity, viewpoint
from tests.test_imagpose_pipeline import HEIGHT, LATENTS, TOKENS, WIDTH, pose, tiny_pipeline

IMAGES = {1: 5, 2: 3, 3: 1, 7: 2}  # per identity
KEYS = [f"{pid:04d}_c{i % 2 + 1}s1_{i:06d}_01" for pid, count in IMAGES.items() for i in range(count)]
SUBSET = [
    "0001_c1s1_000000_01",
    "0001_c2s1_000001_01",
    "0002_c1s1_000000_01",
    "0003_c1s1_000000_01",
    "0007_c2s1_000001_01",
]


class _Stage(StageConfig):
    """A stand-in for another stage's config."""

    stage: ClassVar[str] = "train-imagpose"
    package: ClassVar[str] = "tests"


class _Encode(_Stage):
    stage: ClassVar[str] = "encode"
    shards: str = "gone"


class _Subsets(_Stage):
    stage: ClassVar[str] = "select-subsets"


def _members() -> Iterator[tuple[str, bytes]]:
    rng = np.random.default_rng(0)
    for number, key in enumerate(KEYS):
        facts = {
            "key": key,
            "pid": int(key[:4]),
            "camid": int(key[6]),
            "split": "train",
            "role": "person",
            "width": WIDTH,
            "height": HEIGHT,
            "keypoints": keypoints_to_json(pose(number)),
        }
        yield f"{key}.json", json.dumps(facts).encode()
        for name, shape in (("latent", LATENTS), ("tokens", TOKENS)):
            buffer = io.BytesIO()
            np.save(buffer, rng.normal(size=(1, *shape)).astype(np.float16))
            yield f"{key}.{name}.npy", buffer.getvalue()


def _make_encoded(config: _Encode, directory: Path) -> dict[str, Any]:
    write_tar(directory / "train-00000.tar", _members())
    index = {
        "files": [{"name": "train-00000.tar", "split": "train", "samples": len(KEYS)}],
        "samples": len(KEYS),
        "view_size": [HEIGHT, WIDTH],
        "latent_shape": LATENTS,
        "token_shape": TOKENS,
        "flipped": False,
    }
    (directory / "index.json").write_text(json.dumps(index))
    return {}


def _make_subsets(config: _Subsets, directory: Path) -> dict[str, Any]:
    pq.write_table(
        pa.table({"draw": [0] * len(SUBSET), "fraction": [40] * len(SUBSET), "key": SUBSET}),
        directory / "subsets.parquet",
    )
    return {}


def _make_generator(config: _Stage, directory: Path) -> dict[str, Any]:
    tiny_pipeline().save_pretrained(directory)
    return {}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    store = tmp_path_factory.mktemp("store")
    return {
        "generator": build(_Stage(), _make_generator, store=store),
        "encoded": build(_Encode(), _make_encoded, store=store),
        "subset": build(_Subsets(), _make_subsets, store=store),
    }


def config_of(inputs: dict[str, Path], **fields: Any) -> SynthesizeConfig:
    defaults = {"fraction": 40, "steps": 2, "images_per_shard": 2, "batch_size": 2, "showcase": 2, "device": "cpu"}
    return SynthesizeConfig(**inputs, **(defaults | fields))


def records(keys: list[str] = KEYS) -> pd.DataFrame:
    rows = [(key, int(key[:4]), int(key[6]), pose(number)) for number, key in enumerate(keys)]
    return pd.DataFrame(rows, columns=["key", "pid", "camid", "keypoints"])


# --- the plan -----------------------------------------------------------------


def test_a_plan_is_the_same_twice_and_for_any_order_of_its_records() -> None:
    first = make_plan(records(), images=20, seed=3)
    shuffled = make_plan(records().sample(frac=1, random_state=1), images=20, seed=3)
    pd.testing.assert_frame_equal(first, shuffled)
    assert not first.equals(make_plan(records(), images=20, seed=4))


def test_a_top_up_levels_the_people_from_below() -> None:
    plan = make_plan(records(), images=12)
    totals = {pid: IMAGES[pid] + int((plan.pid == pid).sum()) for pid in IMAGES}
    # by hand: 3 (one image) and 7 (two) get the first canvases, then 2 (three), then 3 again with 4 images
    assert totals == {1: 5, 2: 6, 3: 7, 7: 5}
    assert len(make_plan(records(), images=7)) == 7


def test_among_equals_the_person_with_one_camera_comes_first() -> None:
    keys = ["0001_c1s1_000000_01", "0001_c2s1_000001_01", "0002_c1s1_000000_01", "0002_c1s1_000001_01"]
    for seed in range(5):
        assert set(make_plan(records(keys), images=3, seed=seed).pid) == {2}


def test_every_source_has_its_turn_and_every_pose_is_another_image_of_the_subset() -> None:
    plan = make_plan(records(SUBSET), images=60)
    assert {key for keys in plan.source_keys for key in keys} == set(SUBSET)
    assert set(plan.target_pose_key) <= set(SUBSET)
    assert not any(target in sources for sources, target in zip(plan.source_keys, plan.target_pose_key, strict=True))
    assert (plan.groupby("canvas").target_pose_key.nunique() == plan.groupby("canvas").size()).all()
    assert all(key[:4] == f"{pid:04d}" for pid, keys in zip(plan.pid, plan.source_keys, strict=True) for key in keys)


@pytest.mark.parametrize("policy", ["top-up", "paper"])
def test_several_sources_are_different_images_of_one_person(policy: str) -> None:
    plan = make_plan(records(), images=30, sources=3, poses=1, policy=policy)
    for pid, keys in zip(plan.pid, plan.source_keys, strict=True):
        assert len(set(keys)) == len(keys) == min(3, IMAGES[pid])
        assert {int(key[:4]) for key in keys} == {pid}


def test_keys_look_like_market_names_and_never_meet_a_real_one() -> None:
    plan = make_plan(records(), images=20)
    assert plan.key.is_unique
    assert plan.key.str.fullmatch(r"\d{4}_c\ds0_\d{6}_\d{2}").all()
    assert not any("s0_" in key for key in KEYS)
    assert (plan.camid == [int(keys[0][6]) for keys in plan.source_keys]).all()
    with pytest.raises(InputError, match="keys of real images"):
        check_leak_free(plan, set(KEYS) | {plan.key[0]})
    with pytest.raises(InputError, match="images outside its subset"):
        check_leak_free(plan, set(SUBSET))


def test_a_rare_pose_policy_asks_for_the_sides_that_a_person_lacks() -> None:
    def body(right: float, left: float) -> np.ndarray:
        keypoints = pose(0)
        keypoints[:, 1] = np.linspace(0, 100, 18)
        keypoints[[2, 8], 0], keypoints[[5, 11], 0] = right, left
        return keypoints

    sides = {"front": body(20, 40), "back": body(40, 20), "side": body(30, 32)}
    assert [FACINGS[i] for i in facing(np.stack(list(sides.values())))] == list(sides)
    rows = [(f"0001_c1s1_{i:06d}_01", 1, 1, sides["front"]) for i in range(9)]
    rows += [("0002_c1s1_000000_01", 2, 1, sides["back"]), ("0002_c1s1_000001_01", 2, 1, sides["side"])]
    frame = pd.DataFrame(rows, columns=["key", "pid", "camid", "keypoints"])
    plan = make_plan(frame, images=200, poses=1, policy="paper", pose_policy="rare")
    expected = plan[plan.pid == 1].target_pose_key
    assert expected.str.startswith("0002").mean() > 0.9


def test_poses_rare_in_a_camera_are_those_that_it_seldom_shows() -> None:
    front, back = pose(0), pose(0)
    for keypoints, right, left in ((front, 20, 40), (back, 40, 20)):
        keypoints[:, 1] = np.linspace(0, 100, 18)
        keypoints[[2, 8], 0], keypoints[[5, 11], 0] = right, left
    # camera 1 sees fronts, camera 2 backs; each person is in one of them
    rows = [
        (f"000{camera}_c{camera}s1_{i:06d}_01", camera, camera, front if camera == 1 else back)
        for camera in (1, 2)
        for i in range(30)
    ]
    frame = pd.DataFrame(rows, columns=["key", "pid", "camid", "keypoints"])
    plan = make_plan(frame, images=200, poses=1, policy="paper", pose_policy="rare-in-camera")
    for camera, other in ((1, "0002"), (2, "0001")):
        assert plan[plan.camid == camera].target_pose_key.str.startswith(other).mean() > 0.9


def standing(right: float, left: float, ankles: float) -> np.ndarray:
    """A body from (18, 3) keypoints: shoulders and hips at these x, ankles so far apart; 100 high."""
    keypoints = pose(0)
    keypoints[:, 1] = np.linspace(0, 100, 18)
    keypoints[[2, 8], 0], keypoints[[5, 11], 0] = right, left
    keypoints[[10, 13], 1], keypoints[10, 0], keypoints[13, 0] = 90, 30, 30 + ankles
    return keypoints


def test_rare_viewpoints_are_as_likely_as_frequent_ones_and_poses_that_do_not_tell_are_none() -> None:
    ways = {"front": (20, 40, 5), "back": (40, 20, 5), "striding": (20, 40, 50)}
    counts = {"front": 60, "back": 12, "striding": 8}
    rows = [(f"0001_c1s1_{way}{i}_01", 1, 1, standing(*ways[way])) for way in ways for i in range(counts[way])]
    unknown = standing(*ways["front"])
    unknown[10] = [np.nan, np.nan, 0]
    rows += [(f"0002_c1s1_unknown{i}_01", 2, 1, unknown) for i in range(20)]
    assert len(set(viewpoint(np.stack([row[3] for row in rows])))) == 4
    frame = pd.DataFrame(rows, columns=["key", "pid", "camid", "keypoints"])
    plan = make_plan(frame, images=900, poses=3, policy="paper", pose_policy="rare-viewpoint", seed=5)
    shares = plan.target_pose_key.str.extract("s1_([a-z]+)")[0].value_counts(normalize=True)
    assert set(shares.index) == set(ways) and shares.between(0.28, 0.39).all()
    again = make_plan(
        frame.sample(frac=1, random_state=2), images=900, policy="paper", pose_policy="rare-viewpoint", seed=5
    )
    pd.testing.assert_frame_equal(plan, again)
    assert all(part.target_pose_key.is_unique for _, part in plan.groupby("canvas"))


def test_a_lone_pose_is_not_drawn_over_and_over() -> None:
    weights = rarity(np.array([0] * 100 + [1] * 10 + [2] + [-1]))
    assert weights[:100].sum() == pytest.approx(weights[100:110].sum())
    assert weights[110] == pytest.approx(weights[:100].sum() / 5) and weights[111] == 0
    assert rarity(np.array([-1, -1])).tolist() == [0.5, 0.5]


def test_lent_poses_take_the_place_of_the_subsets_own() -> None:
    lent = pd.DataFrame({"key": [f"bank:{i}" for i in range(7)], "keypoints": [pose(i) for i in range(7)]})
    plan = make_plan(records(), images=20, lent=lent)
    assert set(plan.target_pose_key) <= set(lent.key) and len(set(plan.target_pose_key)) > 3
    assert {key for keys in plan.source_keys for key in keys} <= set(KEYS)
    pd.testing.assert_frame_equal(plan, make_plan(records(), images=20, lent=lent[::-1]))
    with pytest.raises(InputError, match="images outside its subset, for example bank:"):
        check_leak_free(plan, set(KEYS), set())


def test_reconstruction_asks_for_the_sources_own_pose() -> None:
    plan = make_plan(records(), images=9, poses=1, pose_policy="reconstruction")
    assert all([target] == sources for sources, target in zip(plan.source_keys, plan.target_pose_key, strict=True))


def test_shards_never_split_a_person_and_lose_nobody() -> None:
    plan = make_plan(records(), images=31)
    shards = cut_shards(plan, 5)
    pd.testing.assert_frame_equal(pd.concat(shards), plan)
    people = [pid for shard in shards for pid in shard.pid.unique()]
    assert len(people) == len(set(people))
    assert cut_shards(make_plan(records(), images=0), 5) == []


def test_nobody_or_no_pose_to_plan_with_is_refused() -> None:
    with pytest.raises(InputError, match="holds no images"):
        make_plan(records([]), images=3)
    empty = records()
    empty["keypoints"] = [np.full((18, 3), np.nan)] * len(empty)
    with pytest.raises(InputError, match="pose of 6 or more joints"):
        make_plan(empty, images=3)


# --- the set ------------------------------------------------------------------


def test_a_subset_is_topped_up_to_the_full_training_split(inputs: dict[str, Path], tmp_path: Path) -> None:
    directory = build(config_of(inputs), make_synthetic, output=tmp_path / "set")
    table = pd.read_parquet(directory / "synthetic.parquet")
    assert len(table) == len(KEYS) - len(SUBSET)
    assert {key for keys in table.source_keys for key in keys} | set(table.target_pose_key) <= set(SUBSET)
    samples = dict(s for tar in sorted(directory.glob("synthetic-*.tar")) for s in read_samples(tar))
    assert list(samples) == table.key.tolist()
    for key, members in samples.items():
        facts = json.loads(members["json"])
        assert (facts["key"], facts["split"], facts["role"]) == (key, "synthetic", "person")
        assert is_marked_synthetic(members["jpg"])
        with Image.open(io.BytesIO(members["jpg"])) as picture:
            assert picture.size == (WIDTH, HEIGHT)
    assert verify(directory) == []


def test_the_report_finds_rows_with_the_truth_beside_them(inputs: dict[str, Path], tmp_path: Path) -> None:
    directory = build(config_of(inputs, showcase=1), make_synthetic, output=tmp_path / "set")
    (row,) = json.loads((directory / "showcase.json").read_text())["rows"]
    assert row["pid"] == 1  # the only one with two images in the subset
    for kind in ("sources", "poses", "generated", "truth"):
        assert [Image.open(directory / name).size for name in row[kind]] == [(WIDTH, HEIGHT)]
    with Image.open(directory / "contact_sheet.png") as sheet:
        assert sheet.height > 2 * HEIGHT
    run_show_pictures(ShowPicturesConfig(synthetic=directory, jpg=tmp_path / "new" / "picture.jpg"))
    assert is_marked_synthetic((tmp_path / "new" / "picture.jpg").read_bytes())
    with Image.open(tmp_path / "new" / "picture.jpg") as picture:
        assert picture.height > HEIGHT
        assert picture.width > (1 + 3 * len(row["poses"])) * WIDTH


def test_a_picture_of_a_set_without_showcase_or_to_no_jpeg_is_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    directory = build(config_of(inputs, images=3, showcase=0), make_synthetic, output=tmp_path / "set")
    with pytest.raises(InputError, match="--showcase 8"):
        run_show_pictures(ShowPicturesConfig(synthetic=directory, jpg=tmp_path / "picture.jpg"))
    for wrong in (tmp_path / "picture.gif", Path("/dev/null")):
        with pytest.raises(InputError, match="no JPEG file"):
            run_show_pictures(ShowPicturesConfig(synthetic=directory, jpg=wrong))


@pytest.mark.parametrize("mode", ["T1", "T2", "T3"])
def test_the_papers_other_scenarios_make_sets_too(inputs: dict[str, Path], tmp_path: Path, mode: str) -> None:
    directory = build(config_of(inputs, mode=mode, images=3, showcase=0), make_synthetic, output=tmp_path / "set")
    table = pd.read_parquet(directory / "synthetic.parquet")
    assert len(table) == 3
    assert set(table["mode"]) == {mode}


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(inputs, images=12)
    whole = build(config, make_synthetic, output=tmp_path / "whole")
    calls = []
    generate = Synthesizer.generate

    def dying(self: Synthesizer, requests: Any) -> Any:
        calls.append(len(requests))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return generate(self, requests)

    monkeypatch.setattr(Synthesizer, "generate", dying)
    with pytest.raises(KeyboardInterrupt):
        build(config, make_synthetic, output=tmp_path / "again")
    kept = sorted(path.name for path in (tmp_path / "again.partial").glob("*.tar"))
    assert kept, "nothing was finished before the kill, so the test shows nothing"
    again = build(config, make_synthetic, output=tmp_path / "again")
    for path in sorted(whole.rglob("*")):
        if path.is_file() and path.name != "manifest.json":
            assert file_sha256(path) == file_sha256(again / path.relative_to(whole)), path.name
    assert len(list(again.rglob("*"))) == len(list(whole.rglob("*")))


def test_the_plan_on_disk_is_the_plan_of_the_config(inputs: dict[str, Path], tmp_path: Path) -> None:
    config = config_of(inputs, showcase=0)
    directory = build(config, make_synthetic, output=tmp_path / "set")
    planned = plan_for(config, EncodedImages(config.encoded, SUBSET))
    written = pd.read_parquet(directory / "plan.parquet")
    assert written.key.tolist() == planned.key.tolist()
    assert written.seed.tolist() == planned.seed.tolist()


def test_a_fraction_that_does_not_exist_and_a_folder_of_another_stage_are_refused(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"no subset of 60 % in draw 0; it has \(draw, percent\) \[\(0, 40\)"):
        make_synthetic(config_of(inputs, fraction=60), tmp_path)
    with pytest.raises(ArtifactError, match="expected 'train-imagpose' or 'distill-imagpose'"):
        make_synthetic(config_of(inputs | {"generator": inputs["encoded"]}), tmp_path)


def test_images_that_were_encoded_for_another_generator_are_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Their latents mean nothing to it; shapes alone would fit, and the pictures would be noise."""
    other = shutil.copytree(inputs["generator"] / "vae", tmp_path / "vae")
    (other / "config.json").write_text((other / "config.json").read_text() + " ")

    class Encoded(_Encode):
        vae: Path

    def make_encoded(config: Encoded, directory: Path) -> dict[str, Any]:
        _make_encoded(config, directory)
        index = json.loads((directory / "index.json").read_text()) | {"vae_sha256": model_sha256(config.vae)}
        (directory / "index.json").write_text(json.dumps(index))
        return {}

    for vae in (inputs["generator"] / "vae", other):
        encoded = build(Encoded(vae=vae), make_encoded, output=tmp_path / f"by-{vae.parent.name}")
        config = config_of(inputs | {"encoded": encoded}, showcase=0)
        if vae == other:
            with pytest.raises(InputError, match=r"by another vae than .*; encode with --vae .*/vae$"):
                build(config, make_synthetic, output=tmp_path / "refused")
        else:
            build(config, make_synthetic, output=tmp_path / "set")


def test_a_corrupt_generator_is_named(inputs: dict[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(inputs["generator"], broken)
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be loaded as an IMAGPose generator"):
        make_synthetic(config_of(inputs | {"generator": broken}), tmp_path)


class FakeEstimator:
    """Finds the same skeleton in every picture; nobody in every third one."""

    name, weights_sha256 = "fake", "0" * 64

    def __init__(self) -> None:
        self.seen = 0

    def estimate(self, images: Any) -> list[np.ndarray]:
        numbers = range(self.seen, self.seen + len(images))
        self.seen += len(images)
        return [pose(0)[None] if number % 3 else pose(0)[None][:0] for number in numbers]


def test_skeletons_are_extracted_again_and_scored(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagpose.synthesis.synthesizer.open_backend", lambda *_: FakeEstimator())
    weights = tmp_path / "weights"
    weights.write_text("stand-in")
    config = config_of(inputs, showcase=0, pose_backend="openpose", pose_weights=weights)
    directory = build(config, make_synthetic, output=tmp_path / "set")
    table = pd.read_parquet(directory / "synthetic.parquet")
    samples = {k: json.loads(m["json"]) for t in directory.glob("*.tar") for k, m in read_samples(t)}
    for row in table.itertuples():
        facts = samples[row.key]
        expected, found = keypoints_from_json(facts["keypoints"]), keypoints_from_json(facts["found_keypoints"])
        assert row.pose_score == pose_score(expected, found) == facts["pose_score"]
    assert (table.pose_score == 0).any()  # nobody was found: wrong, not missing
    for name in ("contact_sheet-best-poses.png", "contact_sheet-worst-poses.png"):
        assert (directory / name).is_file()
    plain = build(config_of(inputs, showcase=0), make_synthetic, output=tmp_path / "plain")
    assert pd.read_parquet(plain / "synthetic.parquet").pose_score.isna().all()
    assert not list(plain.glob("*poses.png"))


def test_the_built_in_pose_network_scores_a_set(inputs: dict[str, Path], tmp_path: Path) -> None:
    config = config_of(inputs, showcase=0, images=3, pose_backend="openpose-tiny")
    assert config.pose_weights is not None  # so that their content counts in the key
    directory = build(config, make_synthetic, output=tmp_path / "set")
    assert pd.read_parquet(directory / "synthetic.parquet").pose_score.between(0, 1).all()
    assert json.loads((directory / "manifest.json").read_text())["summary"]["pose_backend"] == "openpose-tiny"


def test_a_pose_score_is_the_share_of_joints_within_a_tenth_of_the_figure() -> None:
    expected = np.full((18, 3), np.nan, np.float32)
    expected[:, 2] = 0
    expected[:5] = [[10, 0, 1], [10, 20, 1], [10, 50, 1], [10, 80, 1], [10, 100, 1]]  # 100 pixels high: 10 are allowed
    found = expected.copy()
    found[1, 0] += 9.9
    found[2, 1] += 10.1
    found[3] = [np.nan, np.nan, 0]
    found[7] = [1, 1, 1]  # not requested: neither right nor wrong
    assert pose_score(expected, found) == 0.6
    assert pose_score(expected, expected) == 1.0
    expected[1:] = [np.nan, np.nan, 0]
    assert pose_score(expected, found) is None


def command_of(config: SynthesizeConfig, output: Path, *prefix: str) -> list[str]:
    """`imagpose synthesize` as a process of its own."""
    file = output.with_suffix(".json")
    file.write_text(config.model_dump_json())
    arguments = ["-m", "imagpose", "synthesize", "--config", str(file), "--output", str(output)]
    return [sys.executable, *prefix, *arguments]


def assert_same_set(one: Path, other: Path) -> None:
    """Every file but the manifest (it holds times), byte for byte; the manifests name the same content."""
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    for path in files:
        if path.name != "manifest.json":
            assert file_sha256(one / path) == file_sha256(other / path), path
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (one, other)]
    for name in ("stage", "key", "content_sha256", "files", "summary"):
        assert manifests[0][name] == manifests[1][name], name


@pytest.mark.slow
def test_two_processes_make_the_same_bytes_as_one(inputs: dict[str, Path], tmp_path: Path) -> None:
    config = config_of(inputs, images=40, steps=1, images_per_shard=4)
    whole = build(config, make_synthetic, output=tmp_path / "whole")
    shared = tmp_path / "shared"
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    subprocess.run(command_of(config, shared, *torchrun), check=True, timeout=250, capture_output=True)
    assert_same_set(whole, shared)


@pytest.mark.slow
def test_a_thousand_images_survive_sigkill_byte_for_byte(inputs: dict[str, Path], tmp_path: Path) -> None:
    config = config_of(inputs, images=1000, steps=1, images_per_shard=100, batch_size=16)
    whole = build(config, make_synthetic, output=tmp_path / "whole")
    killed = tmp_path / "killed"
    process = subprocess.Popen(command_of(config, killed), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while len(list(tmp_path.glob("killed.partial/synthetic-*.tar"))) < 3:
        assert time.monotonic() < deadline
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    process.kill()
    process.wait()
    done = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "killed.partial").glob("synthetic-*.tar")}
    subprocess.run(command_of(config, killed), check=True, timeout=250, capture_output=True)
    assert len(pd.read_parquet(killed / "synthetic.parquet")) == 1000
    assert all((killed / name).stat().st_mtime_ns == when for name, when in done.items())  # kept, not made again
    assert_same_set(whole, killed)


# --- pictures -----------------------------------------------------------------


def test_degenerate_pictures_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    good = rng.integers(0, 256, (32, 16, 3), dtype=np.uint8)
    half = good.copy()
    half[:20] = 255
    assert check_generated_image(good, good[None][..., ::-1]).status == "ok"
    assert check_generated_image(np.full_like(good, 120)).status == "flat"
    assert check_generated_image(half).status == "saturated"
    assert check_generated_image(np.clip(good.astype(int) + 1, 0, 255).astype(np.uint8), good[None]).status == "copy"
    assert check_generated_image(np.full_like(good, 120)).contrast == 0


def test_the_mark_survives_and_equal_pictures_have_equal_bytes() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (32, 16, 3), dtype=np.uint8)
    data = encode_synthetic_jpeg(picture, "abc123", 92)
    assert data == encode_synthetic_jpeg(picture, "abc123", 92)
    with Image.open(io.BytesIO(data)) as image:
        exif = image.getexif()
        assert "not a photograph" in exif[0x010E]
        assert b"generator abc123" in exif.get_ifd(0x8769)[0x9286]
    plain = io.BytesIO()
    Image.fromarray(picture).save(plain, "JPEG")
    assert is_marked_synthetic(data)
    assert not is_marked_synthetic(plain.getvalue())


def test_written_shards_are_plain_tars(inputs: dict[str, Path], tmp_path: Path) -> None:
    directory = build(config_of(inputs, images=3, showcase=0), make_synthetic, output=tmp_path / "set")
    with tarfile.open(next(directory.glob("synthetic-*.tar"))) as tar:
        assert all(item.mtime == 0 and item.isfile() for item in tar)
