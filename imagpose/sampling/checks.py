"""What sampling refuses before any work, each in one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import torch
from diffusers import LCMScheduler, SchedulerMixin

from datasets.runtime.errors import InputError, WeightsError
from imagpose.canvas.layout import SourceFeatures
from imagpose.config.fields import Unconditional
from imagpose.config.samplers import SAMPLERS
from imagpose.modeling.denoiser import IMAGPose

OUTPUT_TYPES = ("np", "latent")


def check_settings(sampler: str, num_inference_steps: int, output_type: str, unconditional: str) -> None:
    """Refuse settings of the pipeline that do not exist.

    Raises:
        InputError: such a setting.
    """
    if sampler not in SAMPLERS:
        raise InputError(f"sampler '{sampler}' is unknown; known: {', '.join(SAMPLERS)}")
    if num_inference_steps < 1:
        raise InputError(f"num_inference_steps is {num_inference_steps}; sampling takes at least one step")
    if output_type not in OUTPUT_TYPES:
        raise InputError(f"output_type '{output_type}' is unknown; use '{OUTPUT_TYPES[0]}' or '{OUTPUT_TYPES[1]}'")
    if unconditional not in get_args(Unconditional):
        raise InputError(f"unconditional '{unconditional}' is unknown; use {' or '.join(get_args(Unconditional))}")


def check_sampler(sampler: str, steps: int, guidance_scale: float, scheduler: SchedulerMixin) -> None:
    """Refuse a sampler that a generator was not made for.

    A student of `imagpose distill` is known by the `LCMScheduler` that is saved with it. Its network predicts the end
    of its teacher's guided path, so other solvers, and guidance once more, would go wrong without a sign of it; and a
    network that was never distilled gives averages of possible pictures in so few steps. No sampler takes more steps
    than the noise schedule has timesteps: some would divide by zero between two equal ones, after all the work.

    Raises:
        InputError: such a sampler, or so many steps.
    """
    if not isinstance(scheduler, LCMScheduler):
        if SAMPLERS[sampler].distilled:
            others = ", ".join(name for name, known in SAMPLERS.items() if not known.distilled)
            raise InputError(
                f"sampler '{sampler}' needs a generator that 'imagpose distill' made, and this one is none; distill "
                f"it, or use one of {others}"
            )
        if steps > (most := scheduler.config.num_train_timesteps):
            raise InputError(
                f"{steps} steps, but this generator's noise schedule has {most}; pass --steps {most} or fewer"
            )
        return
    if not SAMPLERS[sampler].distilled:
        raise InputError(
            f"this generator is a few-step student, which sampler '{sampler}' does not fit; pass --sampler lcm "
            "--steps 4 --guidance 1, or use its teacher"
        )
    if guidance_scale != 1:
        raise InputError(
            f"guidance {guidance_scale:g} with a few-step student, whose weights hold its teacher's guidance; pass "
            "--guidance 1"
        )
    if steps > (most := scheduler.config.original_inference_steps):
        raise InputError(
            f"{steps} steps with a student that was distilled along {most}; pass --steps 4, {most} at most"
        )


def check_features(source: SourceFeatures, model: IMAGPose) -> None:
    """Refuse frozen features that a denoiser does not take.

    Raises:
        InputError: other widths or sizes than the denoiser's, or numbers that are not finite.
    """
    channels, cell = model.latent_channels, 2 ** (len(model.unet.config.block_out_channels) - 1)
    if source.latents.ndim != 3 or source.latents.shape[0] != channels:
        raise InputError(
            f"latents of shape {tuple(source.latents.shape)} do not fit this generator's {channels} channels; "
            "encode the images with the generator's own VAE"
        )
    if source.latents.shape[1] % cell or source.latents.shape[2] % cell:
        raise InputError(f"views of {tuple(source.latents.shape[1:])} cells: both sides must be multiples of {cell}")
    width = model.feature_conditioning.config.image_token_dim
    if source.tokens.ndim != 2 or source.tokens.shape[1] != width:
        raise InputError(
            f"image tokens of shape {tuple(source.tokens.shape)} do not fit this generator's width {width}; "
            "encode the images with the generator's own image encoder"
        )
    if not (torch.isfinite(source.latents).all() and torch.isfinite(source.tokens).all()):
        raise InputError("a source's features are not finite; encode its image again")


def check_weights(components: Mapping[str, object]) -> None:
    """Refuse weights that are not numbers.

    Raises:
        WeightsError: NaN or infinity, with the weight's name.
    """
    for name, component in components.items():
        if isinstance(component, torch.nn.Module):
            for parameter_name, parameter in component.named_parameters():
                if not torch.isfinite(parameter).all():
                    raise WeightsError(f"{name}: weight '{parameter_name}' holds NaN or infinity; train or load again")
