"""The denoiser: stock diffusers UNet plus parts that start as nothing, and cross-view attention by the paper."""

import copy

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

import imagpose
from datasets.runtime.errors import InputError
from imagpose.canvas.layout import CanvasRequest, SourceFeatures
from imagpose.canvas.view_grid import pack_views, unpack_views, view_map
from imagpose.config import ABLATIONS, CheckModelConfig, ModelConfig, NoiseConfig
from imagpose.modeling.cross_view_attention import CrossViewAttention
from imagpose.modeling.denoiser import denoiser_from_unet2d, denoiser_with_parts, new_denoiser
from imagpose.modeling.feature_conditioning import FeatureConditioning
from imagpose.modeling.unet import IMAGPoseUNet
from imagpose.sampling.pipeline import load_pipeline
from imagpose.training.check_model import run_check_model
from imagpose.training.generators import Generator, save_generator
from imagpose.training.noise import noise_scheduler, prediction_target, signal_to_noise, timestep_weights

TINY = ModelConfig(
    channels=(16, 32),
    attention=(True, True),
    head_width=8,
    cross_attention_dim=24,
    norm_groups=8,
    pose_channels=(4, 4, 8),
    token_patch=4,
)
POSE = np.column_stack([np.linspace(2, 29, 18), np.linspace(2, 60, 18), np.ones(18)]).astype(np.float32)


def stock_unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        cross_attention_dim=24,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=2,
    )


def inputs(canvases: int = 2) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(1)
    return {
        "noisy_latents": torch.randn(canvases, 4, 16, 8, generator=draws),
        "timesteps": torch.tensor([10, 700][:canvases]),
        "mask": view_map(torch.tensor([[1, 0, 0, 1]] * canvases), 8, 4),
        "masked_latents": torch.randn(canvases, 4, 16, 8, generator=draws),
        "skeletons": torch.rand(canvases, 3, 64, 32, generator=draws),
        "image_tokens": torch.randn(canvases, 9, 20, generator=draws),
        "source_latents": torch.randn(canvases, 4, 8, 4, generator=draws),
    }


def randomize_zero_parts(model: torch.nn.Module) -> None:
    draws = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=draws)


def test_new_parts_leave_a_stock_unet_bitwise_unchanged() -> None:
    unet = stock_unet().eval()
    model = denoiser_from_unet2d(unet, TINY, image_token_dim=20).eval()
    given = inputs()
    with torch.no_grad():
        context = model.feature_conditioning(given["image_tokens"], given["source_latents"])
        ours = model(**given)
        stock = unet(given["noisy_latents"], given["timesteps"], context).sample
    assert torch.equal(ours, stock)
    assert set(unet.state_dict()) == {key for key in model.unet.state_dict() if ".cva." not in key}


def test_a_unet_of_stable_diffusion_2_1s_kind_starts_unchanged_too() -> None:
    torch.manual_seed(0)
    kind = {"use_linear_projection": True, "attention_head_dim": (2, 4), "cross_attention_dim": 32}
    unet = UNet2DConditionModel.from_config({**stock_unet().config, **kind, "upcast_attention": True}).eval()
    model = denoiser_from_unet2d(unet, TINY, image_token_dim=20).eval()
    given = inputs()
    with torch.no_grad():
        context = model.feature_conditioning(given["image_tokens"], given["source_latents"])
        stock = unet(given["noisy_latents"], given["timesteps"], context).sample
        torch.testing.assert_close(model(**given), stock, rtol=0, atol=1e-6)
    assert context.shape[2] == 32


def test_every_parameter_receives_a_gradient_once_nothing_is_zero() -> None:
    torch.manual_seed(0)
    model = new_denoiser(TINY, latent_channels=4, image_token_dim=20)
    randomize_zero_parts(model)
    model(**inputs()).square().mean().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_zero_initialized_input_columns_and_attention_move_at_the_first_step() -> None:
    torch.manual_seed(0)
    model = new_denoiser(TINY, latent_channels=4, image_token_dim=20)
    model(**inputs()).square().mean().backward()
    assert model.unet.conv_in.weight.grad[:, 4:].abs().amax((0, 2, 3)).min() > 0
    outputs = [p.grad.abs().sum() for name, p in model.named_parameters() if name.endswith("mixer.proj_out.weight")]
    assert outputs and all(value > 0 for value in outputs)


def test_checkpointing_gives_the_same_gradients() -> None:
    torch.manual_seed(0)
    model = new_denoiser(TINY, latent_channels=4, image_token_dim=20)
    randomize_zero_parts(model)
    other = copy.deepcopy(model)
    other.unet.enable_gradient_checkpointing()
    for network in (model, other):
        network.train()(**inputs()).square().mean().backward()
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}")


def ten_line_cross_view_attention(cva: CrossViewAttention, canvas: Tensor) -> Tensor:
    """The paper's words: four views, attention over the views at equal positions, joined again."""
    mixer, block = cva.mixer, cva.mixer.transformer_blocks[0]
    h, w = canvas.shape[2] // 2, canvas.shape[3] // 2
    views = [canvas[:, :, r * h : r * h + h, c * w : c * w + w] for r in (0, 1) for c in (0, 1)]
    alone = [torch.nn.functional.group_norm(v, 4, mixer.norm.weight, mixer.norm.bias, mixer.norm.eps) for v in views]
    normed = torch.stack(alone, 2)  # statistics of each view alone, as in the official motion module
    x = mixer.proj_in(normed.permute(0, 3, 4, 2, 1))  # B h w 4 C
    for norm, attention in ((block.norm1, block.attn1), (block.norm2, block.attn2)):
        y = norm(x) + block.pos_embed.pe[0, :4]
        q, k, v = (
            layer(y).unflatten(-1, (attention.heads, -1)) for layer in (attention.to_q, attention.to_k, attention.to_v)
        )
        share = torch.einsum("bhwind,bhwjnd->bhwnij", q, k).mul(q.shape[-1] ** -0.5).softmax(-1)
        x = x + attention.to_out[0](torch.einsum("bhwnij,bhwjnd->bhwind", share, v).flatten(-2))
    x = mixer.proj_out(x + block.ff(block.norm3(x))).permute(3, 0, 4, 1, 2)
    top, bottom = torch.cat([x[0], x[1]], 3), torch.cat([x[2], x[3]], 3)
    return canvas + torch.cat([top, bottom], 2)


def test_cross_view_attention_equals_an_independent_ten_line_version() -> None:
    torch.manual_seed(0)
    cva = CrossViewAttention(16, heads=2, norm_groups=4)
    canvas = torch.randn(2, 16, 8, 6)
    assert torch.equal(cva(canvas), canvas), "identity at the start"
    randomize_zero_parts(cva)
    torch.testing.assert_close(cva(canvas), ten_line_cross_view_attention(cva, canvas), rtol=1e-5, atol=1e-5)


def test_the_contrast_of_one_view_changes_nothing_of_what_cross_view_attention_adds() -> None:
    torch.manual_seed(0)
    cva = CrossViewAttention(16, heads=2, norm_groups=4).double()
    randomize_zero_parts(cva)
    views = torch.randn(2, 4, 16, 4, 3, dtype=torch.float64)
    stronger = views * torch.tensor([1.0, 10.0, 1.0, 1.0], dtype=torch.float64)[:, None, None, None]
    added = [cva(canvas) - canvas for canvas in (pack_views(views), pack_views(stronger))]
    torch.testing.assert_close(*added, rtol=0, atol=1e-4)  # GroupNorm's epsilon is all that is left


def test_permuting_the_views_permutes_the_output_when_positions_are_off() -> None:
    torch.manual_seed(0)
    cva = CrossViewAttention(16, heads=2, norm_groups=4)
    randomize_zero_parts(cva)
    cva.mixer.transformer_blocks[0].pos_embed.pe.zero_()
    views, order = torch.randn(2, 4, 16, 4, 3), [2, 0, 3, 1]
    expected = unpack_views(cva(pack_views(views)))[:, order]
    torch.testing.assert_close(unpack_views(cva(pack_views(views[:, order]))), expected, rtol=1e-5, atol=1e-5)


def test_dropped_conditions_are_exact_zeros_and_patches_are_padded() -> None:
    torch.manual_seed(0)
    flc = FeatureConditioning(dim=24, image_token_dim=20, latent_channels=4, patch=4)
    tokens, latents = torch.randn(2, 9, 20), torch.randn(2, 4, 6, 5)  # 6x5 cells: 2x2 patches of 4
    keep = torch.tensor([True, False])
    context = flc(tokens, latents, keep_image=keep, keep_texture=~keep)
    assert context.shape == (2, 9 + 4, 24)
    assert context[1, :9].eq(0).all() and context[0, 9:].eq(0).all()
    assert context[0, :9].abs().sum() > 0 and context[1, 9:].abs().sum() > 0
    tokens[1] = torch.nan
    assert flc(tokens, latents, keep_image=keep).isfinite().all()


@pytest.mark.parametrize(
    ("switches", "channels", "tokens", "has_cva"),
    [
        ({"cross_view_attention": False, "texture_tokens": False, "masked_latents": False}, 5 + 8, 9, False),  # B0
        ({"texture_tokens": False, "masked_latents": False}, 5 + 8, 9, True),  # B1
        ({"cross_view_attention": False, "masked_latents": False}, 5 + 8, 9 + 2, False),  # B2
        ({"texture_tokens": False}, 9 + 8, 9, True),  # B3
        ({"cross_view_attention": False}, 9 + 8, 9 + 2, False),  # B4
    ],
)
def test_the_papers_ablations_are_switches(switches: dict, channels: int, tokens: int, has_cva: bool) -> None:
    model = new_denoiser(TINY.model_copy(update=switches), latent_channels=4, image_token_dim=20)
    given = inputs()
    assert model.unet.config.in_channels == channels
    assert model.feature_conditioning(given["image_tokens"], given["source_latents"]).shape[1] == tokens
    assert any(".cva." in name for name in model.state_dict()) is has_cva
    assert model(**given).shape == given["noisy_latents"].shape


def test_m1_denoises_every_view_by_itself_as_the_stock_unet_does() -> None:
    unet, given = stock_unet().eval(), inputs()
    model = denoiser_from_unet2d(unet, TINY.model_copy(update=ABLATIONS["M1"]), image_token_dim=20).eval()
    with torch.no_grad():
        context = model.feature_conditioning(given["image_tokens"], given["source_latents"])
        canvas = model(**given)
        for view, alone in enumerate(unpack_views(given["noisy_latents"]).unbind(1)):
            stock = unet(alone, given["timesteps"], context).sample
            torch.testing.assert_close(unpack_views(canvas)[:, view], stock, rtol=0, atol=1e-5)
        output = model.unet(torch.zeros(2, 13, 16, 8), 700, context)  # diffusers' own form of the call and its result
    assert context.shape[1] == 9 and output.sample.shape == (2, 4, 16, 8)


@pytest.mark.parametrize("name", sorted(ABLATIONS))
def test_a_start_that_has_no_part_is_kept_by_every_variant_that_adds_some(name: str) -> None:
    base = new_denoiser(TINY.model_copy(update=ABLATIONS["M1"]), 4, 20)
    randomize_zero_parts(base)
    model = denoiser_with_parts(base.eval(), TINY.model_copy(update=ABLATIONS[name])).eval()
    assert model.parts == ABLATIONS[name]
    given = inputs()
    conditions = model.condition_channels(given["mask"], given["masked_latents"], given["skeletons"])
    context = base.feature_conditioning(given["image_tokens"], given["source_latents"])
    of_the_base = base.condition_channels(given["mask"], given["masked_latents"], given["skeletons"])
    with torch.no_grad():
        output = model.predict(given["noisy_latents"], given["timesteps"], conditions, context)
        base.unet.register_to_config(joint_canvas=ABLATIONS[name]["joint_canvas"])
        expected = base.predict(given["noisy_latents"], given["timesteps"], of_the_base, context)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)
    ours = model.feature_conditioning(given["image_tokens"], given["source_latents"])
    assert torch.equal(ours[:, : context.shape[1]], context)
    assert (ours.shape[1] > context.shape[1]) is ABLATIONS[name]["texture_tokens"]


def test_a_start_keeps_what_it_has_and_is_refused_where_it_would_lose_a_part() -> None:
    base = new_denoiser(TINY.model_copy(update=ABLATIONS["B4"]), 4, 20)
    randomize_zero_parts(base)
    grown = denoiser_with_parts(base, TINY)
    kept = {name: value for name, value in grown.state_dict().items() if ".cva." not in name}
    assert kept.keys() == base.state_dict().keys()
    assert all(torch.equal(kept[name], value) for name, value in base.state_dict().items())
    with pytest.raises(InputError, match="has texture_tokens and masked_latents, which `model` switches off"):
        denoiser_with_parts(base, TINY.model_copy(update=ABLATIONS["B1"]))


def test_cross_view_attention_needs_a_joint_canvas() -> None:
    with pytest.raises(ValueError, match="cross_view_attention"):
        ModelConfig(joint_canvas=False)


def test_an_ablation_without_conditioning_weights_is_saved_and_sampled(tmp_path) -> None:
    torch.manual_seed(0)
    model = new_denoiser(TINY.model_copy(update=ABLATIONS["B0"]), latent_channels=4, image_token_dim=24)
    assert not list(model.feature_conditioning.parameters())  # no texture tokens, and equal widths need no projection
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=2,
        latent_channels=4,
    )
    generator = Generator(model=model, vae=vae, scheduler=noise_scheduler(NoiseConfig()))
    save_generator(tmp_path, generator)
    source = SourceFeatures(latents=torch.randn(4, 8, 4), tokens=torch.randn(9, 24), keypoints=POSE)
    request = CanvasRequest(sources=[source], poses=[POSE], seed=0)
    pictures = [
        pipeline([request], num_inference_steps=1, output_type="latent")
        for pipeline in (load_pipeline(tmp_path, torch.device("cpu")), generator.pipeline())
    ]
    assert (pictures[0].images[0] == pictures[1].images[0]).all()


def test_saving_and_loading_keeps_every_weight(tmp_path) -> None:
    torch.manual_seed(0)
    for name in ("full", "B0", "M1"):
        unet = new_denoiser(TINY.model_copy(update=ABLATIONS[name]), 4, 20).unet
        randomize_zero_parts(unet)
        unet.save_pretrained(tmp_path / name)
        loaded = imagpose.IMAGPoseUNet.from_pretrained(tmp_path / name)
        assert isinstance(loaded, IMAGPoseUNet) and set(loaded.state_dict()) == set(unet.state_dict())
        assert loaded.config.joint_canvas is (name != "M1")
        assert all(torch.equal(loaded.state_dict()[key], value) for key, value in unet.state_dict().items())


def test_bfloat16_stays_close_to_float32() -> None:
    torch.manual_seed(0)
    model = new_denoiser(TINY, latent_channels=4, image_token_dim=20).eval()
    randomize_zero_parts(model)
    given = inputs()
    with torch.no_grad():
        plain = model(**given)
        halved = copy.deepcopy(model).to(torch.bfloat16)(
            **{name: value.bfloat16() if value.is_floating_point() else value for name, value in given.items()}
        )
    assert halved.dtype == torch.bfloat16
    assert (halved.float() - plain).abs().mean() < 0.1 * plain.abs().mean()


@pytest.mark.slow
def test_check_model_passes_at_a_small_size() -> None:
    assert run_check_model(CheckModelConfig(size="tiny")) == 0  # torch.compile(fullgraph=True) among its checks


def test_the_last_timestep_is_pure_noise_and_still_trained() -> None:
    config = NoiseConfig()
    scheduler = noise_scheduler(config)
    assert signal_to_noise(scheduler)[-1] < 1e-6
    weights = timestep_weights(config, scheduler)
    snr = signal_to_noise(scheduler)
    middle = int((snr - 1).abs().argmin())
    assert weights[-1] == pytest.approx(config.min_snr_floor)
    assert weights[middle] == pytest.approx(float(snr[middle] / (snr[middle] + 1)), rel=1e-5)
    assert weights[0] == pytest.approx(config.min_snr_floor)  # 5 / (SNR + 1), SNR over 1000


def test_targets_follow_the_prediction_type() -> None:
    latents, noise, timesteps = torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4), torch.tensor([0, 999])
    velocity = prediction_target(noise_scheduler(NoiseConfig()), latents, noise, timesteps)
    torch.testing.assert_close(velocity[1], -latents[1], atol=2e-3, rtol=0)
    linear = NoiseConfig(beta_schedule="linear", beta_start=1e-4, beta_end=0.02, prediction_type="epsilon")
    assert torch.equal(prediction_target(noise_scheduler(linear), latents, noise, timesteps), noise)
