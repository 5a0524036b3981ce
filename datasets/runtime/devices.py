"""The device that a setting names, and the arithmetic on it."""

from __future__ import annotations

import torch

from datasets.runtime.errors import InputError

KNOWN = "use 'auto', 'cpu', 'cuda' or 'cuda:N'"


def pick(name: str) -> torch.device:
    """The device that a config names; 'auto' is the GPU where there is one.

    On a CPU, numbers below 1.2e-38 count as zero in this process from here on (`torch.set_flush_denormal`; threads that
    torch starts later inherit it). Some weights of a trained network decay to such numbers, and an x86 processor is
    slow with them: without this a step that starts from a pretrained re-ID network takes half as long again.

    Args:
        name: 'auto', 'cpu', 'cuda' or 'cuda:N'.

    Raises:
        InputError: there is no such device on this machine.
    """
    device = _named(name)
    if device.type == "cpu":
        torch.set_flush_denormal(True)
    return device


def _named(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device '{name}' is unknown; {KNOWN}") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device '{name}' is not supported; {KNOWN}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device '{name}': this machine has no usable GPU; use 'cpu' or 'auto'")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise InputError(f"device '{name}': this machine's GPUs are cuda:0 to cuda:{last}; name one of them")
    return device


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which a model computes at a config's precision: bfloat16 for 'bf16', nothing changed for 'fp32'.

    Weights, their gradients and the optimizer's state stay float32.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def multiplies_bfloat16() -> bool:
    """Whether the present GPU has arithmetic for bfloat16; older ones than Ampere emulate it, slower than float32."""
    return torch.cuda.is_bf16_supported(including_emulation=False)
