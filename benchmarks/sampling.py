"""Sampling at the `market` preset's canvas: the released code's way against ours, with the same (random) weights.

The canvas is 2x2 views of 128x64 pixels, 32x16 latent cells (VAE stride 8), with 129 DINOv2 and 8 texture tokens of
width 768. On a CPU the network is Stable Diffusion's shape at a tenth of its width (13.6 M parameters; a fifth with
SAMPLING_WIDTH=64), so that the benchmark ends; on a GPU it is Stable Diffusion 1.5's own size, timed in bfloat16 as
the preset samples. Random weights: time does not depend on them, and the two ways are compared on them in float32 with
every zero-initialized part filled.

official  one canvas at a time, 20 DDIM steps with guidance, condition projected again at every step (keys, values,
          first convolution), one of the three pictures kept and decoded (the paper's T1)
ours      8 canvases at a time (GPU: 32; SAMPLING_BATCH), conditions projected once, nothing computed for the null
          condition's cross-attention, all three pictures kept and decoded (IMAGPose*)

Each is timed several times in turn and its fastest pass counts: CPU seconds of one thread (GPU: seconds). A line for
each turn, as soon as it is known.
``canvas_ratio`` is of seconds per canvas at equal steps, ``ratio`` of seconds per picture at equal steps (three of its
factors are the three pictures), ``ratio_unipc_12`` of seconds per picture when ours takes 12 UniPC steps.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from torch import nn

from benchmarks.machine import machine
from datasets.poses.skeleton import JOINT_COUNT
from imagpose.canvas.layout import CanvasRequest, SourceFeatures
from imagpose.config import SD_MODEL, ModelConfig
from imagpose.modeling.denoiser import new_denoiser
from imagpose.sampling.pipeline import IMAGPosePipeline

VIEW = (128, 64)
STRIDE, LATENT_CHANNELS = 8, 4
TOKENS = (1 + (224 // 14) * (112 // 14), 768)
PICTURES = 3
DDIM_STEPS, UNIPC_STEPS = 20, 12
TOLERANCE = 1e-4


def market_model(full_size: bool) -> ModelConfig:
    """The `market` preset's network, or the same shape at a tenth of the width."""
    model = SD_MODEL.model_copy(update={"token_patch": 4})
    if full_size:
        return model
    width = int(os.environ.get("SAMPLING_WIDTH", "32"))
    widths = (width, 2 * width, 4 * width, 4 * width)
    return model.model_copy(update={"channels": widths, "head_width": 32, "norm_groups": 16})


def filled(model: nn.Module) -> nn.Module:
    """Random numbers in every weight: a fresh network hides pose, sources and CVA behind zeros."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.7 / parameter[0].numel() ** 0.5)
        elif (parameter == 0).all():
            nn.init.normal_(parameter, std=0.1)
    return model


def market_pipeline(full_size: bool, device: torch.device) -> IMAGPosePipeline:
    """A generator of random weights at the `market` preset's canvas, float32, made on its device."""
    with torch.random.fork_rng(), device:
        torch.manual_seed(0)
        model = filled(new_denoiser(market_model(full_size), LATENT_CHANNELS, TOKENS[1]))
        widths = (128, 256, 512, 512) if full_size else (16, 32, 64, 64)
        vae = AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            block_out_channels=widths,
            layers_per_block=2,
            norm_num_groups=16,
            latent_channels=LATENT_CHANNELS,
        ).eval()
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
    )
    pipeline = IMAGPosePipeline(
        model.unet,
        model.pose_encoder,
        model.feature_conditioning,
        vae,
        scheduler,
        view_height=VIEW[0],
        view_width=VIEW[1],
    ).to(device)
    if device.type == "cuda":  # as `load_pipeline` does
        pipeline.vae.to(memory_format=torch.channels_last)
        pipeline.unet.to(memory_format=torch.channels_last)
    return pipeline


def market_requests(count: int, keep: int | None = None) -> list[CanvasRequest]:
    """Canvases of one source and three poses, of random features and skeletons; `keep`: one of the three."""
    requests = []
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        rng = np.random.default_rng(seed)
        skeletons = rng.uniform(4, 60, (1 + PICTURES, JOINT_COUNT, 3)).astype(np.float32)
        skeletons[..., 2] = 1
        source = SourceFeatures(
            latents=torch.randn(LATENT_CHANNELS, VIEW[0] // STRIDE, VIEW[1] // STRIDE, generator=generator),
            tokens=torch.randn(TOKENS, generator=generator),
            keypoints=skeletons[0],
        )
        kept = None if keep is None else [(seed + keep) % PICTURES]
        requests.append(CanvasRequest(sources=[source], poses=list(skeletons[1:]), seed=seed, keep=kept))
    return requests


def official_way(pipeline: IMAGPosePipeline, canvases: int, steps: int) -> None:
    """One canvas at a time, everything computed at every step, one picture kept."""
    for request in market_requests(canvases, keep=0):
        pipeline(request, sampler="ddim", num_inference_steps=steps, reuse_conditions=False)


def our_way(pipeline: IMAGPosePipeline, canvases: int, steps: int, sampler: str = "ddim") -> None:
    """All canvases in one batch, conditions computed once, all pictures kept."""
    pipeline(market_requests(canvases), sampler=sampler, num_inference_steps=steps)


def seconds(work: Callable[[], None], device: torch.device) -> float:
    """CPU seconds of this process; seconds on the clock on a GPU."""
    if device.type == "cpu":
        start = time.process_time()
        work()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def largest_difference(pipeline: IMAGPosePipeline, canvases: int = 2, steps: int = DDIM_STEPS) -> float:
    """Between the two ways' latents, same seeds, float32, DDIM: all canvases together against each alone."""
    requests = market_requests(canvases)
    settings = {"output_type": "latent", "num_inference_steps": steps}
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # its 10 bits would hide a difference
        fast = pipeline(requests, **settings).images
        plain = [pipeline(r, reuse_conditions=False, **settings).images[0] for r in requests]
    return float(max(np.abs(a - b).max() for a, b in zip(fast, plain, strict=True)))


def in_bfloat16(pipeline: IMAGPosePipeline) -> None:
    """The denoiser as the `market` preset samples with it; the VAE stays in float32."""
    for part in (pipeline.unet, pipeline.pose_encoder, pipeline.feature_conditioning):
        part.bfloat16()


def fastest(pipeline: IMAGPosePipeline, batch: int, alone: int, repeats: int, device: torch.device) -> dict[str, float]:
    """Seconds a canvas of each way: the least of some turns."""
    ways: dict[str, tuple[Callable[[], None], int]] = {
        "official": (lambda: official_way(pipeline, alone, DDIM_STEPS), alone),
        "ours": (lambda: our_way(pipeline, batch, DDIM_STEPS), batch),
        "unipc": (lambda: our_way(pipeline, batch, UNIPC_STEPS, "unipc"), batch),
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(repeats):
        for name, (work, canvases) in ways.items():
            best[name] = min(best[name], seconds(work, device) / canvases)
        print("seconds a canvas:", ", ".join(f"{name} {value:.4f}" for name, value in best.items()), flush=True)
    return best


def main() -> int:
    """Measure; the last line is one JSON object."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_cpu = device.type == "cpu"
    if on_cpu:
        torch.set_num_threads(1)
    batch = int(os.environ.get("SAMPLING_BATCH", "8" if on_cpu else "32"))
    pipeline = market_pipeline(not on_cpu, device)
    difference = largest_difference(pipeline)
    if not on_cpu:
        in_bfloat16(pipeline)
    best = fastest(pipeline, batch, 2 if on_cpu else 8, 3, device)
    figures = {
        "ratio": round(PICTURES * best["official"] / best["ours"], 2),
        "canvas_ratio": round(best["official"] / best["ours"], 2),
        "pictures_factor": PICTURES,
        "ratio_unipc_12": round(PICTURES * best["official"] / best["unipc"], 2),
        "seconds_per_canvas": {name: round(value, 4) for name, value in best.items()},
        "images_per_s": {
            "official": round(1 / best["official"], 3),
            "ours": round(PICTURES / best["ours"], 3),
            "unipc": round(PICTURES / best["unipc"], 3),
        },
        "batch": batch,
        "precision": "float32" if on_cpu else "bfloat16",
        "parameters_m": round(sum(p.numel() for p in pipeline.denoiser.parameters()) / 1e6, 1),
        "max_difference": difference,
        "checks": {"fast path equals plain path to 1e-4": difference < TOLERANCE},
        "device": "cpu, one thread" if on_cpu else torch.cuda.get_device_name(),
        "machine": machine("torch", "diffusers"),
    }
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
