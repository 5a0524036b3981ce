"""DeepFashion In-shop: three forms of the images, two frames of the keypoints, lists, queries, pairs."""

import functools
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.__main__ import COMMANDS
from datasets.poses.config import ImportPosesConfig
from datasets.poses.pairs import read_pairs, write_pairs
from datasets.poses.skeleton import present_joints
from datasets.poses.views import crop_of, frame_of, keypoints_in_view, open_picture
from datasets.runtime.command_line import main
from datasets.runtime.errors import InputError
from datasets.runtime.manifests import manifest_of
from datasets.shards.config import WriteShardsConfig
from datasets.shards.encoded import keypoints_from_json
from datasets.shards.frozen_models import view_pixels
from datasets.shards.tars import read_samples
from datasets.sources.config import IndexConfig
from datasets.sources.index import read_index
from tests.small_sets import jpeg, make, write_files

FORMS = {"square": (256, 256), "crop": (176, 256), "large": (750, 1101)}
MARKS = ((60, 30), (88, 128), (20, 250), (170, 6), (30, 140))
"""Joints as (x, y) in the 176x256 picture proper; each is drawn as a red disc."""
SHOTS = [
    ("WOMEN", "Tees_Tanks", 2219, 1, "1_front"),
    ("WOMEN", "Tees_Tanks", 2219, 1, "2_side"),
    ("WOMEN", "Tees_Tanks", 2219, 2, "1_front"),
    ("MEN", "Denim", 80, 1, "1_front"),
    ("MEN", "Denim", 80, 1, "7_additional"),
    ("MEN", "Denim", 80, 2, "1_front"),
    ("MEN", "Denim", 81, 1, "1_front"),
    ("MEN", "Denim", 81, 1, "2_side"),
    ("MEN", "Denim", 82, 1, "1_front"),
]


def original(shot) -> str:
    gender, category, pid, outfit, side = shot
    return f"img/{gender}/{category}/id_{pid:08d}/{outfit:02d}_{side}.jpg"


def flat(shot) -> str:
    gender, category, pid, outfit, side = shot
    return f"fashion{gender}{category}id{pid:08d}{outfit:02d}_{side.replace('_', '')}.jpg"


@functools.cache
def picture(width: int, height: int, shade: int) -> bytes:
    """A gray picture with red discs at the joints; a square one has white margins, as the originals have."""
    left, proper = (round(width * 40 / 256), round(width * 176 / 256)) if width == height else (0, width)
    y, x = np.mgrid[:height, :width]
    gray = np.full((height, width, 3), 60 + shade, np.uint8)
    for joint_x, joint_y in MARKS:
        here = (
            ((x - left + 0.5) * 176 / proper - 0.5 - joint_x) ** 2 + ((y + 0.5) * 256 / height - 0.5 - joint_y) ** 2
        ) < 16
        gray[here] = 255, 0, 0
    gray[(x < left) | (x >= left + proper)] = 255
    file = io.BytesIO()
    Image.fromarray(gray).save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


def row(name: str, offset: int) -> str:
    there = [*MARKS, *[(-1 - offset, -1)] * 13]
    return f"{name}: {[y for _, y in there]}: {[x + offset for x, _ in there]}"


def keypoint_file(path: Path, frame: str, shots=SHOTS) -> Path:
    """A published file in one of the two dialects: 256 wide with spaces, or 176 wide with trailing commas."""
    if frame == "deepfashion-256":
        text = "\n".join(["name:keypoints_y:keypoints_x", *(row(flat(shot), 40) for shot in shots)])
    else:
        rows = (row(flat(shot), 0).replace(", ", ",") + ",," for shot in shots)
        text = "\r\n".join(["name:keypoints_y:keypoints_x,,", *rows])
    path.write_text(text + "\n", newline="")
    return path


def lists(train=SHOTS[:2], test=SHOTS[2:8]) -> dict[str, bytes]:
    return {
        f"{name}.lst": "".join(f"{flat(shot)}\n" for shot in shots).encode()
        for name, shots in (("train", train), ("test", test))
    }


def index(root: Path, **settings: object) -> Path:
    return make(IndexConfig(root=root, layout="deepfashion", workers=1, **settings), root.parent / "store")


def shards_of(tmp_path: Path, form: str, frame: str, coordinates: str, name=original) -> list[tuple[dict, bytes]]:
    files = {name(shot): picture(*FORMS[form], shade) for shade, shot in enumerate(SHOTS[:2])}
    images = index(write_files(tmp_path / "set", files))
    csv = keypoint_file(tmp_path / "poses.csv", frame)
    poses = make(ImportPosesConfig(images=images, csv=[csv], coordinates=coordinates), tmp_path / "store")
    assert manifest_of(poses)["summary"]["coordinates"] == {"poses.csv": frame}
    shards = make(WriteShardsConfig(images=images, poses=poses), tmp_path / "store")
    samples = [sample for tar in sorted(shards.glob("*.tar")) for _, sample in read_samples(tar)]
    return [(json.loads(sample["json"]), sample["jpg"]) for sample in samples]


@pytest.mark.parametrize("frame", ["deepfashion-256", "deepfashion-176"])
@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("name", [original, flat])
def test_pixels_and_keypoints_of_a_view_agree_for_every_form_and_both_files(tmp_path, form, frame, name):
    for facts, content in shards_of(tmp_path, form, frame, "deepfashion", name):
        assert facts.get("crop") == ([40, 0, 216, 256] if form == "square" else None)
        for height, width in ((256, 176), (512, 352), (256, 192)):
            view = view_pixels([open_picture(content, facts)], height, width)[0].permute(1, 2, 0).numpy()
            keypoints = keypoints_in_view(keypoints_from_json(facts["keypoints"]), facts, (height, width))
            expected = [((x + 0.5) * width / 176 - 0.5, (y + 0.5) * height / 256 - 0.5) for x, y in MARKS]
            np.testing.assert_allclose(keypoints[: len(MARKS), :2], expected, atol=0.02)
            assert not present_joints(keypoints)[len(MARKS) :].any()
            red = (view[..., 0] > 0.8) & (view[..., 1] < 0.3)
            for x, y in keypoints[: len(MARKS), :2].round().astype(int):
                assert red[y, x]
            assert not (view.min(-1) > 0.9).any()  # nothing of the white margins


def test_the_first_disc_is_centered_on_its_joint_to_a_pixel(tmp_path):
    for form in FORMS:
        facts, content = shards_of(tmp_path / form, form, "deepfashion-256", "deepfashion-256")[0]
        view = view_pixels([open_picture(content, facts)], 256, 176)[0].permute(1, 2, 0).numpy()
        y, x = np.nonzero(
            (view[..., 0] > 0.8)
            & (view[..., 1] < 0.3)
            & (np.mgrid[:256, :176][0] < 60)
            & (np.mgrid[:256, :176][1] < 100)
        )
        assert abs(x.mean() - 60) < 0.5 and abs(y.mean() - 30) < 0.5


def test_a_crop_that_reaches_out_of_its_image_is_no_crop():
    facts = {"width": 256, "height": 256}
    assert crop_of(facts) is None and crop_of({**facts, "crop": [40, 0, 216, 256]}) == (40, 0, 216, 256)
    for crop in ([0, 0, 257, 256], [10, 0, 10, 256], [-1, 0, 5, 5], [0, 0, 5], "text", [0.5, 0, 5, 5], {}):
        with pytest.raises(ValueError, match="is no box inside"):
            crop_of({**facts, "crop": crop})


@pytest.mark.parametrize(
    ("form", "frame", "coordinates"),
    [
        ("large", "deepfashion-256", "image"),
        ("large", "deepfashion-176", "image"),
        ("square", "deepfashion-176", "image"),
        ("square", "deepfashion-256", "deepfashion-176"),
        ("crop", "deepfashion-176", "deepfashion-256"),
    ],
)
def test_a_file_in_another_frame_than_was_said_is_refused_and_its_own_is_named(tmp_path, form, frame, coordinates):
    with pytest.raises(InputError, match="coordinates"):
        shards_of(tmp_path, form, frame, coordinates)


def test_values_that_do_not_tell_their_frame_are_not_guessed():
    assert frame_of(np.array([])) is None and frame_of(np.array([100.0, 101])) is None
    assert frame_of(np.array([100.0, 300])) is None  # of no published frame
    assert (
        frame_of(np.array([100.0, 180])) == "deepfashion-256" and frame_of(np.array([100.0, 20])) == "deepfashion-176"
    )


def test_patns_lists_give_queries_of_test_identities_that_are_not_in_train(tmp_path):
    files = {original(shot): jpeg(n) for n, shot in enumerate(SHOTS)}
    found = index(write_files(tmp_path / "set", {**files, **lists()}), max_error_percent=50)
    images = read_index(found, usable=False).set_index("key")
    split = {shot: images.at[flat(shot)[:-4], "split"] for shot in SHOTS}
    expected = ["train"] * 2 + ["gallery", "query", "gallery", "gallery", "query", "gallery", "train"]
    assert [split[shot] for shot in SHOTS] == expected
    assert images.at[flat(SHOTS[8])[:-4], "status"] == "unlisted"
    assert images.groupby("split")["camid"].unique().to_dict() == {"gallery": [1], "query": [2], "train": [1]}
    summary = manifest_of(found)["summary"]
    assert summary["split_by"] == ["test.lst", "train.lst"] and summary["test_identities_in_train"] == 1
    assert summary["listed_but_missing"] == 0


def partition(shots_and_splits) -> bytes:
    rows = [f"{original(shot)} id_{shot[2]:08d} {split}" for shot, split in shots_and_splits]
    return "\n".join([str(len(rows)), "image_name item_id evaluation_status", *rows, ""]).encode()


def test_in_shops_own_partition_is_taken_where_patns_lists_are_not(tmp_path):
    splits = ["train"] * 3 + ["query", "gallery", "gallery", "query", "gallery", "gallery"]
    files = {original(shot): jpeg(n) for n, shot in enumerate(SHOTS)}
    files["Eval/list_eval_partition.txt"] = partition(zip(SHOTS, splits, strict=True))
    images = read_index(index(write_files(tmp_path / "one" / "set", files))).set_index("key")
    assert [images.at[flat(shot)[:-4], "split"] for shot in SHOTS] == splits
    both = read_index(index(write_files(tmp_path / "two" / "set", {**files, **lists()}), max_error_percent=50))
    assert both.set_index("key").at[flat(SHOTS[2])[:-4], "split"] == "gallery"  # PATN's lists decide


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("train.lst", b"hello\n", "line 1: 'hello' is not a flat name"),
        ("train.lst", b"\xff\xfe\x00", "cannot be read as a list"),
        ("train.lst", flat(SHOTS[4]).encode(), "in 'gallery' here, elsewhere in 'train'"),
        ("list_eval_partition.txt", partition([(SHOTS[0], "validation")]), "line 3"),
        ("list_eval_partition.txt", b"1\nimage_name item_id evaluation_status\n\x1b[2J id train\n", r"\\x1b\[2J"),
        ("list_eval_partition.txt", partition([(SHOTS[0], "train"), (SHOTS[0], "query")]), "'query' here, elsewhere"),
    ],
)
def test_lists_that_are_none_are_refused_with_the_line(tmp_path, name, content, said):
    files = {original(shot): jpeg(n) for n, shot in enumerate(SHOTS)}
    given = lists() if name == "train.lst" else {}
    with pytest.raises(InputError, match=said) as error:
        index(write_files(tmp_path / "set", {**files, **given, name: content}))
    assert "\n" not in str(error.value) and "\x1b" not in str(error.value)


def test_a_list_that_is_a_pipe_is_not_waited_for(tmp_path):
    root = write_files(tmp_path / "set", {original(shot): jpeg(n) for n, shot in enumerate(SHOTS)})
    os.mkfifo(root / "train.lst")
    with pytest.raises(InputError, match=r"train\.lst .* not a plain file"):
        index(root)


def test_of_both_resolutions_the_high_one_is_taken(tmp_path):
    files = {original(shot): jpeg(n) for n, shot in enumerate(SHOTS)}
    large = {name.replace("img/", "Img/img_highres/"): jpeg(100 + n, width=48) for n, name in enumerate(files)}
    images = read_index(index(write_files(tmp_path / "set", {**files, **large})), usable=False)
    assert images["path"].str.contains("img_highres").all() and len(images) == len(SHOTS)


def test_pairs_are_written_and_compared_with_a_published_file(tmp_path, caplog):
    caplog.set_level("INFO")
    files = {original(shot): jpeg(n, width=176, height=256) for n, shot in enumerate(SHOTS)}
    found = index(write_files(tmp_path / "set", {**files, **lists()}), max_error_percent=50)
    whole = "[" + ", ".join(["40"] * 18) + "]"
    csv = tmp_path / "poses.csv"
    csv.write_text("\n".join(["name:keypoints_y:keypoints_x", *(f"{flat(s)}: {whole}: {whole}" for s in SHOTS)]))
    poses = make(ImportPosesConfig(images=found, csv=[csv]), tmp_path / "store")
    ours, theirs = tmp_path / "pairs.csv", tmp_path / "published.csv"
    arguments = ["export-pairs", "--images", str(found), "--poses", str(poses), "--csv", str(ours)]
    assert main("datasets", COMMANDS, arguments) == 0
    a, b, c, d = (flat(SHOTS[n])[:-4] for n in (3, 4, 6, 7))
    assert set(read_pairs(ours)) == {(a, b), (b, a), (c, d), (d, c)}
    theirs.write_text(f"from,to\n{a}.jpg,{b}.jpg\n{a}.jpg,{c}.jpg\n{a}.jpg,nobody.jpg\n")
    assert main("datasets", COMMANDS, [*arguments, "--published", str(theirs)]) == 0
    assert (
        "3 pairs, 0 repeated, 1 images that the index lacks, 1 pairs of images that the rule does not pair, "
        "3 pairs of the rule that it lacks" in caplog.text
    )


def test_pairs_of_names_with_commas_and_quotes_are_read_as_they_were_written_into_a_new_folder(tmp_path):
    pairs = [("a,b", 'c"d'), ('c"d', "a,b")]
    write_pairs(tmp_path / "new" / "pairs.csv", pairs)
    assert read_pairs(tmp_path / "new" / "pairs.csv") == pairs


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"a,b\n",
        b"from,to\n",
        b"from,to\na.jpg\n",
        b"from,to\na.jpg,b.jpg,c.jpg\n",
        b"from,to\na.jpg,b.txt\n",
        b'from,to\n"a.jpg,b.jpg\n',
        b"\xff\xfef\0r\0",
        b"from,to\n" + b"x" * 200_000 + b".jpg,b.jpg\n",
        b"from,to\n\n\n\n",
        b"from,to\n\x1b[2J,b.jpg\n",
    ],
)
def test_files_that_are_no_pairs_are_refused_in_one_line(tmp_path, content):
    (tmp_path / "pairs.csv").write_bytes(content)
    with pytest.raises(InputError) as error:
        read_pairs(tmp_path / "pairs.csv")
    assert "\n" not in str(error.value) and "pairs.csv" in str(error.value) and "\x1b" not in str(error.value)


@pytest.mark.realdata
def test_the_published_test_keypoints_are_recognized_as_of_the_square_originals(market1501_root, tmp_path):
    from datasets.poses.csv_files import read_pose_csv

    rows = read_pose_csv(market1501_root.parent / "published" / "DATA" / "fasion-annotation-test.csv").values()
    joints = np.concatenate([row.keypoints[present_joints(row.keypoints), 0] for row in rows])
    assert frame_of(joints) == "deepfashion-256" and frame_of(joints - 40) == "deepfashion-176"
