"""Memory and time that training and synthesis cost at each preset that needs a GPU: computed; and measured.

Floating-point operations and the bytes kept for the backward pass are counted on tensors without content, at the
presets' own sizes. Seconds are those operations at `SUSTAINED` of a GPU's dense bfloat16 peak: an assumption, printed
with the result. Memory is per GPU: weights, gradients, AdamW's moments and EMA weights in float32 (every process
holds all of them), the bfloat16 copies of autocast, and the activations of its share of the batch; what cuDNN and the
allocator take comes on top.

`benchmarks.preset_steps` measures memory and seconds of a step beside them: on a GPU of these presets, on a CPU of the
one whose models are in the repository. COSTS=computed leaves that out, COSTS=measured the other presets.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks import full_size
from benchmarks.machine import machine
from benchmarks.preset_steps import GIB, PresetNetwork, is_full_size, preset_network, say_measured
from datasets.runtime import devices
from flows.presets import PRESETS
from imagpose.canvas.view_grid import VIEWS

GPUS = {"A100 80 GB": 312.0, "H100 80 GB": 989.0, "RTX 4090 24 GB": 165.0}
"""Dense bfloat16 peak with float32 accumulation in TFLOP/s, by the makers' data sheets."""
PEAKS = {"A100": 312.0, "H100": 989.0, "H200": 989.0, "4090": 165.0}
"""The same by a part of the name that CUDA gives a card."""
SUSTAINED = 0.4
PICTURES = VIEWS - 1
FLOAT32_COPIES = 5
"""Weights, gradients, two moments, EMA weights."""


def saved_bytes(model: nn.Module, inputs: dict[str, Tensor], precision: str) -> int:
    """Bytes that a forward pass keeps for the backward one, the parameters not counted; 'bf16': under autocast."""
    storages = {}
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            storages[storage._cdata] = storage  # held, so that no other takes its address
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        devices.autocast(torch.device("cpu"), precision),
    ):
        output = model(**inputs)
    found = sum(storage.nbytes() for storage in storages.values())
    del output
    return found


def activations(network: PresetNetwork) -> tuple[float, float]:
    """GiB that are kept once (bfloat16 copies of the weights), and for each canvas."""
    with FakeTensorMode():
        model = network.build()
        sizes = []
        for canvases in (1, 2):
            inputs = _inputs(network, device="cpu")
            batch = {name: value.repeat(canvases, *[1] * (value.ndim - 1)) for name, value in inputs.items()}
            sizes.append(saved_bytes(model, batch, network.config.train.precision))
    each = sizes[1] - sizes[0]
    return (sizes[0] - each) / GIB, each / GIB


def _inputs(network: PresetNetwork, device: str = "meta") -> dict[str, Tensor]:
    return full_size.canvas_inputs(network.view, network.tokens, network.token_width, device, network.stride)


@functools.cache
def costs(name: str) -> dict[str, Any]:
    """One preset's row."""
    network = preset_network(name)
    train, synthesize = network.config.train, network.config.synthesize
    with torch.device("meta"):
        model = network.build()
    inputs = _inputs(network)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    training = full_size.training_flops(model, inputs) / 1e12
    with torch.no_grad():
        forward = full_size.flops(lambda: model(**inputs)) / 1e12
    once, each = activations(network)
    fixed = FLOAT32_COPIES * 4 * parameters / GIB + once
    picture = forward * synthesize.steps * 2 / PICTURES  # twice: guidance
    return {
        "preset": name,
        "view": "{}x{}".format(*network.view),
        "parameters_m": round(parameters / 1e6, 1),
        "batch": train.batch_size,
        "tflop_per_canvas": round(training, 6),
        "fixed_gib": round(fixed, 3),
        "gib_per_canvas": round(each, 5),
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
        f"| `{r['preset']}` | {r['view']} | {r['batch']} | {r['fixed_gib']:.1f} | {r['gib_per_canvas']:.2f} | "
        f"{r['gib_one_gpu']} | {r['gib_each_of_8']} | {r['gib_smallest']} |"
        for r in rows
    ]
    speed = [
        f"| `{r['preset']}` | {r['tflop_per_canvas']:.3f} | "
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
    wanted = os.environ.get("COSTS", "measured computed").split()
    found = say_measured(costs, PEAKS, SUSTAINED) if "measured" in wanted else None
    rows = [costs(name) for name in PRESETS if is_full_size(PRESETS[name].build())] if "computed" in wanted else []
    if rows:
        print(f"\ncomputed\n\n{markdown(rows)}")
    print(
        json.dumps(
            {
                "sustained_share": SUSTAINED,
                "peaks_tflops": GPUS,
                "presets": rows,
                "measured": found,
                "machine": machine("torch", "diffusers"),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
