"""The rendered data set: exact layouts, exact keypoints, pictures that are a function of their seed."""

import dataclasses
import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datasets.miniature import render as miniature
from datasets.miniature.body import GESTURES, JOINTS, suit_motion
from datasets.miniature.figures import (
    CAMERAS,
    STUDIO,
    Motion,
    render_person,
    sample_appearance,
    sample_motion,
    sample_shot,
    studio_shot,
)
from datasets.miniature.plan import plan_market
from datasets.miniature.scenes import OCCLUDERS
from datasets.poses import skeleton

MARKET_NAME = re.compile(r"(-1|\d{4})_c([1-6])s([1-6])_(\d{6})_(\d{2})\.jpg")
CATALOG_PATH = re.compile(r"img/(MEN|WOMEN)/(\w+)/id_(\d{8})/(\d\d)_(1_front|2_side|3_back|4_full|7_additional)\.jpg")


def make_config(**changes):
    fields = {
        "layout": "market1501",
        "train_identities": 4,
        "test_identities": 3,
        "images_per_identity": 4,
        "distractors": 4,
        "junk": 4,
        "seed": 0,
        "width": 64,
        "height": 128,
        "workers": 1,
    }
    return SimpleNamespace(**(fields | changes))


def read_truth(root: Path) -> pd.DataFrame:
    return pd.read_parquet(root / miniature.TRUTH_FILE)


@pytest.fixture(scope="module")
def market(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("market")
    miniature.write_miniature(make_config(), root)
    return root


@pytest.fixture(scope="module")
def catalog(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("catalog")
    miniature.write_miniature(make_config(layout="deepfashion", width=88, height=128), root)
    return root


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(root)): p.read_bytes()
        for p in sorted(root.rglob("*"))
        if p.is_file() and p.suffix != ".parquet"
    }


def names(root: Path, folder: str) -> list[re.Match]:
    return [MARKET_NAME.fullmatch(path.name) for path in (root / folder).iterdir()]


def read_annotations(path: Path) -> dict[str, np.ndarray]:
    lines = path.read_text().splitlines()
    assert lines[0] == "name:keypoints_y:keypoints_x"
    rows = (line.split(": ") for line in lines[1:])
    return {name: np.array([json.loads(x), json.loads(y)]).T for name, y, x in rows}


def make_motion(**changes) -> Motion:
    fields = {
        "yaw": 0.0,
        "phase": 60.0,
        "stride": 0.8,
        "lean": 2.0,
        "head_yaw": 0.0,
        "head_pitch": 3.0,
        "right_arm": GESTURES["swing"],
        "left_arm": GESTURES["swing"],
        "right_swing": 1.0,
        "left_swing": 1.0,
    }
    return Motion(**(fields | changes))


def make_person(seed: int = 3, **outfit):
    """Somebody in gray short sleeves with magenta skin, so that skin can be recognized by its color."""
    who = sample_appearance(np.random.default_rng(seed))
    plain = dataclasses.replace(who.outfit.upper, color=(0.5, 0.5, 0.5), pattern="plain")
    fields = {
        "upper_style": "tshirt",
        "upper": plain,
        "inner": plain,
        "front": "none",
        "back": "none",
        "hem": 0.0,
        "lower_style": "trousers",
        "lower": plain,
        "shoes": (0.3, 0.3, 0.3),
        "bag": "none",
        "hat": None,
    }
    clothes = dataclasses.replace(who.outfit, **(fields | outfit))
    return dataclasses.replace(
        who, skin=(0.9, 0.1, 0.9), hair="short", hair_color=(0.1, 0.1, 0.1), beard=False, outfit=clothes
    )


def draw(who, motion, size=2):
    shot = studio_shot(np.random.default_rng(1))
    return render_person(who, motion, STUDIO, width=64 * size, height=128 * size, shot=shot)


def joint(rendered, name: str) -> np.ndarray:
    return rendered.keypoints[JOINTS.index(name)]


def is_missing(rendered, name: str) -> bool:
    x, y, score = joint(rendered, name)
    return bool(np.isnan(x) and np.isnan(y) and score == 0)


def test_the_renderer_numbers_the_joints_as_the_skeletons_do() -> None:
    assert JOINTS == skeleton.JOINTS  # the renderer knows no other room, so it has a list of its own


def test_same_seed_gives_same_bytes_for_any_number_of_workers(market, tmp_path):
    miniature.write_miniature(make_config(workers=2), tmp_path / "again")
    again = contents(tmp_path / "again")
    assert again == contents(market)
    assert len(again) > 30
    assert read_truth(tmp_path / "again").equals(read_truth(market))


def test_another_seed_draws_other_people():
    first, second = (plan_market(make_config(seed=seed)) for seed in (0, 1))
    assert not {p.identity_seed for p in first} & {p.identity_seed for p in second}
    people = {
        json.dumps(dataclasses.asdict(sample_appearance(np.random.default_rng(p.identity_seed))))
        for p in (*first, *second)
    }
    assert len(people) == len({p.identity_seed for p in (*first, *second)})


def test_market_names_splits_and_counts_follow_the_real_layout(market):
    train, gallery, query = (names(market, folder) for folder in ("bounding_box_train", "bounding_box_test", "query"))
    assert all(train) and all(gallery) and all(query)
    train_pids, query_pids = ({match[1] for match in matches} for matches in (train, query))
    assert len(train_pids) == 4 and len(query_pids) == 3
    assert not train_pids & query_pids
    assert all(1 <= int(pid) <= 1501 for pid in train_pids | query_pids)
    assert Counter(match[1] for match in gallery)["0000"] == 4
    assert Counter(match[1] for match in gallery)["-1"] == 4
    assert {match[1] for match in gallery} == query_pids | {"0000", "-1"}
    assert all(match[5] == "00" for match in query) and not any(match[5] == "00" for match in (*train, *gallery))
    with Image.open(next((market / "query").iterdir())) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 128))


def test_one_query_per_camera_and_a_match_in_another_camera(market):
    query, gallery = ([(m[1], m[2]) for m in names(market, folder)] for folder in ("query", "bounding_box_test"))
    assert len(set(query)) == len(query)
    assert set(query) == {(pid, camera) for pid, camera in gallery if pid not in ("0000", "-1")}
    for pid, camera in query:
        assert any(other == pid and where != camera for other, where in gallery)


def test_everyone_is_seen_by_two_cameras_and_pictures_per_person_vary_as_in_market():
    pictures = plan_market(make_config(train_identities=300, test_identities=30, images_per_identity=17))
    train = [p for p in pictures if p.split == "train"]
    cameras = defaultdict(set)
    for picture in train:
        cameras[picture.pid].add(picture.camid)
    counts = np.array(sorted(Counter(p.pid for p in train).values()))
    assert len(cameras) == 300 and min(len(seen) for seen in cameras.values()) >= 2
    assert counts.min() >= 2 and 14 < counts.mean() < 20
    assert np.percentile(counts, 10) <= 9 and np.percentile(counts, 90) >= 26  # Market-1501: 6 and 31
    assert len({p.name for p in pictures}) == len(pictures)


def test_annotations_name_every_picture_once_and_agree_with_the_truth(market):
    truth = read_truth(market)
    rows = read_annotations(market / "market-annotation-train.csv") | read_annotations(
        market / "market-annotation-test.csv"
    )
    assert sorted(rows) == sorted(truth["name"])
    for name, keypoints in zip(truth["name"], truth["keypoints"], strict=True):
        exact = np.array(keypoints).reshape(18, 3)
        missing = exact[:, 2] == 0
        assert (rows[name][missing] == -1).all()
        assert np.abs(rows[name][~missing] - exact[~missing, :2]).max(initial=0) <= 0.5
        assert (rows[name][~missing] >= 0).all() and (rows[name] < (64, 128)).all()


@pytest.mark.parametrize("yaw", [0, 35, 75, 120, 180, 215, 270, 320])
def test_visible_wrists_and_elbows_lie_on_the_arms_in_the_picture(yaw):
    found = 0
    for phase in (10.0, 130.0, 250.0):
        rendered = draw(make_person(), make_motion(yaw=float(yaw), phase=phase))
        for side in ("right", "left"):
            x, y, score = joint(rendered, f"{side}_wrist")
            if score < 1:
                continue
            patch = rendered.image[
                round(float(y)) - 2 : round(float(y)) + 3, round(float(x)) - 2 : round(float(x)) + 3
            ].astype(int)
            magenta = (patch[..., 0] - patch[..., 1] > 40) & (patch[..., 2] - patch[..., 1] > 40)
            # A wrist in front of nothing but the arm must be skin; one just behind the hip may be hidden by cloth.
            found += bool(magenta.mean() > 0.5)
    assert found >= 3


def test_nose_lies_on_the_face_and_neck_below_it():
    rendered = draw(make_person(), make_motion())
    x, y, _ = joint(rendered, "nose")
    red, green, blue = rendered.image[round(float(y)), round(float(x))].astype(int)
    assert red - green > 60 and blue - green > 60
    assert joint(rendered, "neck")[1] > y + 8


def test_right_and_left_are_the_persons_own():
    facing, away = draw(make_person(), make_motion(yaw=0.0)), draw(make_person(), make_motion(yaw=180.0))
    for name in ("shoulder", "hip"):
        assert joint(facing, f"right_{name}")[0] < joint(facing, f"left_{name}")[0] - 4
        assert joint(away, f"right_{name}")[0] > joint(away, f"left_{name}")[0] + 4
    to_the_right = draw(make_person(), make_motion(yaw=90.0))
    assert joint(to_the_right, "nose")[0] > joint(to_the_right, "neck")[0] + 4
    assert not is_missing(to_the_right, "right_ear") and is_missing(to_the_right, "left_ear")


def test_at_phase_zero_the_right_foot_is_in_front():
    walking = draw(make_person(), make_motion(yaw=90.0, phase=0.0, stride=1.0))
    assert joint(walking, "right_ankle")[0] > joint(walking, "left_ankle")[0] + 20


def test_turned_away_faces_and_buried_hands_are_missing():
    hold = make_motion(
        right_arm=GESTURES["hold"], left_arm=GESTURES["hold"], right_swing=0.0, left_swing=0.0, stride=0.1
    )
    facing, away = draw(make_person(), hold), draw(make_person(), dataclasses.replace(hold, yaw=180.0))
    for name in ("nose", "right_eye", "left_eye", "right_wrist", "left_wrist"):
        assert not is_missing(facing, name)
        assert is_missing(away, name)
    assert not is_missing(away, "right_ear") and not is_missing(away, "left_ear")


def test_a_motion_gives_the_same_pose_whatever_is_worn_and_carried():
    motion = make_motion(yaw=30.0, left_arm=GESTURES["phone"], left_swing=0.0)
    plain = draw(make_person(), motion)
    loaded = draw(make_person(bag="hand-left", lower_style="skirt", lower_length=0.7), motion)
    angles = []
    for rendered in (plain, loaded):
        shoulder, wrist = joint(rendered, "left_shoulder")[:2], joint(rendered, "left_wrist")[:2]
        angles.append(np.arctan2(*(wrist - shoulder)))
    assert abs(angles[0] - angles[1]) < 0.02
    carrying = suit_motion(motion, make_person(bag="hand-left"))
    assert carrying.left_arm == GESTURES["carry"] and carrying.right_arm == motion.right_arm


def test_print_shows_only_on_its_own_side():
    mark = (0.05, 0.9, 0.1)

    def green(yaw: float, **outfit) -> int:
        image = draw(make_person(mark=mark, **outfit), make_motion(yaw=yaw)).image.astype(int)
        return int(((image[..., 1] - image[..., 0] > 60) & (image[..., 1] - image[..., 2] > 60)).sum())

    assert green(0, front="graphic") > 100 and green(180, front="graphic") == 0
    assert green(180, back="number") > 100 and green(0, back="number") == 0
    assert 0 < green(60, front="graphic") < green(0, front="graphic")


def test_true_rendering_of_a_picture_gives_its_own_bytes(market):
    truth = read_truth(market)
    for row in truth.iloc[::7].to_dict("records"):
        again = miniature.render_truth(row, row, occluder=True)
        assert miniature.encode_jpeg(again.image, row["image_seed"]) == (market / row["file"]).read_bytes()
        np.testing.assert_array_equal(again.keypoints.ravel(), np.array(row["keypoints"], np.float32))


def test_true_rendering_shows_one_person_in_the_pose_of_another(market):
    train = read_truth(market).query("split == 'train'").to_dict("records")
    target = train[0]
    other = next(row for row in train if row["pid"] != target["pid"])
    own, swapped = miniature.render_truth(target, target), miniature.render_truth(other, target)
    assert np.abs(own.image.astype(int) - swapped.image).mean() > 3
    both = (own.keypoints[:, 2] > 0) & (swapped.keypoints[:, 2] > 0)
    assert both.sum() >= 10
    assert np.abs(own.keypoints[both, :2] - swapped.keypoints[both, :2]).max() < 8


@pytest.mark.parametrize("kind", OCCLUDERS)
def test_leaving_out_the_occluder_changes_nothing_but_what_it_hid(kind):
    who, camera = make_person(), CAMERAS[0]
    motion = sample_motion(np.random.default_rng(0), camera)
    hid = 0
    for seed in range(6):
        shot = dataclasses.replace(
            sample_shot(np.random.default_rng(seed), camera), occluder=kind, blur=0.0, resolution=1.0
        )
        with_it = render_person(who, motion, camera, shot=shot)
        without = render_person(who, motion, camera, shot=shot, occluder=False)
        kept = with_it.keypoints[:, 2] > 0
        np.testing.assert_array_equal(with_it.keypoints[kept], without.keypoints[kept])
        hid += int((without.keypoints[:, 2] > 0).sum() - kept.sum())
        changed = (with_it.image != without.image).any(axis=2)
        assert 0 < changed.mean() < 0.95
    assert hid > 0


def test_pictures_of_any_size_show_the_same_scene():
    who, camera = make_person(), CAMERAS[2]
    motion, shot = sample_motion(np.random.default_rng(2), camera), sample_shot(np.random.default_rng(2), camera)
    small = render_person(who, motion, camera, shot=shot, occluder=False)
    large = render_person(who, motion, camera, width=128, height=256, shot=shot, occluder=False)
    assert large.image.shape == (256, 128, 3)
    both = (small.keypoints[:, 2] > 0) & (large.keypoints[:, 2] > 0)
    np.testing.assert_allclose((large.keypoints[both, :2] + 0.5) / 2, small.keypoints[both, :2] + 0.5, atol=1e-3)


def test_catalog_has_deepfashions_tree_lists_and_pairs(catalog):
    truth = read_truth(catalog).set_index("name")
    assert {str(p.relative_to(catalog)) for p in catalog.rglob("*.jpg")} == set(truth["file"])
    flat = {}
    for name, file in truth["file"].items():
        gender, category, pid, outfit, view = CATALOG_PATH.fullmatch(file).groups()
        index, kind = view.split("_")
        assert name == f"fashion{gender}{category}id{pid}{outfit}_{index}{kind}.jpg"
        flat[name] = (gender, category, pid, outfit)
    for split in ("train", "test"):
        listed = (catalog / f"{split}.lst").read_text().split()
        assert set(listed) == set(truth.index[truth["split"] == split])
        assert list(read_annotations(catalog / f"fasion-annotation-{split}.csv")) == listed
        header, *pairs = (catalog / f"fashion-pairs-{split}.csv").read_text().splitlines()
        assert header == "from,to"
        sizes = Counter(flat[name] for name in listed)
        assert len(set(pairs)) == len(pairs) == sum(n * (n - 1) for n in sizes.values())
        for source, target in (pair.split(",") for pair in pairs):
            assert source != target and flat[source] == flat[target]
    with Image.open(catalog / truth["file"].iloc[0]) as image:
        assert image.size == (88, 128)
        assert np.asarray(image)[:4, :4].mean() > 220  # a plain light ground


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": "market"}, "'market' is no layout of rendered sets; known: 'market1501', 'deepfashion'"),
        ({"train_identities": 1, "test_identities": 1}, "make 2 identities; use 3 to 9999"),
        ({"train_identities": 9000, "test_identities": 1000}, "make 10000 identities"),
        ({"images_per_identity": 1}, "images_per_identity is 1; use 2 or more"),
        ({"junk": -1}, "junk is -1; use 0 or more"),
        ({"width": 4}, "4 x 128 pixels are too small"),
        ({"workers": 0}, "workers is 0; use 1"),
    ],
)
def test_bad_config_is_refused_before_any_work(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        miniature.write_miniature(make_config(**changes), tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_directory_that_holds_a_data_set_is_refused(market):
    with pytest.raises(ValueError, match="already holds 'bounding_box_train'"):
        miniature.write_miniature(make_config(), market)


def test_stage_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    config = make_config()
    left = tmp_path / "bounding_box_train" / "0099_c1s1_000001_00.jpg"
    left.parent.mkdir()
    left.write_bytes(b"half")
    miniature.make_miniature(config, tmp_path)
    assert not left.exists()
    assert len(list(tmp_path.glob("bounding_box_*/*.jpg"))) > 10
