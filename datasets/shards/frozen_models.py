"""The two frozen models of the generator, and how an image is shown to each: a VAE and an image encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from datasets.runtime import devices
from datasets.runtime.errors import InputError, WeightsError
from datasets.runtime.remote.folders import fetch_folder
from datasets.shards.config import EncodeConfig
from datasets.shards.image_encoders import ENCODER_KINDS, kind_of
from datasets.shards.saved_models import DIFFUSERS, TRANSFORMERS, refuse_unreadable

CPU_CHUNK = 16
"""Pictures that go through a model at once on a CPU: twice as fast as 64, which fall out of the cache."""


def load_vae(folder: Path) -> Any:
    """A frozen diffusers AutoencoderKL from its folder, float32.

    Raises:
        WeightsError: weights missing, unsafe or of another architecture.
    """
    from diffusers import AutoencoderKL

    refuse_unreadable(fetch_folder(folder), DIFFUSERS)
    try:
        vae = AutoencoderKL.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, torch_dtype=torch.float32
        )
    except Exception as error:
        raise WeightsError(f"{folder} cannot be loaded as a diffusers AutoencoderKL: {error}") from error
    return vae.eval().requires_grad_(False)


def load_image_encoder(folder: Path) -> Any:
    """A frozen Dinov2Model or CLIPVisionModel from its folder, float32.

    Raises:
        WeightsError: neither of the two, or weights missing, unsafe or incomplete.
    """
    import transformers

    kind = kind_of(fetch_folder(folder))
    refuse_unreadable(folder, TRANSFORMERS)
    try:
        encoder, report = getattr(transformers, kind.name).from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:
        raise WeightsError(f"{folder} cannot be loaded as a {kind.name}: {error}") from error
    if report["missing_keys"]:  # transformers only warns and leaves those weights random
        raise WeightsError(
            f"{folder} lacks weights: {', '.join(sorted(report['missing_keys'])[:3])}; save the model again"
        )
    return encoder.eval().requires_grad_(False)


def view_pixels(images: list[Image.Image], height: int, width: int) -> torch.Tensor:
    """(B, 3, H, W) float32 RGB in [0, 1]; images of another size are resized (bicubic, antialiased)."""
    arrays = [
        np.asarray(image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC))
        for image in images
    ]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255


def image_tokens(encoder: Any, pixels: torch.Tensor) -> torch.Tensor:
    """The encoder's last hidden state, (B, N, D), of (B, 3, H, W) RGB in [0, 1], normalized as it was trained with."""
    kind = ENCODER_KINDS[type(encoder).__name__]
    mean, std = (torch.tensor(value, device=pixels.device).view(1, 3, 1, 1) for value in (kind.mean, kind.std))
    return encoder(((pixels - mean) / std).to(encoder.dtype), **kind.options).last_hidden_state


class FeatureEncoder:
    """The two frozen models and how an image is shown to each of them."""

    def __init__(self, config: EncodeConfig) -> None:
        self.config = config
        self.device = devices.pick(config.device)
        self.vae = load_vae(config.vae).to(self.device, memory_format=torch.channels_last)
        self.image_encoder = load_image_encoder(config.image_encoder).to(self.device)
        self.scaling_factor = float(self.vae.config.scaling_factor)
        self._check_sizes()

    def _check_sizes(self) -> None:
        config, cell = self.config, 2 ** (len(self.vae.config.block_out_channels) - 1)
        if config.view_height % cell or config.view_width % cell:
            raise InputError(
                f"view {config.view_height}x{config.view_width}: this VAE's cells are {cell} pixels wide; "
                f"use multiples of {cell}"
            )
        patch = self.image_encoder.config.patch_size
        if config.token_height % patch or config.token_width % patch:
            raise InputError(
                f"token size {config.token_height}x{config.token_width}: the encoder's patches are {patch} pixels "
                f"wide; use multiples of {patch}"
            )

    @torch.inference_mode()
    def __call__(self, images: list[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
        """Encode RGB images.

        Returns:
            Latents (B, F, C, h, w), scaled posterior means, and tokens (B, F, N, D), the encoder's last hidden state;
            both float16. F is 2 (plain, flipped) or 1.
        """
        config = self.config
        views = self._faces(view_pixels(images, config.view_height, config.view_width))
        seen = self._faces(view_pixels(images, config.token_height, config.token_width))
        chunk = CPU_CHUNK if self.device.type == "cpu" else len(views)
        latents = torch.cat([self._latents(part) for part in views.split(chunk)])
        tokens = torch.cat([self._tokens(part) for part in seen.split(chunk)])
        return self._pairs(latents, len(images)), self._pairs(tokens, len(images))

    def _latents(self, pixels: torch.Tensor) -> torch.Tensor:
        pixels = (pixels * 2 - 1).contiguous(memory_format=torch.channels_last)
        return self.vae.encode(pixels).latent_dist.mean * self.scaling_factor

    def _tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        return image_tokens(self.image_encoder, pixels)

    def _faces(self, pixels: torch.Tensor) -> torch.Tensor:
        pixels = pixels.to(self.device)
        return torch.cat([pixels, pixels.flip(-1)]) if self.config.flipped else pixels

    def _pairs(self, features: torch.Tensor, count: int) -> np.ndarray:
        array = features.unflatten(0, (-1, count)).transpose(0, 1).float().cpu().numpy()
        if not np.isfinite(array).all() or np.abs(array).max() > np.finfo(np.float16).max:
            raise WeightsError("the frozen models give values that float16 cannot hold; check their weights")
        return np.ascontiguousarray(array.astype(np.float16))
