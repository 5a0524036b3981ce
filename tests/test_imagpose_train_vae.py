"""The trainings of the frozen models: they learn, resume after a kill to the same weights, and measure what they
say."""

import io
import json
import math
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file
from skimage.metrics import structural_similarity

from datasets.runtime.artifacts import build
from datasets.runtime.errors import ArtifactError, InputError
from datasets.runtime.manifests import SCRATCH
from datasets.runtime.training.run import TrainingRun, step_generator
from datasets.runtime.training.schedules import warmup_cosine
from datasets.shards.frozen_models import load_image_encoder, load_vae
from imagpose.config import TrainImageEncoderConfig, TrainVaeConfig
from imagpose.frozen import image_encoder as train_image_encoder
from imagpose.frozen import vae as train_vae
from imagpose.frozen.crops import Crops, load_crops, split_by_identity
from imagpose.frozen.image_encoder import augment, contrastive_loss, erase, make_image_encoder, measure_rank1
from imagpose.frozen.vae import make_vae, measure_vae, new_vae, reconstruct, reconstruction_loss
from imagpose.metrics import lpips
from tests.small_sets import finish

PEOPLE, IMAGES = 8, 4


def person(pid: int, image: int) -> bytes:
    """A person as three colored bands on noise; the colors are the identity."""
    colors = np.random.default_rng(pid).integers(0, 256, (3, 1, 3))
    noise = np.random.default_rng([pid, image]).normal(0, 6, (3, 8, 3))
    picture = np.clip(colors + noise, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(picture).resize((16, 32)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished shards artifact of 8 people at 2 cameras, 32x16 pixels."""
    folder = tmp_path_factory.mktemp("shards")
    with tarfile.open(folder / "train-00000.tar", "w") as tar:
        for pid in range(1, PEOPLE + 1):
            for image in range(IMAGES):
                facts = {"pid": pid, "camid": 1 + image % 2, "split": "train"}
                for extension, content in (("jpg", person(pid, image)), ("json", json.dumps(facts).encode())):
                    item = tarfile.TarInfo(f"{pid:04d}_{image}.{extension}")
                    item.size = len(content)
                    tar.addfile(item, io.BytesIO(content))
    return finish(folder, "write-shards")


def vae_config(shards: Path, **fields: object) -> TrainVaeConfig:
    given = {
        "view_height": 32,
        "view_width": 16,
        "channels": (8, 8, 8),
        "norm_groups": 4,
        "steps": 8,
        "batch_size": 4,
        "checkpoint_every": 3,
        "precision": "fp32",
        "device": "cpu",
    }
    return TrainVaeConfig(shards=shards, **{**given, **fields})


def encoder_config(shards: Path, **fields: object) -> TrainImageEncoderConfig:
    given = {
        "height": 32,
        "width": 16,
        "hidden_size": 16,
        "layers": 1,
        "heads": 2,
        "steps": 8,
        "identities_per_batch": 4,
        "checkpoint_every": 3,
        "precision": "fp32",
        "device": "cpu",
    }
    return TrainImageEncoderConfig(shards=shards, **{**given, **fields})


def losses(directory: Path) -> list[float]:
    lines = (directory / "logs" / "train.jsonl").read_text().splitlines()
    return [row["loss"] for row in map(json.loads, lines) if "loss" in row]


def test_a_vae_learns_and_is_saved_with_unit_variance_latents(shards: Path, tmp_path: Path) -> None:
    directory = build(vae_config(shards, steps=100, learning_rate=4e-3), make_vae, store=tmp_path)
    assert losses(directory)[-1] < 0.9 * losses(directory)[0]
    vae, crops = load_vae(directory), load_crops(shards, 32, 16)
    with torch.inference_mode():
        latents = vae.encode(crops.pixels.float() / 127.5 - 1).latent_dist.mean * vae.config.scaling_factor
    assert latents.shape[1:] == (4, 8, 4)
    assert float(latents.std()) == pytest.approx(1, abs=0.1)
    summary = json.loads((directory / "manifest.json").read_text())["summary"]
    error = reconstruct(vae, crops.pixels, torch.device("cpu")) - crops.pixels.float() / 255
    assert summary["psnr"] == pytest.approx(-10 * math.log10(error.square().mean()), abs=3)


def test_a_vaes_ssim_is_scikit_images(shards: Path) -> None:
    crops, cpu = load_crops(shards, 32, 16), torch.device("cpu")
    vae = new_vae(vae_config(shards))
    copies = (reconstruct(vae, crops.pixels, cpu) * 255).round().to(torch.uint8)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": 0}
    expected = [
        structural_similarity(a.numpy(), b.numpy(), **options) for a, b in zip(copies, crops.pixels, strict=True)
    ]
    assert measure_vae(vae, crops, cpu)["ssim"] == pytest.approx(np.mean(expected), abs=1e-5)


def test_a_vae_goes_on_from_a_saved_one_with_its_architecture(shards: Path, tmp_path: Path) -> None:
    first = build(vae_config(shards, steps=20, learning_rate=4e-3), make_vae, store=tmp_path)
    second = build(vae_config(shards, init_from=first, channels=(4, 4, 4), steps=4), make_vae, store=tmp_path)
    assert str(tmp_path) not in (second / "config.json").read_text(), "a machine's path in a model that is passed on"
    assert list(load_vae(second).config.block_out_channels) == [8, 8, 8]
    summaries = [json.loads((folder / "manifest.json").read_text())["summary"] for folder in (first, second)]
    assert summaries[1]["start"]["psnr"] == summaries[0]["psnr"]


@pytest.mark.parametrize(
    ("module", "kind"), [(train_vae, "vae"), (train_vae, "vae of another"), (train_image_encoder, "encoder")]
)
def test_a_killed_training_goes_on_to_the_same_weights(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: object, kind: str
) -> None:
    config = encoder_config(shards) if kind == "encoder" else vae_config(shards)
    make = make_image_encoder if kind == "encoder" else make_vae
    if kind == "vae of another":
        config = vae_config(shards, init_from=build(vae_config(shards, steps=2), make_vae, store=tmp_path))
    whole = build(config, make, output=tmp_path / "whole")

    class Killed(TrainingRun):
        def finished_step(self, *args: object, **options: object) -> None:
            super().finished_step(*args, **options)
            if self.step == 5:
                raise KeyboardInterrupt

    monkeypatch.setattr(module, "TrainingRun", Killed)
    with pytest.raises(KeyboardInterrupt):
        build(config, make, output=tmp_path / "parts")
    monkeypatch.setattr(module, "TrainingRun", TrainingRun)
    parts = build(config, make, output=tmp_path / "parts")
    file = "model.safetensors" if kind == "encoder" else "diffusion_pytorch_model.safetensors"
    one, other = load_file(whole / file), load_file(parts / file)
    assert all(torch.equal(one[name], other[name]) for name in one)
    said = [json.loads((folder / "manifest.json").read_text())["summary"] for folder in (whole, parts)]
    assert {**said[0], "seconds": 0} == {**said[1], "seconds": 0}
    assert not (parts / SCRATCH).exists()


def test_new_weights_depend_on_the_seed_alone(shards: Path) -> None:
    torch.manual_seed(1)
    one = new_vae(vae_config(shards)).state_dict()
    torch.manual_seed(2)
    same, other = new_vae(vae_config(shards)).state_dict(), new_vae(vae_config(shards, seed=1)).state_dict()
    assert torch.equal(one["encoder.conv_in.weight"], same["encoder.conv_in.weight"])
    assert not torch.equal(one["encoder.conv_in.weight"], other["encoder.conv_in.weight"])


def test_an_image_encoder_learns_people_and_is_saved_for_views_of_2_to_1(shards: Path, tmp_path: Path) -> None:
    directory = build(encoder_config(shards, steps=100), make_image_encoder, store=tmp_path)
    assert losses(directory)[-1] < losses(directory)[0]
    tokens = load_image_encoder(directory)(torch.zeros(2, 3, 32, 16)).last_hidden_state
    assert tokens.shape == (2, 1 + 4 * 2, 16)
    assert json.loads((directory / "manifest.json").read_text())["summary"]["rank1"] == 100.0


def test_rank1_leaves_out_images_of_the_same_person_at_the_same_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    # Persons 1, 1, 1, 2, 2 at cameras 1, 1, 2, 1, 2. Image 0 must not count its twin 1; image 4's nearest is image 2.
    features = torch.tensor([[1.0, 0.0], [1.0, 0.01], [0.9, 0.3], [-1.0, 0.0], [0.5, 0.8]])
    crops = Crops(torch.zeros(5, 3, 1, 1), np.array([1, 1, 1, 2, 2]), np.array([1, 1, 2, 1, 2]))
    monkeypatch.setattr(train_image_encoder, "_all_tokens", lambda *_: features[:, None])
    # 0 -> 2 right, 1 -> 2 right, 2 -> 1 right, 3 -> 4 right, 4 -> 2 wrong
    assert measure_rank1(None, crops, None) == 80.0


def test_the_contrastive_loss_of_equal_features_is_that_of_guessing() -> None:
    loss, _ = contrastive_loss(torch.ones(6, 4), torch.tensor([0, 0, 1, 1, 2, 2]))
    assert float(loss) == pytest.approx(math.log(5), abs=1e-5)


def test_augmentation_repeats_with_its_generator_and_keeps_range_and_shape() -> None:
    images = torch.rand(6, 3, 32, 16, generator=torch.Generator().manual_seed(0))
    one, again = (augment(images, step_generator(3, 5)) for _ in range(2))
    assert torch.equal(one, again) and one.shape == images.shape and 0 <= one.min() <= one.max() <= 1
    erased = erase(images, step_generator(3, 6), share=1.0)
    assert all(not torch.equal(before, after) for before, after in zip(images, erased, strict=True))


def test_held_out_people_are_never_trained_on_and_a_limit_keeps_whole_people(shards: Path) -> None:
    crops = load_crops(shards, 32, 16)
    train, held_out = split_by_identity(crops, seed=0)
    assert not set(train.pids) & set(held_out.pids) and len(train) + len(held_out) == PEOPLE * IMAGES
    limited, _ = split_by_identity(crops, seed=0, max_images=2 * IMAGES)
    assert len(limited) == 2 * IMAGES and len(set(limited.pids)) == 2


def test_the_rate_rises_then_falls_to_its_floor() -> None:
    rates = [warmup_cosine(step, 100, 1.0, warmup=10, floor=0.1) for step in range(101)]
    assert rates[0] == 0.1 and rates[9] == rates[10] == 1.0 and rates[100] == pytest.approx(0.1)
    assert sorted(rates[10:], reverse=True) == rates[10:]


def test_what_cannot_be_trained_on_is_refused(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="multiples of 8"):
        make_vae(vae_config(shards, view_width=20), tmp_path)
    with pytest.raises(InputError, match="patch size 8"):
        make_image_encoder(encoder_config(shards, width=20), tmp_path)
    monkeypatch.setattr(lpips, "check_published", lambda *_: None)
    with pytest.raises(InputError, match="LPIPS on alexnet needs sides of at least 31 pixels, got 32x16"):
        make_vae(vae_config(shards, alexnet=tmp_path / "alexnet.ckpt"), tmp_path)
    finish(tmp_path, "write-shards")
    with pytest.raises(InputError, match="no training image"):
        load_crops(tmp_path, 32, 16)
    with pytest.raises(ArtifactError, match="not a finished artifact"):
        load_crops(tmp_path / "nowhere", 32, 16)


def test_a_frozen_encoder_keeps_its_latents_while_the_decoder_learns(shards: Path, tmp_path: Path) -> None:
    first = build(vae_config(shards, steps=20), make_vae, store=tmp_path)
    config = vae_config(shards, init_from=first, freeze_encoder=True, chroma_weight=1.0)
    one, other = load_vae(first), load_vae(build(config, make_vae, store=tmp_path))
    assert one.config.scaling_factor == other.config.scaling_factor
    after = dict(other.named_parameters())
    changed = {name for name, value in one.named_parameters() if not torch.equal(value, after[name])}
    assert changed and all(name.startswith(("decoder.", "post_quant_conv.")) for name in changed)
    with pytest.raises(ValidationError, match="needs init_from"):
        vae_config(shards, freeze_encoder=True)


def test_a_gray_copy_costs_chroma_only_where_there_was_color() -> None:
    color = torch.tensor([0.6, -0.2, -0.4]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    gray, bright = color.mean(1, keepdim=True).expand_as(color), color + 0.1
    chroma = [
        reconstruction_loss(copy, color, 0.0, 1.0) - reconstruction_loss(copy, color, 0.0) for copy in (gray, bright)
    ]
    assert [float(value) for value in chroma] == pytest.approx([0.4, 0.0], abs=1e-6)
