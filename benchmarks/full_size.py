"""Models at their full size on the meta device: parameters and floating-point operations without memory or weights.

An operation counts as PyTorch's `FlopCounterMode` counts it: matrix products, convolutions and attention, a multiply
and an add as two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, CLIPVisionModel, Dinov2Config, Dinov2Model

from datasets.shards.image_encoders import NAMED_ENCODERS
from imagpose.config import ModelConfig
from imagpose.modeling.denoiser import IMAGPose, denoiser_from_unet2d
from imagpose.training.check_model import stable_diffusion_unet

LATENT_CHANNELS, VAE_STRIDE = 4, 8


def stable_diffusion_vae() -> AutoencoderKL:
    """Stable Diffusion 1.5's VAE."""
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=LATENT_CHANNELS,
        sample_size=512,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )


def denoiser(model: ModelConfig, token_width: int) -> IMAGPose:
    """IMAGPose on Stable Diffusion 1.5's UNet."""
    return denoiser_from_unet2d(stable_diffusion_unet(), model, token_width)


def image_encoder(name: str) -> nn.Module:
    """One of `NAMED_ENCODERS`, its position table as trained."""
    named = NAMED_ENCODERS[name]
    sizes: dict[str, Any] = {
        "hidden_size": named.width,
        "num_hidden_layers": named.layers,
        "num_attention_heads": named.heads,
        "patch_size": named.patch,
    }
    if named.kind == "CLIPVisionModel":
        return CLIPVisionModel(CLIPVisionConfig(**sizes, intermediate_size=named.mlp_width, image_size=224))
    return Dinov2Model(Dinov2Config(**sizes, image_size=518, use_swiglu_ffn=named.gated))


def canvas_inputs(
    view: tuple[int, int], tokens: int, token_width: int, device: str = "meta", stride: int = VAE_STRIDE
) -> dict[str, Tensor]:
    """What the denoiser takes for one canvas of four `view` (H, W) pixels, all zeros."""
    height, width = view
    rows, columns = height // stride, width // stride
    with torch.device(device):
        return {
            "noisy_latents": torch.zeros(1, LATENT_CHANNELS, 2 * rows, 2 * columns),
            "timesteps": torch.zeros(1, dtype=torch.long),
            "mask": torch.zeros(1, 1, 2 * rows, 2 * columns),
            "masked_latents": torch.zeros(1, LATENT_CHANNELS, 2 * rows, 2 * columns),
            "skeletons": torch.zeros(1, 3, 2 * height, 2 * width),
            "image_tokens": torch.zeros(1, tokens, token_width),
            "source_latents": torch.zeros(1, LATENT_CHANNELS, rows, columns),
        }


def flops(call: Callable[[], object]) -> int:
    """Floating-point operations of a call, its backward passes included."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def training_flops(model: IMAGPose, inputs: dict[str, Tensor]) -> int:
    """Forward and backward of one canvas."""
    return flops(lambda: model(**inputs).sum().backward())
