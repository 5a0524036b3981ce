"""How a network is computed on the processor at hand: memory layout, compilation, precision.

The rules are those of `python -m benchmarks reid_training` (docs/benchmark.md has its figures). They depend on nothing
but processor, network and number of steps, so that an interrupted run goes on exactly as it began.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from datasets.runtime import devices
from datasets.runtime.training.compilation import CompiledOrPlain, can_compile
from reid.config import TrainReidSettings

STEPS_WORTH_COMPILING = 500
"""On a CPU compilation takes half a minute to a minute, and saves a quarter to half a second a step."""


def memory_format(config: TrainReidSettings) -> torch.memory_format:
    """Channels-last unless the settings say otherwise: never slower in what was measured, on CPUs and GPUs."""
    return torch.channels_last if config.channels_last else torch.contiguous_format


def precision_of(config: TrainReidSettings, backbone: nn.Module, device: torch.device) -> str:
    """'fp32' or 'bf16'; 'auto' is bf16 where the processor multiplies matrices in it faster than in float32.

    On CPUs that takes AMX: AVX512-BF16 alone is slower than float32, and so are depthwise convolutions even with AMX.
    """
    if config.precision != "auto":
        return config.precision
    if device.type == "cuda":
        return "bf16" if devices.multiplies_bfloat16() else "fp32"
    return "bf16" if torch.cpu._is_amx_tile_supported() and not is_depthwise(backbone) else "fp32"


def is_depthwise(backbone: nn.Module) -> bool:
    """Whether the network has depthwise convolutions: bound by memory, which fusing what lies between them relieves."""
    convolutions = (module for module in backbone.modules() if isinstance(module, nn.Conv2d))
    return any(conv.groups > 1 and conv.groups == conv.in_channels for conv in convolutions)


def runnable(
    config: TrainReidSettings, backbone: nn.Module, device: torch.device, steps: int
) -> Callable[[Tensor], Tensor]:
    """The backbone as the training loop calls it: compiled if the settings say so, or if it pays and can be done."""
    if config.compile:
        return torch.compile(backbone)
    pays = device.type == "cpu" and steps >= STEPS_WORTH_COMPILING and is_depthwise(backbone)
    if config.compile is None and pays and can_compile():
        return CompiledOrPlain(backbone, "training", "; --no-compile leaves it as it is")
    return backbone
