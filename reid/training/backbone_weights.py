"""Weights of a backbone from files: safetensors, PyTorch state dicts, and files that installed packages carry."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from datasets.runtime.arrays.tensor_files import read_state
from datasets.runtime.errors import WeightsError
from reid.training.pretrained import WeightsPackage

HEAD_NAMES = ("fc", "_fc", "classifier", "head")
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
    tensors = _without_prefix(read_state(path, unwrap=True))
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
    found = {name: tensor for name, tensor in read_state(path).items() if name.split(".")[0] not in HEAD_NAMES}
    shapes = [tuple(tensor.shape) for tensor in found.values()]
    expected = [tuple(tensor.shape) for tensor in own.values()]
    if shapes != expected:
        raise WeightsError(
            f"network.weights: {path} has {len(shapes)} tensors whose shapes are not those of {package.name}'s "
            f"{len(expected)}; is timm of another version?"
        )
    backbone.load_state_dict(dict(zip(own, found.values(), strict=True)))


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    if all(name.startswith(PARALLEL_PREFIX) for name in tensors):
        return {name.removeprefix(PARALLEL_PREFIX): tensor for name, tensor in tensors.items()}
    return tensors
