"""Two pose files side by side: hand-computed shares and errors, files, sheets, refusals."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datasets.__main__ import COMMANDS
from datasets.poses.compare import ALL, OTHER_SIDE, joint_table, markdown_table
from datasets.poses.config import ComparePosesConfig, ImportPosesConfig
from datasets.poses.csv_files import write_pose_csv
from datasets.poses.sheets import Entry, choose, skeleton_sheet
from datasets.poses.skeleton import JOINTS, flip_keypoints, missing_keypoints
from datasets.runtime.command_line import main
from datasets.sources.config import IndexConfig
from tests.small_sets import make, market_files, write_files

HEIGHTS = np.array([100.0, 200.0])


@pytest.fixture
def config(tmp_path) -> ComparePosesConfig:
    return ComparePosesConfig(first=tmp_path, second=tmp_path, radii_percent=[5, 10], radii_px=[4])


def skeletons(*places: dict[str, tuple[float, float]]) -> np.ndarray:
    found = np.stack([missing_keypoints() for _ in places])
    for keypoints, joints in zip(found, places, strict=True):
        for joint, place in joints.items():
            keypoints[JOINTS.index(joint)] = *place, 0.9
    return found


def test_shares_and_errors_by_hand(config):
    first = skeletons({"nose": (10, 10), "neck": (10, 20)}, {"nose": (50, 50), "left_knee": (5, 5)})
    second = skeletons({"nose": (13, 14), "left_ear": (1, 1)}, {"nose": (50, 65), "left_knee": (5, 5)})
    table = joint_table(first, second, HEIGHTS, config).set_index("joint")
    nose = table.loc["nose"]  # 5 px of 100: 5 %; 15 px of 200: 7.5 %
    assert nose["first"] == nose["second"] == 2
    assert (nose["pck_5_percent"], nose["pck_10_percent"], nose["pck_4_px"]) == (50, 100, 0)
    assert (nose["mean_error_px"], nose["median_error_px"], nose["mean_error_percent"]) == (10, 10, 6.25)
    assert table.loc["neck", "missing_percent"] == 100 and table.loc["neck", "pck_5_percent"] == 0
    assert np.isnan(table.loc["neck", "mean_error_px"])
    assert table.loc["left_ear", "extra_percent"] == 50 and np.isnan(table.loc["left_ear", "pck_5_percent"])
    total = table.loc[ALL]
    assert total["first"] == 4 and total["pck_5_percent"] == 50 and total["missing_percent"] == 25
    assert total["extra_percent"] == pytest.approx(100 / 32)  # one of the 32 places that the first leaves empty


def test_sides_that_were_exchanged_are_told_from_joints_that_are_elsewhere(config):
    first = skeletons({"left_knee": (30, 50), "right_knee": (10, 50), "nose": (20, 5)})
    second = skeletons({"left_knee": (10, 50), "right_knee": (30, 50), "nose": (60, 60)})
    table = joint_table(first, second, HEIGHTS[:1], config).set_index("joint")
    assert table.loc["left_knee", "swapped_percent"] == table.loc["right_knee", "swapped_percent"] == 100
    assert table.loc["nose", "swapped_percent"] == 0
    assert table.loc[ALL, "swapped_percent"] == pytest.approx(200 / 3)
    twice = first[:, OTHER_SIDE]
    np.testing.assert_array_equal(twice[..., 1], flip_keypoints(first, 64)[..., 1])


def test_equal_files_agree_wholly(config):
    both = skeletons({"nose": (1, 2), "neck": (3, 4)}, {})
    total = joint_table(both, both, HEIGHTS, config).set_index("joint").loc[ALL]
    assert total["pck_5_percent"] == 100 and total["mean_error_px"] == 0 and total["extra_percent"] == 0


def test_a_markdown_table_leaves_out_what_is_not_known():
    frame = pd.DataFrame({"joint": ["nose"], "count": [1234], "pck": [12.345], "none": [float("nan")]})
    assert markdown_table(frame)[2] == "| nose | 1,234 | 12.3 |  |"


# On disk


@pytest.fixture
def two_files(tmp_path) -> tuple[Path, Path, Path]:
    """A store, and poses of a little Market-1501 as imported twice: the second 2 px to the right, every third empty."""
    files = market_files(identities=3, images=3, test_identities=3)
    store = tmp_path / "store"
    index = make(IndexConfig(root=write_files(tmp_path / "Market-1501-v15.09.15", files)), store)
    names = [name.rpartition("/")[2] for name in sorted(files) if name.endswith(".jpg") and "gt_" not in name]
    rng = np.random.default_rng(0)
    first = np.stack([rng.integers(4, 28, (len(names), 18)), rng.integers(4, 60, (len(names), 18))], -1)
    first = np.concatenate([first, np.ones((len(names), 18, 1))], -1)
    second = first + np.array([2, 0, 0])
    second[::3] = missing_keypoints()
    artifacts = []
    for name, keypoints in (("first", first), ("second", second)):
        csv = tmp_path / f"{name}.csv"
        write_pose_csv(csv, zip(names, keypoints, strict=True))
        artifacts.append(make(ImportPosesConfig(images=index, csv=[csv]), store))
    return store, *artifacts


def test_the_command_writes_tables_text_and_pictures(two_files, capfd):
    store, first, second = two_files
    arguments = ["compare-poses", "--first", str(first), "--second", str(second), "--store", str(store)]
    assert main("datasets", COMMANDS, [*arguments, "--sheet-images", "6"]) == 0
    directory = Path(capfd.readouterr().out.split()[-1])
    joints = pd.read_parquet(directory / "joints.parquet").set_index("joint")
    images = pd.read_parquet(directory / "images.parquet")
    found = images[images["status_second"] == "ok"]
    assert (found["mean_error_px"] == 2).all() and (found["pck_5_percent"] == 100).all()  # 2 of 64 rows: 3 %
    empty = images[images["status_second"] == "no-person"]
    assert len(empty) and (empty["pck_5_percent"] == 0).all() and (empty["missing"] == empty["joints_first"]).all()
    assert joints.loc[ALL, "pck_5_percent"] == pytest.approx(100 * len(found) / len(images), abs=1)
    summary = json.loads((directory / "manifest.json").read_text())["summary"]
    assert summary["compared"] == len(images) and summary["mean_error_px"] == 2
    text = (directory / "comparison.md").read_text()
    assert "| nose |" in text and "| ok |" in text
    for name in ("comparison.png", "overlays.png"):
        with Image.open(directory / name) as picture:
            assert min(picture.size) > 200


def test_only_the_wanted_splits_and_roles_count(two_files, capfd):
    store, first, second = two_files
    arguments = ["compare-poses", "--first", str(first), "--second", str(second), "--store", str(store)]
    assert main("datasets", COMMANDS, [*arguments, "--splits", "gallery", "--sheet-images", "0"]) == 0
    directory = Path(capfd.readouterr().out.split()[-1])
    images = pd.read_parquet(directory / "images.parquet")
    assert set(images["split"]) == {"gallery"} and not images["key"].str.startswith(("0000", "-1")).any()
    assert not (directory / "overlays.png").exists()


def test_an_index_that_moved_is_asked_for(two_files, tmp_path, capfd):
    store, first, second = two_files
    (old,) = (
        (store / "index").iterdir()
        if len(list((store / "index").iterdir())) == 1
        else sorted(path for path in (store / "index").iterdir() if path.is_dir())
    )
    moved = old.rename(tmp_path / "moved")
    arguments = ["compare-poses", "--first", str(first), "--second", str(second), "--store", str(store)]
    assert main("datasets", COMMANDS, arguments) == 2
    assert "give it with --images" in capfd.readouterr().err
    assert main("datasets", COMMANDS, [*arguments, "--images", str(moved)]) == 0


# Sheets


def test_the_worst_have_the_lowest_scores_and_random_ones_follow_the_seed():
    keypoints = np.tile(missing_keypoints(), (6, 1, 1))
    for number in range(5):
        keypoints[number, : number + 1] = 1, 1, 0.5
    poses = pd.DataFrame({"key": list("abcdef"), "keypoints": list(keypoints), "status": ["ok"] * 5 + ["no-person"]})
    assert choose(poses, "worst", 2, 0)["key"].tolist() == ["a", "b"]
    assert choose(poses, "no-person", 9, 0)["key"].tolist() == ["f"]
    samples = {tuple(choose(poses, "random", 2, seed)["key"]) for seed in range(20)}
    assert len(samples) > 3 and choose(poses, "random", 2, 1).equals(choose(poses, "random", 2, 1))


def test_a_sheet_holds_pictures_of_any_size():
    skeleton = skeletons({"nose": (5, 5), "neck": (5, 15)})[0]
    sizes = [(64, 32), (300, 900), (20, 20)]
    entries = [
        Entry(image=np.full((*size, 3), 90, np.uint8), skeletons=[skeleton], caption=str(size)) for size in sizes
    ]
    sheet = skeleton_sheet(entries, columns=2)
    red = (sheet[..., 0] > 200) & (sheet[..., 1:] < 60).all(-1)  # the nose
    assert sheet.ndim == 3 and sheet.dtype == np.uint8 and red.any()


@pytest.mark.parametrize("pick", ["random", "worst", "no-person"])
def test_the_command_shows_skeletons_of_a_pose_file(pick, two_files, tmp_path):
    _, _, second = two_files
    png = tmp_path / "sheets" / "sheet.png"
    assert main("datasets", COMMANDS, ["show-poses", "--poses", str(second), "--png", str(png), "--pick", pick]) == 0
    with Image.open(png) as picture:
        assert picture.format == "PNG"


def test_nothing_to_show_is_said_in_a_line(two_files, tmp_path, capfd):
    _, first, _ = two_files
    arguments = ["show-poses", "--poses", str(first), "--png", str(tmp_path / "x.png"), "--pick", "no-person"]
    assert main("datasets", COMMANDS, arguments) == 2
    assert "nothing to show for --pick no-person" in capfd.readouterr().err
