"""What a training starts from: encoded images of people, the frozen models that encoded them, first weights."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, LCMScheduler
from torch import Tensor, nn

from datasets.runtime.errors import InputError, WeightsError
from datasets.runtime.manifests import manifest_of
from datasets.shards.encoded import EncodedImages
from datasets.shards.encoders_used import ENCODERS, encoders_used
from datasets.shards.frozen_models import load_image_encoder, load_vae
from datasets.sources.subsets import read_subset
from imagpose.canvas.training import ViewSource
from imagpose.config import CanvasTrainingConfig, TrainGeneratorConfig
from imagpose.config.published_unets import is_stable_diffusion
from imagpose.modeling.denoiser import IMAGPose, denoiser_from_unet2d, denoiser_with_parts, new_denoiser
from imagpose.training.generators import Generator, load_denoiser, load_unet2d

logger = logging.getLogger(__name__)

HELD_OUT_SHARE = 5


def read_training_images(config: CanvasTrainingConfig) -> EncodedImages:
    """The encoded images of the training split, or of one subset of it."""
    if config.subset is not None and config.fraction is not None:
        return EncodedImages(config.encoded, read_subset(config.subset, config.fraction, config.draw))
    images = EncodedImages(config.encoded, split="train")
    if not len(images):
        raise InputError(f"{config.encoded} holds no training images; encode shards of the training split")
    return images


class IdentitySubset:
    """Some people of a view source, as a source of their own (a `ViewSource`)."""

    def __init__(self, source: ViewSource, pids: Collection[int]) -> None:
        self.source = source
        self.rows = np.flatnonzero(np.isin(source.pids, list(pids)))
        self.keys = [source.keys[row] for row in self.rows]
        self.pids = source.pids[self.rows]
        self.by_pid = {int(pid): np.flatnonzero(self.pids == pid).tolist() for pid in dict.fromkeys(self.pids.tolist())}
        self.view_size, self.latent_shape, self.token_shape = source.view_size, source.latent_shape, source.token_shape

    def latents(self, indices: Sequence[int] | np.ndarray, flipped: np.ndarray) -> Tensor:
        """(n, C, h, w) float32, scaled."""
        return self.source.latents(self.rows[np.asarray(indices)], flipped)

    def tokens(self, indices: Sequence[int] | np.ndarray, flipped: np.ndarray) -> Tensor:
        """(n, N, D) float32."""
        return self.source.tokens(self.rows[np.asarray(indices)], flipped)

    def keypoints(self, index: int, flipped: bool = False) -> np.ndarray:
        """(18, 3) in view pixels."""
        return self.source.keypoints(int(self.rows[index]), flipped)


def hold_out(source: ViewSource, count: int, seed: int) -> tuple[ViewSource, IdentitySubset | None]:
    """People to train on, and `count` people with two images or more whom no step sees (None: nobody).

    At most a fifth of the people, so that a small subset is not spent on being measured.
    """
    able = sorted(pid for pid, images in source.by_pid.items() if len(images) > 1)
    most = min(len(able), len(source.by_pid) // HELD_OUT_SHARE)
    if count > most:
        logger.info("validation on %d people, not %d: at most a fifth of %d", most, count, len(source.by_pid))
    held = set(np.random.default_rng([seed, 2]).permutation(able)[: min(count, most)].tolist())
    return (
        (IdentitySubset(source, source.by_pid.keys() - held), IdentitySubset(source, held)) if held else (source, None)
    )


@dataclass(frozen=True, kw_only=True)
class FrozenParts:
    """The models that made the encoded images, taken over into the generator's folder."""

    vae: AutoencoderKL
    image_encoder: nn.Module
    view_size: tuple[int, int]
    token_size: tuple[int, int]
    folders: Mapping[str, Path] = field(default_factory=dict)
    """Where they were read from."""

    @classmethod
    def of(cls, config: CanvasTrainingConfig) -> FrozenParts:
        """Open the encoders that `config.encoded` was made with.

        Raises:
            WeightsError: they are gone, or are not the ones any more.
        """
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()  # its bar for two small files would tear the log lines apart
        settings = manifest_of(config.encoded, "encode")["config"]
        used = {encoder.name: encoder for encoder in encoders_used(config.encoded)}
        folders = {name: encoder.folder for name, encoder in used.items() if encoder.is_there()}
        gone = [str(used[name].folder) if name in used else name for name in ENCODERS if name not in folders]
        if gone:
            raise WeightsError(
                f"encoders of {config.encoded} are gone or were changed: {', '.join(gone)}; encode again"
            )
        return cls(
            vae=load_vae(folders["vae"]),
            image_encoder=load_image_encoder(folders["image_encoder"]),
            view_size=(settings["view_height"], settings["view_width"]),
            token_size=(settings["token_height"], settings["token_width"]),
            folders=folders,
        )

    def generator(self, model: IMAGPose, scheduler: DDIMScheduler | LCMScheduler) -> Generator:
        """All parts together."""
        return Generator(
            model=model,
            vae=self.vae,
            scheduler=scheduler,
            image_encoder=self.image_encoder,
            view_size=self.view_size,
            token_size=self.token_size,
        )


def initial_denoiser(config: TrainGeneratorConfig, latent_channels: int, image_token_dim: int, stride: int) -> IMAGPose:
    """A denoiser from nothing (same seed, same weights), from a generator, or from Stable Diffusion.

    Raises:
        InputError: its sizes do not fit the encoded images, or it has a part that `add_parts` is asked to do without.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if config.init_from is None:
            model = new_denoiser(config.model, latent_channels, image_token_dim)
        elif is_stable_diffusion(config.init_from):
            model = denoiser_from_unet2d(load_unet2d(config.init_from), config.model, image_token_dim)
        else:
            model = load_denoiser(config.init_from)
            if config.add_parts:
                model = denoiser_with_parts(model, config.model)
    check_fit(model, latent_channels, image_token_dim, stride)
    return model


def check_fit(model: IMAGPose, latent_channels: int, image_token_dim: int, stride: int) -> None:
    """Refuse a denoiser that was made for other features than the encoded images'.

    Raises:
        InputError: such a denoiser.
    """
    found = (model.latent_channels, model.feature_conditioning.config.image_token_dim, model.pose_encoder.stride)
    wanted = (latent_channels, image_token_dim, stride)
    if found != wanted:
        raise InputError(
            f"the denoiser takes latent channels, token width and stride {found}, the encoded images have {wanted}; "
            "encode with the generator's own encoders, or change `model`"
        )


def check_view_size(model: IMAGPose, view_size: tuple[int, int]) -> None:
    """Refuse a view size that the UNet cannot halve as often as it does (SD: sides are multiples of 64).

    Raises:
        InputError: such a size, with the next larger one that fits.
    """
    unit = model.pose_encoder.stride * 2 ** (len(model.unet.config.block_out_channels) - 1)
    if any(side % unit for side in view_size):
        height, width = (math.ceil(side / unit) * unit for side in view_size)
        raise InputError(
            f"views of {view_size[0]}x{view_size[1]} pixels: both sides must be multiples of {unit} for this "
            f"denoiser; encode with --view-height {height} --view-width {width}"
        )
