"""Seconds and memory of a training step at a preset's own sizes, beside what `benchmarks.preset_costs` computes.

Weights are random, at the shapes of the preset's models: neither depends on them. On a GPU the presets of Stable
Diffusion 1.5's size, the whole batch at once or the largest half, quarter ... of it that fits; on a CPU
`market-small`, whose models are in the repository, on one thread.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks import full_size
from benchmarks.gpu.full_size_step import GIB, Step, timed
from benchmarks.isolated import MEGABYTE, forget_peak, in_a_process, memory_mb
from flows.presets import PRESETS
from flows.settings import RegenerateSettings
from imagpose.config import BUILT_IN, SD_MODEL
from imagpose.modeling.denoiser import IMAGPose, new_denoiser

ENCODER = "dinov2-base"
ON_CPU = ["market-small"]
STEPS = 4


@dataclass(frozen=True, kw_only=True)
class PresetNetwork:
    """The network that a preset trains, and the sizes of its inputs."""

    config: RegenerateSettings
    patch: int
    """Of the image encoder, in pixels."""
    token_width: int
    stride: int
    """Of the VAE: pixels of a view for each latent cell."""
    latent_channels: int

    @property
    def view(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.config.encode.view_height, self.config.encode.view_width

    @property
    def tokens(self) -> int:
        """Image tokens of a source."""
        encode = self.config.encode
        return 1 + (encode.token_height // self.patch) * (encode.token_width // self.patch)

    def build(self) -> IMAGPose:
        """With random weights."""
        if is_full_size(self.config):
            return full_size.denoiser(self.config.train.model, self.token_width)
        return new_denoiser(self.config.train.model, self.latent_channels, self.token_width)


def is_full_size(config: RegenerateSettings) -> bool:
    """Whether a preset trains Stable Diffusion 1.5's UNet."""
    return config.train.model.channels == SD_MODEL.channels


def preset_network(name: str) -> PresetNetwork:
    """A preset's network, on DINOv2-B where it is full-size, else on the built-in VAE and image encoder."""
    config = PRESETS[name].build()
    if is_full_size(config):
        encoder = full_size.NAMED_ENCODERS[ENCODER]
        return PresetNetwork(
            config=config,
            patch=encoder.patch,
            token_width=encoder.width,
            stride=full_size.VAE_STRIDE,
            latent_channels=full_size.LATENT_CHANNELS,
        )
    encoder, vae = (json.loads((BUILT_IN / part / "config.json").read_text()) for part in ("image_encoder", "vae"))
    return PresetNetwork(
        config=config,
        patch=encoder["patch_size"],
        token_width=encoder["hidden_size"],
        stride=2 ** (len(vae["block_out_channels"]) - 1),
        latent_channels=vae["latent_channels"],
    )


def measured_presets() -> list[str]:
    """Those whose step this machine can take."""
    on_gpu = torch.cuda.is_available()
    return [name for name in PRESETS if is_full_size(PRESETS[name].build())] if on_gpu else ON_CPU


def measured(name: str) -> dict[str, float]:
    """'canvases' of a step at once, its 'seconds', and the most 'gib' that it and all that training holds take."""
    return _on_gpu(name) if torch.cuda.is_available() else in_a_process(_on_cpu, name)


def _on_gpu(name: str) -> dict[str, float]:
    canvases = preset_network(name).config.train.batch_size
    while True:
        try:
            return _figures(_step(name, torch.device("cuda")), canvases)
        except torch.OutOfMemoryError:
            if canvases == 1:
                raise
            canvases //= 2
        finally:
            gc.collect()
            torch.cuda.empty_cache()


def _on_cpu(name: str) -> dict[str, float]:
    """In a process of its own: its memory above that of the libraries."""
    torch.set_num_threads(1)
    before = forget_peak()
    found = _figures(_step(name, torch.device("cpu")), preset_network(name).config.train.batch_size)
    return {**found, "gib": round((memory_mb("VmHWM") - before) * MEGABYTE / GIB, 2)}


def _step(name: str, device: torch.device) -> Step:
    network = preset_network(name)
    torch.manual_seed(0)
    with device:
        model = network.build()
    size = (network.tokens, network.token_width)
    return Step(model, device, network.stride, size, network.view, network.config.train.precision)


def _figures(step: Step, canvases: int) -> dict[str, float]:
    found = timed(step, canvases, STEPS)
    return {"canvases": canvases, "seconds": round(found["seconds"], 4), "gib": round(found["gib"], 2)}


def beside(computed: dict[str, Any], found: dict[str, float], peak: float | None, sustained: float) -> str:
    """A row: preset, canvases at once, GiB computed and measured, seconds computed and measured, TFLOP/s.

    Args:
        computed: the preset's row of `benchmarks.preset_costs`.
        found: from `measured`.
        peak: TFLOP/s of the machine by its maker's data sheet; None where it is not known.
        sustained: share of it that the computed seconds assume.
    """
    operations = computed["tflop_per_canvas"] * found["canvases"]
    seconds = f"{operations / (peak * sustained):.3f}" if peak else "-"
    memory = computed["fixed_gib"] + computed["gib_per_canvas"] * found["canvases"]
    return (
        f"| `{computed['preset']}` | {found['canvases']} | {memory:.2f} | {found['gib']:.2f} | {seconds} | "
        f"{found['seconds']:.3f} | {operations / found['seconds']:.2f} |"
    )


HEAD = (
    "| preset | canvases at once | GiB computed | GiB measured | s a step computed | s a step measured | TFLOP/s |\n"
    "|---|---|---|---|---|---|---|"
)


def say_measured(compute: Callable[[str], dict[str, Any]], peaks: dict[str, float], sustained: float) -> dict[str, Any]:
    """Print a row for every preset that can be measured here, as soon as it is known; returns what was measured."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU, one thread"
    peak = next((peak for gpu, peak in peaks.items() if gpu.split()[0] in device), None)
    print(f"\nmeasured on {device}\n\n{HEAD}", flush=True)
    found: dict[str, Any] = {}
    for name in measured_presets():
        found[name] = measured(name)
        print(beside(compute(name), found[name], peak, sustained), flush=True)
    return {"device": device, "presets": found}
