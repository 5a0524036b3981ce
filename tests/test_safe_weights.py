"""Weights are read as safetensors alone: no loader may fall back to a format that runs code."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest
import torch

from datasets.runtime.errors import WeightsError
from datasets.shards.frozen_models import load_image_encoder, load_vae
from datasets.shards.image_encoders import kind_of
from imagpose.config.published_unets import is_stable_diffusion
from imagpose.sampling.generate import view_size_of
from imagpose.sampling.pipeline import load_pipeline
from imagpose.training.generators import load_denoiser, load_unet2d

REPOSITORY = Path(__file__).resolve().parent.parent
MODELS = REPOSITORY / "imagpose" / "builtin"
PACKAGES = ("datasets", "imagpose", "reid", "flows", "benchmarks")


def calls(name: str) -> list[tuple[str, ast.Call]]:
    """Calls of a method or function of this name, with where they stand."""
    found = []
    for path in (path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == name:
                found.append((f"{path.relative_to(REPOSITORY)}:{node.lineno}", node))
    return found


def test_whatever_is_loaded_from_a_folder_is_loaded_as_safetensors_and_without_code():
    found = calls("from_pretrained")
    assert len(found) >= 5
    for place, call in found:
        given = {keyword.arg: getattr(keyword.value, "value", None) for keyword in call.keywords}
        assert given.get("use_safetensors") is True, place
        assert "trust_remote_code" not in given and "custom_pipeline" not in given, place
    assert not calls("from_single_file") and not calls("load_lora_weights")


def test_whatever_is_unpickled_is_unpickled_as_tensors_only():
    for place, call in calls("load"):
        if getattr(getattr(call.func, "value", None), "id", "") == "torch":
            assert any(k.arg == "weights_only" and getattr(k.value, "value", 0) is True for k in call.keywords), place
        if getattr(getattr(call.func, "value", None), "id", "") == "np":
            assert any(k.arg == "allow_pickle" and getattr(k.value, "value", 1) is False for k in call.keywords), place


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


LOADERS = {
    "vae": (load_vae, "vae", "diffusion_pytorch_model"),
    "image_encoder": (load_image_encoder, "image_encoder", "pytorch_model"),
    "denoiser": (load_denoiser, "unet", "diffusion_pytorch_model"),
    "unet": (load_unet2d, "unet", "diffusion_pytorch_model"),
    "pipeline": (lambda folder: load_pipeline(folder, torch.device("cpu")), "unet", "diffusion_pytorch_model"),
}


@pytest.mark.parametrize("name", LOADERS)
def test_a_pickle_in_the_place_of_weights_is_refused_and_not_opened(tmp_path, name):
    load, part, stem = LOADERS[name]
    shutil.copytree(MODELS, tmp_path / "model")
    folder = tmp_path / "model" / part
    for file in folder.glob("*.safetensors"):
        file.unlink()
    torch.save(Bomb(tmp_path / "ran"), folder / f"{stem}.bin")
    with pytest.raises(WeightsError):
        load(folder if name in ("vae", "image_encoder") else tmp_path / "model")
    assert not (tmp_path / "ran").exists()


NO_CONFIGS = ["", "[]", "{", "[" * 100_000, '{"a":' * 100_000, "\xff"]


@pytest.mark.parametrize("content", NO_CONFIGS, ids=range(len(NO_CONFIGS)))
def test_a_models_config_that_is_none_is_told_in_one_line(tmp_path, content):
    shutil.copytree(MODELS, tmp_path / "model")
    for file in ("image_encoder/config.json", "unet/config.json", "model_index.json"):
        (tmp_path / "model" / file).write_text(content, encoding="latin-1")
    assert not is_stable_diffusion(tmp_path / "model")
    for ask in (lambda: kind_of(tmp_path / "model" / "image_encoder"), lambda: view_size_of(tmp_path / "model")):
        with pytest.raises(WeightsError) as error:
            ask()
        assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)
