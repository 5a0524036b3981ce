"""Memory and time that training and synthesis cost at each preset that needs a GPU: computed, not measured.

Floating-point operations and the bytes kept for the backward pass are counted on tensors without content, at the
presets' own sizes. Seconds are those operations at `SUSTAINED` of a GPU's dense bfloat16 peak: an assumption, printed
with the result. Memory is per GPU: weights, gradients, AdamW's moments and EMA weights in float32 (every process
holds all of them), the bfloat16 copies of autocast, and the activations of its share of the batch; what cuDNN and the
allocator take comes on top.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks import full_size
from benchmarks.machine import machine
from flows.presets import PRESETS
from flows.settings import RegenerateSettings
from imagpose.canvas.view_grid import VIEWS
from imagpose.config import SD_MODEL

GPUS = {"A100 80 GB": 312.0, "H100 80 GB": 989.0, "RTX 4090 24 GB": 165.0}
"""Dense bfloat16 peak with float32 accumulation in TFLOP/s, by the makers' data sheets."""
SUSTAINED = 0.4
ENCODER = "dinov2-base"
PICTURES = VIEWS - 1
GIB = 2**30
FLOAT32_COPIES = 5
"""Weights, gradients, two moments, EMA weights."""


def saved_bytes(model: nn.Module, inputs: dict[str, Tensor]) -> int:
    """Bytes that a forward pass under bfloat16 autocast keeps for the backward one, the parameters not counted."""
    storages = {}
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            storages[storage._cdata] = storage  # held, so that no other takes its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        output = model(**inputs)
    found = sum(storage.nbytes() for storage in storages.values())
    del output
    return found


def activations(config: RegenerateSettings, view: tuple[int, int], tokens: int) -> tuple[float, float]:
    """GiB that are kept once (bfloat16 copies of the weights), and for each canvas."""
    width = full_size.NAMED_ENCODERS[ENCODER].width
    with FakeTensorMode():
        model = full_size.denoiser(config.train.model, width)
        sizes = []
        for canvases in (1, 2):
            inputs = full_size.canvas_inputs(view, tokens, width, device="cpu")
            batch = {name: value.repeat(canvases, *[1] * (value.ndim - 1)) for name, value in inputs.items()}
            sizes.append(saved_bytes(model, batch))
    each = sizes[1] - sizes[0]
    return (sizes[0] - each) / GIB, each / GIB


def costs(name: str) -> dict[str, Any]:
    """One preset's row."""
    config = PRESETS[name].build()
    encode, train, synthesize = config.encode, config.train, config.synthesize
    view = (encode.view_height, encode.view_width)
    patch, width = full_size.NAMED_ENCODERS[ENCODER].patch, full_size.NAMED_ENCODERS[ENCODER].width
    tokens = 1 + (encode.token_height // patch) * (encode.token_width // patch)
    with torch.device("meta"):
        model = full_size.denoiser(train.model, width)
    inputs = full_size.canvas_inputs(view, tokens, width)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    training = full_size.training_flops(model, inputs) / 1e12
    with torch.no_grad():
        forward = full_size.flops(lambda: model(**inputs)) / 1e12
    once, each = activations(config, view, tokens)
    fixed = FLOAT32_COPIES * 4 * parameters / GIB + once
    picture = forward * synthesize.steps * 2 / PICTURES  # twice: guidance
    return {
        "preset": name,
        "view": f"{view[0]}x{view[1]}",
        "parameters_m": round(parameters / 1e6, 1),
        "batch": train.batch_size,
        "tflop_per_canvas": round(training, 3),
        "fixed_gib": round(fixed, 1),
        "gib_per_canvas": round(each, 2),
        "gib_one_gpu": round(fixed + each * train.batch_size, 1),
        "gib_each_of_8": round(fixed + each * train.batch_size / 8, 1),
        "gib_smallest": round(fixed + each, 1),
        "seconds_per_step": {
            gpu: round(training * train.batch_size / (peak * SUSTAINED), 3) for gpu, peak in GPUS.items()
        },
        "hours_for_all_steps": {
            gpu: round(training * train.batch_size * train.steps / (peak * SUSTAINED) / 3600, 1)
            for gpu, peak in GPUS.items()
        },
        "tflop_per_synthetic_image": round(picture, 3),
        "synthetic_images_per_s": {gpu: round(peak * SUSTAINED / picture, 1) for gpu, peak in GPUS.items()},
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as tables for docs/presets.md."""
    memory = [
        f"| `{r['preset']}` | {r['view']} | {r['batch']} | {r['fixed_gib']} | {r['gib_per_canvas']} | "
        f"{r['gib_one_gpu']} | {r['gib_each_of_8']} | {r['gib_smallest']} |"
        for r in rows
    ]
    speed = [
        f"| `{r['preset']}` | {r['tflop_per_canvas']} | "
        + " | ".join(f"{r['seconds_per_step'][gpu]} s, {r['hours_for_all_steps'][gpu]} h" for gpu in GPUS)
        + f" | {r['tflop_per_synthetic_image']} | {r['synthetic_images_per_s']['A100 80 GB']} |"
        for r in rows
    ]
    return "\n".join(
        [
            "| preset | view | batch | fixed GiB | GiB per canvas | one GPU | each of 8 | one canvas at a time |",
            "|---|---|---|---|---|---|---|---|",
            *memory,
            "",
            "| preset | TFLOP per canvas | " + " | ".join(GPUS) + " | TFLOP per synthetic image | images/s, A100 |",
            "|---|---|" + "---|" * len(GPUS) + "---|---|",
            *speed,
        ]
    )


def main() -> int:
    """Print the tables; the last line is one JSON object."""
    names = [name for name in PRESETS if PRESETS[name].build().train.model.channels == SD_MODEL.channels]
    rows = [costs(name) for name in names]
    print(markdown(rows))
    print(
        json.dumps(
            {
                "computed": True,
                "sustained_share": SUSTAINED,
                "peaks_tflops": GPUS,
                "presets": rows,
                "machine": machine("torch", "diffusers"),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
