"""What a training step costs with frozen features from disk, and with the frozen encoders run in every step.

Counted, not timed, at the `market` preset's full size (Stable Diffusion 1.5, canvases of four 128x64 views), on meta
tensors: forward and backward of the trained parts for one canvas, equal on both sides, and beside it

official  what the released code computes in each step: VAE latents of the target canvas, of the masked canvas and of
          the reference (nine views), image-encoder tokens of the reference at 224x224
least     the least that any code could compute in each step: latents of the four views, of which the reference is one,
          and the reference's tokens at our 224x112
cached    nothing: latents and tokens were computed once per image by `python -m datasets encode`

``ratio`` (DINOv2-G) and ``ratio_dinov2_b`` compare official with cached; ``ratio_least`` and ``ratio_least_dinov2_b``
compare least with cached. No gradient checkpointing on either side (the released code uses it, which would cost it a
third more). ``seconds`` are measured: on a GPU at the full size with random weights, on a CPU with the built-in tiny
models, where latents at stride 4 and a small encoder make the frozen part small.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from benchmarks import full_size
from benchmarks.machine import machine
from datasets.shards.frozen_models import image_tokens, load_image_encoder, load_vae
from imagpose.canvas.view_grid import VIEWS, pack_views, view_map
from imagpose.config import BUILT_IN, SD_MODEL
from imagpose.modeling.denoiser import IMAGPose
from imagpose.training.generators import load_denoiser

VIEW, OUR_TOKENS, OFFICIAL_TOKENS = (128, 64), (224, 112), (224, 224)
REPEATS = 3


def frozen_flops(encoder: str) -> dict[str, float]:
    """TFLOP per canvas of the frozen models, as the released code uses them and at least."""
    with torch.device("meta"):
        vae, tokens = full_size.stable_diffusion_vae(), full_size.image_encoder(encoder)

        def picture(height: int, width: int) -> Tensor:
            return torch.zeros(1, 3, height, width)

        with torch.no_grad():
            view = full_size.flops(lambda: vae.encode(picture(*VIEW)))
            canvas = full_size.flops(lambda: vae.encode(picture(2 * VIEW[0], 2 * VIEW[1])))
            official = full_size.flops(lambda: tokens(picture(*OFFICIAL_TOKENS)))
            ours = full_size.flops(lambda: tokens(picture(*OUR_TOKENS)))
    return {"official": (2 * canvas + view + official) / 1e12, "least": (VIEWS * view + ours) / 1e12}


def count(encoder: str) -> dict[str, float]:
    """TFLOP per canvas of the three ways, and their ratios to the cached one."""
    named = full_size.NAMED_ENCODERS[encoder]
    patches = 1 + (OUR_TOKENS[0] // named.patch) * (OUR_TOKENS[1] // named.patch)
    with torch.device("meta"):
        model = full_size.denoiser(SD_MODEL.model_copy(update={"token_patch": 4}), named.width)
    trained = full_size.training_flops(model, full_size.canvas_inputs(VIEW, patches, named.width)) / 1e12
    frozen = frozen_flops(encoder)
    return {
        "cached": round(trained, 4),
        **{name: round(trained + value, 4) for name, value in frozen.items()},
        "ratio": round((trained + frozen["official"]) / trained, 2),
        "ratio_least": round((trained + frozen["least"]) / trained, 2),
    }


def _seconds(step: Callable[[], object], device: torch.device) -> float:
    """The fastest of a few: CPU seconds of one thread, or seconds on the GPU."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    best = float("inf")
    for _ in range(REPEATS + 1):  # the first warms up
        started = clock()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, clock() - started)
    return best


class Step:
    """One training step on a batch of random pictures, with features from before or computed in it."""

    def __init__(
        self, model: IMAGPose, vae: AutoencoderKL, encoder: nn.Module, batch: int, token_size: tuple[int, int]
    ):
        self.model, self.vae, self.encoder = model, vae, encoder
        self.device = next(model.parameters()).device
        draws = np.random.default_rng(0)
        self.views = self._pictures(draws, batch * VIEWS, VIEW)
        self.references = self._pictures(draws, batch, token_size)
        self.cached = self.features()

    def _pictures(self, draws: np.random.Generator, count: int, size: tuple[int, int]) -> Tensor:
        return torch.from_numpy(draws.random((count, 3, *size), np.float32)).to(self.device)

    @torch.no_grad()
    def features(self) -> tuple[Tensor, Tensor]:
        """Latents (B * 4, C, h, w) and tokens (B, N, D), rounded as on disk."""
        latents = self.vae.encode(self.views * 2 - 1).latent_dist.mean * self.vae.config.scaling_factor
        return latents.half().float(), image_tokens(self.encoder, self.references).half().float()

    def __call__(self, latents: Tensor, tokens: Tensor) -> float:
        """Forward and backward; returns the loss."""
        views = latents.unflatten(0, (-1, VIEWS))
        canvas, seen = pack_views(views), torch.tensor([[1.0, 0, 0, 0]]).expand(len(views), VIEWS)
        mask = view_map(seen, *views.shape[3:]).to(self.device)
        skeletons = torch.zeros(len(views), 3, 2 * VIEW[0], 2 * VIEW[1], device=self.device)
        times = torch.full((len(views),), 500, device=self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            output = self.model(canvas, times, mask, canvas * mask, skeletons, tokens, views[:, 0])
        loss = (output.float() - canvas).square().mean()
        loss.backward()
        self.model.zero_grad(set_to_none=True)
        return float(loss.detach())


def measure(step: Step) -> dict[str, float | bool]:
    """Seconds of a step both ways, and whether the two losses agree."""
    cached = _seconds(lambda: step(*step.cached), step.device)
    computed = _seconds(lambda: step(*step.features()), step.device)
    same = abs(step(*step.cached) - step(*step.features())) < 1e-6
    return {
        "cached": round(cached, 4),
        "computed": round(computed, 4),
        "ratio": round(computed / cached, 2),
        "same_loss": same,
    }


def measured() -> dict[str, dict[str, float | bool]]:
    """`measure` of what this machine can run."""
    if torch.cuda.is_available():
        found = {}
        for name in ("dinov2-base", "dinov2-giant"):
            torch.manual_seed(0)
            with torch.device("cuda"):
                model = full_size.denoiser(
                    SD_MODEL.model_copy(update={"token_patch": 4}), full_size.NAMED_ENCODERS[name].width
                )
                parts = (full_size.stable_diffusion_vae().eval(), full_size.image_encoder(name).eval())
            found[f"Stable Diffusion 1.5, {name}, 16 canvases"] = measure(Step(model, *parts, 16, OUR_TOKENS))
            del model, parts
            torch.cuda.empty_cache()
        return found
    torch.set_num_threads(1)
    model = load_denoiser(BUILT_IN).train()
    parts = (load_vae(BUILT_IN / "vae"), load_image_encoder(BUILT_IN / "image_encoder"))
    return {"built-in tiny models, 8 canvases, CPU seconds": measure(Step(model, *parts, 8, VIEW))}


def main() -> int:
    """Count and measure; the last line is one JSON object."""
    counted = {name: count(name) for name in ("dinov2-giant", "dinov2-base")}
    for name, row in counted.items():
        print(
            f"{name}: TFLOP per canvas {row['official']:.3f} official, {row['least']:.3f} least, "
            f"{row['cached']:.3f} cached: {row['ratio']:.2f}x, {row['ratio_least']:.2f}x"
        )
    seconds = measured()
    giant, base = counted["dinov2-giant"], counted["dinov2-base"]
    figures = {
        "ratio": giant["ratio"],
        "ratio_dinov2_b": base["ratio"],
        "ratio_least": giant["ratio_least"],
        "ratio_least_dinov2_b": base["ratio_least"],
        "tflop_per_canvas": counted,
        "seconds": seconds,
        "checks": {
            "at least 3x with DINOv2-G": giant["ratio"] >= 3,
            "at least 1.7x with DINOv2-B": base["ratio"] >= 1.7,
            "same loss from cached and computed features": all(row["same_loss"] for row in seconds.values()),
        },
        "machine": machine("torch", "diffusers", "transformers"),
    }
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
