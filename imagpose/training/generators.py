"""Generators on disk, in diffusers' layout. Safetensors only."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, LCMScheduler, UNet2DConditionModel
from safetensors import SafetensorError
from torch import nn

from datasets.runtime.errors import WeightsError
from datasets.runtime.remote.folders import fetch_folder
from datasets.shards.saved_models import DIFFUSERS, model_files, refuse_unreadable
from imagpose.config.published_unets import stock_unet_problem
from imagpose.modeling.denoiser import COMPONENTS, IMAGPose
from imagpose.modeling.feature_conditioning import FeatureConditioning
from imagpose.modeling.pose_encoder import PoseEncoder
from imagpose.modeling.unet import IMAGPoseUNet
from imagpose.sampling.pipeline import IMAGPosePipeline, load_pipeline


@dataclass(frozen=True, kw_only=True)
class Generator:
    """All parts of a saved generator."""

    model: IMAGPose
    vae: AutoencoderKL
    scheduler: DDIMScheduler | LCMScheduler
    """LCMScheduler: a few-step student ('imagpose distill')."""
    image_encoder: nn.Module | None = None
    view_size: tuple[int, int] | None = None
    """Height and width in pixels of a view."""
    token_size: tuple[int, int] | None = None
    """Height and width in pixels at which the image encoder sees a source."""

    def pipeline(self) -> IMAGPosePipeline:
        """The same parts as a pipeline (shared, not copied)."""
        view, token = self.view_size or (None, None), self.token_size or (None, None)
        return IMAGPosePipeline(
            unet=self.model.unet,
            pose_encoder=self.model.pose_encoder,
            feature_conditioning=self.model.feature_conditioning,
            vae=self.vae,
            scheduler=self.scheduler,
            image_encoder=self.image_encoder,
            view_height=view[0],
            view_width=view[1],
            token_height=token[0],
            token_width=token[1],
        )


def save_generator(folder: Path, generator: Generator, copied: Mapping[str, Path] | None = None) -> None:
    """Write a diffusers folder that `IMAGPosePipeline.from_pretrained` opens.

    Args:
        copied: frozen parts ('vae', 'image_encoder') to take over byte for byte from these folders.
    """
    generator.pipeline().save_pretrained(folder, safe_serialization=True)
    for name, source in (copied or {}).items():
        shutil.rmtree(folder / name)
        (folder / name).mkdir()
        for file in model_files(source):
            shutil.copyfile(file, folder / name / file.name)


def load_generator(folder: Path, device: str | torch.device = "cpu") -> Generator:
    """Open a saved generator, in evaluation mode.

    Raises:
        WeightsError: the folder is not a generator, or its weights cannot be used.
    """
    pipeline = load_pipeline(Path(folder), torch.device(device))
    config = pipeline.config
    return Generator(
        model=pipeline.denoiser,
        vae=pipeline.vae,
        scheduler=pipeline.scheduler,
        image_encoder=pipeline.image_encoder,
        view_size=config.view_height and (config.view_height, config.view_width),
        token_size=config.token_height and (config.token_height, config.token_width),
    )


def load_denoiser(folder: Path) -> IMAGPose:
    """Only the trained parts of a saved generator, on the CPU.

    Raises:
        WeightsError: the folder is not a generator, or its weights cannot be used.
    """
    folder = Path(folder)
    folder = fetch_folder(folder)
    missing = [name for name in COMPONENTS if not (folder / name / "config.json").is_file()]
    if missing:
        raise WeightsError(f"{folder} is not a generator (no {', '.join(missing)}); give one made by 'imagpose train'")
    for name in COMPONENTS:
        refuse_unreadable(folder / name, DIFFUSERS)
    return IMAGPose(
        _opened(IMAGPoseUNet, folder / "unet"),
        _opened(PoseEncoder, folder / "pose_encoder"),
        _opened(FeatureConditioning, folder / "feature_conditioning"),
    )


def load_unet2d(folder: Path) -> UNet2DConditionModel:
    """The stock UNet of a Stable Diffusion pipeline's folder, in float32.

    Raises:
        WeightsError: no weights that can be read, or a UNet that a generator cannot start from.
    """
    if (problem := stock_unet_problem(fetch_folder(folder))) is not None:
        raise WeightsError(f"{folder} {problem}")
    return _opened(UNet2DConditionModel, Path(folder) / "unet")


def _opened(kind: Any, folder: Path) -> Any:
    try:
        model = kind.from_pretrained(folder, local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False)
        model.register_to_config(_name_or_path="")  # else a saved copy would name this folder, and differ by it
        return model
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise WeightsError(f"{folder} cannot be opened as {kind.__name__}: {reason}") from error
