"""The small pose network: its targets, its decoding, what changes a crop, and a training that resumes exactly."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from datasets.poses.config import ImportPosesConfig, TrainPoseConfig
from datasets.poses.skeleton import flip_keypoints, missing_keypoints, present_joints
from datasets.poses.tiny import augmentation, training
from datasets.poses.tiny.decoding import _choose, _limb_agreement, decode_person, find_peaks
from datasets.poses.tiny.network import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    PoseNetworkConfig,
    TinyPoseNetwork,
    fold_normalization,
    load_network,
    save_network,
)
from datasets.poses.tiny.people import PoseCrops, load_pose_crops, split_by_identity
from datasets.poses.tiny.quality import pose_quality
from datasets.poses.tiny.targets import FIELD_LIMBS, field_targets, field_weights, heat_targets, to_cells, to_pixels
from datasets.runtime.artifacts import build
from datasets.runtime.errors import InputError, WeightsError
from datasets.runtime.manifests import SCRATCH, manifest_of
from datasets.sources.config import IndexConfig
from tests.small_sets import jpeg, make, market_files, market_root, pose_csv, write_files

PERSON = np.array(
    [
        (32, 14),
        (32, 26),
        (24, 26),
        (21, 42),
        (19, 57),
        (40, 26),
        (43, 42),
        (45, 57),
        (27, 60),
        (26, 84),
        (25, 110),
        (37, 60),
        (38, 84),
        (39, 110),
        (30, 12),
        (34, 12),
        (27, 13),
        (37, 13),
    ],
    np.float32,
)
"""A person seen from the front in a 128x64 crop: x, y of the 18 joints."""
NETWORK = PoseNetworkConfig(height=64, width=32, channels=(8, 8, 16, 16), coarse_channels=8, head_channels=16)


def keypoints_of(places: np.ndarray) -> np.ndarray:
    return np.column_stack([places, np.ones(len(places))]).astype(np.float32)


def maps(places: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    cells = torch.from_numpy(to_cells(places))[None]
    return heat_targets(cells, 32, 16), field_targets(cells, 32, 16)


def random_network(seed: int = 0, config: PoseNetworkConfig = NETWORK) -> TinyPoseNetwork:
    torch.manual_seed(seed)
    network = TinyPoseNetwork(config)
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) * 0.3 + 0.05)
    return network.eval()


def test_a_heat_map_has_its_top_at_the_joint_and_falls_like_a_gaussian():
    heat = heat_targets(torch.tensor([[[3.0, 5.0]] * 18]), 8, 8)
    assert heat.shape == (1, 18, 8, 8)
    assert heat[0, 0, 5, 3] == 1
    assert heat[0, 0, 5, 4] == pytest.approx(np.exp(-1 / (2 * 0.8**2)))
    assert heat[0, 0, 6, 4] == pytest.approx(np.exp(-2 / (2 * 0.8**2)))


def test_a_field_points_along_its_limb_and_is_zero_elsewhere():
    places = np.full((18, 2), np.nan, np.float32)
    places[1], places[8] = (1, 1), (1, 5)  # neck to right hip, straight down: limb 0
    field = field_targets(torch.from_numpy(places)[None], 8, 8)[0]
    assert field[0].abs().max() == 0
    assert field[1, 1:6, 1].tolist() == [1.0] * 5
    assert field[1].sum() == 5
    assert field[2:].abs().max() == 0  # the other limbs lack an end


def test_a_missing_joint_leaves_no_trace_in_the_targets_and_counts_less():
    places = PERSON.copy()
    places[4] = np.nan
    heat, field = maps(places)
    assert heat[0, 4].max() == 0
    wrist_limb = FIELD_LIMBS.index((3, 4))
    assert field[0, 2 * wrist_limb : 2 * wrist_limb + 2].abs().max() == 0
    weights = torch.ones(1, 18)
    weights[0, 4] = 0.2
    assert field_weights(weights)[0, 2 * wrist_limb].item() == pytest.approx(0.2)
    assert (field_weights(weights) < 1).sum() == 2


def test_decoding_gives_back_the_skeleton_that_was_drawn():
    found = decode_person(*maps(PERSON))[0]
    assert np.abs(to_pixels(found[:, :2]) - PERSON).max() < 0.5
    assert found[:, 2].min() > 0.7


def test_a_joint_without_a_peak_gets_a_low_score():
    places = PERSON.copy()
    places[[7, 16]] = np.nan
    found = decode_person(*maps(places))[0]
    assert found[[7, 16], 2].max() < 0.01
    assert np.delete(found[:, 2], [7, 16]).min() > 0.7


def test_the_fields_keep_a_neighbors_arm_out():
    heat, fields = maps(PERSON)
    neighbor = PERSON + np.array([-17, 0])
    wrist = heat_targets(torch.from_numpy(to_cells(neighbor))[None].float(), 32, 16)[:, 4]
    heat[:, 4] = torch.maximum(heat[:, 4] * 0.8, wrist)  # the neighbor's wrist is the higher peak
    found = decode_person(heat, fields)[0]
    assert np.abs(to_pixels(found[4, :2]) - PERSON[4]).max() < 1


def test_no_other_choice_of_candidates_has_more_evidence():
    generator = torch.Generator().manual_seed(3)
    heat, fields = torch.rand(2, 18, 8, 8, generator=generator), torch.rand(2, 38, 8, 8, generator=generator) * 2 - 1
    places, heights = find_peaks(heat)

    def evidence(chosen: torch.Tensor) -> torch.Tensor:
        total = heights.gather(2, chosen[..., None])[..., 0].sum(1)
        for limb in training_tree():
            parent, child = FIELD_LIMBS[limb]
            agreement = _limb_agreement(places, fields, limb)
            low = torch.minimum(heights[:, parent, :, None], heights[:, child, None]).sqrt()
            rows = torch.arange(len(chosen))
            total = total + 0.5 * (low * agreement)[rows, chosen[:, parent], chosen[:, child]]
        return total

    best = evidence(_choose(places, heights, fields))
    for seed in range(100):
        other = torch.randint(0, 3, (2, 18), generator=torch.Generator().manual_seed(seed))
        assert (evidence(other) <= best + 1e-5).all()


def training_tree() -> tuple[int, ...]:
    from datasets.poses.tiny.decoding import TREE

    return TREE


def test_joints_move_with_the_image_and_change_sides_when_it_is_flipped(monkeypatch):
    for chance in ("OCCLUDED", "BLURRED", "GRAY"):
        monkeypatch.setattr(augmentation, chance, 0.0)
    image = np.zeros((128, 64, 3), np.uint8)
    right, left = (20, 60), (44, 60)
    for (x, y), color in ((right, (255, 0, 0)), (left, (0, 255, 0))):
        image[y - 1 : y + 2, x - 1 : x + 2] = color
    keypoints = np.tile(missing_keypoints(), (1, 1))
    keypoints[4], keypoints[7] = (*right, 1), (*left, 1)
    flipped = 0
    for seed in range(20):
        changed, moved = augmentation.augment(image, keypoints, image, np.random.default_rng(seed))
        assert changed.shape == image.shape
        spots = []
        for channel in (0, 1):
            bright = changed[..., channel].astype(float) - changed[..., 1 - channel]
            y, x = np.unravel_index(bright.argmax(), bright.shape)
            spots.append([np.hypot(*(moved[joint, :2] - (x, y))) < 2.5 for joint in (4, 7)])
        assert spots in ([[True, False], [False, True]], [[False, True], [True, False]])
        flipped += spots[0][1]  # a flipped picture's red dot is the left wrist
    assert 3 < flipped < 17


def test_a_joint_moved_outside_the_image_is_missing():
    keypoints = keypoints_of(PERSON)
    keypoints[10, 1] = 127.6
    inside = augmentation.forget_outside(keypoints, 128, 64)
    assert not present_joints(inside)[10]
    assert present_joints(inside).sum() == 17


def test_folding_the_normalization_does_not_change_the_maps():
    network = random_network()
    pixels = torch.rand(2, 3, 64, 32)
    for whole, folded in zip(network(pixels), fold_normalization(network)(pixels), strict=True):
        torch.testing.assert_close(whole, folded, rtol=1e-4, atol=1e-4)
    assert not any("running" in name for name in fold_normalization(network).state_dict())


def test_a_saved_network_gives_the_same_maps_to_float16(tmp_path):
    network = random_network()
    save_network(network, tmp_path, {"steps": 1})
    pixels = torch.rand(2, 3, 64, 32)
    for before, after in zip(network(pixels), load_network(tmp_path / WEIGHTS_FILE)(pixels), strict=True):
        torch.testing.assert_close(before, after, rtol=2e-2, atol=2e-2 * before.abs().max().item())


def test_weights_of_another_network_or_none_at_all_are_refused_in_one_line(tmp_path):
    save_network(random_network(), tmp_path, {})
    weights = tmp_path / WEIGHTS_FILE
    good = weights.read_bytes()

    def refusal() -> str:
        with pytest.raises(WeightsError) as caught:
            load_network(weights)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    weights.write_bytes(good[: len(good) // 2])
    assert "train it again" in refusal()
    weights.write_bytes(pickle.dumps({"a": 1}))
    assert "train it again" in refusal()
    tensors = {name: value[:1].clone() for name, value in fold_normalization(random_network()).state_dict().items()}
    save_file(tensors, weights)
    assert "another network" in refusal()
    weights.write_bytes(good)
    (tmp_path / CONFIG_FILE).unlink()
    assert "is not a file" in refusal()


def test_quality_counts_near_missed_and_extra_joints():
    known = keypoints_of(PERSON)[None]
    known[0, 17] = missing_keypoints()[0]
    predicted = keypoints_of(PERSON)[None].copy()
    predicted[0, 0, 0] += 6.0  # within 5 % of 128
    predicted[0, 1, 0] += 7.0  # not
    predicted[0, 2, 2] = 0.1  # left out
    quality = pose_quality(predicted, known, 128, np.full(18, 0.5))
    assert quality == {
        "pck": pytest.approx(15 / 17, abs=1e-4),
        "placed": pytest.approx(16 / 17, abs=1e-4),
        "missed": pytest.approx(1 / 17, abs=1e-4),
        "extra": 1.0,
    }


def test_held_out_identities_are_never_trained_on():
    pids = np.repeat(np.arange(50), 3)
    people = PoseCrops(np.zeros((150, 4, 4, 3), np.uint8), np.zeros((150, 18, 3), np.float32), pids)
    train, held_out = split_by_identity(people, seed=0)
    assert not set(train.pids) & set(held_out.pids)
    assert len(np.unique(held_out.pids)) == 2
    with pytest.raises(InputError, match="1 identity"):
        split_by_identity(people.at(pids == 3), seed=0)


@pytest.fixture(scope="module")
def market(tmp_path_factory) -> TrainPoseConfig:
    """A training on a little Market-1501 of noise."""
    folder = tmp_path_factory.mktemp("market")
    root = market_root(folder)
    index = make(IndexConfig(root=root, workers=1), folder)
    poses = make(ImportPosesConfig(images=index, csv=[pose_csv(folder, market_files())]), folder)
    return TrainPoseConfig(
        images=[index],
        poses=[poses],
        missing_weight=[0.5],
        height=64,
        width=32,
        steps=6,
        batch_size=4,
        checkpoint_every=2,
        validation_every=4,
        device="cpu",
        precision="fp32",
    )


def test_a_stopped_training_ends_with_the_weights_of_one_that_was_not(market, tmp_path, monkeypatch):
    whole = build(market, training.make_pose_network, output=tmp_path / "whole")
    draw = training.draw_batch

    def stop_at_five(sets, config, step):
        if step == 5:
            raise KeyboardInterrupt
        return draw(sets, config, step)

    monkeypatch.setattr(training, "draw_batch", stop_at_five)
    with pytest.raises(KeyboardInterrupt):
        build(market, training.make_pose_network, output=tmp_path / "stopped")
    monkeypatch.setattr(training, "draw_batch", draw)
    partial = tmp_path / "stopped.partial"
    assert load_network(partial / WEIGHTS_FILE)  # what was measured last is usable
    stopped = build(market, training.make_pose_network, output=tmp_path / "stopped")
    assert (stopped / WEIGHTS_FILE).read_bytes() == (whole / WEIGHTS_FILE).read_bytes()
    facts = manifest_of(stopped)["summary"]
    assert facts["steps"] == 6
    assert set(facts["held_out"][0]) == {"pck", "placed", "missed", "extra"}
    assert "non-commercial research" in (stopped / "README.md").read_text()
    assert not (stopped / SCRATCH).exists()


def test_the_loss_of_a_small_set_falls(market):
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 32, 3), np.uint8)
    people = PoseCrops(pixels, keypoints_of(PERSON / 2)[None], np.arange(1))
    config = market.model_copy(update={"batch_size": 8})
    network = training.new_network(config)
    optimizer = torch.optim.AdamW(network.parameters(), 5e-3)
    losses = []
    for step in range(30):
        loss = training.batch_losses(network, training.draw_batch([people], config, step), config, torch.device("cpu"))
        optimizer.zero_grad()
        loss["loss"].backward()
        optimizer.step()
        losses.append(loss["loss"].item())
    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:3])


def test_a_joint_that_the_file_lacks_counts_less_but_one_moved_outside_counts_fully(market):
    keypoints = keypoints_of(PERSON / 2)
    keypoints[4] = missing_keypoints()[0]
    people = PoseCrops(np.zeros((2, 64, 32, 3), np.uint8), np.tile(keypoints, (2, 1, 1)), np.arange(2))
    config = market.model_copy(update={"batch_size": 64})
    _, moved, weights = training.draw_batch([people], config, 0)
    assert set(weights[:, [4, 7]].ravel().tolist()) == {0.5, 1.0}  # the right wrist, or flipped the left one
    assert ((weights < 1).sum(1) == 1).all()
    outside = ~present_joints(moved) & (weights == 1)
    assert outside.any()


def test_learning_rate_rises_stays_and_falls(market):
    config = market.model_copy(update={"steps": 1000, "decay_percent": 25, "learning_rate": 1.0})
    rates = [training.learning_rate(step, config) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[100:750] == [1.0] * 650
    assert rates[875] == pytest.approx(0.5)
    assert rates[999] == pytest.approx(0.01)


def test_every_index_needs_its_poses(tmp_path):
    with pytest.raises(ValidationError, match="poses has 1 entries for 2 indexes"):
        TrainPoseConfig(images=[tmp_path, tmp_path], poses=[tmp_path])


def test_the_flip_of_a_flip_is_the_person_itself():
    np.testing.assert_allclose(flip_keypoints(flip_keypoints(keypoints_of(PERSON), 64), 64), keypoints_of(PERSON))


def test_poses_of_another_index_are_refused(market, tmp_path):
    other = make(IndexConfig(root=write_files(tmp_path / "m", market_files(identities=5)), workers=1), tmp_path)
    rows = training.load_pose_crops(other, market.poses[0], 64, 32)
    assert len(rows) == 12  # the fifth person has no skeleton there
    with pytest.raises(InputError, match="share no training image"):
        empty = make(ImportPosesConfig(images=other, csv=[_poses_of_tests(tmp_path)]), tmp_path)
        training.load_pose_crops(other, empty, 64, 32)


def _poses_of_tests(folder: Path) -> Path:
    lines = pose_csv(folder, market_files()).read_text().splitlines()
    (folder / "tests.csv").write_text("\n".join([lines[0], *(line for line in lines if line.startswith("10"))]) + "\n")
    return folder / "tests.csv"


def test_an_image_that_changed_since_it_was_indexed_is_not_trained_on(tmp_path):
    files = market_files()
    root = write_files(tmp_path / "set", files)
    index = make(IndexConfig(root=root, workers=1), tmp_path / "store")
    poses = make(ImportPosesConfig(images=index, csv=[pose_csv(tmp_path, files)]), tmp_path / "store")
    assert len(load_pose_crops(index, poses, 64, 32)) == 12
    (root / "bounding_box_train/0002_c1s1_000000_01.jpg").write_bytes(jpeg(999))
    with pytest.raises(InputError, match=r"0002_c1s1_000000_01.jpg of .* changed since it was indexed"):
        load_pose_crops(index, poses, 64, 32)


def test_weights_are_float16_and_small():
    tensors = load_file(Path(training.__file__).parents[2] / "builtin" / "openpose_tiny" / WEIGHTS_FILE)
    assert {value.dtype for value in tensors.values()} == {torch.float16}
    assert sum(value.nbytes for value in tensors.values()) < 3e6
