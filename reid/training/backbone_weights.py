"""Weights of a backbone from files: safetensors, PyTorch state dicts, and files that installed packages carry."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from datasets.runtime.errors import WeightsError
from reid.training.pretrained import WeightsPackage

HEAD_NAMES = ("fc", "_fc", "classifier", "head")
PICKLE_SUFFIXES = (".pth", ".pt", ".bin")
WRAPPERS = ("state_dict", "model", "model_state_dict", "net")
"""Keys under which training scripts save a state dict beside other things."""
PARALLEL_PREFIX = "module."
"""What `torch.nn.DataParallel` puts before every name."""


def load_backbone_weights(backbone: nn.Module, path: Path) -> None:
    """Load a file into a backbone; only a classifier's tensors may be left over.

    Args:
        backbone: filled in place.
        path: safetensors, or a PyTorch state dict (``.pth``, ``.pt``, ``.bin``), of which only tensors are read.

    Raises:
        WeightsError: if the file is missing, corrupt or of another architecture.
    """
    tensors = _without_prefix(read_tensors(path))
    try:
        missing, unexpected = backbone.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise WeightsError(f"network.weights {path} does not fit the backbone: {str(error).splitlines()[-1]}") from None
    unexpected = [name for name in unexpected if name.split(".")[0] not in HEAD_NAMES]
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]  # files before PyTorch 0.4.1
    if missing or unexpected:
        raise WeightsError(
            f"network.weights {path} is of another architecture: {len(missing)} tensors missing "
            f"({', '.join(missing[:2])}), {len(unexpected)} unknown ({', '.join(unexpected[:2])})"
        )


def load_package_weights(backbone: nn.Module, package: WeightsPackage) -> None:
    """Load an installed package's file, whose tensors come in the backbone's order under other names.

    Raises:
        WeightsError: not installed, another file, or a backbone whose tensors have other shapes.
    """
    path = package.find()
    own = backbone.state_dict()
    found = {name: tensor for name, tensor in read_tensors(path).items() if name.split(".")[0] not in HEAD_NAMES}
    shapes = [tuple(tensor.shape) for tensor in found.values()]
    expected = [tuple(tensor.shape) for tensor in own.values()]
    if shapes != expected:
        raise WeightsError(
            f"network.weights: {path} has {len(shapes)} tensors whose shapes are not those of {package.name}'s "
            f"{len(expected)}; is timm of another version?"
        )
    backbone.load_state_dict(dict(zip(own, found.values(), strict=True)))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file, by name; of a pickle nothing but tensors and plain containers is admitted.

    Raises:
        WeightsError: it cannot be read, or holds no tensors.
    """
    try:
        if path.suffix not in PICKLE_SUFFIXES:
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251 - tensors alone
    except SafetensorError as error:
        raise WeightsError(
            f"network.weights {path} cannot be read as safetensors ({error}); a PyTorch state dict must end in .pth"
        ) from None
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).split("\n", 1)[0][:200]
        raise WeightsError(f"network.weights {path} cannot be read as a state dict of tensors ({reason})") from None
    return _state_dict_in(content, path)


def _state_dict_in(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict that a loaded pickle is, or holds under one of `WRAPPERS`."""
    candidates = [content, *(content[key] for key in WRAPPERS if isinstance(content, Mapping) and key in content)]
    for candidate in candidates:
        if isinstance(candidate, Mapping) and candidate and all(isinstance(v, Tensor) for v in candidate.values()):
            return dict(candidate)
    raise WeightsError(f"network.weights {path} holds no state dict (names with tensors), also not under {WRAPPERS}")


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    if all(name.startswith(PARALLEL_PREFIX) for name in tensors):
        return {name.removeprefix(PARALLEL_PREFIX): tensor for name, tensor in tensors.items()}
    return tensors
