"""Prove that the denoiser is the stock UNet plus parts that start as nothing, at any size, with or without weights.

``python -m imagpose check-model`` runs at Stable Diffusion 1.5's size with random weights (some minutes, 9 GB); give
``--init-from FOLDER`` for the published ones, ``--size tiny`` for seconds.
"""

from __future__ import annotations

import copy
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from datasets.runtime import devices
from imagpose.canvas.view_grid import view_map
from imagpose.config import SD_MODEL, CheckModelConfig, ModelConfig
from imagpose.modeling.denoiser import IMAGPose, denoiser_from_unet2d
from imagpose.modeling.unet import CVA_KEY, IMAGPoseUNet
from imagpose.training.generators import load_unet2d

logger = logging.getLogger(__name__)

TINY_MODEL = ModelConfig(
    channels=(32, 64),
    attention=(True, True),
    head_width=16,
    cross_attention_dim=48,
    pose_channels=(8, 8, 16, 16),
    token_patch=4,
)
ROUNDING = {torch.float32: 0.01, torch.bfloat16: 0.05}
"""Share of the largest output by which outputs may differ on a GPU: the rounding of some hundred layers."""
TOKEN_WIDTH = 56  # not the text width, so that the projection is there


def stable_diffusion_unet() -> UNet2DConditionModel:
    """Stable Diffusion 1.5's UNet with random weights: diffusers' defaults are its sizes, but for the text width."""
    return UNet2DConditionModel(cross_attention_dim=768, sample_size=64)


def _tiny_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=48,
        norm_num_groups=16,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2,
    )


def run_check_model(config: CheckModelConfig) -> int:
    """Run every check and say how each went; returns 1 if one failed."""
    device = devices.pick(config.device)
    torch.manual_seed(config.seed)
    unet = load_unet2d(config.init_from) if config.init_from else None
    if unet is None:
        unet = stable_diffusion_unet() if config.size == "sd15" else _tiny_unet()
    sizes = SD_MODEL.model_copy(update={"token_patch": 4}) if config.size == "sd15" or config.init_from else TINY_MODEL
    model = denoiser_from_unet2d(unet, sizes, TOKEN_WIDTH).to(device).eval()
    logger.info("stock UNet %.1f M parameters, IMAGPose %.1f M", _millions(unet), _millions(model))
    inputs = random_inputs(model, config.seed, device)
    checks: dict[str, Callable[[], str | None]] = {
        "float32 output equals the stock UNet's": lambda: _equals_stock(model, unet.to(device).eval(), inputs),
        "all other weight names are the stock UNet's": lambda: _stock_names(model, unet),
        "bfloat16 output equals the stock UNet's": lambda: _equals_stock_in_bfloat16(model, unet, inputs),
        "every parameter receives a gradient": lambda: _gradients(model, inputs),
        "gradient checkpointing gives the same gradients": lambda: _checkpointing(model, inputs),
        "torch.compile(fullgraph=True) gives the same output": lambda: _compiles(model, inputs),
        "a deep copy and a saved and loaded UNet have the same weights": lambda: _round_trips(model),
    }
    failed = [name for name, check in checks.items() if not _passes(name, check)]
    logger.info("%d of %d checks passed", len(checks) - len(failed), len(checks))
    return 1 if failed else 0


def _passes(name: str, check: Callable[[], str | None]) -> bool:
    started = time.monotonic()
    problem = check()
    word = "FAILED" if problem else "passed"
    logger.info("%s: %s (%.1f s)%s", word, name, time.monotonic() - started, f": {problem}" if problem else "")
    return problem is None


def _millions(module: nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


def random_inputs(model: IMAGPose, seed: int, device: torch.device) -> dict[str, Tensor]:
    """What the denoiser takes for one canvas of the smallest views that its UNet can halve."""
    draws = torch.Generator().manual_seed(seed)
    side = 2 ** (len(model.unet.config.block_out_channels) - 1)
    height, width, stride = 2 * side, side, model.pose_encoder.stride
    channels = model.latent_channels
    inputs = {
        "noisy_latents": torch.randn(1, channels, 2 * height, 2 * width, generator=draws),
        "timesteps": torch.tensor([500]),
        "mask": view_map(torch.tensor([[1, 0, 0, 1]]), height, width),
        "masked_latents": torch.randn(1, channels, 2 * height, 2 * width, generator=draws),
        "skeletons": torch.rand(1, 3, 2 * height * stride, 2 * width * stride, generator=draws),
        "image_tokens": torch.randn(1, 9, TOKEN_WIDTH, generator=draws),
        "source_latents": torch.randn(1, channels, height, width, generator=draws),
    }
    return {name: value.to(device) for name, value in inputs.items()}


@torch.no_grad()
def _equals_stock(model: IMAGPose, unet: UNet2DConditionModel, inputs: dict[str, Tensor]) -> str | None:
    # In float32 oneDNN picks another order of summation for a first convolution of 265 channels than for one of 4: 1e-6
    # apart. The plain one sums both in the same order, and adding exact zeros changes nothing.
    with torch.backends.mkldnn.flags(enabled=model.unet.dtype != torch.float32):
        context = model.feature_conditioning(inputs["image_tokens"], inputs["source_latents"])
        ours, stock = model(**inputs), unet(inputs["noisy_latents"], inputs["timesteps"], context).sample
    return _difference(ours, stock)


def _difference(ours: Tensor, stock: Tensor) -> str | None:
    """How far two outputs are apart, or None: on a CPU if by anything, on a GPU if by more than rounding.

    There is no plain convolution on a GPU: cuDNN chooses by the number of channels, and its products are rounded to 10
    bits (TF32) or 8 (bfloat16).
    """
    largest = float((ours - stock).abs().max())
    allowed = rounding(ours.device, ours.dtype) * float(stock.abs().max())
    return None if largest <= allowed else f"largest difference {largest:.2e}"


def rounding(device: torch.device, dtype: torch.dtype) -> float:
    """Share of the largest output by which the two may differ."""
    return 0.0 if device.type == "cpu" else ROUNDING[dtype]


def _stock_names(model: IMAGPose, unet: UNet2DConditionModel) -> str | None:
    ours = {key for key in model.unet.state_dict() if CVA_KEY not in key}
    return None if ours == set(unet.state_dict()) else f"{len(ours ^ set(unet.state_dict()))} names differ"


def _equals_stock_in_bfloat16(model: IMAGPose, unet: UNet2DConditionModel, inputs: dict[str, Tensor]) -> str | None:
    """From here on both are bfloat16: half the memory, and the checks that follow hold in any arithmetic."""
    unet.bfloat16()
    model.bfloat16()
    for name, value in inputs.items():
        inputs[name] = value.bfloat16() if value.is_floating_point() else value
    problem = _equals_stock(model, unet, inputs)
    unet.to("meta")  # frees its memory
    return problem


def _gradients(model: IMAGPose, inputs: dict[str, Tensor]) -> str | None:
    draws = torch.Generator(device=inputs["mask"].device).manual_seed(1)
    with torch.no_grad():  # what starts at zero lets no gradient through to what lies behind it
        for parameter in model.parameters():
            if not parameter.any() or parameter is model.unet.conv_in.weight:
                noise = torch.randn(parameter.shape, generator=draws, device=parameter.device)
                parameter += 0.02 * noise.to(parameter.dtype)
    model.train()(**inputs).square().mean().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    return f"none for {', '.join(silent[:3])} ({len(silent)} in all)" if silent else None


def _checkpointing(model: IMAGPose, inputs: dict[str, Tensor]) -> str | None:
    """Gradients by their norm and sum: a second set of them would take as much memory as the model."""

    def fingerprints() -> Tensor:
        gradients = [(torch.zeros_like(p) if p.grad is None else p.grad).float() for p in model.parameters()]
        return torch.stack([torch.stack([gradient.norm(), gradient.sum().abs()]) for gradient in gradients])

    plain = fingerprints()
    model.zero_grad(set_to_none=True)
    model.unet.enable_gradient_checkpointing()
    model(**inputs).square().mean().backward()
    model.unet.disable_gradient_checkpointing()
    again = fingerprints()
    model.zero_grad(set_to_none=True)
    model.eval()
    apart = (plain - again).abs() > 1e-3 * plain[:, :1] + 1e-9
    return f"{int(apart.any(1).sum())} of {len(plain)} differ" if apart.any() else None


@torch.no_grad()
def _compiles(model: IMAGPose, inputs: dict[str, Tensor]) -> str | None:
    plain, traced = model(**inputs), torch.compile(model, fullgraph=True, backend="eager")(**inputs)
    difference = float((plain - traced).abs().max())
    return None if difference <= 0.01 * float(plain.abs().max()) else f"largest difference {difference:.2e}"


def _round_trips(model: IMAGPose) -> str | None:
    if not _same(copy.deepcopy(model).state_dict(), model.state_dict()):
        return "the copy differs"
    with tempfile.TemporaryDirectory() as folder:
        model.unet.save_pretrained(Path(folder), safe_serialization=True)
        loaded = IMAGPoseUNet.from_pretrained(
            folder, torch_dtype=torch.bfloat16, use_safetensors=True, low_cpu_mem_usage=False
        )
    return None if _same(loaded.state_dict(), model.unet.state_dict()) else "the loaded UNet differs"


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key].cpu(), b[key].cpu()) for key in a)
