"""Photographs, skeletons and drawings that people hand to `generate`: right, or told in one line."""

import dataclasses
import io
import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.miniature.cameras import CAMERAS
from datasets.miniature.figures import RenderedPerson, render_person, sample_appearance, sample_motion, sample_shot
from datasets.poses.skeleton import FLIP_PAIRS, draw_skeleton, missing_keypoints, present_joints, scale_keypoints
from datasets.runtime.errors import InputError
from imagpose.config import BUILT_IN, GenerateConfig
from imagpose.sampling.generate import PhotoReader, _source
from imagpose.sampling.pose_files import PoseFiles, person_box, view_box

VIEW = (128, 64)


def person(seed: int, height: int) -> RenderedPerson:
    rng = np.random.default_rng(seed)
    who = sample_appearance(rng)
    shot = dataclasses.replace(sample_shot(rng, CAMERAS[0]), occluder=None, companion=False, blur=0.3, resolution=1.0)
    motion = sample_motion(rng, CAMERAS[0], who)
    return render_person(who, motion, CAMERAS[0], height=height, width=height // 2, shot=shot)


def scene(*people: tuple[int, int, int, int], size: tuple[int, int] = (480, 640)) -> tuple[Image.Image, np.ndarray]:
    """People (seed, height, left, top) before a soft background, and their skeletons (P, 18, 3)."""
    soft = np.random.default_rng(0).integers(90, 170, (6, 9, 3), np.uint8)
    pixels = np.asarray(Image.fromarray(soft).resize(size[::-1], Image.Resampling.BICUBIC)).copy()
    skeletons = []
    for seed, height, left, top in people:
        drawn = person(seed, height)
        part = pixels[top : top + height, left : left + height // 2]
        rows, columns = part.shape[:2]
        cover = drawn.cover[:rows, :columns, None]
        part[:] = np.round(part * (1 - cover) + drawn.image[:rows, :columns] * cover)
        moved = drawn.keypoints.copy()
        moved[:, :2] += (left, top)
        skeletons.append(moved)
    return Image.fromarray(pixels), np.stack(skeletons or [missing_keypoints()])


def settings(**fields: object) -> GenerateConfig:
    defaults = {"generator": BUILT_IN, "source": ("me.png",), "pose": ("pose.json",), "device": "cpu"}
    return GenerateConfig.model_validate(defaults | fields)


@pytest.fixture(scope="module")
def files() -> PoseFiles:
    return PoseFiles([], VIEW, PhotoReader(settings(), torch.device("cpu"), VIEW))


def overlap(first: tuple[int, ...], second: tuple[int, ...]) -> float:
    """Intersection over union."""
    sides = [min(first[2 + i], second[2 + i]) - max(first[i], second[i]) for i in (0, 1)]
    shared = max(0, sides[0]) * max(0, sides[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return shared / (sum(areas) - shared)


# Photographs of scenes.

SCENES = {
    "two people": [(1, 400, 60, 60), (2, 300, 380, 120)],
    "a small one": [(6, 200, 400, 200)],
    "three": [(7, 300, 10, 100), (8, 340, 200, 90), (9, 280, 430, 120)],
}


@pytest.mark.parametrize("name", SCENES)
def test_in_a_photograph_of_a_scene_the_largest_person_is_found_and_others_are_told(files, tmp_path, caplog, name):
    picture, truth = scene(*SCENES[name])
    picture.save(tmp_path / "street.png")
    with caplog.at_level(logging.INFO):
        found = files.in_photo(tmp_path / "street.png", picture)
    boxes = [view_box(skeleton, (480, 640), VIEW) for skeleton in truth]
    heights = [box[3] - box[1] for box in boxes]
    closest = max(range(len(boxes)), key=lambda i: overlap(person_box(found, picture, VIEW), boxes[i]))
    assert overlap(person_box(found, picture, VIEW), boxes[closest]) > 0.75
    assert heights[closest] > 0.9 * max(heights)
    told = f"shows {len(truth)} people; taking the largest" in caplog.text
    assert told == (len(truth) > 1)


def test_a_scene_without_anybody_is_refused(files, tmp_path):
    picture, _ = scene()
    picture.save(tmp_path / "street.png")
    with pytest.raises(InputError, match=r"street\.png: no person was found"):
        files.pose(tmp_path / "street.png")


def test_a_picture_that_is_a_strip_is_refused_by_name(files, tmp_path):
    Image.new("RGB", (60_000, 100), "gray").save(tmp_path / "strip.png")
    with pytest.raises(InputError, match=r"strip\.png: a picture of 60000x100 pixels cannot be searched"):
        files.pose(tmp_path / "strip.png")


def test_a_box_that_lies_mostly_outside_the_picture_is_warned_of(tmp_path, caplog):
    skeleton = missing_keypoints()
    skeleton[[0, 1, 4, 7]] = [[20, 5, 1], [20, 90, 1], [5, 60, 1], [60, 60, 1]]
    skeleton[13] = [20, 300, 1]  # only head and shoulders are in the picture
    value = {"keypoints": np.nan_to_num(skeleton).tolist(), "width": 160, "height": 100}
    (tmp_path / "cut.json").write_text(json.dumps(value))
    PoseFiles([], VIEW).pose(tmp_path / "cut.json")
    assert "cut.json" in caplog.text and "lies outside the 160x100 picture" in caplog.text
    caplog.clear()
    value["height"] = 310
    value["width"] = 900
    (tmp_path / "cut.json").write_text(json.dumps(value))
    PoseFiles([], VIEW).pose(tmp_path / "cut.json")
    assert not caplog.text


def turned(picture: Image.Image, path: Path) -> Path:
    """A picture as a camera held sideways stores it: turned left, with EXIF orientation 6."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    return path


def test_a_photograph_that_exif_turns_gives_what_the_upright_one_gives(files, tmp_path):
    picture, _ = scene((11, 250, 15, 30), size=(320, 240))
    picture.save(tmp_path / "upright.png")
    sideways = turned(picture, tmp_path / "sideways.png")
    assert np.array_equal(files.pose(sideways), files.pose(tmp_path / "upright.png"), equal_nan=True)
    for source_pose in ((), (tmp_path / "upright.png",)):
        crop = Image.fromarray(person(11, 256).image)
        crop.save(tmp_path / "crop.png")
        config = settings(source_pose=source_pose)
        one, other = (
            _source(path, 0, config, files, VIEW)
            for path in (tmp_path / "crop.png", turned(crop, tmp_path / "sideways-crop.png"))
        )
        assert np.array_equal(np.asarray(one.image), np.asarray(other.image))
        assert np.array_equal(one.keypoints, other.keypoints, equal_nan=True)


@pytest.mark.parametrize("field", ["source", "pose", "keypoints"])
def test_pipes_and_devices_are_not_waited_for(files, tmp_path, field):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "zero.jpg"):
        with pytest.raises(InputError, match="no regular file"):
            if field == "source":
                _source(tmp_path / name, 0, settings(), files, VIEW)
            elif field == "pose":
                files.pose(tmp_path / name)
            else:
                PoseFiles([tmp_path / name], VIEW)


# Skeletons in JSON.


def figure(height: float, left: float = 0.0, top: float = 0.0) -> np.ndarray:
    """A whole skeleton of so many pixels from nose to ankles."""
    skeleton = scale_keypoints(person(12, 256).keypoints, VIEW, VIEW)
    joints = present_joints(skeleton)
    low = skeleton[joints, :2].min(0)
    skeleton[:, :2] = (skeleton[:, :2] - low) * height / np.ptp(skeleton[joints, 1]) + (left, top)
    return skeleton


def pose_of(folder: Path, keypoints: np.ndarray, **others: object) -> np.ndarray:
    joints = [None if not score else [float(x), float(y), 1] for x, y, score in keypoints]
    (folder / "pose.json").write_text(json.dumps({"keypoints": joints, **others} if others else joints))
    return PoseFiles([], VIEW).pose(folder / "pose.json")


def assert_whole(found: np.ndarray, true: np.ndarray) -> None:
    """Every joint lies in the view, the figure is most of its height, and its proportions are kept."""
    joints = present_joints(true)
    assert (present_joints(found) == joints).all()
    inside, outside = found[joints, :2], true[joints, :2]
    assert (inside >= 0).all() and (inside <= (63, 127)).all() and np.ptp(inside[:, 1]) > 0.5 * VIEW[0]
    width, height = np.ptp(inside, axis=0) / np.ptp(outside, axis=0)
    assert np.isclose(width, height, rtol=0.03)


def test_shares_of_a_canvas_are_placed_as_its_pixels(tmp_path):
    skeleton = figure(300, left=500, top=200)
    pixels = pose_of(tmp_path, skeleton, width=1280, height=720)
    shares = skeleton.copy()
    shares[:, :2] = (shares[:, :2] + 0.5) / (1280, 720)
    assert np.allclose(pose_of(tmp_path, shares, width=1280, height=720), pixels, atol=0.01, equal_nan=True)
    assert_whole(pixels, skeleton)


def test_a_landscape_canvas_is_not_squeezed_into_the_view(tmp_path):
    skeleton = figure(400, left=700, top=150)
    assert_whole(pose_of(tmp_path, skeleton, width=1280, height=720), skeleton)


def test_a_canvas_of_the_views_proportions_is_taken_whole(tmp_path):
    skeleton = figure(200, left=60, top=30)
    found = pose_of(tmp_path, skeleton, width=128, height=256)
    assert np.allclose(found[:, :2], (skeleton[:, :2] + 0.5) / 2 - 0.5, atol=0.01, equal_nan=True)


def test_pixels_of_an_unknown_picture_are_boxed_and_told(tmp_path, caplog):
    skeleton = figure(400, left=700, top=150)
    assert_whole(pose_of(tmp_path, skeleton), skeleton)
    assert "pose.json does not say how large its picture is" in caplog.text and "'width' and 'height'" in caplog.text
    caplog.clear()
    inside = figure(90, left=12, top=20)
    assert np.allclose(pose_of(tmp_path, inside), inside, equal_nan=True) and not caplog.text


def test_a_sample_of_encoded_shards_is_placed_by_its_view(tmp_path):
    skeleton = figure(200, left=60, top=30)
    found = pose_of(tmp_path, skeleton, view=[256, 128])
    assert np.allclose(found[:, :2], (skeleton[:, :2] + 0.5) / 2 - 0.5, atol=0.01, equal_nan=True)


def test_the_largest_of_several_people_is_taken_and_said(tmp_path, caplog):
    people = [
        {"pose_keypoints_2d": [float(n) for joint in np.nan_to_num(figure(height, left)) for n in joint]}
        for height, left in ((60, 300), (400, 700))
    ]
    (tmp_path / "pose.json").write_text(json.dumps({"people": people, "canvas_width": 1280, "canvas_height": 720}))
    assert_whole(PoseFiles([], VIEW).pose(tmp_path / "pose.json"), figure(400, 700))
    assert "holds 2 people; taking the largest" in caplog.text


def test_a_file_of_nobody_is_refused_by_name(tmp_path):
    (tmp_path / "pose.json").write_text('{"people": []}')
    with pytest.raises(InputError, match=r"pose\.json: the pose has no joint"):
        PoseFiles([], VIEW).pose(tmp_path / "pose.json")


# Drawings.


def saved(pixels: np.ndarray, path: Path) -> Path:
    options = {"quality": 90} if path.suffix == ".jpg" else {}
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("seed", range(2))
def test_a_drawn_skeleton_is_read_by_its_colors_with_left_and_right_as_they_are(tmp_path, seed, suffix):
    truth = person(100 + seed, 512).keypoints
    drawing = saved(draw_skeleton(truth, 512, 256), tmp_path / f"pose{suffix}")
    found = PoseFiles([], VIEW).pose(drawing)
    expected = scale_keypoints(truth, (512, 256), VIEW)
    joints = present_joints(expected)
    assert (present_joints(found) == joints).all()
    assert np.abs(found[joints, :2] - expected[joints, :2]).max() < 1.5
    exchanged = expected.copy()
    for right, left in FLIP_PAIRS:
        exchanged[[right, left]] = exchanged[[left, right]]
    assert np.nanmax(np.abs(found[:, :2] - exchanged[:, :2])) > 3  # so the comparison can tell


def test_controlnets_own_drawing_is_read(tmp_path):
    util = pytest.importorskip("controlnet_aux.open_pose.util")
    body = pytest.importorskip("controlnet_aux.open_pose.body")
    truth = person(104, 512).keypoints
    joints = [body.Keypoint((x + 0.5) / 256, (y + 0.5) / 512, s, -1) if s else None for x, y, s in truth]
    drawing = saved(util.draw_bodypose(np.zeros((512, 256, 3), np.uint8), joints), tmp_path / "pose.png")
    found = PoseFiles([], VIEW).pose(drawing)
    expected = scale_keypoints(truth, (512, 256), VIEW)
    assert (present_joints(found) == present_joints(expected)).all()
    assert np.nanmax(np.abs(found[:, :2] - expected[:, :2])) < 1.5


def test_a_drawing_in_a_landscape_picture_is_cut_out_around_the_person(tmp_path):
    truth = scale_keypoints(person(105, 512).keypoints, (512, 256), (512, 256))
    truth[:, 0] += 400
    assert_whole(PoseFiles([], VIEW).pose(saved(draw_skeleton(truth, 512, 900), tmp_path / "pose.png")), truth)


def test_a_drawing_that_cannot_be_read_is_refused(tmp_path):
    truth = person(106, 512).keypoints
    other = truth.copy()
    other[:, 0] += 256
    two = np.maximum(draw_skeleton(truth, 512, 512), draw_skeleton(other, 512, 512))
    small = draw_skeleton(truth, 128, 64, source_size=(512, 256))
    for pixels, reason in ((two, "more than once"), (small, "too small")):
        with pytest.raises(InputError, match=rf"pose\.png is a drawing .*{reason}.* as JSON"):
            PoseFiles([], VIEW).pose(saved(pixels, tmp_path / "pose.png"))


def test_a_drawing_is_no_source_and_a_photograph_is_no_drawing(files, tmp_path):
    from datasets.poses.drawings import is_drawing

    drawing = saved(draw_skeleton(person(107, 512).keypoints, 512, 256), tmp_path / "me.png")
    with pytest.raises(InputError, match=r"me\.png is a drawing of a skeleton, not a photograph"):
        _source(drawing, 0, settings(), files, VIEW)
    night = [(person(seed, 256).image * 0.2).astype(np.uint8) for seed in range(108, 112)]
    assert not any(map(is_drawing, [*night, *(person(seed, 256).image for seed in range(108, 112))]))
    assert not is_drawing(np.zeros((64, 32, 3), np.uint8))


# The command itself.


def test_generate_answers_strange_files_in_one_line_with_exit_code_2(tmp_path, capsys):
    from datasets.runtime.command_line import main
    from imagpose.__main__ import COMMANDS

    Image.fromarray(person(1, 128).image).save(tmp_path / "me.png")
    os.mkfifo(tmp_path / "pipe.png")
    eps = io.BytesIO(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    (tmp_path / "eps.jpg").write_bytes(eps.getvalue())
    (tmp_path / "empty.json").write_text('{"people": []}')
    for source, pose, message in (
        ("pipe.png", "me.png", "no regular file"),
        ("eps.jpg", "me.png", "is EPS"),
        ("me.png", "empty.json", "no joint"),
        ("me.png", "absent.json", "No such file"),
    ):
        arguments = ["--generator", str(BUILT_IN), "--source", str(tmp_path / source), "--pose", str(tmp_path / pose)]
        arguments += ["--out", str(tmp_path / "out"), "--device", "cpu"]
        assert main("imagpose", COMMANDS, ["generate", *arguments]) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert message in said[-1] and "Traceback" not in "".join(said)
    assert not (tmp_path / "out").exists()
