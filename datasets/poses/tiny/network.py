"""A small convolutional network of OpenPose's kind: heat maps and part affinity fields of one person crop.

A U-Net of 3x3 convolutions: the coarsest level (stride 16) sees the whole person, which is needed to tell left from
right, and the maps have stride 4. Batch normalization is for training only; a saved network has it folded into the
convolutions. `B` batch, `H, W` pixels of the network's input, `h, w = H / 4, W / 4` cells.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from datasets.poses.skeleton import JOINT_COUNT
from datasets.poses.tiny.targets import FIELD_COUNT, STRIDE
from datasets.runtime.config import Config
from datasets.runtime.errors import WeightsError
from datasets.runtime.reading.json_values import read_object

WEIGHTS_FILE = "weights.safetensors"
CONFIG_FILE = "config.json"
COARSEST_STRIDE = 16


class PoseNetworkConfig(Config):
    """Shape of a network; saved beside its weights."""

    height: int = Field(128, ge=32, multiple_of=COARSEST_STRIDE)
    """Height in pixels to which images are resized."""
    width: int = Field(64, ge=16, multiple_of=COARSEST_STRIDE)
    """Width in pixels to which images are resized."""
    channels: tuple[int, int, int, int] = (16, 24, 64, 128)
    """Channels at strides 2, 4, 8 and 16."""
    coarse_channels: int = Field(112, ge=1)
    """Channels inside the two residual blocks at stride 16."""
    head_channels: int = Field(48, ge=1)
    """Channels that the maps are read from."""


def _convolution(inputs: int, outputs: int, stride: int = 1, *, active: bool = True) -> nn.Sequential:
    layers = [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *([nn.ReLU()] if active else []))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions added to their input."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.first = _convolution(channels, inner)
        self.second = _convolution(inner, channels, active=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape."""
        return F.relu(x + self.second(self.first(x)))


class TinyPoseNetwork(nn.Module):
    """Maps of a crop: (B, 3, H, W) in [0, 1] -> logits of the heat maps (B, 18, h, w), fields (B, 38, h, w)."""

    def __init__(self, config: PoseNetworkConfig) -> None:
        super().__init__()
        self.config = config
        half, fine, middle, coarse = config.channels
        self.stem = nn.Sequential(_convolution(3, half, 2), _convolution(half, fine, 2))
        self.fine = ResidualBlock(fine, fine)
        self.to_middle = _convolution(fine, middle, 2)
        self.middle = ResidualBlock(middle, middle)
        self.to_coarse = _convolution(middle, coarse, 2)
        self.coarse = nn.Sequential(*(ResidualBlock(coarse, config.coarse_channels) for _ in range(2)))
        self.from_coarse = nn.Conv2d(coarse, middle, 1)
        self.joined_middle = _convolution(middle, middle)
        self.from_middle = nn.Conv2d(middle, fine, 1)
        self.joined_fine = _convolution(fine, config.head_channels)
        self.head = nn.Conv2d(config.head_channels, JOINT_COUNT + FIELD_COUNT, 1)
        nn.init.zeros_(self.head.weight)
        assert self.head.bias is not None  # made with one
        nn.init.constant_(self.head.bias[:JOINT_COUNT], -4.0)  # almost every cell is empty

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the heat maps and the part affinity fields, in OpenPose's order of joints and limbs."""
        fine = self.fine(self.stem(pixels * 4 - 2))
        middle = self.middle(self.to_middle(fine))
        coarse = self.coarse(self.to_coarse(middle))
        middle = self.joined_middle(middle + F.interpolate(self.from_coarse(coarse), scale_factor=2.0))
        fine = self.joined_fine(fine + F.interpolate(self.from_middle(middle), scale_factor=2.0))
        maps = self.head(fine)
        return maps[:, :JOINT_COUNT], maps[:, JOINT_COUNT:]

    @property
    def map_size(self) -> tuple[int, int]:
        """Rows and columns of the maps."""
        return self.config.height // STRIDE, self.config.width // STRIDE


def fold_normalization(network: TinyPoseNetwork) -> TinyPoseNetwork:
    """A copy for inference with every batch normalization folded into its convolution; equal up to rounding."""
    folded = TinyPoseNetwork(network.config)
    folded.load_state_dict(network.state_dict())
    folded.eval().requires_grad_(False)
    _fold(folded)
    return folded


def _fold(module: nn.Module) -> None:
    for name, child in module.named_children():
        layers = list(child) if isinstance(child, nn.Sequential) else []
        if len(layers) > 1 and isinstance(layers[0], nn.Conv2d) and isinstance(layers[1], nn.BatchNorm2d):
            setattr(module, name, nn.Sequential(fuse_conv_bn_eval(layers[0], layers[1]), *layers[2:]))
        elif isinstance(child, nn.Sequential) or list(child.children()):
            _fold(child)


def save_network(network: TinyPoseNetwork, folder: Path, facts: Mapping[str, Any]) -> None:
    """Write a folder with float16 weights, normalization folded in, and ``config.json``.

    Args:
        facts: facts about the training for config.json, as JSON values.
    """
    tensors = {name: value.half().contiguous() for name, value in fold_normalization(network).state_dict().items()}
    save_file(tensors, folder / WEIGHTS_FILE)
    content = {"network": network.config.model_dump(mode="json"), "training": dict(facts)}
    (folder / CONFIG_FILE).write_text(json.dumps(content, indent=1) + "\n")


def read_facts(folder: Path) -> dict[str, Any]:
    """What config.json says of a saved network's training."""
    return json.loads((folder / CONFIG_FILE).read_text())["training"]


def load_network(weights: Path) -> TinyPoseNetwork:
    """A network for inference from the ``weights.safetensors`` that `save_network` wrote; float32, channels last.

    Its config.json must be in the same folder.

    Raises:
        WeightsError: files missing, truncated or of another network.
    """
    weights = Path(weights)
    beside = weights.with_name(CONFIG_FILE)
    for file in (weights, beside):
        if not file.is_file():
            raise WeightsError(f"{file} is not a file; give the {WEIGHTS_FILE} in a folder that train-pose made")
    try:
        config = PoseNetworkConfig.model_validate(read_object(beside)["network"])
        tensors = load_file(weights)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(
            f"{weights} is no network of train-pose ({reason}); train it again or copy it anew"
        ) from None
    network = TinyPoseNetwork(config).eval().requires_grad_(False)
    _fold(network)
    try:
        network.load_state_dict({name: value.float() for name, value in tensors.items()}, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{weights} holds the weights of another network ({reason})") from None
    return network.to(memory_format=torch.channels_last)
