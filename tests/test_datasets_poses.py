"""Published keypoint files in, skeletons per image out, and back again."""

from pathlib import Path

import numpy as np
import pytest

from datasets.__main__ import COMMANDS
from datasets.poses.config import ImportPosesConfig
from datasets.poses.csv_files import HEADER, format_pose_row, parse_pose_line, read_pose_csv, write_pose_csv
from datasets.poses.pairs import groups_by_names, has_torso, ordered_pairs
from datasets.poses.skeleton import missing_keypoints, present_joints
from datasets.poses.table import read_poses
from datasets.poses.views import from_deepfashion
from datasets.runtime.command_line import main
from datasets.runtime.errors import InputError
from datasets.runtime.manifests import manifest_of
from datasets.sources.config import IndexConfig
from tests.small_sets import make, market_files, pose_csv, write_files

PUBLISHED = (
    "0432_c5s1_105323_05.jpg: [48, 57, 57, 68, 78, 56, -1, -1, 80, 93, 109, 79, -1, -1, 46, 45, 47, -1]: "
    "[32, 31, 22, 17, 18, 40, -1, -1, 27, 31, 35, 39, -1, -1, 30, 34, 26, -1]"
)


def import_poses(folder: Path, files: dict[str, bytes], *csv: Path, **settings: object) -> Path:
    index = make(IndexConfig(root=write_files(folder / "set", files), workers=1), folder / "store")
    return make(ImportPosesConfig(images=index, csv=csv or [pose_csv(folder, files)], **settings), folder / "store")


def test_a_published_row_gives_x_before_y_and_missing_joints():
    name, row = parse_pose_line(PUBLISHED)
    assert name == "0432_c5s1_105323_05.jpg" and row.status == "ok"
    np.testing.assert_array_equal(row.keypoints[0], [32, 48, 1])
    assert present_joints(row.keypoints).sum() == 13 and not present_joints(row.keypoints)[[6, 7, 12, 13, 17]].any()


@pytest.mark.parametrize(
    "change", [(", ", ","), (", ", " "), ("]", ",]"), (": [", ":["), ("]: ", "], : "), (", ", " ,  ")]
)
def test_spaces_and_trailing_commas_do_not_matter(change):
    line = PUBLISHED.replace(*change)
    parts = [part.strip(" ,") for part in line.split(":")]
    np.testing.assert_array_equal(
        parse_pose_line(":".join(parts))[1].keypoints, parse_pose_line(PUBLISHED)[1].keypoints
    )


def test_a_file_in_the_other_dialect_reads_the_same(tmp_path):
    for number, text in enumerate(
        (f"{HEADER}\n{PUBLISHED}\n", f"\ufeff{HEADER},,\r\n{PUBLISHED.replace(', ', ',')},,\r\n\r\n")
    ):
        file = tmp_path / f"{number}.csv"
        file.write_bytes(text.encode())
        rows = read_pose_csv(file)
        assert list(rows) == ["0432_c5s1_105323_05"] and rows["0432_c5s1_105323_05"].status == "ok"


def test_writing_and_reading_gives_the_published_row_back(tmp_path):
    name, row = parse_pose_line(PUBLISHED)
    assert format_pose_row(name, row.keypoints) == PUBLISHED
    write_pose_csv(tmp_path / "out.csv", [(name, row.keypoints), ("nobody.jpg", missing_keypoints())])
    assert read_pose_csv(tmp_path / "out.csv")["nobody"].status == "no-person"


def test_every_usable_image_gets_a_pose_row_with_a_status(tmp_path):
    files = market_files()
    file = pose_csv(tmp_path, files)
    lines = [line for line in file.read_text().splitlines() if not line.startswith("0002_c1s1_000000_01")]
    file.write_text("\n".join(lines))
    poses = read_poses(import_poses(tmp_path, files, file)).set_index("key")
    assert len(poses) == 33 and poses["status"].value_counts().to_dict() == {"ok": 26, "no-person": 6, "missing": 1}
    assert poses.loc["0002_c1s1_000000_01", "status"] == "missing"
    assert poses.loc["0000_c1s1_000000_02", "status"] == "no-person"
    ok = poses.loc["1001_c1s1_000000_00"]  # a .jpg.jpg
    assert ok["keypoints"].shape == (18, 3) and present_joints(ok["keypoints"]).all() and ok["backend"] == "published"
    for status in ("no-person", "missing"):
        assert not present_joints(np.stack(poses[poses["status"] == status]["keypoints"])).any()


def test_exported_poses_import_to_the_same_artifact(tmp_path, capsys):
    files = market_files()
    first = import_poses(tmp_path, files)
    index = next((tmp_path / "store" / "index").glob("[!.]*"))
    out = tmp_path / "out.csv"
    flags = ["export-poses", "--images", str(index), "--poses", str(first), "--csv", str(out)]
    assert main("datasets", COMMANDS, flags) == 0
    second = make(ImportPosesConfig(images=index, csv=[out]), tmp_path / "store")
    assert manifest_of(first)["content_sha256"] == manifest_of(second)["content_sha256"]


def test_joints_at_the_very_edge_are_exported_as_pixels_of_the_image(tmp_path):
    files = market_files()
    file = pose_csv(tmp_path, files)
    name = sorted(name for name in files if "train/0002" in name)[0].rpartition("/")[2]
    lines = [line for line in file.read_text().splitlines() if not line.startswith(name)]
    file.write_text("\n".join([*lines, f"{name}: {[63.9] * 18}: {[31.9] * 18}"]))
    first = import_poses(tmp_path, files, file)
    index = next((tmp_path / "store" / "index").glob("[!.]*"))
    out = tmp_path / "out.csv"
    assert main("datasets", COMMANDS, ["export-poses", *f"--images {index} --poses {first} --csv {out}".split()]) == 0
    assert f"{name}: {[63] * 18}: {[31] * 18}" in out.read_text()
    again = read_poses(make(ImportPosesConfig(images=index, csv=[out]), tmp_path / "store"))
    assert "out-of-image" not in set(again["status"])


def test_a_file_of_another_data_set_is_refused(tmp_path):
    (tmp_path / "other.csv").write_text(f"{HEADER}\n{PUBLISHED}\n")
    with pytest.raises(InputError, match="has no row for any of the 33 images"):
        import_poses(tmp_path, market_files(), tmp_path / "other.csv")


def test_two_files_with_the_same_image_are_refused(tmp_path):
    files = market_files()
    one = pose_csv(tmp_path, files)
    two = tmp_path / "again.csv"
    two.write_text(one.read_text())
    with pytest.raises(InputError, match="repeats 33 images of an earlier file"):
        import_poses(tmp_path, files, one, two)


def test_a_missing_pose_file_is_answered_in_one_line_with_exit_code_2(tmp_path, capsys):
    index = make(IndexConfig(root=write_files(tmp_path / "set", market_files()), workers=1), tmp_path / "store")
    flags = [
        "import-poses",
        "--images",
        str(index),
        "--csv",
        str(tmp_path / "no.csv"),
        "--store",
        str(tmp_path / "store"),
    ]
    assert main("datasets", COMMANDS, flags) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "no.csv does not exist" in error


def test_coordinates_of_another_frame_are_noticed_and_its_option_is_named(tmp_path):
    files = market_files()
    file = pose_csv(tmp_path, files)
    file.write_text(file.read_text().replace("[", "[2").replace("[2-1", "[-1"))
    with pytest.raises(InputError, match=r"lie outside their images.*coordinates deepfashion"):
        import_poses(tmp_path, files, file)


def test_deepfashion_squares_become_crops_and_high_resolution_images():
    square = missing_keypoints()
    square[0], square[1], square[2] = (40, 0, 1), (215, 255, 1), (20, 100, 1)
    cropped = from_deepfashion(square, "deepfashion-256", 176, 256)
    np.testing.assert_allclose(cropped[:2, :2], [[0, 0], [175, 255]], atol=1e-5)
    assert not present_joints(cropped)[2]  # in the margin that the crop takes away
    large = from_deepfashion(square, "deepfashion-256", 750, 1101)
    np.testing.assert_allclose(
        large[:2, :2], [[0.5 * 750 / 176 - 0.5, 0.5 * 1101 / 256 - 0.5], [747.37, 1098.35]], atol=0.01
    )
    np.testing.assert_array_equal(from_deepfashion(square, "deepfashion-256", 256, 256), square)


def test_pairs_are_ordered_within_groups_and_need_shoulders_and_hips():
    whole = np.ones((18, 3), np.float32)
    half = whole.copy()
    half[8] = np.nan, np.nan, 0
    keypoints = np.stack([whole, whole, whole, half, whole, whole, whole])
    keys = ["b", "a", "c", "d", "e", "f", "g"]
    groups = groups_by_names(keys, [2, 2, 3, 2, 0, -1, 3])
    assert has_torso(keypoints).tolist() == [True, True, True, False, True, True, True]
    assert list(ordered_pairs(keys, groups, keypoints)) == [("a", "b"), ("b", "a"), ("c", "g"), ("g", "c")]


def test_deepfashion_groups_are_identity_category_and_outfit():
    keys = [
        "fashionWOMENTees_Tanksid0000221902_3back",
        "fashionWOMENTees_Tanksid0000221902_1front",
        "fashionWOMENTees_Tanksid0000221901_3back",
        "fashionWOMENSkirtsid0000221902_3back",
    ]
    groups = groups_by_names(keys, [1] * len(keys))
    assert groups[0] == groups[1] and len(set(groups)) == 3


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "pairs"), [("market-annotation-train.csv", 263_632), ("fasion-annotation-test.csv", 8_570)]
)
def test_real_keypoints_give_the_published_numbers_of_pairs(market1501_root, name, pairs):
    file = market1501_root.parent / "published" / "DATA" / name
    if not file.is_file():
        pytest.skip(f"{file} is not there")
    rows = read_pose_csv(file)
    keys = list(rows)
    groups = groups_by_names(keys, [int(key[:4]) if key[:4].isdigit() else -1 for key in keys])
    assert sum(1 for _ in ordered_pairs(keys, groups, np.stack([rows[key].keypoints for key in keys]))) == pairs
