"""Image encoders: DINOv2 and CLIP, each shown its own statistics, in the data set's features and in the pipeline's."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel, Dinov2Config, Dinov2Model

from datasets.shards.config import EncodeConfig
from datasets.shards.frozen_models import FeatureEncoder, image_tokens
from datasets.shards.image_encoders import ENCODER_KINDS, NAMED_ENCODERS, folder_of
from imagpose.canvas.layout import SourceImage
from imagpose.config import ModelConfig, NoiseConfig
from imagpose.modeling.denoiser import new_denoiser
from imagpose.training.generators import Generator
from imagpose.training.noise import noise_scheduler

HEIGHT, WIDTH = 32, 16


def tiny_encoder(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    if kind == "CLIPVisionModel":
        return CLIPVisionModel(CLIPVisionConfig(**sizes, intermediate_size=32)).eval()
    return Dinov2Model(Dinov2Config(**sizes)).eval()


@pytest.fixture(params=["Dinov2Model", "CLIPVisionModel"])
def models(request, tmp_path: Path) -> tuple[str, Path, Path]:
    torch.manual_seed(1)
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=2,
        latent_channels=4,
    )
    vae.save_pretrained(tmp_path / "vae")
    tiny_encoder(request.param).save_pretrained(tmp_path / "encoder")
    return request.param, tmp_path / "vae", tmp_path / "encoder"


def test_the_pipeline_sees_a_photograph_as_the_data_set_was_encoded(models, tmp_path) -> None:
    _, vae, encoder = models
    settings = {"view_height": HEIGHT, "view_width": WIDTH, "token_height": 24, "token_width": 16, "device": "cpu"}
    features = FeatureEncoder(EncodeConfig(shards=tmp_path, vae=vae, image_encoder=encoder, **settings))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
    latents, tokens = features([picture])
    model = new_denoiser(
        ModelConfig(
            channels=(16, 32),
            attention=(False, True),
            head_width=8,
            cross_attention_dim=16,
            norm_groups=8,
            pose_channels=(4, 4, 8),
        ),
        latent_channels=4,
        image_token_dim=16,
    )
    pipeline = Generator(
        model=model,
        vae=features.vae,
        scheduler=noise_scheduler(NoiseConfig()),
        image_encoder=features.image_encoder,
        view_size=(HEIGHT, WIDTH),
        token_size=(24, 16),
    ).pipeline()
    with torch.no_grad():
        ((source,),) = pipeline.encode([[SourceImage(image=picture)]])
    np.testing.assert_allclose(source.latents.numpy(), latents[0, 0], atol=2e-3)
    np.testing.assert_allclose(source.tokens.numpy(), tokens[0, 0], atol=2e-3)


@pytest.mark.parametrize(("kind", "red_mean"), [("Dinov2Model", 0.485), ("CLIPVisionModel", 0.48145466)])
def test_each_kind_of_encoder_is_shown_its_own_statistics(kind: str, red_mean: float) -> None:
    assert ENCODER_KINDS[kind].mean[0] == red_mean
    encoder, seen = tiny_encoder(kind), []
    encoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (ENCODER_KINDS[kind].mean, ENCODER_KINDS[kind].std))
    with torch.no_grad():
        image_tokens(encoder, (mean + std * 0.5).expand(2, 3, 32, 16))
    torch.testing.assert_close(seen[0], torch.full((2, 3, 32, 16), 0.5))


def test_table_3s_encoders_have_names() -> None:
    assert {name.partition("-")[0] for name in NAMED_ENCODERS} == {"clip", "dinov2"} and len(NAMED_ENCODERS) == 6
    assert folder_of("dinov2-giant") == Path("weights/dinov2-giant")
    assert folder_of("somewhere/else") == "somewhere/else"
    with pytest.raises(ValueError, match="hf download facebook/dinov2-large --local-dir weights/dinov2-large"):
        EncodeConfig(shards=Path("x"), vae=Path("imagpose/builtin/vae"), image_encoder="dinov2-large")


@pytest.mark.parametrize(
    ("name", "millions"), [("dinov2-base", 86.6), ("dinov2-large", 304.4), ("dinov2-giant", 1136.5)]
)
def test_the_named_sizes_are_the_published_ones(name: str, millions: float) -> None:
    from benchmarks.full_size import image_encoder

    with torch.device("meta"):
        model = image_encoder(name)
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.005)
