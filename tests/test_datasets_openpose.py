"""The openpose backend: its input and maps are those of the usual detector, and wrong weights are refused in a line."""

import hashlib
import io
import json
import pickle
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.pose_maps import GivenMaps, crowd_maps
from datasets.__main__ import COMMANDS
from datasets.poses.estimation import main_person
from datasets.poses.openpose import weights as openpose_weights
from datasets.poses.openpose.decoding import smooth
from datasets.poses.openpose.estimator import OpenPose, enlarge, load_openpose, network_input
from datasets.poses.openpose.weights import WEIGHTS_FILE, load_network, network_class
from datasets.poses.skeleton import missing_keypoints
from datasets.runtime.command_line import main
from datasets.runtime.errors import WeightsError
from tests.small_sets import make, market_root

CROP = (128, 64)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """Weights of seed 0, named as in the published file."""
    torch.manual_seed(0)
    return {name.partition(".")[2]: value for name, value in network_class()().state_dict().items()}


@pytest.fixture(scope="module")
def weights(state, tmp_path_factory) -> tuple[Path, str]:
    file = tmp_path_factory.mktemp("weights") / WEIGHTS_FILE
    torch.save(state, file)
    return file, sha256(file)


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def picture(height: int = 128, width: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


class Painted(torch.nn.Module):
    """A network whose maps are bright where the picture's colors are: joint 0 red, joint 1 green, joint 2 blue."""

    def forward(self, pixels):
        coarse = torch.nn.functional.avg_pool2d(pixels.float(), 8) + 0.5
        heatmaps = coarse.new_zeros((len(pixels), 19, *coarse.shape[2:]))
        heatmaps[:, :3] = coarse.flip(1)  # the input's order is BGR
        return coarse.new_zeros((len(pixels), 38, *coarse.shape[2:])), heatmaps


def painted(**options) -> OpenPose:
    return OpenPose(Painted(), "0" * 64, precision="fp32", **options)


# Maps


def test_the_input_is_a_half_box_high_bgr_and_gray_padded():
    inner, pixels = network_input([np.full((128, 64, 3), (255, 0, 128), np.uint8)], 0.5)
    assert inner == (184, 92) and pixels.shape == (1, 3, 184, 96)
    np.testing.assert_allclose(pixels[0, :, 90, 40], [0, -0.5, 255 / 256 - 0.5])
    assert (pixels[..., 92:] == 0).all()


@pytest.mark.parametrize("size", [(128, 64), (256, 176), (64, 33), (50, 200)])
def test_maps_are_enlarged_as_the_usual_detector_does_it_plane_by_plane(size):
    inner, pixels = network_input([picture(*size)], 0.5)
    coarse = np.random.default_rng(0).random((2, pixels.shape[2] // 8, pixels.shape[3] // 8)).astype(np.float32)
    expected = []
    for plane in coarse:
        large = cv2.resize(plane, None, fx=8, fy=8, interpolation=cv2.INTER_LANCZOS4)[: inner[0], : inner[1]]
        method = cv2.INTER_AREA if sum(size) < sum(inner) else cv2.INTER_LANCZOS4
        expected.append(cv2.resize(large, size[::-1], interpolation=method))
    maps = torch.from_numpy(coarse)[None]
    np.testing.assert_allclose(enlarge(maps, inner, size)[0], expected, atol=2e-6)
    np.testing.assert_allclose(
        enlarge(maps, inner, size, sigma=3)[0], smooth(enlarge(maps, inner, size), 3.0)[0], atol=2e-6
    )


def test_several_scales_average_heatmaps_and_fields():
    single = [painted(scales=[scale]).maps([picture()]) for scale in (0.5, 1.0)]
    both = painted(scales=[0.5, 1.0]).maps([picture()])
    for parts, mean in zip(zip(*single, strict=True), both, strict=True):
        np.testing.assert_allclose((parts[0] + parts[1]) / 2, mean, atol=1e-5)


def test_images_of_several_sizes_come_back_in_their_order_whatever_the_batch(weights):
    network, _ = load_network(*weights)
    images = [picture(128, 64, seed=1), picture(96, 64, seed=2), picture(128, 64, seed=3)]
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "Mconv7_stage6" in name:
                parameter.mul_(40)  # random weights hardly light a joint
    finds = [OpenPose(network, "", precision="fp32", batch_size=size).estimate(images) for size in (1, 2)]
    alone = OpenPose(network, "", precision="fp32").estimate(images[1:2])
    for people in finds[0]:
        assert people.shape[1:] == (18, 3) and people.dtype == np.float32
    for first, second in zip(*finds, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-3)
    np.testing.assert_allclose(finds[0][1], alone[0], atol=1e-3)


def test_people_are_in_pixels_of_the_image_whatever_its_size():
    heatmaps, pafs = crowd_maps(6)
    small, large = (
        OpenPose(GivenMaps(heatmaps, pafs), "", precision="fp32").estimate([picture(128 * k, 64 * k)] * 6)
        for k in (1, 4)
    )
    assert sum(map(len, small)) >= 10
    for people, enlarged in zip(small, large, strict=True):
        np.testing.assert_allclose((people[..., :2] + 0.5) * 4 - 0.5, enlarged[..., :2], atol=1e-3)


def test_bfloat16_gives_nearly_the_same_maps(weights):
    single, half = (load_openpose(*weights, precision=name).maps([picture()])[0] for name in ("fp32", "bf16"))
    assert (single - half).abs().max() < 0.02 * single.abs().max()


# The main person


def person(x: float, height: float, *, joints: int = 18, score: float = 1.0) -> np.ndarray:
    keypoints = missing_keypoints()
    keypoints[:joints] = np.c_[np.full(joints, x), np.linspace(10, 10 + height, joints), np.full(joints, score)]
    return keypoints


@pytest.mark.parametrize(
    ("others", "why"),
    [
        (person(34, 30), "small, behind"),
        (person(62, 100, joints=12), "cut by the side"),
        (person(20, 100, score=0.3), "unsure"),
        (missing_keypoints(), "nobody"),
    ],
)
def test_the_main_person_is_large_sure_and_in_the_middle(others, why):
    main_one = person(30, 100)
    for people in (np.stack([main_one, others]), np.stack([others, main_one])):
        np.testing.assert_array_equal(main_person(people, CROP), main_one, err_msg=why)


def test_without_people_all_joints_are_missing():
    assert np.isnan(main_person(np.empty((0, 18, 3), np.float32), CROP)[:, :2]).all()


# Weights


def test_the_published_naming_and_safetensors_load_into_controlnet_auxs_class(state, weights, tmp_path):
    network, found = load_network(*weights)
    assert found == weights[1] and not network.training
    assert torch.equal(network.state_dict()["model6_2.Mconv7_stage6_L2.weight"], state["Mconv7_stage6_L2.weight"])
    save_file(network.state_dict(), tmp_path / "own.safetensors")
    again, _ = load_network(tmp_path / "own.safetensors", sha256(tmp_path / "own.safetensors"))
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("pwned"),)


def other_network(file: Path) -> None:
    torch.save(torch.nn.Linear(3, 3).state_dict(), file)


def truncated(file: Path) -> None:
    stream = io.BytesIO()
    torch.save({"conv1_1.weight": torch.zeros(64, 3, 3, 3)}, stream)
    file.write_bytes(stream.getvalue()[:-900])


def pickled_code(file: Path) -> None:
    file.write_bytes(pickle.dumps({"conv1_1.weight": Evil()}, protocol=2))


def zipped_code(file: Path) -> None:
    torch.save({"conv1_1.weight": Evil()}, file)


def whole_model(file: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), file)


def tensors_in_a_list(file: Path) -> None:
    torch.save([torch.zeros(3)], file)


def other_shape(file: Path) -> None:
    torch.manual_seed(0)
    values = {name: value.clone() for name, value in network_class()().state_dict().items()}
    values["model6_2.Mconv7_stage6_L2.weight"] = torch.zeros(26, 128, 1, 1)  # 25 joints: BODY_25
    save_file(values, file.with_suffix(".safetensors"))


def cut_safetensors(file: Path) -> None:
    save_file({"a": torch.zeros(100)}, file.with_suffix(".safetensors"))
    content = file.with_suffix(".safetensors").read_bytes()
    file.with_suffix(".safetensors").write_bytes(content[:-50])


def other_zip(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "hello")


WRONG = {
    other_network: "not of OpenPose's COCO-18 body network: lacks",
    truncated: "corrupt",
    pickled_code: "pickled code, which is never run",
    zipped_code: "pickled code, which is never run",
    whole_model: "pickled code, which is never run",
    tensors_in_a_list: "no table of tensors",
    other_shape: r"Mconv7_stage6_L2.weight is \(26, 128, 1, 1\) instead of \(19, 128, 1, 1\)",
    cut_safetensors: "corrupt",
    other_zip: "corrupt",
}


@pytest.mark.parametrize("write", WRONG, ids=lambda write: write.__name__)
def test_wrong_weights_are_refused_in_one_line_and_nothing_in_them_runs(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "weights.pth")
    (file,) = tmp_path.iterdir()
    with pytest.raises(WeightsError, match=WRONG[write]) as refused:
        load_network(file, sha256(file))  # even where the user vouches for it
    assert "\n" not in str(refused.value) and not (tmp_path / "pwned").exists()
    with pytest.raises(WeightsError, match=f"is not the published {WEIGHTS_FILE}.*SHA-256 {sha256(file)}"):
        load_network(file)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>Sign in</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:25a9\n", "Git LFS pointer"),
        (b"\x80\x02}q\x00.", "the download broke off"),
    ],
)
def test_what_is_no_weights_file_is_told_apart(content, reason, tmp_path):
    file = tmp_path / "weights.pth"
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=reason):
        load_network(file)


def test_a_folder_a_missing_file_and_another_hash_are_refused(weights, tmp_path):
    with pytest.raises(WeightsError, match="is a folder"):
        load_network(tmp_path)
    with pytest.raises(WeightsError, match="cannot be read"):
        load_network(tmp_path / "absent.pth")
    with pytest.raises(WeightsError, match=f"expected {'0' * 64}"):
        load_network(weights[0], "0" * 64)


def test_values_that_are_not_numbers_are_refused(state, tmp_path):
    file = tmp_path / "nan.pth"
    torch.save({**state, "conv1_1.bias": torch.full((64,), float("nan"))}, file)
    with pytest.raises(WeightsError, match=r"conv1_1.bias holds values that are not finite"):
        load_network(file, sha256(file))


def test_without_weights_and_hub_one_line_says_what_to_fetch(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(openpose_weights, "HUB_REPOSITORY", "nobody/nothing")
    with pytest.raises(WeightsError, match=f"resolve/main/{WEIGHTS_FILE}"):
        load_network()


def test_the_command_extracts_with_given_weights_and_refuses_wrong_ones_with_exit_code_2(weights, tmp_path, capfd):
    from datasets.sources.config import IndexConfig

    store = tmp_path / "store"
    index = make(IndexConfig(root=market_root(tmp_path, identities=3, images=1, test_identities=3)), store)
    arguments = ["extract-poses", "--images", str(index), "--backend", "openpose", "--store", str(store)]
    wrong = tmp_path / "weights.pth"
    pickled_code(wrong)
    assert main("datasets", COMMANDS, [*arguments, "--weights", str(wrong)]) == 2
    assert main("datasets", COMMANDS, [*arguments, "--weights", str(wrong), "--weights-sha256", sha256(wrong)]) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("python -m datasets")]
    assert len(lines) == 2 and "is not the published" in lines[0] and "never run" in lines[1]
    right = ["--weights", str(weights[0]), "--weights-sha256", weights[1], "--splits", "query"]
    assert main("datasets", COMMANDS, [*arguments, *right]) == 0
    (directory,) = [path for path in (store / "extract-poses").iterdir() if (path / "manifest.json").is_file()]
    summary = json.loads((directory / "manifest.json").read_text())["summary"]
    assert summary["looked_at"] == 3
