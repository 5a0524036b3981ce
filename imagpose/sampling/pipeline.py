"""IMAGPosePipeline: sources and target poses to pictures, many canvases at once.

`B` canvases, `V` = 4 views, `C` latent channels, `h, w` latent cells and `H, W` pixels of a view, `N` tokens of width
`D`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, LCMScheduler
from diffusers.utils import BaseOutput
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from transformers.utils import logging as transformers_logging

from datasets.runtime.errors import InputError, WeightsError
from datasets.runtime.remote.copies import is_file
from datasets.runtime.remote.folders import fetch_folder
from datasets.shards.frozen_models import CPU_CHUNK, image_tokens, view_pixels
from datasets.shards.saved_models import DIFFUSERS, TRANSFORMERS, refuse_unreadable
from imagpose.canvas.layout import (
    Canvases,
    CanvasRequest,
    Source,
    SourceFeatures,
    check_request,
    generators_past_noise,
    lay_out,
)
from imagpose.canvas.view_grid import unpack_views
from imagpose.config.fields import Unconditional
from imagpose.config.samplers import SAMPLERS
from imagpose.modeling.denoiser import IMAGPose
from imagpose.modeling.feature_conditioning import FeatureConditioning
from imagpose.modeling.pose_encoder import PoseEncoder
from imagpose.modeling.unet import IMAGPoseUNet
from imagpose.sampling.checks import check_features, check_sampler, check_settings, check_weights
from imagpose.sampling.guidance import GuidedPrediction, given_cells

DECODED_AT_ONCE = 64
"""Views that the VAE decodes together on a GPU; on a CPU `CPU_CHUNK`."""
ENCODED_AT_ONCE = 32
"""Photographs that go through VAE and image encoder together."""


@dataclass
class IMAGPoseOutput(BaseOutput):
    """What the pipeline returns, one entry per request."""

    images: list[np.ndarray]
    """(G, H, W, 3) uint8, G generated views in slot order; latents (G, C, h, w) float32 if those were requested."""
    poses: list[tuple[int, ...]]
    """Which of the request's poses each picture shows."""


class IMAGPosePipeline(DiffusionPipeline):
    """Pose-guided person synthesis on 2x2 canvases (IMAGPose)."""

    model_cpu_offload_seq = "image_encoder->feature_conditioning->pose_encoder->unet->vae"
    _optional_components = ["image_encoder"]

    def __init__(
        self,
        unet: IMAGPoseUNet,
        pose_encoder: PoseEncoder,
        feature_conditioning: FeatureConditioning,
        vae: AutoencoderKL,
        scheduler: DDIMScheduler | LCMScheduler,
        image_encoder: Any = None,
        view_height: int | None = None,
        view_width: int | None = None,
        token_height: int | None = None,
        token_width: int | None = None,
    ) -> None:
        """Put a generator together.

        Args:
            image_encoder: needed for photographs only; frozen features bring their tokens with them.
            view_height, view_width: pixels of a view; needed for photographs only.
            token_height, token_width: pixels at which the image encoder sees a source; the view's if not given.
        """
        super().__init__()
        self.register_modules(
            unet=unet,
            pose_encoder=pose_encoder,
            feature_conditioning=feature_conditioning,
            vae=vae,
            scheduler=scheduler,
            image_encoder=image_encoder,
        )
        self.register_to_config(
            view_height=view_height, view_width=view_width, token_height=token_height, token_width=token_width
        )
        self.denoiser = IMAGPose(unet, pose_encoder, feature_conditioning).eval()
        self._weights_checked = False

    @torch.no_grad()
    def __call__(
        self,
        requests: CanvasRequest | Sequence[CanvasRequest],
        *,
        sampler: str = "ddim",
        num_inference_steps: int = 20,
        guidance_scale: float = 2.0,
        unconditional: Unconditional = "pose",
        reuse_conditions: bool = True,
        output_type: str = "np",
    ) -> IMAGPoseOutput:
        """Generate every requested view of every canvas in one batch.

        Args:
            requests: canvases; all of one view size.
            sampler: 'ddim' (paper, 20 steps), 'unipc' or 'dpm++' (DPM-Solver++ 2M; as good with 12); 'lcm' (4 steps)
                for a student of `imagpose distill` and for nothing else.
            guidance_scale: 1 is no guidance and half the work; the paper's is 2.
            unconditional: what the unconditional half still sees, 'pose' or 'pose-and-sources'.
            reuse_conditions: compute what is constant over the steps once; off is the plain way, for comparison and
                for `torch.compile`.
            output_type: 'np' pictures or 'latent'.

        Raises:
            InputError: requests that this generator cannot serve.
            WeightsError: weights that are not finite.
        """
        requests = [requests] if isinstance(requests, CanvasRequest) else list(requests)
        self.check_inputs(requests, sampler, num_inference_steps, output_type, unconditional)
        check_sampler(sampler, num_inference_steps, guidance_scale, self.scheduler)
        canvases = self.lay_out(requests, self.encode([list(request.sources) for request in requests]))
        latents = self.denoise(
            canvases, sampler, num_inference_steps, guidance_scale, unconditional, reuse_conditions=reuse_conditions
        )
        return self.decode(requests, canvases, latents, output_type)

    def check_inputs(
        self,
        requests: Sequence[CanvasRequest],
        sampler: str,
        num_inference_steps: int,
        output_type: str,
        unconditional: str = "pose",
    ) -> None:
        """Refuse what cannot work, before any work.

        Raises:
            InputError: requests or settings that this generator cannot serve.
            WeightsError: weights that are not finite.
        """
        if not requests:
            raise InputError("no canvas was requested; give at least one request")
        check_settings(sampler, num_inference_steps, output_type, unconditional)
        for request in requests:
            check_request(request, self._view_size(request))
            for source in request.sources:
                if isinstance(source, SourceFeatures):
                    check_features(source, self.denoiser)
                elif self.image_encoder is None:
                    raise InputError("this generator was loaded without image encoder; it takes frozen features only")
        if not self._weights_checked:
            check_weights(self.components)
            self._weights_checked = True

    @property
    def _stride(self) -> int:
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def _view_size(self, request: CanvasRequest) -> tuple[int, int]:
        for source in request.sources:
            if isinstance(source, SourceFeatures):
                return source.latents.shape[-2] * self._stride, source.latents.shape[-1] * self._stride
        return self.view_size()

    def view_size(self) -> tuple[int, int]:
        """Height and width in pixels of a view, as the generator was trained.

        Raises:
            InputError: the generator's folder does not say it.
        """
        if self.config.view_height is None or self.config.view_width is None:
            raise InputError("this generator does not say its view size; give frozen features instead of photographs")
        return self.config.view_height, self.config.view_width

    def encode(self, sources: list[list[Source]]) -> list[list[SourceFeatures]]:
        """Frozen features of photographs, many at once; features pass through."""
        photographs = [source for person in sources for source in person if not isinstance(source, SourceFeatures)]
        encoded: list[SourceFeatures] = []
        for start in range(0, len(photographs), ENCODED_AT_ONCE):
            chunk = photographs[start : start + ENCODED_AT_ONCE]
            images = [source.image.convert("RGB") for source in chunk]
            features = zip(chunk, self.encode_latents(images), self._encode_tokens(images), strict=True)
            encoded += [
                SourceFeatures(latents=latents, tokens=tokens, keypoints=source.keypoints)
                for source, latents, tokens in features
            ]
        ready = iter(encoded)
        return [[s if isinstance(s, SourceFeatures) else next(ready) for s in person] for person in sources]

    @torch.no_grad()
    def encode_latents(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB views of one size to scaled latents, (n, C, h, w) float32: the posterior's mean, each view alone."""
        pixels = view_pixels(list(images), images[0].height, images[0].width).to(self.device, self.vae.dtype)
        return (self.vae.encode(pixels * 2 - 1).latent_dist.mean * self.vae.config.scaling_factor).float()

    def _encode_tokens(self, images: Sequence[Image.Image]) -> Tensor:
        height, width = self.config.token_height or images[0].height, self.config.token_width or images[0].width
        return image_tokens(self.image_encoder, view_pixels(list(images), height, width).to(self.device)).float()

    def lay_out(self, requests: Sequence[CanvasRequest], features: list[list[SourceFeatures]]) -> Canvases:
        """Place sources and poses on their canvases, and draw each canvas's noise from its own seed."""
        return lay_out(requests, features, self._view_size(requests[0]), self.device, self.unet.dtype)

    def denoise(
        self,
        canvases: Canvases,
        sampler: str,
        steps: int,
        guidance_scale: float,
        unconditional: Unconditional = "pose",
        *,
        reuse_conditions: bool = True,
    ) -> Tensor:
        """Canvas latents from noise.

        Visible views follow the noise level of each step and end as exactly what was given. A generator without ILC
        (ablations B0 to B2, M1) must not see them that way either, so there they are drawn like the other views.

        Returns:
            (B, C, 2h, 2w) float32.
        """
        scheduler = SAMPLERS[sampler].with_noise(self.scheduler.config)
        scheduler.set_timesteps(steps, device=self.device)
        predict = GuidedPrediction(
            self.denoiser, canvases, guidance_scale, unconditional, reuse_conditions=reuse_conditions
        )
        visible, known, noise = given_cells(self.denoiser, canvases), canvases.known, canvases.noise
        latents = noise
        draws = {"generator": generators_past_noise(canvases)} if SAMPLERS[sampler].distilled else {}
        with predict.cached():
            for timestep in scheduler.timesteps:
                signal, spread = _noise_level(scheduler, timestep)
                latents = torch.where(visible, signal * known + spread * noise, latents)
                prediction = predict(latents, timestep)
                latents = scheduler.step(prediction, timestep, latents, **draws, return_dict=False)[0]
        if not torch.isfinite(latents).all():
            raise WeightsError(
                f"sampling gave NaN or infinity; check guidance ({guidance_scale:g}), the generator's weights and its "
                "noise schedule"
            )
        return torch.where(visible, known, latents)

    def decode(
        self, requests: Sequence[CanvasRequest], canvases: Canvases, latents: Tensor, output_type: str = "np"
    ) -> IMAGPoseOutput:
        """Pictures of the generated views only; what was visible is known already."""
        views, poses = [], []
        for request, layout, canvas in zip(requests, canvases.layouts, unpack_views(latents), strict=True):
            kept = range(len(layout.poses)) if request.keep is None else request.keep
            views.append(canvas[[len(layout.sources) + i for i in kept]])
            poses.append(tuple(layout.poses[i] for i in kept))
        counts = [len(view) for view in views]
        if output_type == "latent":
            return IMAGPoseOutput(images=[view.cpu().numpy() for view in views], poses=poses)
        pictures = self.decode_views(torch.cat(views))
        return IMAGPoseOutput(images=np.split(pictures, np.cumsum(counts)[:-1]), poses=poses)

    @torch.no_grad()
    def decode_views(self, latents: Tensor) -> np.ndarray:
        """Scaled latents of single views, (n, C, h, w), to pictures (n, H, W, 3) uint8."""
        pictures = []
        for chunk in latents.split(CPU_CHUNK if self.vae.device.type == "cpu" else DECODED_AT_ONCE):
            scaled = (chunk / self.vae.config.scaling_factor).to(self.vae.device, self.vae.dtype)
            pixels = self.vae.decode(scaled.contiguous(memory_format=torch.channels_last), return_dict=False)[0].float()
            image_u8 = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
            pictures.append(image_u8.permute(0, 2, 3, 1).cpu().numpy())
        return np.concatenate(pictures)


def _noise_level(scheduler: Any, timestep: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of signal and noise in x_t: ``x_t = signal * x_0 + spread * noise`` (rescaled betas included)."""
    kept = scheduler.alphas_cumprod.to(timestep.device)[timestep.long()]
    return kept.sqrt().float(), (1 - kept).sqrt().float()


def load_pipeline(
    folder: Path, device: torch.device, *, precision: str = "fp32", photographs: bool = True
) -> IMAGPosePipeline:
    """A saved generator, ready to sample.

    Args:
        precision: 'bf16' runs the denoiser in bfloat16; sampler state and VAE stay float32.
        photographs: load the image encoder too; frozen features do not need it.

    Raises:
        WeightsError: not a complete generator folder.
    """
    if not is_file(folder / "model_index.json"):
        raise WeightsError(f"{folder} holds no model_index.json; give the folder of a generator ('imagpose train')")
    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()  # bars for the parts would tear the log lines apart
    left_out = {} if photographs else {"image_encoder": None}
    _refuse_unreadable_parts(fetch_folder(folder), left_out)
    try:
        pipeline = IMAGPosePipeline.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False, **left_out
        )
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise WeightsError(f"{folder} cannot be loaded as an IMAGPose generator: {reason}") from error
    pipeline.to(device)
    pipeline.vae.to(memory_format=torch.channels_last)
    if device.type == "cuda":  # tensor cores read convolutions this way; a CPU's UNet was measured to gain nothing
        pipeline.unet.to(memory_format=torch.channels_last)
    if precision == "bf16":
        for part in (pipeline.unet, pipeline.pose_encoder, pipeline.feature_conditioning):
            part.bfloat16()
    return pipeline


def _refuse_unreadable_parts(folder: Path, left_out: Collection[str]) -> None:
    for part in ("unet", "pose_encoder", "feature_conditioning", "vae", "image_encoder"):
        if part not in left_out and (folder / part).is_dir():
            refuse_unreadable(folder / part, TRANSFORMERS if part == "image_encoder" else DIFFUSERS)
