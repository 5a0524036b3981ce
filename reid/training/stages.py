"""Parts of a backbone: its last downsampling (BoT trick 4 gives it stride 1), and its first stages."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from datasets.runtime.errors import InputError

LAST_REDUCTION = 32
"""Networks of fewer pixels per cell have fine enough a last map already (OSNet ends at 1/16)."""


def set_last_stride_to_one(backbone: nn.Module, size: tuple[int, int]) -> bool:
    """Turn every stride of 2 that makes the last feature map into 1, without dilation (timm's ``output_stride`` would).

    In a ResNet these are a convolution and its shortcut in the last stage; in inverted-residual networks a depthwise
    convolution of the last stage but one. Which ones they are is measured: their output is as small as the last map,
    their input twice as large. Patch embeddings (kernel = stride) stay: without their stride they would overlap.

    Args:
        backbone: changed in place; unchanged where the result could not run.
        size: height and width of the network's input, pixels.

    Returns:
        whether there was a stride to change.
    """
    seen = _strided_modules(backbone, size)
    if not seen:
        return False
    last = min(output for _, _, output in seen)
    if last[0] > -(-size[0] // LAST_REDUCTION):
        return False
    found = [(name, module) for name, module, output in seen if output == last]
    changed = [(name, _with_stride_one(module)) for name, module in found]
    if any(replacement is None for _, replacement in changed):
        return False
    for name, replacement in changed:
        _replace(backbone, name, replacement)
    if _runs(backbone, size):
        return True
    for name, module in found:
        _replace(backbone, name, module)
    return False


def first_stages(backbone: nn.Module, count: int) -> list[nn.Module]:
    """The layers of a backbone's first `count` stages and of the stem before them, in order.

    Raises:
        InputError: the backbone does not tell its stages, or has no more than so many.
    """
    if count == 0:
        return []
    declared: Any = getattr(backbone, "feature_info", None) or []
    stages = [stage["module"] for stage in declared]
    if count >= len(stages):
        raise InputError(
            f"network.frozen_stages {count}: the backbone tells {len(stages)} stages (timm's feature_info), "
            "of which at least the last must learn"
        )
    last, modules = stages[count - 1], list(backbone.named_modules())
    # A stage may end with a module without weights: a ResNet's first is its first activation.
    end = max(i for i, (name, _) in enumerate(modules) if name == last or name.startswith(f"{last}."))
    # timm's normalization layers have activations as children, so a layer is what holds weights of its own.
    return [module for _, module in modules[: end + 1] if list(module.parameters(recurse=False))]


def _strided_modules(backbone: nn.Module, size: tuple[int, int]) -> list[tuple[str, nn.Module, tuple[int, int]]]:
    """(name, module, (height, width) of its output) of every convolution and pooling that halves its input."""
    seen: list[tuple[str, nn.Module, tuple[int, int]]] = []

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            before, after = inputs[0].shape[-2:], output.shape[-2:]
            if all(small == -(-large // 2) for small, large in zip(after, before, strict=True)):
                seen.append((name, module, (after[0], after[1])))

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in _halving(backbone)]
    _runs(backbone, size)
    for handle in handles:
        handle.remove()
    return seen


def _halving(backbone: nn.Module) -> list[tuple[str, Any]]:
    return [
        (name, module)
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Conv2d | nn.AvgPool2d | nn.MaxPool2d) and module.stride in (2, (2, 2))
    ]


def _with_stride_one(module: Any) -> nn.Module | None:
    """A copy that keeps its input's size (it shares the weights); None where there is none."""
    if isinstance(module, nn.AvgPool2d):
        return nn.Identity()  # the shortcut's pooling in ResNet-D, the transition in DenseNet
    if module.kernel_size in (2, (2, 2)):
        return None
    replacement = copy.copy(module)
    replacement.stride = (1, 1) if isinstance(module, nn.Conv2d) else 1
    return replacement


def _replace(backbone: nn.Module, name: str, module: nn.Module | None) -> None:
    parent, _, child = name.rpartition(".")
    setattr(backbone.get_submodule(parent), child, module)


def _runs(backbone: nn.Module, size: tuple[int, int]) -> bool:
    """Whether one image passes; statistics and mode of the backbone stay as they are."""
    training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad():
            backbone(torch.zeros(1, 3, *size))
    except (RuntimeError, AssertionError):
        return False  # the size that it cannot take is reported where its width is found
    finally:
        backbone.train(training)
    return True
