"""A small AutoencoderKL for person crops (Latent Diffusion, https://arxiv.org/abs/2112.10752, section 3.1).

Stock diffusers architecture without attention in the middle, so a view's latents depend on its own pixels only
through convolutions and GroupNorm. No discriminator: L1, squared error and an L1 on image gradients, and LPIPS where
VGG16's weights are at hand (`perceptual_weight`). The same loss on half-size images decoded from half-size latents
keeps the latents alike at every scale, which makes them easier to denoise (EQ-VAE, https://arxiv.org/abs/2502.09509).
`B` batch, `H, W` pixels, `h, w` latent cells.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

from datasets.runtime import devices
from datasets.runtime.errors import InputError
from datasets.runtime.training.run import TrainingRun, set_learning_rate, step_generator
from datasets.runtime.training.schedules import warmup_cosine
from datasets.shards.frozen_models import load_vae
from imagpose.config import TrainVaeConfig
from imagpose.frozen.crops import Crops, load_crops, split_by_identity
from imagpose.metrics.lpips import Lpips, published_lpips
from imagpose.metrics.similarity import ssim

logger = logging.getLogger(__name__)

MEASURED_IMAGES = 256
"""Held-out images that PSNR and SSIM are measured on."""
SCALED_IMAGES = 1024
"""Training images that the latents' standard deviation is measured on."""


def new_vae(config: TrainVaeConfig) -> AutoencoderKL:
    """An AutoencoderKL with random weights, drawn by the config's seed alone."""
    levels = len(config.channels)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return AutoencoderKL(
            in_channels=3,
            out_channels=3,
            latent_channels=config.latent_channels,
            block_out_channels=config.channels,
            layers_per_block=config.layers_per_block,
            norm_num_groups=config.norm_groups,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            mid_block_add_attention=False,
            sample_size=max(config.view_height, config.view_width),
            scaling_factor=1.0,
        )


def reconstruction_loss(decoded: Tensor, images: Tensor, gradient_weight: float, chroma_weight: float = 0.0) -> Tensor:
    """L1 + squared error + weighted L1 of neighbors' differences and of color less brightness.

    Args:
        decoded, images: (B, 3, H, W) in [-1, 1].
    """
    error = decoded - images
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    chroma = (error - error.mean(1, keepdim=True)).abs().mean() if chroma_weight else 0.0
    return error.abs().mean() + error.square().mean() + gradient_weight * edges + chroma_weight * chroma


def vae_losses(
    vae: AutoencoderKL,
    images: Tensor,
    config: TrainVaeConfig,
    generator: torch.Generator,
    perceptual: Lpips | None = None,
) -> dict[str, Tensor]:
    """The losses of one batch in [-1, 1]; 'loss' is what is minimized.

    Args:
        images: (B, 3, H, W) in [-1, 1].
        perceptual: LPIPS on VGG16; needed where `perceptual_weight` is above 0.
    """
    with torch.set_grad_enabled(not config.freeze_encoder):
        posterior = vae.encode(images).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator).to(images.device)
    mean, std = posterior.mean.float(), posterior.std.float()
    decoded = vae.decode(mean + std * noise).sample.float()
    reconstruction = reconstruction_loss(decoded, images, config.gradient_weight, config.chroma_weight)
    kl = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).mean()
    loss = reconstruction + config.kl_weight * kl
    losses = {
        "reconstruction": reconstruction.detach(),
        "kl": kl.detach(),
        "l1": (decoded - images).abs().mean().detach(),
    }
    if perceptual is not None:
        distance = perceptual(decoded, images).float().mean()
        loss = loss + config.perceptual_weight * distance
        losses["perceptual"] = distance.detach()
    if config.equivariance_weight:
        part = slice(0, max(1, len(images) // 2))  # half the batch at a quarter of the pixels: an eighth of the cost
        small = vae.decode(F.avg_pool2d(mean[part], 2)).sample.float()
        equivariance = reconstruction_loss(small, F.avg_pool2d(images[part], 2), 0.0, config.chroma_weight)
        loss = loss + config.equivariance_weight * equivariance
        losses["equivariance"] = equivariance.detach()
    return {"loss": loss, **losses}


def make_vae(config: TrainVaeConfig, directory: Path) -> dict[str, Any]:
    """Train the VAE and save it in diffusers' layout, with the scaling factor that gives its latents unit variance."""
    device = devices.pick(config.device)
    vae = load_vae(config.init_from).requires_grad_(True) if config.init_from else new_vae(config)
    vae = vae.to(device, memory_format=torch.channels_last)
    _check(config, vae)
    size = (config.view_height, config.view_width)
    perceptual = published_lpips(config.vgg16, "vgg16", size, device) if config.vgg16 else None
    judge = published_lpips(config.alexnet, "alexnet", size, device) if config.alexnet else None
    crops = load_crops(config.shards, config.view_height, config.view_width)
    train, held_out = split_by_identity(crops, config.seed, config.max_images)
    logger.info("%d images to train on, %d held out; %.2f M parameters", len(train), len(held_out), _millions(vae))
    optimizer = _optimizer(vae, config)
    # before a checkpoint replaces these weights: a run that was stopped knows where it began as well
    start_quality = measure_vae(vae, held_out, device, judge) if config.init_from else None
    run = TrainingRun(directory, "train-vae", config.steps, {"vae": vae, "optimizer": optimizer})
    vae.train()
    while run.step < config.steps:
        rate = warmup_cosine(
            run.step, config.steps, config.learning_rate, warmup=min(100, config.steps // 10), floor=0.03
        )
        set_learning_rate(optimizer, rate)
        losses = _train_step(vae, optimizer, train, config, step_generator(config.seed, run.step), perceptual)
        run.finished_step(losses, rate, log_every=50, checkpoint_every=config.checkpoint_every)
    vae.eval()
    if not config.freeze_encoder:
        vae.register_to_config(scaling_factor=measure_scaling_factor(vae, train, device, config.seed))
    quality = measure_vae(vae, held_out, device, judge)
    run.write({"step": run.step, "held_out": quality, "scaling_factor": vae.config.scaling_factor})
    vae.register_to_config(_name_or_path="")  # else diffusers saves where `init_from` lies on this machine
    vae.save_pretrained(directory, safe_serialization=True)
    save_reconstructions(vae, held_out, directory / "reconstructions.png", device)
    logger.info("held out: %s", ", ".join(f"{name} {value:.4g}" for name, value in quality.items()))
    return {
        **quality,
        "start": start_quality,
        "scaling_factor": vae.config.scaling_factor,
        "images": len(train),
        "held_out_images": len(held_out),
        "steps": run.step,
        "seconds": round(run.seconds, 1),
        "parameters": sum(parameter.numel() for parameter in vae.parameters()),
    }


def _optimizer(vae: AutoencoderKL, config: TrainVaeConfig) -> torch.optim.AdamW:
    trained = (
        [*vae.post_quant_conv.parameters(), *vae.decoder.parameters()] if config.freeze_encoder else vae.parameters()
    )
    return torch.optim.AdamW(trained, config.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)


def _train_step(
    vae: AutoencoderKL,
    optimizer: torch.optim.Optimizer,
    train: Crops,
    config: TrainVaeConfig,
    generator: torch.Generator,
    perceptual: Lpips | None,
) -> dict[str, Tensor]:
    """One step on one batch, both drawn by `generator`; returns the losses."""
    images = _batch(train, config, generator).to(vae.device, memory_format=torch.channels_last)
    with devices.autocast(vae.device, config.precision):
        losses = vae_losses(vae, images, config, generator, perceptual)
    optimizer.zero_grad(set_to_none=True)
    losses["loss"].backward()
    torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
    optimizer.step()
    return losses


def _check(config: TrainVaeConfig, vae: AutoencoderKL) -> None:
    cell = 2 ** (len(vae.config.block_out_channels) - 1)
    if config.view_height % (2 * cell) or config.view_width % (2 * cell):
        raise InputError(
            f"view {config.view_height}x{config.view_width}: use multiples of {2 * cell}, twice this VAE's stride"
        )


def _millions(model: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


def _batch(train: Crops, config: TrainVaeConfig, generator: torch.Generator) -> Tensor:
    """(B, 3, H, W) in [-1, 1], drawn with replacement, flipped at random."""
    rows = torch.randint(len(train), (config.batch_size,), generator=generator)
    images = train.pixels[rows].float() / 127.5 - 1
    if config.flip:
        flipped = torch.rand(config.batch_size, generator=generator) < 0.5
        images = torch.where(flipped[:, None, None, None], images.flip(-1), images)
    return images


@torch.inference_mode()
def reconstruct(vae: AutoencoderKL, pixels: Tensor, device: torch.device) -> Tensor:
    """uint8 (B, 3, H, W) through the posterior mean and back: float32 in [0, 1], rounded as in a saved picture."""
    decoded = [
        vae.decode(vae.encode(chunk.to(device).float() / 127.5 - 1).latent_dist.mean).sample.cpu()
        for chunk in pixels.split(32)
    ]
    return ((torch.cat(decoded) + 1) * 127.5).round().clamp(0, 255) / 255


def measure_vae(
    vae: AutoencoderKL, held_out: Crops, device: torch.device, judge: Lpips | None = None
) -> dict[str, float]:
    """Mean PSNR (dB, of 8-bit pictures), SSIM (sigma 1.5), and root mean square error of color less brightness.

    Args:
        judge: LPIPS on AlexNet; its mean is then among the figures.
    """
    pixels = held_out.pixels[np.linspace(0, len(held_out) - 1, min(MEASURED_IMAGES, len(held_out))).astype(int)]
    truth, copy = pixels.float() / 255, reconstruct(vae, pixels, device)
    squared = (truth - copy).square().flatten(1).mean(1)
    psnr = (-10 * torch.log10(squared.clamp_min(1e-10))).mean()
    similarity = ssim((copy * 255).round().to(torch.uint8), pixels).mean()
    chroma = [(image - image.mean(1, keepdim=True)) for image in (truth, copy)]
    chroma_error = (chroma[0] - chroma[1]).square().mean().sqrt()
    quality = {
        "psnr": round(float(psnr), 3),
        "ssim": round(float(similarity), 5),
        "chroma_error": round(float(chroma_error), 5),
    }
    if judge is not None:
        pairs = zip(copy.split(32), truth.split(32), strict=True)
        distances = [judge(a.to(device) * 2 - 1, b.to(device) * 2 - 1).cpu() for a, b in pairs]
        quality["lpips"] = round(float(torch.cat(distances).mean()), 5)
    return quality


@torch.inference_mode()
def measure_scaling_factor(vae: AutoencoderKL, train: Crops, device: torch.device, seed: int) -> float:
    """1 / standard deviation of the posterior means over training images."""
    rows = np.random.default_rng([seed, 2]).permutation(len(train))[:SCALED_IMAGES]
    pixels = train.pixels[torch.from_numpy(np.sort(rows))]
    means = torch.cat(
        [vae.encode(chunk.to(device).float() / 127.5 - 1).latent_dist.mean.cpu() for chunk in pixels.split(32)]
    )
    logger.info("latents: mean %s, std %s per channel", means.mean((0, 2, 3)).tolist(), means.std((0, 2, 3)).tolist())
    return round(1 / float(means.std()), 6)


def save_reconstructions(
    vae: AutoencoderKL, held_out: Crops, path: Path, device: torch.device, count: int = 12
) -> None:
    """A picture of held-out images (above) and their reconstructions (below), for people to look at."""
    pixels = held_out.pixels[np.linspace(0, len(held_out) - 1, min(count, len(held_out))).astype(int)]
    copy = (reconstruct(vae, pixels, device) * 255).round().to(torch.uint8)
    rows = [torch.cat(list(images), dim=-1) for images in (pixels, copy)]
    Image.fromarray(torch.cat(rows, dim=-2).permute(1, 2, 0).numpy()).save(path)
