"""Skeletons in other tools' JSON and CSV files: read as what they mean, or refused in one line, nothing unsaid."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datasets.poses.config import ImportPosesConfig
from datasets.poses.csv_files import HEADER, read_pose_csv
from datasets.poses.json_files import UNIT, read_pose_folder, read_pose_json
from datasets.poses.skeleton import JOINTS, missing_keypoints, present_joints
from datasets.poses.table import read_poses
from datasets.runtime.errors import InputError
from datasets.runtime.manifests import manifest_of
from datasets.sources.config import IndexConfig
from datasets.sources.index import read_index
from tests.small_sets import jpeg, make, market_files, pose_csv, write_files

FEW = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

COCO_NAMES = [
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
]
"""https://cocodataset.org/#keypoints-2020."""
BODY_25_NAMES = [
    "nose",
    "neck",
    "right_shoulder",
    "right_elbow",
    "right_wrist",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
    "mid_hip",
    "right_hip",
    "right_knee",
    "right_ankle",
    "left_hip",
    "left_knee",
    "left_ankle",
    "right_eye",
    "left_eye",
    "right_ear",
    "left_ear",
    "left_big_toe",
    "left_small_toe",
    "left_heel",
    "right_big_toe",
    "right_small_toe",
    "right_heel",
]
"""https://github.com/CMU-Perceptual-Computing-Lab/openpose/blob/master/doc/02_output.md."""


def place(name: str, shift: float = 0) -> list[float]:
    """Another place for every joint, the same in every order."""
    if name == "neck":
        left, right = place("left_shoulder", shift), place("right_shoulder", shift)
        return [(left[0] + right[0]) / 2, (left[1] + right[1]) / 2]
    number = JOINTS.index(name) if name in JOINTS else 40
    return [10.0 + 2 * number + shift, 100.0 - 3 * number + shift]


def rows(names: list[str], shift: float = 0) -> list[list[float]]:
    return [[*place(name, shift), 0.9] for name in names]


def flat(names: list[str], shift: float = 0) -> list[float]:
    return [number for row in rows(names, shift) for number in row]


OURS, COCO, BODY_25 = list(JOINTS), COCO_NAMES, BODY_25_NAMES
WHOLE_BODY = COCO_NAMES + ["face"] * 116
SIZE = {"width": 100, "height": 120}
CANVAS = {"canvas_width": 100, "canvas_height": 120}
EMPTY = {"pose_keypoints_2d": []}
PEOPLE = {"pose_keypoints_2d": flat(BODY_25)}

FORMS = {
    "rows": (rows(OURS), None),
    "flat": (flat(OURS), None),
    "keypoints": ({"keypoints": rows(OURS), **SIZE}, (120, 100)),
    "without size": ({"keypoints": rows(OURS)}, None),
    "COCO rows": (rows(COCO), None),
    "COCO flat": (flat(COCO), None),
    "COCO keypoints": ({"keypoints": flat(COCO), **SIZE}, (120, 100)),
    "COCO results": ([{"image_id": 3, "category_id": 1, "keypoints": flat(COCO), "score": 0.9}], None),
    "AlphaPose": ([{"image_id": "a.jpg", "keypoints": flat(COCO), "score": 2.7, "box": [1, 2, 3, 4]}], None),
    "COCO data set": (
        {"images": [{"id": 1, **SIZE}], "annotations": [{"image_id": 1, "keypoints": flat(COCO)}]},
        (120, 100),
    ),
    "frames": ([rows(COCO)], None),
    "frames of people": ([[rows(COCO)]], None),
    "flat people": ([flat(COCO)], None),
    "MMPose": (
        {
            "instance_info": [
                {"frame_id": 1, "instances": [{"keypoints": [place(n) for n in COCO], "keypoint_scores": [0.9] * 17}]}
            ]
        },
        None,
    ),
    "whole body": (rows(WHOLE_BODY), None),
    "BODY_25": ({"version": 1.3, "people": [PEOPLE]}, None),
    "COCO-18 of OpenPose": ({"people": [{"pose_keypoints_2d": flat(OURS)}], **CANVAS}, (120, 100)),
    "version 1.1": ({"version": 1.1, "people": [{"pose_keypoints": flat(OURS)}]}, None),
    "ControlNet": ([{"people": [{"pose_keypoints_2d": flat(OURS)}], **CANVAS}], (120, 100)),
    "first person empty": ({"people": [EMPTY, PEOPLE], **CANVAS}, (120, 100)),
    "first person nothing": ({"people": [{}, PEOPLE]}, None),
    "first person of zeros": ({"people": [{"pose_keypoints_2d": [0] * 75}, PEOPLE]}, None),
}


def written(folder: Path, value: object, name: str = "pose.json", mark: str = "") -> Path:
    (folder / name).write_text(mark + json.dumps(value), encoding="utf-8")
    return folder / name


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_skeleton(tmp_path, name):
    value, size = FORMS[name]
    found = read_pose_json(written(tmp_path, value))
    assert present_joints(found.keypoints).all() and found.people == 1 and found.size == size
    expected = np.array([place(joint) for joint in JOINTS])
    assert np.allclose(found.keypoints[:, :2], expected)  # of 17 joints, the neck is the middle of the shoulders
    assert np.allclose(found.keypoints[:, 2], 0.9)


def test_without_a_shoulder_there_is_no_neck(tmp_path):
    joints = rows(COCO)
    joints[COCO.index("left_shoulder")] = [0, 0, 0]
    found = read_pose_json(written(tmp_path, joints)).keypoints
    assert [JOINTS[i] for i in np.flatnonzero(~present_joints(found))] == ["neck", "left_shoulder"]


def test_a_byte_order_mark_does_not_matter(tmp_path):
    assert present_joints(read_pose_json(written(tmp_path, rows(OURS), mark="\ufeff")).keypoints).all()


def test_of_several_people_the_largest_is_taken(tmp_path):
    small = [[x / 3, y / 3, score] for x, y, score in rows(BODY_25)]
    people = [{"pose_keypoints_2d": [n for row in small for n in row]}, PEOPLE]
    found = read_pose_json(written(tmp_path, {"people": people}))
    assert found.people == 2 and np.allclose(found.keypoints[0, :2], place("nose"))


@pytest.mark.parametrize("value", [{"people": []}, {"people": [EMPTY]}, [], {"keypoints": []}, {"people": [{}]}])
def test_nobody_is_a_skeleton_without_joints(tmp_path, value):
    found = read_pose_json(written(tmp_path, value))
    assert found.people == 0 and not present_joints(found.keypoints).any()


def test_shares_of_a_picture_are_told_from_pixels(tmp_path):
    shares = [[x / 100, y / 120, score] for x, y, score in rows(OURS)]
    found = read_pose_json(written(tmp_path, {"keypoints": shares, **SIZE}))
    assert np.allclose(found.keypoints[0, :2], np.array(place("nose")) - 0.5) and found.size == (120, 100)
    found = read_pose_json(written(tmp_path, shares))
    assert found.size == UNIT and np.allclose((found.keypoints[0, :2] + 0.5) * (100, 120), place("nose"))


NO_POSES = {
    "[[1, 2, 1]]": "1 joints, expected 18, or 17",
    "{}": "an object without 'people'",
    '{"people": [{"face": [1]}]}': "an object without 'people'",
    '{"people": 3}': "an object without",
    "3": "3 in place of a skeleton",
    '"pose"': "in place of a skeleton",
    json.dumps([1.0] * 52): "52 numbers",
    json.dumps([[1, 2, 3, 4]] * 18): "4 numbers|in place of",
    json.dumps([[1, "a", 3]] * 18): '"a"|in place of',
    json.dumps([[1, True, 3]] * 18): "true|in place of",
    json.dumps([[1e300, 1, 1]] * 18): "coordinate 1e",
    "[[1e999, 1, 1], " + ", ".join(["[1, 1, 1]"] * 17) + "]": "coordinate inf",
    json.dumps({"keypoints": rows(OURS), "width": 0, "height": 5}): "0 as width or height",
    json.dumps({"keypoints": rows(OURS), "width": 5}): "null as width or height",
    json.dumps({"keypoints": rows(OURS), "view": 3}): "view 3",
    json.dumps([{"image_id": n, "keypoints": flat(COCO)} for n in (1, 2)]): "skeletons of 2 pictures",
    json.dumps([{"keypoints": flat(COCO), "width": n, "height": 9} for n in (1, 2)]): "several sizes",
    "[" * 100_000: "nested too deeply|Expecting",
    "[" * 50 + "]" * 50: "nested too deeply",
    "": "Expecting value",
    "{": "Expecting",
}


@pytest.mark.parametrize("content", NO_POSES, ids=range(len(NO_POSES)))
def test_what_is_no_skeleton_is_refused_in_one_line_with_the_forms_that_are_known(tmp_path, content):
    (tmp_path / "pose.json").write_text(content)
    with pytest.raises(InputError, match=NO_POSES[content]) as refusal:
        read_pose_json(tmp_path / "pose.json")
    assert "pose.json holds no skeleton" in str(refusal.value) and "\n" not in str(refusal.value)


def test_json_that_is_no_regular_utf8_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    (tmp_path / "utf16.json").write_bytes(json.dumps(rows(OURS)).encode("utf-16"))
    for name, message in (("pipe", "no regular file"), ("zero", "no regular file"), ("utf16", "not UTF-8")):
        with pytest.raises(InputError, match=message):
            read_pose_json(tmp_path / f"{name}.json")


NUMBERS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
LISTS = ["people", "keypoints", "pose_keypoints_2d", "keypoint_scores", "annotations", "images", "instances"]
NAMES = st.sampled_from([*LISTS, "width", "height", "view", "canvas_width", "canvas_height", "image_id"])
JOINTS_LIKE = st.sampled_from([17, 18, 25]).flatmap(
    lambda n: st.lists(st.lists(NUMBERS, min_size=2, max_size=3), min_size=n, max_size=n)
)
VALUES = st.recursive(
    NUMBERS | JOINTS_LIKE | st.sampled_from([flat(COCO), rows(OURS), flat(BODY_25)]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)


@FEW
@given(value=VALUES)
def test_any_json_value_is_a_skeleton_or_one_line(tmp_path, value):
    file = written(tmp_path, value)
    try:
        found = read_pose_json(file)
    except InputError as error:
        assert "\n" not in str(error) and "pose.json" in str(error)
    else:
        assert found.keypoints.shape == (18, 3)
        there = present_joints(found.keypoints)
        assert np.isfinite(found.keypoints[there]).all() and (found.keypoints[there, 2] <= 1).all()
        assert (found.people > 0) == there.any()


@FEW
@given(content=st.binary(max_size=200) | st.text(alphabet='[]{}":,0123456789.eE-+ntf\\u', max_size=200))
def test_any_bytes_are_a_skeleton_or_one_line(tmp_path, content):
    (tmp_path / "pose.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        read_pose_json(tmp_path / "pose.json")
    except InputError as error:
        assert "\n" not in str(error)


CSV_TEXT = st.text(alphabet="a/\\.jpgnb:[], \t\r\n0123456789-+eE\0\ufeff\u0663", max_size=300)


@FEW
@given(lines=st.lists(CSV_TEXT | st.builds("a.jpg: [{}]: [{}]".format, CSV_TEXT, CSV_TEXT), max_size=5))
def test_any_keypoint_csv_is_rows_with_a_status_or_one_line(tmp_path, lines):
    (tmp_path / "poses.csv").write_text("\n".join([HEADER, *lines]), encoding="utf-8")
    try:
        found = read_pose_csv(tmp_path / "poses.csv")
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert all((row.status == "ok") == present_joints(row.keypoints).any() for row in found.values())


GOOD = str(list(range(1, 19)))


def csv_of(folder: Path, *names: str) -> Path:
    (folder / "names.csv").write_text("\n".join([HEADER, *(f"{name}: {GOOD}: {GOOD}" for name in names)]))
    return folder / "names.csv"


def test_names_of_any_image_suffix_and_with_folders_are_read(tmp_path):
    names = ("a.jpg", "b.png", "c.JPEG", "train/d.png", "/data/shop/e.jpg", r"cams\1\f.png", "./g.jpg.jpg")
    found = read_pose_csv(csv_of(tmp_path, *names))
    assert sorted(found) == list("abcdefg") and {row.status for row in found.values()} == {"ok"}


def test_equal_file_names_in_different_folders_stay_apart(tmp_path):
    found = read_pose_csv(csv_of(tmp_path, "cam1/0001.png", "cam2/0001.png", "cam2/0002.png", "cam2/0002.png"))
    assert {key: row.status for key, row in found.items()} == {
        "cam1_0001": "ok",
        "cam2_0001": "ok",
        "0002": "duplicate-row",
    }


def small_table(folder: Path) -> Path:
    """An index of four images in two folders that share file names."""
    files = {f"cam{c}/{n:04d}.jpg": jpeg(10 * c + n, width=64, height=64) for c in (1, 2) for n in (1, 2)}
    files |= {"cam2/0003.jpg": jpeg(3, width=64, height=64)}
    root = write_files(folder / "set", files)
    table = ["path,pid,camid,split"] + [f"{name},{1 + i % 2},1,train" for i, name in enumerate(files)]
    (root / "images.csv").write_text("\n".join(table))
    return make(IndexConfig(root=root / "images.csv", layout="table", workers=1), folder / "store")


def test_a_row_goes_to_the_image_of_its_folder(tmp_path):
    index = small_table(tmp_path)
    csv = csv_of(tmp_path, "cam1/0001.jpg", "cam2/0001.jpg", "0002.png", "elsewhere/0003.jpg")
    poses = read_poses(make(ImportPosesConfig(images=index, csv=[csv]), tmp_path / "store"))
    assert dict(zip(poses["key"], poses["status"], strict=True)) == {
        "cam1_0001": "ok",
        "cam2_0001": "ok",
        "cam1_0002": "missing",  # a name that two images share tells neither
        "cam2_0002": "missing",
        "cam2_0003": "ok",
    }


def json_folder(folder: Path, files: dict[str, bytes]) -> Path:
    """The skeletons of `pose_csv` as OpenPose writes them, one file an image, in another resolution."""
    (folder / "json").mkdir()
    for key, row in read_pose_csv(pose_csv(folder, files)).items():
        joints = [[2 * x + 0.5, 2 * y + 0.5, 1] if s else [0, 0, 0] for x, y, s in row.keypoints.tolist()]
        person = {"pose_keypoints_2d": [number for joint in joints for number in joint]}
        value = {"people": [person] if row.status == "ok" else [], "canvas_width": 64, "canvas_height": 128}
        written(folder / "json", value, f"{key}_keypoints.json")
    return folder / "json"


def test_a_folder_of_one_json_per_image_imports_as_the_csv_file_does(tmp_path):
    files = market_files()
    index = make(IndexConfig(root=write_files(tmp_path / "set", files), workers=1), tmp_path / "store")
    folder = json_folder(tmp_path, files)
    by_csv = read_poses(make(ImportPosesConfig(images=index, csv=[tmp_path / "poses.csv"]), tmp_path / "store"))
    by_json = read_poses(make(ImportPosesConfig(images=index, csv=[folder]), tmp_path / "store"))
    assert by_csv["status"].tolist() == by_json["status"].tolist() and "no-person" in set(by_json["status"])
    assert np.allclose(np.stack(by_csv["keypoints"]), np.stack(by_json["keypoints"]), equal_nan=True, atol=1e-4)


def test_what_a_folder_of_json_holds_besides_is_counted_and_named(tmp_path, caplog):
    files = market_files(identities=40)
    index = make(IndexConfig(root=write_files(tmp_path / "set", files), workers=1), tmp_path / "store")
    folder = json_folder(tmp_path, files)
    first, second, third, *_ = sorted(folder.iterdir())
    first.write_text("{")
    written(folder, json.loads(third.read_text()), third.name.replace("_keypoints", ""))  # of the same image
    value = json.loads(second.read_text())
    written(folder, value | {"people": 2 * value["people"]}, second.name)
    (folder / "notes.txt").write_text("taken on Monday")
    summary = manifest_of(make(ImportPosesConfig(images=index, csv=[folder]), tmp_path / "store"))["summary"]
    assert summary["statuses"]["malformed"] == 1 and summary["statuses"]["duplicate-row"] == 1
    assert any(str(first) in error for error in summary["bad_rows"].values())
    assert summary["passed_over"] == ["notes.txt"] and "1 files are no JSON" in caplog.text
    assert summary["several_people"] == 1 and "1 files hold several people" in caplog.text


def test_json_files_of_equal_names_in_folders_are_of_the_images_at_those_paths(tmp_path):
    paths = [f"p{pid}/{camid}.jpg" for pid in (1, 2) for camid in (1, 2)]
    lines = ["path,pid,camid,split", *(f"{path},{path[1]},{path[3]},train" for path in paths)]
    files = {path: jpeg(seed) for seed, path in enumerate(paths)} | {"own.csv": "\n".join(lines).encode()}
    root = write_files(tmp_path / "set", files) / "own.csv"
    index = make(IndexConfig(root=root, layout="table", workers=1), tmp_path / "store")
    for number, path in enumerate(paths):
        joints = [[10 + number, 20 + joint, 1] for joint in range(18)]
        write_files(tmp_path / "json", {path.replace(".jpg", "_keypoints.json"): json.dumps(joints).encode()})
    poses = read_poses(make(ImportPosesConfig(images=index, csv=[tmp_path / "json"]), tmp_path / "store"))
    assert [float(keypoints[0, 0]) for keypoints in poses["keypoints"]] == [10, 11, 12, 13]


def test_json_of_pictures_that_the_images_were_cut_from_is_refused(tmp_path):
    files = market_files()
    index = make(IndexConfig(root=write_files(tmp_path / "set", files), workers=1), tmp_path / "store")
    folder = json_folder(tmp_path, files)
    for file in folder.iterdir():
        written(folder, json.loads(file.read_text()) | {"canvas_width": 1280, "canvas_height": 720}, file.name)
    with pytest.raises(InputError, match="lie outside their images"):
        make(ImportPosesConfig(images=index, csv=[folder]), tmp_path / "store")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty holds no JSON file"):
        read_pose_folder(tmp_path / "empty")


def test_exported_skeletons_of_equal_file_names_are_imported_again(tmp_path):
    from datasets.poses.config import ExportPosesConfig
    from datasets.poses.table import run_export

    index = small_table(tmp_path)
    names = read_index(index)["path"].tolist()
    poses = make(ImportPosesConfig(images=index, csv=[csv_of(tmp_path, *names)]), tmp_path / "store")
    run_export(ExportPosesConfig(images=index, poses=poses, csv=tmp_path / "out.csv"))
    again = read_poses(make(ImportPosesConfig(images=index, csv=[tmp_path / "out.csv"]), tmp_path / "store"))
    assert set(again["status"]) == {"ok"}
    assert not np.array_equal(again["keypoints"][0], missing_keypoints())
