"""Evaluation on test pairs: metrics against their references, scenarios, resuming, weights, refusals."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

import lpips
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import alexnet

from datasets.poses.pairs import read_pairs
from datasets.runtime.arrays.bootstrap import bootstrap_interval
from datasets.runtime.artifacts import build
from datasets.runtime.config import StageConfig
from datasets.runtime.errors import InputError, WeightsError
from datasets.runtime.hashing import file_sha256
from datasets.runtime.verify import verify
from datasets.shards.encoded import keypoints_to_json
from datasets.shards.tars import read_samples, write_tar
from imagpose.config import EvaluateGeneratorConfig
from imagpose.evaluation import evaluate, meter
from imagpose.evaluation.evaluate import make_evaluation
from imagpose.evaluation.pair_canvases import canvases_of, draw_pairs
from imagpose.metrics.frechet import frechet_distance, inception_features, torchvision_features
from imagpose.metrics.lpips import SMALLEST, Lpips, alexnet_features
from imagpose.metrics.published import WEIGHTS
from imagpose.metrics.similarity import psnr
from imagpose.metrics.weights import find_weights
from tests.small_sets import forge
from tests.test_imagpose_pipeline import HEIGHT, WIDTH, pose, tiny_image_encoder, tiny_pipeline

PEOPLE = {1: 4, 2: 3, 3: 2}
KEYS = [f"{pid:04d}_c{i % 2 + 1}s1_{i:06d}_01" for pid, count in PEOPLE.items() for i in range(count)]


def pictures(count: int, height: int, width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 8, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    noise = 0.1 * torch.randn(smooth.shape, generator=generator)
    return ((smooth + noise).clamp(0, 1) * 255).round().to(torch.uint8)


@pytest.fixture(scope="module")
def alexnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the shapes of torchvision's file."""
    file = tmp_path_factory.mktemp("weights") / "alexnet.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file({k: v.contiguous() for k, v in alexnet(weights=None).state_dict().items() if "features" in k}, file)
    return file


# --- metrics ------------------------------------------------------------------


def test_psnr_is_the_formulas_picture_by_picture() -> None:
    made, real = pictures(3, 128, 64, 0), pictures(3, 128, 64, 1)
    a, b = made.float() / 255, real.float() / 255
    for i in range(3):
        by_hand = -10 * np.log10(((a[i] - b[i]) ** 2).mean().item())
        assert abs(psnr(made, real)[i].item() - by_hand) < 1e-4


def test_lpips_equals_both_reference_packages(alexnet_file: Path) -> None:
    made, real = pictures(2, 128, 64, 0), pictures(2, 128, 64, 1)
    own = Lpips(alexnet_file)
    values = own.of_pictures(made, real)
    a, b = made.float() / 127.5 - 1, real.float() / 127.5 - 1
    reference = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    reference.net.load_state_dict(own.network.net.state_dict())
    with torch.no_grad():
        assert (reference(a, b).flatten() - values).abs().max() < 1e-6
    from torchmetrics.functional.image.lpips import _LPIPS  # what its public class wraps; that one downloads

    other = _LPIPS(pretrained=True, net="alex", pnet_rand=True).eval()
    other.net.load_state_dict(own.network.net.state_dict())
    with torch.no_grad():
        assert (other(a, b).flatten() - values).abs().max() < 1e-6
    assert values.min() > 0.01
    assert own.of_pictures(made, made).abs().max() < 1e-6


def test_fid_of_gaussians_is_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    width, count = 6, 400

    def exactly(mean: np.ndarray, spread: np.ndarray) -> np.ndarray:
        """A sample whose own mean and covariance are these, so that the closed form holds without sampling error."""
        raw = rng.standard_normal((count, width))
        raw -= raw.mean(0)
        factor = np.linalg.cholesky(np.cov(raw.T))
        return raw @ np.linalg.inv(factor).T * np.sqrt(spread) + mean

    means, spreads = rng.normal(size=(2, width)), rng.uniform(0.5, 3, (2, width))
    expected = ((means[0] - means[1]) ** 2).sum() + ((np.sqrt(spreads[0]) - np.sqrt(spreads[1])) ** 2).sum()
    assert frechet_distance(exactly(means[0], spreads[0]), exactly(means[1], spreads[1])) == pytest.approx(expected)
    assert frechet_distance(np.zeros((1, 6)), np.zeros((5, 6))) is None


def test_an_interval_draws_people_and_not_pairs() -> None:
    values, groups = np.array([0.0, 0.0, 0.0, 1.0]), np.array([1, 1, 1, 2])
    low, high = bootstrap_interval(values, groups, 2000, 0)
    assert (low, high) == (0.0, 1.0)  # a quarter of the draws holds person 1 twice, another person 2 twice
    assert bootstrap_interval(values, np.ones(4), 100, 0) is None


# --- pairs and canvases -------------------------------------------------------


MEMBERS = {"a": ["a", "b", "c", "d"], "b": ["a", "b", "c", "d"], "x": ["x", "y"]}
PAIRS = [("a", "b"), ("a", "c"), ("x", "y"), ("a", "d"), ("b", "a"), ("a", "b")]


@pytest.mark.parametrize("mode", ["T1", "T2", "T3", "IMAGPose*"])
def test_every_pair_counts_once_and_shows_its_own_source_and_pose(mode: Any) -> None:
    canvases = canvases_of(mode, PAIRS, MEMBERS, seed=0)
    kept = {}
    for canvas in canvases:
        for slot, number in canvas.kept:
            assert number not in kept
            kept[number] = (canvas.sources[0], canvas.poses[slot if mode == "IMAGPose*" else 0])
            assert PAIRS[number][1] not in canvas.sources
    assert [kept[i] for i in range(len(PAIRS))] == PAIRS
    assert canvases == canvases_of(mode, PAIRS, MEMBERS, seed=0)


def test_scenarios_show_what_they_promise() -> None:
    t1, t3 = canvases_of("T1", PAIRS * 20, MEMBERS, 0), canvases_of("T3", PAIRS, MEMBERS, 0)
    assert {canvas.kept[0][0] for canvas in t1} == {0, 1, 2}
    assert [len(canvas.sources) for canvas in t3] == [3, 3, 1, 3, 3, 3]
    assert [canvas.mode for canvas in t3] == ["T3", "T3", "free", "T3", "T3", "T3"]
    together = canvases_of("IMAGPose*", PAIRS, MEMBERS, 0)
    assert [len(canvas.kept) for canvas in together] == [3, 1, 1, 1]  # a: 3 + 1, x: 1, b: 1
    assert all(len(canvas.poses) == 3 for canvas in together)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\nx.jpg,y.jpg\n", "expected the header 'from,to'"),
        ("from,to\nx.jpg,y.jpg\nfashionWOMENBlous", "line 3: expected two image names, got 'fashionWOMENBlous'"),
        ("from,to\n", "lists no pair"),
    ],
)
def test_a_list_of_pairs_that_is_none_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_pairs(tmp_path / "pairs.csv")


def test_a_limit_draws_the_same_pairs_again() -> None:
    assert draw_pairs(PAIRS, 3, 0) == draw_pairs(PAIRS, 3, 0)
    assert len(draw_pairs(PAIRS, 3, 0)) == 3
    assert draw_pairs(PAIRS, 99, 0) == PAIRS


# --- weights ------------------------------------------------------------------


def test_weights_are_named_where_they_are_missing_and_refused_where_they_are_others(
    alexnet_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = find_weights("alexnet", None, from_hub=False, known_only=True)
    assert "lpips and frechet_alexnet: no weights given; get https://download.pytorch.org/models/alexnet" in reason
    with pytest.raises(WeightsError, match=r"is not the published file's \(7be5be79"):
        find_weights("alexnet", alexnet_file, from_hub=False, known_only=True)
    assert find_weights("alexnet", alexnet_file, from_hub=False, known_only=False) == alexnet_file

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(WeightsError, match=r"cannot be fetched .* pass --inception FILE"):
        find_weights("inception", None, from_hub=True, known_only=True)
    save_file({"features.0.weight": torch.zeros(2)}, tmp_path / "wrong.safetensors")
    with pytest.raises(WeightsError, match="does not hold the convolutions of alexnet"):
        Lpips(tmp_path / "wrong.safetensors")


def test_published_weights_are_not_called_unknown(
    alexnet_file: Path, shards: Path, generator: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = dataclasses.replace(WEIGHTS["alexnet"], sha256_start=file_sha256(alexnet_file)[:8])
    monkeypatch.setitem(WEIGHTS, "alexnet", published)
    assert meter.Meter(config_of(shards, generator, alexnet=alexnet_file)).unknown_weights == {}


def test_both_inceptions_take_their_published_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torchvision.models import inception_v3

    with monkeypatch.context() as patched:  # a network of random weights, to have its shapes
        patched.setattr(torch, "load", lambda *_, **__: {})
        patched.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_, **__: None)
        network = FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path="none")
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    save_file(network.state_dict(), tmp_path / "tensorflow.safetensors")
    save_file(inception_v3(weights=None, init_weights=False).state_dict(), tmp_path / "torchvision.safetensors")
    made, cpu = pictures(2, 64, 32, 0), torch.device("cpu")
    for name, load in (
        ("tensorflow", inception_features),
        ("torchvision", torchvision_features),
    ):
        features = load(tmp_path / f"{name}.safetensors", cpu)
        assert features(made).shape == (2, 2048)
        assert torch.allclose(features(made)[:1], features(made[:1]), atol=1e-4)
        with pytest.raises(WeightsError, match="holds no"):
            load(tmp_path / f"{'torchvision' if name == 'tensorflow' else 'tensorflow'}.safetensors", cpu)


# --- the stage ----------------------------------------------------------------


class _Shards(StageConfig):
    stage: ClassVar[str] = "write-shards"
    package: ClassVar[str] = "tests"


def _make_shards(config: _Shards, directory: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    import io

    for split, keys in (("gallery", KEYS), ("train", KEYS)):
        members = []
        for number, key in enumerate(keys):
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(buffer, "JPEG")
            facts = {
                "key": key,
                "pid": int(key[:4]),
                "camid": 1,
                "split": split,
                "role": "person",
                "width": WIDTH,
                "height": HEIGHT,
                "keypoints": keypoints_to_json(pose(number)),
            }
            members += [(f"{key}.jpg", buffer.getvalue()), (f"{key}.json", json.dumps(facts).encode())]
        write_tar(directory / f"{split}-00000.tar", iter(members))
    return {}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(_Shards(), _make_shards, store=tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generator")
    tiny_pipeline(image_encoder=tiny_image_encoder()).save_pretrained(folder)
    return folder


def config_of(shards: Path, generator: Path, **fields: Any) -> EvaluateGeneratorConfig:
    defaults = {"steps": 1, "limit": 5, "canvases_per_shard": 2, "bootstrap": 50, "device": "cpu", "sheet_rows": 2}
    return EvaluateGeneratorConfig(shards=shards, generator=generator, **(defaults | fields))


def test_all_scenarios_and_bounds_are_measured_on_the_same_pairs(
    shards: Path, generator: Path, alexnet_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fake_features(weights: Path, device: torch.device) -> Any:
        return lambda made: made.float().flatten(2).mean(2)

    monkeypatch.setitem(meter.FEATURE_NETWORKS, "inception", fake_features)
    config = config_of(
        shards, generator, alexnet=alexnet_file, inception=alexnet_file, known_weights_only=False, height=64, width=32
    )
    directory = build(config, make_evaluation, output=tmp_path / "result")
    results = json.loads((directory / "results.json").read_text())
    rows = {row["row"]: row for row in results["rows"]}
    assert list(rows) == ["T1", "T2", "T3", "IMAGPose*", "VAE", "copy"]
    assert all(row["pictures"] == 5 for row in rows.values())
    assert all({"ssim", "psnr", "lpips", "fid", "ssim_interval"} <= row.keys() for row in rows.values())
    assert rows["T1"]["seconds_per_image"] > 0
    assert [reason.split(":")[0] for reason in results["absent"]] == ["lpips_vgg", "fid_table1"]
    table = pd.read_parquet(directory / "pairs.parquet")
    by_row = {name: part.sort_values("pair").target.tolist() for name, part in table.groupby("row")}
    assert all(targets == by_row["copy"] for targets in by_row.values())
    page = (directory / "results.md").read_text()
    assert "| T1 | 5 |" in page
    assert list(results["unknown_weights"]) == ["lpips", "frechet_alexnet", "fid"]
    assert all(row["frechet_alexnet"] >= 0 for row in rows.values())
    assert "is no FID and compares with no paper's figure" in page
    assert "| LPIPS (unknown weights) |" in page and "| FID (unknown weights) |" in page
    sha256 = file_sha256(alexnet_file)[:8]
    assert f"Unknown weights: lpips: alexnet.safetensors, SHA-256 {sha256}..., is not the published file (7be5" in page
    assert "IMAGPose, three sources (T3)" in page
    with Image.open(directory / "contact_sheet-IMAGPose-star.png") as sheet:
        assert sheet.height > HEIGHT
    assert verify(directory) == []


def test_an_interrupted_evaluation_goes_on_and_ends_with_the_same_pictures(
    shards: Path, generator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(shards, generator, modes=("T1",))
    whole = build(config, make_evaluation, output=tmp_path / "whole")
    calls, make = [], evaluate.Evaluation._make

    def dying(self: Any, *arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        make(self, *arguments)

    monkeypatch.setattr(evaluate.Evaluation, "_make", dying)
    with pytest.raises(KeyboardInterrupt):
        build(config, make_evaluation, output=tmp_path / "again")
    kept = (tmp_path / "again.partial" / "pictures" / "T1-00000.tar").stat().st_mtime_ns
    again = build(config, make_evaluation, output=tmp_path / "again")
    assert (again / "pictures" / "T1-00000.tar").stat().st_mtime_ns == kept
    for tar in sorted((whole / "pictures").glob("*.tar")):
        assert tar.read_bytes() == (again / "pictures" / tar.name).read_bytes()
    assert pd.read_parquet(whole / "pairs.parquet").equals(pd.read_parquet(again / "pairs.parquet"))


def test_what_cannot_be_evaluated_is_refused_before_any_picture(shards: Path, generator: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text(
        f"from,to\n{KEYS[0]}.jpg,9999_c1s1_000000_01.jpg\n{KEYS[0]}.jpg,{KEYS[1]}.jpg\n"
    )
    with pytest.raises(InputError, match=r"name 1 images that .* lacks, for example 9999_c1s1_000000_01"):
        make_evaluation(config_of(shards, generator, pairs=tmp_path / "pairs.csv"), tmp_path)
    with pytest.raises(InputError, match="no generator that says its view size"):
        make_evaluation(config_of(shards, tmp_path), tmp_path)
    only_train = tmp_path / "shards"
    shutil.copytree(shards, only_train)
    (only_train / "gallery-00000.tar").unlink()
    forge(only_train)
    with pytest.raises(InputError, match="holds no query or gallery images"):
        make_evaluation(config_of(only_train, generator), tmp_path)
    with pytest.raises(ValueError, match="height and width go together"):
        config_of(shards, generator, height=64)


def test_training_images_of_nobody_are_no_reference(shards: Path, generator: Path, alexnet_file: Path, tmp_path: Path):
    nobody = tmp_path / "shards"
    shutil.copytree(shards, nobody)
    members = [
        (f"{key}.{extension}", content if extension == "jpg" else content.replace(b'"pid": ', b'"pid": 0, "was": '))
        for key, sample in read_samples(nobody / "train-00000.tar")
        for extension, content in sample.items()
    ]
    write_tar(nobody / "train-00000.tar", iter(members))
    forge(nobody)
    given = {"alexnet": alexnet_file, "known_weights_only": False, "modes": ("T1",), "height": 64, "width": 32}
    directory = build(config_of(nobody, generator, **given), make_evaluation, output=tmp_path / "result")
    results = json.loads((directory / "results.json").read_text())
    assert "lpips" in results["rows"][0] and "frechet_alexnet" not in results["rows"][0]
    assert "frechet_alexnet: the shards hold no training images of people" in results["absent"][-1]


def test_views_that_lpips_leaves_nothing_of_are_refused_before_any_picture(
    shards: Path, generator: Path, alexnet_file: Path, tmp_path: Path
) -> None:
    given = {"alexnet": alexnet_file, "known_weights_only": False}
    with pytest.raises(InputError, match="LPIPS on alexnet needs sides of at least 31 pixels, got 32x16"):
        make_evaluation(config_of(shards, generator, **given), tmp_path)
    for backbone, least in SMALLEST.items():
        network = Lpips(alexnet_file, backbone) if backbone == "alexnet" else lpips.LPIPS(net="vgg", pnet_rand=True)
        network(torch.zeros(1, 3, least, least), torch.zeros(1, 3, least, least))
        with pytest.raises(RuntimeError):
            network(torch.zeros(1, 3, least - 1, least), torch.zeros(1, 3, least - 1, least))


def test_alexnets_distance_is_zero_for_equal_sets_and_is_left_out_where_nothing_can_be_compared(
    alexnet_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    features = alexnet_features(alexnet_file, torch.device("cpu"))
    pictures = torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = features(pictures).numpy()
    assert found.shape == (8, 256)
    assert frechet_distance(found, found) == pytest.approx(0, abs=1e-3)
    distance = frechet_distance(found, features(255 - pictures).numpy())
    assert distance is not None and distance > 0.001
    some = meter.Meter.__new__(meter.Meter)
    some.features, some.absent = {"alexnet": features}, []
    some.drop_distance_of_alexnet("no training images")
    assert some.features == {} and some.absent == ["frechet_alexnet: no training images"]
    assert "column left out: frechet_alexnet" in caplog.text
