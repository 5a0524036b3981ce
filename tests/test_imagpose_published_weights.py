"""Weights as people have them: in parts, in half precision, pickled, of inpainting and of SDXL."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import Dinov2Config, Dinov2Model

from datasets.runtime.artifacts import build
from datasets.runtime.command_line import main
from datasets.runtime.errors import WeightsError
from datasets.runtime.manifests import is_complete
from datasets.shards.frozen_models import load_image_encoder, load_vae
from datasets.shards.saved_models import DIFFUSERS, TRANSFORMERS, weights_problem
from flows.config import RegenerateConfig
from flows.preflight import weight_problems
from imagpose.__main__ import COMMANDS
from imagpose.config.published_unets import init_from_problem
from imagpose.training import generators, train
from imagpose.training.generators import load_denoiser, load_generator, load_unet2d, save_generator
from imagpose.training.inputs import FrozenParts
from tests.small_encoded import encoded_artifact
from tests.test_imagpose_canvas import RandomImages
from tests.test_imagpose_train import config, stable_diffusion_folder

BUILTIN = Path(__file__).resolve().parent.parent / "imagpose" / "builtin"


def small_vae() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=2,
        latent_channels=4,
    )


def small_encoder() -> Dinov2Model:
    torch.manual_seed(0)
    return Dinov2Model(
        Dinov2Config(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, patch_size=8, image_size=16)
    )


def unet_of(folder: Path, **changes: object) -> Path:
    """A Stable Diffusion folder whose UNet's config says something else."""
    stable_diffusion_folder(folder)
    file = folder / "unet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


# In parts.


def test_a_generator_with_frozen_models_in_parts_opens_with_their_weights(tmp_path):
    vae, encoder = small_vae(), small_encoder()
    vae.save_pretrained(tmp_path / "vae", max_shard_size="5KB")
    encoder.save_pretrained(tmp_path / "image_encoder", max_shard_size="2KB")
    (tmp_path / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"not copied")
    assert len(list((tmp_path / "vae").glob("*.safetensors"))) > 2
    assert len(list((tmp_path / "image_encoder").glob("*.safetensors"))) > 2
    copied = {"vae": tmp_path / "vae", "image_encoder": tmp_path / "image_encoder"}
    save_generator(tmp_path / "generator", load_generator(BUILTIN), copied)
    loaded = load_generator(tmp_path / "generator")
    for found, wanted in ((loaded.vae, vae), (loaded.image_encoder, encoder)):
        assert all(torch.equal(found.state_dict()[key], value) for key, value in wanted.state_dict().items())
    assert not list((tmp_path / "generator").rglob("*.bin"))


def test_a_generator_that_does_not_open_is_not_finished(tmp_path, monkeypatch):
    small_vae().save_pretrained(tmp_path / "vae", max_shard_size="5KB")
    small_encoder().save_pretrained(tmp_path / "image_encoder")
    folders = {name: tmp_path / name for name in ("vae", "image_encoder")}
    parts = FrozenParts(
        vae=load_vae(folders["vae"]),
        image_encoder=load_image_encoder(folders["image_encoder"]),
        view_size=(32, 16),
        token_size=(32, 16),
        folders=folders,
    )
    monkeypatch.setattr(train, "read_training_images", lambda _: RandomImages())
    monkeypatch.setattr(train.FrozenParts, "of", lambda _: parts)
    settings = config(steps=1, encoded=encoded_artifact(tmp_path))
    assert is_complete(build(settings, train.make_generator, output=tmp_path / "good"))
    of_weights_only = [file for file in folders["vae"].iterdir() if not file.name.endswith("index.json")]
    monkeypatch.setattr(generators, "model_files", lambda folder: of_weights_only)
    with pytest.raises(WeightsError, match=r"vae holds .* parts but not"):
        build(settings, train.make_generator, output=tmp_path / "bad")
    assert not (tmp_path / "bad").exists()


def test_parts_that_are_missing_or_not_listed_are_named(tmp_path):
    small_vae().save_pretrained(tmp_path / "vae", max_shard_size="5KB")
    part = min((tmp_path / "vae").glob("*.safetensors"))
    part.rename(tmp_path / part.name)
    with pytest.raises(WeightsError, match=f"lacks 1 of its .* parts .first: {part.name}"):
        load_vae(tmp_path / "vae")
    (tmp_path / part.name).rename(part)
    (tmp_path / "vae" / "diffusion_pytorch_model.safetensors.index.json").unlink()
    with pytest.raises(
        WeightsError, match=r"parts but not diffusion_pytorch_model.safetensors.index.json, which lists"
    ):
        load_vae(tmp_path / "vae")


# Other names and formats.


@pytest.mark.parametrize("kind", ["vae", "image_encoder"])
@pytest.mark.parametrize("weights", ["fp16", "bin", "none", "another name"])
def test_weights_under_other_names_are_refused_clearly_by_loaders_and_before_any_work(tmp_path, kind, weights):
    model, load, stem = {
        "vae": (small_vae(), load_vae, DIFFUSERS),
        "image_encoder": (small_encoder(), load_image_encoder, TRANSFORMERS),
    }[kind]
    model.save_pretrained(tmp_path)
    file = tmp_path / f"{stem}.safetensors"
    said = {
        "fp16": (f"{stem}.fp16.safetensors", "half precision only"),
        "bin": (f"{stem}.bin", "no .safetensors file; a pickle can run any code"),
        "none": (None, "no .safetensors file"),
        "another name": ("weights.safetensors", f"no {stem}.safetensors file, the name that is read"),
    }[weights]
    file.rename(tmp_path / said[0]) if said[0] else file.unlink()
    assert said[1] in (weights_problem(tmp_path, stem) or "")
    with pytest.raises(WeightsError) as error:
        load(tmp_path)
    assert said[1] in str(error.value) and "\n" not in str(error.value)
    problems = weight_problems(RegenerateConfig(preset="smoke", **{kind: tmp_path}))
    assert any(
        str(tmp_path) in problem and ("no .safetensors" in problem or said[1] in problem) for problem in problems
    )


def test_half_precision_is_read_under_the_name_that_the_refusal_gives(tmp_path):
    small_vae().half().save_pretrained(tmp_path, variant="fp16")
    with pytest.raises(WeightsError, match=r"or call it diffusion_pytorch_model.safetensors"):
        load_vae(tmp_path)
    (tmp_path / "diffusion_pytorch_model.fp16.safetensors").rename(tmp_path / "diffusion_pytorch_model.safetensors")
    assert load_vae(tmp_path).dtype == torch.float32


def test_a_generators_folder_with_a_pickled_part_is_refused_by_the_parts_name(tmp_path):
    shutil.copytree(BUILTIN, tmp_path / "generator")
    (tmp_path / "generator" / "unet" / "diffusion_pytorch_model.safetensors").rename(
        tmp_path / "generator" / "unet" / "diffusion_pytorch_model.bin"
    )
    for opened in (load_generator, load_denoiser):
        with pytest.raises(WeightsError, match=r"generator/unet holds diffusion_pytorch_model.bin and no .safetensors"):
            opened(tmp_path / "generator")


# UNets that are none of text-to-image.


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"in_channels": 9}, "a UNet of 9 input channels, not of 4 .* an inpainting UNet's mask"),
        ({"in_channels": 8}, "a UNet of 8 input channels, not of 4"),
        (
            {"addition_embed_type": "text_time", "projection_class_embeddings_input_dim": 2816},
            "needs further inputs .addition_embed_type 'text_time', as SDXL's does.",
        ),
        ({"class_embed_type": "projection"}, "needs further inputs .class_embed_type"),
    ],
)
def test_a_unet_that_a_generator_cannot_start_from_is_refused_before_any_work(tmp_path, capsys, changes, said):
    folder = unet_of(tmp_path / "sd", **changes)
    with pytest.raises(WeightsError, match=said):
        load_unet2d(folder)
    (problem,) = weight_problems(RegenerateConfig(preset="smoke", generator=folder))
    assert f"--generator {folder} has a UNet" in problem
    assert main("imagpose", COMMANDS, ["check-model", "--init-from", str(folder), "--size", "tiny"]) == 2
    error = capsys.readouterr().err
    assert "has a UNet" in error and "Traceback" not in error


def test_a_published_text_to_image_unet_and_our_own_generator_are_taken(tmp_path):
    stable_diffusion_folder(tmp_path / "sd")
    assert init_from_problem(tmp_path / "sd") is None and init_from_problem(BUILTIN) is None
    assert isinstance(load_unet2d(tmp_path / "sd"), UNet2DConditionModel)
