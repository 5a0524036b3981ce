"""Which published UNets a generator can be initialized from, by their files. Torch-free: the flows ask too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets.runtime.reading.json_values import read_object
from datasets.runtime.remote.copies import fetched
from datasets.shards.saved_models import DIFFUSERS, weights_problem

STOCK = "UNet2DConditionModel"
"""diffusers' class of Stable Diffusion's UNets."""
OWN_PARTS = ("unet", "pose_encoder", "feature_conditioning")
"""Trained parts of a generator of ours, each a folder."""
EXTRA_INPUTS = ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type")
"""Entries of a UNet's config that ask for inputs besides latents, timestep and text."""


def is_stable_diffusion(folder: Path) -> bool:
    """Whether a folder holds a stock diffusers UNet rather than one of ours."""
    return _unet_config(folder).get("_class_name") == STOCK


def init_from_problem(folder: Path) -> str | None:
    """Why a generator cannot be initialized from a folder, as the end of a sentence that begins with it, or None."""
    if is_stable_diffusion(folder):
        return stock_unet_problem(folder)
    found = ((part, weights_problem(Path(folder) / part, DIFFUSERS)) for part in OWN_PARTS)
    return next((f"cannot be used: its {part} {problem}" for part, problem in found if problem is not None), None)


def stock_unet_problem(folder: Path) -> str | None:
    """The same, of a Stable Diffusion pipeline's folder."""
    if (problem := weights_problem(Path(folder) / "unet", DIFFUSERS)) is not None:
        return f"cannot be used: its unet {problem}"
    return unet_problem(_unet_config(folder))


def unet_problem(config: Mapping[str, Any]) -> str | None:
    """Why a stock UNet of this config is none that IMAGPose can continue from, or None."""
    takes, gives = config.get("in_channels"), config.get("out_channels")
    if takes != gives:
        return (
            f"has a UNet of {takes} input channels, not of {gives} as a text-to-image model: an inpainting UNet's mask "
            "marks what is hidden, IMAGPose's what is visible; give the text-to-image model"
        )
    if extra := [name for name in EXTRA_INPUTS if config.get(name)]:
        return (
            f"has a UNet that needs further inputs ({extra[0]} '{config[extra[0]]}', as SDXL's does), which IMAGPose "
            "does not have; give Stable Diffusion 1.x or 2.x"
        )
    return None


def _unet_config(folder: Path) -> dict[str, Any]:
    try:
        return read_object(fetched(Path(folder) / "unet" / "config.json"))
    except (OSError, ValueError):
        return {}
