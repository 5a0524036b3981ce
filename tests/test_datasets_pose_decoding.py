"""Maps become people: hand-made peaks and fields, and controlnet-aux's decoder as reference."""

import numpy as np
import pytest
import torch

from benchmarks.pose_maps import GivenMaps, controlnet_aux_body, controlnet_aux_people, crowd_maps, pair_people
from datasets.poses.openpose.decoding import PAF_CHANNELS, PAF_LIMBS, Decoding, decode_people, smooth
from datasets.poses.openpose.estimator import enlarge
from datasets.poses.skeleton import JOINTS, LIMBS, present_joints

RAW = Decoding(smoothing_sigma=0)
HEIGHT, WIDTH = 40, 60
TORSO = {"neck": (0, 0), "right_shoulder": (-4, 0), "left_shoulder": (4, 0), "right_hip": (-3, 12), "left_hip": (3, 12)}


def blank() -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((1, 19, HEIGHT, WIDTH), np.float32), np.zeros((1, 38, HEIGHT, WIDTH), np.float32)


def put_joint(maps, joint: str, x: float, y: float, score: float = 1.0, sigma: float = 1.5) -> None:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    gaussian = score * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    plane = maps[0][0, JOINTS.index(joint)]
    np.maximum(plane, gaussian, out=plane)


def put_limb(maps, limb: int, start: tuple[float, float], end: tuple[float, float], strength: float = 1.0) -> None:
    vector = np.subtract(end, start)
    length = np.linalg.norm(vector)
    for step in np.linspace(0, 1, 60):
        x, y = np.rint(np.add(start, step * vector)).astype(int)
        maps[1][0, PAF_CHANNELS[limb] : PAF_CHANNELS[limb] + 2, y, x] = strength * vector / length


def put_person(maps, offsets: dict, x: float, y: float, score: float = 1.0) -> None:
    places = {joint: (x + dx, y + dy) for joint, (dx, dy) in offsets.items()}
    for joint, place in places.items():
        put_joint(maps, joint, *place, score)
    for limb, (start, end) in enumerate(PAF_LIMBS):
        if JOINTS[start] in places and JOINTS[end] in places:
            put_limb(maps, limb, places[JOINTS[start]], places[JOINTS[end]])


def test_limbs_and_channels_cover_all_38_fields_in_openpose_order():
    assert PAF_LIMBS[: len(LIMBS)] == LIMBS
    assert sorted(PAF_CHANNELS) == list(range(0, 38, 2))
    # https://arxiv.org/abs/1812.08008's COCO model: field 12 is neck to right shoulder, field 0 neck to right hip.
    channel = dict(zip(PAF_LIMBS, PAF_CHANNELS, strict=True))
    assert channel[1, 2] == 12 and channel[1, 8] == 0 and channel[1, 0] == 28 and channel[5, 17] == 26


def test_one_person_comes_out_at_its_place_with_its_joints_and_scores():
    maps = blank()
    put_person(maps, TORSO, 20, 10, score=0.8)
    (people,) = decode_people(*maps, RAW)
    assert people.shape == (1, 18, 3) and people.dtype == np.float32
    assert {JOINTS[i] for i in np.flatnonzero(present_joints(people[0]))} == set(TORSO)
    np.testing.assert_allclose(people[0, JOINTS.index("left_hip")], [23, 22, 0.8], atol=1e-4)
    assert np.isnan(people[0, 0, :2]).all() and people[0, 0, 2] == 0


@pytest.mark.parametrize("smoothing_sigma", [0, 2])
def test_a_peak_between_cells_is_found_between_them(smoothing_sigma):
    maps = blank()
    put_person(maps, TORSO, 20.3, 10.4)
    (people,) = decode_people(*maps, Decoding(smoothing_sigma=smoothing_sigma))
    np.testing.assert_allclose(people[0, 1, :2], [20.3, 10.4], atol=0.02)


def test_two_people_side_by_side_keep_their_own_limbs():
    maps = blank()
    put_person(maps, TORSO, 14, 10, score=0.7)
    put_person(maps, TORSO, 30, 12, score=0.9)
    (people,) = decode_people(*maps, RAW)
    assert len(people) == 2
    np.testing.assert_allclose(people[0, JOINTS.index("right_hip"), :2], [27, 24], atol=1e-3)  # the surer one first
    np.testing.assert_allclose(people[1, JOINTS.index("right_hip"), :2], [11, 22], atol=1e-3)


def test_a_joint_that_two_people_claim_goes_to_the_stronger_field():
    maps = blank()
    put_person(maps, TORSO, 14, 10)
    put_person(maps, TORSO, 34, 10)
    for x, strength in ((14 - 4, 0.6), (34 - 4, 0.9)):  # both right shoulders point at one elbow
        put_limb(maps, LIMBS.index((2, 3)), (x, 10), (20, 20), strength)
    put_joint(maps, "right_elbow", 20, 20)
    (people,) = decode_people(*maps, RAW)
    owner = people[present_joints(people)[:, 3]]
    assert len(owner) == 1 and owner[0, 1, 0] == pytest.approx(34, abs=1e-3)


def test_fewer_than_four_joints_or_too_faint_ones_are_nobody():
    maps = blank()
    put_person(maps, {joint: TORSO[joint] for joint in ("neck", "right_shoulder", "left_shoulder")}, 20, 10)
    assert len(decode_people(*maps, RAW)[0]) == 0
    assert len(decode_people(*maps, Decoding(smoothing_sigma=0, min_joints=3))[0]) == 1
    assert len(decode_people(*maps, Decoding(smoothing_sigma=0, min_joints=3, min_mean_score=5))[0]) == 0


def test_from_behind_an_ear_hangs_on_its_shoulder_only():
    maps = blank()
    put_person(maps, {**TORSO, "right_ear": (-2, -5)}, 20, 10)
    (people,) = decode_people(*maps, RAW)
    assert len(people) == 1 and present_joints(people[0])[16] and not present_joints(people[0])[0]


def test_shoulder_and_ear_join_two_halves_of_one_person():
    maps = blank()
    put_person(maps, TORSO, 20, 14)
    head = {"nose": (0, 0), "right_eye": (-2, -2), "left_eye": (2, -2), "right_ear": (-5, -1)}
    put_person(maps, head, 20, 6)  # the field from neck to nose is missing
    put_limb(maps, PAF_LIMBS.index((2, 16)), (16, 14), (15, 5))
    (people,) = decode_people(*maps, RAW)
    assert len(people) == 1 and present_joints(people[0]).sum() == len(TORSO) + len(head)


def test_images_of_a_batch_do_not_touch_each_other_and_none_is_lost():
    first, second = blank(), blank()
    put_person(first, TORSO, 14, 10)
    put_person(second, TORSO, 30, 20)
    put_person(second, TORSO, 45, 10)
    batch = [np.concatenate(parts) for parts in zip(blank(), first, second, blank(), strict=True)]
    together = decode_people(*batch, RAW)
    assert [len(people) for people in together] == [0, 1, 2, 0]
    np.testing.assert_array_equal(together[1], decode_people(*first, RAW)[0])
    np.testing.assert_array_equal(together[2], decode_people(*second, RAW)[0])
    assert decode_people(np.zeros((0, 19, 8, 8)), np.zeros((0, 38, 8, 8))) == []


def test_equal_neighbors_are_one_peak():
    maps = blank()
    put_person(maps, TORSO, 20, 10, score=0.01)  # for its fields
    for joint, (x, y) in TORSO.items():
        put_joint(maps, joint, 20.5 + x, 10 + y)  # two cells share the top
    (people,) = decode_people(*maps, RAW)
    assert len(people) == 1 and people[0, 1, 0] == pytest.approx(20.5, abs=1e-4)


def test_pure_noise_neither_fails_nor_takes_long():
    rng = np.random.default_rng(0)
    people = decode_people(rng.random((2, 19, 48, 48)), rng.random((2, 38, 48, 48)), RAW)
    assert len(people) == 2 and all(person.shape[1:] == (18, 3) for person in people)


def test_maps_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match=r"\(B, 38, h, w\)"):
        decode_people(np.zeros((1, 19, 8, 8)), np.zeros((1, 38, 8, 9)))


def test_smoothing_is_scipys_filter():
    from scipy.ndimage import gaussian_filter

    maps = np.random.default_rng(0).random((1, 2, 30, 17)).astype(np.float32)
    expected = [gaussian_filter(plane.astype(np.float64), 3) for plane in maps[0]]
    np.testing.assert_allclose(smooth(torch.from_numpy(maps), 3.0)[0], expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore::Warning")  # controlnet-aux's own
def test_people_equal_those_of_controlnet_aux_person_for_person():
    heatmaps, pafs = crowd_maps(15, seed=1)
    crop = np.zeros((128, 64, 3), np.uint8)
    found = 0
    ours = decode_people(*(enlarge(torch.from_numpy(maps), (184, 92), (128, 64)) for maps in (heatmaps, pafs)))
    for number, people in enumerate(ours):
        body = controlnet_aux_body(GivenMaps(heatmaps[number : number + 1], pafs[number : number + 1]))
        theirs = controlnet_aux_people(body, crop)
        assert pair_people(theirs, people) <= 0.5  # theirs are whole pixels
        found += len(theirs)
    assert found > 22
