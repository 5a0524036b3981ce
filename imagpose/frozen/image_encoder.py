"""A small Dinov2Model that tells people apart: FLC's image tokens where no DINOv2 weights are at hand.

Stock transformers architecture (DINOv2, https://arxiv.org/abs/2304.07193). The class token learns to find the same
person among the others of a batch (supervised contrastive loss, https://arxiv.org/abs/2004.11362: with thousands of
people and a few minutes, a classifier's weights would each be seen a handful of times). Every patch token must also
rebuild its own pixels, because the generator reads all tokens and needs colors and texture at their places; the
head that does so is discarded afterwards.
`B` batch, `N` tokens (class token first), `D` width.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from transformers import Dinov2Config, Dinov2Model

from datasets.runtime import devices
from datasets.runtime.errors import InputError
from datasets.runtime.training.run import TrainingRun, set_learning_rate, step_generator
from datasets.runtime.training.schedules import warmup_cosine
from datasets.shards.frozen_models import load_image_encoder
from datasets.shards.image_encoders import DINOV2
from imagpose.config import TrainImageEncoderConfig
from imagpose.frozen.crops import Crops, load_crops, split_by_identity

logger = logging.getLogger(__name__)

COSINE_SCALE = 12.0
"""Inverse temperature of the contrastive loss."""
SHIFT = 6
"""Crops move by up to so many pixels, the border repeated."""


class IdentityTraining(nn.Module):
    """The encoder with the head that exists only in training."""

    def __init__(self, encoder: Dinov2Model) -> None:
        super().__init__()
        self.encoder = encoder
        width, patch = encoder.config.hidden_size, encoder.config.patch_size
        self.to_pixels = nn.Linear(width, 3 * patch * patch)
        mean, std = DINOV2.mean, DINOV2.std
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def tokens(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, N, D)."""
        return self.encoder((pixels - self.mean) / self.std).last_hidden_state

    def forward(self, seen: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Class tokens (B, D) of `seen`, and the squared error of rebuilding `clean` from the patch tokens."""
        tokens = self.tokens(seen)
        patch = self.encoder.config.patch_size
        target = F.unfold((clean - self.mean) / self.std, patch, stride=patch).transpose(1, 2)
        return tokens[:, 0], F.mse_loss(self.to_pixels(tokens[:, 1:]), target)


def contrastive_loss(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Supervised contrastive loss (L_out) of (B, D) features, and how often the nearest other image is its person's."""
    features = F.normalize(features, dim=1)
    others = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    similarity = (COSINE_SCALE * features @ features.T).masked_fill(~others, -torch.inf)
    positive = (labels[:, None] == labels[None]) & others
    log_share = similarity - similarity.logsumexp(1, keepdim=True)
    loss = -log_share.masked_fill(~positive, 0).sum(1) / positive.sum(1).clamp_min(1)
    hits = positive.gather(1, similarity.argmax(1, keepdim=True))
    return loss.mean(), hits.float().mean()


def new_image_encoder(config: TrainImageEncoderConfig) -> Dinov2Model:
    """A Dinov2Model with random weights, drawn by the config's seed alone.

    Its position table is square, as transformers wants it, and is interpolated to the view's shape on every call.
    """
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return Dinov2Model(
            Dinov2Config(
                image_size=max(config.height, config.width),
                patch_size=config.patch_size,
                use_mask_token=False,
                hidden_size=config.hidden_size,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                drop_path_rate=0.0,
            )
        )


def make_image_encoder(config: TrainImageEncoderConfig, directory: Path) -> dict[str, Any]:
    """Train the image encoder and save it in transformers' layout."""
    device = devices.pick(config.device)
    encoder = _start(config)
    crops = load_crops(config.shards, config.height, config.width)
    train, held_out = split_by_identity(crops, config.seed, config.max_images)
    pids = np.unique(train.pids)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed + 1)
        model = IdentityTraining(encoder).to(device)
    logger.info("%d images of %d people to train on, %d images held out", len(train), len(pids), len(held_out))
    encoder.set_attn_implementation("eager")  # on a CPU twice as fast to train as the fused attention
    optimizer = _optimizer(model, config)
    run = TrainingRun(directory, "train-image-encoder", config.steps, {"model": model, "optimizer": optimizer})
    groups = [np.flatnonzero(train.pids == pid) for pid in pids]
    model.train()
    while run.step < config.steps:
        rate = warmup_cosine(
            run.step, config.steps, config.learning_rate, warmup=min(200, config.steps // 10), floor=0.01
        )
        set_learning_rate(optimizer, rate)
        losses = _losses(model, train, groups, config, run.step, device)
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        run.finished_step(losses, rate, log_every=50, checkpoint_every=config.checkpoint_every)
    model.eval()
    figures = {
        "rank1": measure_rank1(model, held_out, device),
        "rebuilding": measure_rebuilding(model, held_out, device),
    }
    run.write({"step": run.step, "held_out": figures})
    encoder.set_attn_implementation("sdpa")
    encoder.save_pretrained(directory, safe_serialization=True)
    logger.info("held-out Rank-1 across cameras: %s %%", figures["rank1"])
    return {
        **figures,
        "images": len(train),
        "identities": len(pids),
        "held_out_images": len(held_out),
        "steps": run.step,
        "held_out_identities": len(np.unique(held_out.pids)),
        "seconds": round(run.seconds, 1),
        "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
    }


def _losses(
    model: IdentityTraining,
    train: Crops,
    groups: list[np.ndarray],
    config: TrainImageEncoderConfig,
    step: int,
    device: torch.device,
) -> dict[str, Tensor]:
    """The loss of one step's crops and what it is made of; everything random follows from seed and step."""
    generator = step_generator(config.seed, step)
    rows = _draw_rows(groups, config, generator)
    clean = augment(train.pixels[torch.from_numpy(rows)].float() / 255, generator)
    seen = erase(clean, generator)
    with devices.autocast(device, config.precision):
        features, rebuilding = model(seen.to(device), clean.to(device))
    identity, accuracy = contrastive_loss(features.float(), torch.from_numpy(train.pids[rows]).to(device))
    loss = identity + config.reconstruction_weight * rebuilding.float()
    return {"loss": loss, "identity": identity, "rebuilding": rebuilding, "accuracy": accuracy}


def _start(config: TrainImageEncoderConfig) -> Dinov2Model:
    encoder = (
        load_image_encoder(config.init_from).requires_grad_(True) if config.init_from else new_image_encoder(config)
    )
    if not isinstance(encoder, Dinov2Model):
        raise InputError(
            f"init_from {config.init_from} holds a {type(encoder).__name__}; training starts from a Dinov2Model only"
        )
    patch = encoder.config.patch_size
    if config.height % patch or config.width % patch:
        raise InputError(f"size {config.height}x{config.width}: use multiples of the patch size {patch}")
    return encoder


def _optimizer(model: IdentityTraining, config: TrainImageEncoderConfig) -> torch.optim.AdamW:
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, config.learning_rate, betas=(0.9, 0.98), fused=True)


def _draw_rows(groups: list[np.ndarray], config: TrainImageEncoderConfig, generator: torch.Generator) -> np.ndarray:
    """Rows of `identities_per_batch` people, `images_per_identity` of each (repeated where a person has fewer)."""
    people = torch.randperm(len(groups), generator=generator)[: config.identities_per_batch].tolist()
    rows = []
    for person in people:
        order = torch.randperm(len(groups[person]), generator=generator).numpy()
        rows.append(np.resize(groups[person][order], config.images_per_identity))
    return np.concatenate(rows)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flip, shift by up to SHIFT pixels, and vary exposure and white balance; (B, 3, H, W) in [0, 1]."""
    count, _, height, width = images.shape
    flipped = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
    images = torch.where(flipped, images.flip(-1), images)
    padded = F.pad(images, (SHIFT,) * 4, mode="replicate")
    corners = torch.randint(2 * SHIFT + 1, (count, 2), generator=generator).tolist()
    images = torch.stack(
        [image[:, y : y + height, x : x + width] for image, (y, x) in zip(padded, corners, strict=True)]
    )
    exposure = 1 + 0.2 * (2 * torch.rand(count, 1, 1, 1, generator=generator) - 1)
    balance = 1 + 0.06 * (2 * torch.rand(count, 3, 1, 1, generator=generator) - 1)
    return (images * exposure * balance).clamp(0, 1)


def erase(images: Tensor, generator: torch.Generator, share: float = 0.4) -> Tensor:
    """Gray out one rectangle of 10 to 40 % of each side in a `share` of the images (a new tensor)."""
    erased = images.clone()
    height, width = images.shape[-2:]
    draws = torch.rand(len(images), 5, generator=generator).tolist()
    for image, (chance, a, b, y, x) in zip(erased, draws, strict=True):
        if chance < share:
            rows, columns = int(height * (0.1 + 0.3 * a)), int(width * (0.1 + 0.3 * b))
            top, left = int(y * (height - rows)), int(x * (width - columns))
            image[:, top : top + rows, left : left + columns] = 0.45
    return erased


@torch.inference_mode()
def _all_tokens(model: IdentityTraining, crops: Crops, device: torch.device) -> Tensor:
    return torch.cat([model.tokens(chunk.to(device).float() / 255).cpu() for chunk in crops.pixels.split(128)])


def measure_rank1(model: IdentityTraining, held_out: Crops, device: torch.device) -> float | None:
    """Rank-1 in percent of the class token: each image asks all others, those of its own camera and person left out.

    None where nobody was seen by two cameras.
    """
    features = F.normalize(_all_tokens(model, held_out, device)[:, 0])
    similarity = (features @ features.T).numpy()
    same_person = held_out.pids[:, None] == held_out.pids[None]
    same_camera = held_out.camids[:, None] == held_out.camids[None]
    similarity[same_person & same_camera] = -np.inf
    askable = (same_person & ~same_camera).any(1)
    hits = same_person[np.arange(len(held_out)), similarity.argmax(1)]
    return round(100 * float(hits[askable].mean()), 2) if askable.any() else None


@torch.inference_mode()
def measure_rebuilding(model: IdentityTraining, held_out: Crops, device: torch.device) -> float:
    """Mean squared error of patches rebuilt from their tokens, in units of ImageNet's variance."""
    errors = [
        model(pixels, pixels)[1]
        for pixels in ((chunk.to(device).float() / 255) for chunk in held_out.pixels.split(128))
    ]
    return round(float(torch.stack(errors).mean()), 5)
