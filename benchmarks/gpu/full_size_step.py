"""A training step of the generator at preset `market`'s full size, random weights: seconds and memory, by batch size.

Everything that `imagpose train` does in a step but reading the batch: noise, forward and backward pass under bfloat16
autocast, gradient clipping, AdamW, EMA. docs/presets.md computes the same beforehand. Each batch size is timed as it
is; the last that fits and is no larger than `COMPILED` also with torch.compile.

Environment: SIZE (sd15, tiny), BATCHES ("1 4 16 64"), STEPS timed of each (8), DEVICE, COMPILED (16; 0: not at all).
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks import full_size
from benchmarks.machine import machine
from datasets.runtime import devices
from imagpose.canvas.training import CanvasBatch
from imagpose.canvas.view_grid import VIEWS
from imagpose.config import SD_MODEL, TrainGeneratorSettings
from imagpose.modeling.denoiser import IMAGPose, new_denoiser
from imagpose.training.check_model import TINY_MODEL
from imagpose.training.ema import DenoiserEma
from imagpose.training.objective import NoisePrediction, loss_sum
from imagpose.training.optimizer import DenoiserOptimizer

VIEW, TOKENS = (128, 64), 1 + (224 // 14) * (112 // 14)
"""Preset `market`'s view in pixels, and DINOv2-B's tokens of a source at 224x112."""
GIB = 2**30
WARM_UP = 3
PARTS = {"weights": 1, "gradients": 1, "AdamW's moments": 2, "EMA weights": 1}
"""Float32 copies of the parameters that a training holds."""


class Step:
    """A model with all that trains it, and one step of it."""

    def __init__(
        self,
        model: IMAGPose,
        device: torch.device,
        stride: int,
        tokens: tuple[int, int],
        view: tuple[int, int] = VIEW,
        precision: str = "bf16",
    ) -> None:
        self.model, self.device, self.stride, self.tokens = model.to(device).train(), device, stride, tokens
        self.view, self.precision = view, precision
        self.network: Callable[..., Tensor] = self.model
        self.objective = NoisePrediction(TrainGeneratorSettings(), device)
        self.optimizer = DenoiserOptimizer(self.model.named_parameters(), "adamw", 1e-5, 0.01)
        self.ema = DenoiserEma(self.model, 0.999)

    def batch(self, canvases: int) -> tuple[CanvasBatch, Tensor, Tensor]:
        """Random canvases with one visible view, noise and timesteps."""
        (height, width), channels = self.view, self.model.latent_channels
        rows, columns = height // self.stride, width // self.stride
        with self.device:
            mask = torch.zeros(canvases, 1, 2 * rows, 2 * columns)
            mask[:, :, :rows, :columns] = 1
            laid_out = CanvasBatch(
                latents=torch.randn(canvases, channels, 2 * rows, 2 * columns),
                mask=mask,
                loss_weights=1 - mask,
                drawn_skeletons=torch.randint(0, 256, (canvases, 3, 2 * height, 2 * width), dtype=torch.uint8),
                image_tokens=torch.randn(canvases, *self.tokens),
                source_latents=torch.randn(canvases, channels, rows, columns),
                keep_image=torch.ones(canvases, dtype=torch.bool),
                keep_texture=torch.ones(canvases, dtype=torch.bool),
            )
            return laid_out, torch.randn_like(laid_out.latents), torch.randint(0, 1000, (canvases,))

    def __call__(self, batch: CanvasBatch, noise: Tensor, timesteps: Tensor) -> None:
        """Forward, backward, optimizer, EMA."""
        with devices.autocast(self.device, self.precision):
            loss = loss_sum(self.objective, self.network, batch, noise, timesteps)
        (loss / noise.numel()).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step(1e-5)
        self.ema.update()


def timed(step: Step, canvases: int, steps: int) -> dict[str, float]:
    """Median seconds of a step, and the most memory that it took.

    Raises:
        torch.OutOfMemoryError: the batch does not fit.
    """
    inputs = step.batch(canvases)
    on_gpu = step.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds, started = [], time.perf_counter()
    for turn in range(WARM_UP + steps):
        begun = time.perf_counter()
        step(*inputs)
        if on_gpu:
            torch.cuda.synchronize()
        if turn >= WARM_UP:
            seconds.append(time.perf_counter() - begun)
    whole = time.perf_counter() - started - sum(seconds)
    memory = torch.cuda.max_memory_allocated() / GIB if on_gpu else 0.0
    return {"seconds": statistics.median(seconds), "gib": memory, "warm_up_seconds": whole}


def built(size: str, device: torch.device) -> Step:
    """The model of a size with random weights."""
    with device:
        if size == "sd15":
            model = full_size.denoiser(SD_MODEL.model_copy(update={"token_patch": 4}), 768)
            return Step(model, device, full_size.VAE_STRIDE, (TOKENS, 768))
        return Step(new_denoiser(TINY_MODEL, 4, 48), device, 2 ** (len(TINY_MODEL.pose_channels) - 1), (9, 48))


def tflop_per_canvas(size: str) -> float | None:
    """Operations of a canvas's forward and backward pass; counted at the full size only."""
    if size != "sd15":
        return None
    with torch.device("meta"):
        model = full_size.denoiser(SD_MODEL.model_copy(update={"token_patch": 4}), 768)
    return full_size.training_flops(model, full_size.canvas_inputs(VIEW, TOKENS, 768)) / 1e12


def sweep(step: Step, sizes: list[int], steps: int, operations: float | None) -> dict[str, dict[str, float]]:
    """Every batch size as it is, then the largest one that may be compiled; a line for each as soon as it is known."""
    found: dict[str, dict[str, float]] = {}
    for canvases in sizes:
        try:
            found[str(canvases)] = timed(step, canvases, steps)
        except torch.OutOfMemoryError:
            print(f"{canvases} canvases do not fit", flush=True)
            break
        print(line(f"{canvases} canvases", canvases, found[str(canvases)], operations), flush=True)
    limit = int(os.environ.get("COMPILED", "16"))
    if compiled := [size for size in sizes if size <= limit and str(size) in found]:
        step.network = torch.compile(step.model)
        name = f"{compiled[-1]} compiled"
        found[name] = timed(step, compiled[-1], steps)
        print(line(name, compiled[-1], found[name], operations), flush=True)
    return found


def line(name: str, canvases: int, values: dict[str, float], operations: float | None) -> str:
    """A row of the printed table."""
    rate = f"  {operations * canvases / values['seconds']:6.1f} TFLOP/s" if operations else ""
    return (
        f"{name:<14} {values['seconds']:8.4f} s/step  {canvases * VIEWS / values['seconds']:8.1f} views/s  "
        f"{values['gib']:6.1f} GiB  {values['warm_up_seconds']:6.1f} s to warm up{rate}"
    )


def main() -> int:
    """Print a table by batch size; the last line is one JSON object."""
    device, size = devices.pick(os.environ.get("DEVICE", "auto")), os.environ.get("SIZE", "sd15")
    torch.manual_seed(0)
    step = built(size, device)
    millions = sum(parameter.numel() for parameter in step.model.parameters()) / 1e6
    fixed = sum(PARTS.values()) * 4 * millions * 1e6 / GIB
    print(f"{size} on {device}: {millions:.1f} M parameters, {fixed:.1f} GiB for {', '.join(PARTS)}", flush=True)
    sizes = [int(canvases) for canvases in os.environ.get("BATCHES", "1 4 16 64").split()]
    found = sweep(step, sizes, int(os.environ.get("STEPS", "8")), operations := tflop_per_canvas(size))
    facts = {"tflop_per_canvas": operations, "steps": found, "machine": machine("torch", "diffusers")}
    print(json.dumps(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
