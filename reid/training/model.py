"""BoT's network: any backbone, pooled; a batch-normalization neck; a linear classifier.

Legend: B images, H, W pixels, D feature width, C identities.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from datasets.runtime.errors import InputError, WeightsError
from datasets.runtime.registry import load_name
from reid.config import NetworkConfig
from reid.training.backbones import LIBRARIES

logger = logging.getLogger(__name__)

HEAD_NAMES = ("fc", "classifier", "head")
BOT_RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
"""The networks of BoT's own ``modeling/backbones/resnet.py``."""


class ReidNetwork(nn.Module):
    """Backbone, neck and classifier.

    Args:
        backbone: module from (B, 3, H, W) to (B, D).
        width: D.
        classes: C.
        bnneck: whether test features and logits come after a batch normalization without shift (BoT trick 5).
    """

    def __init__(self, backbone: nn.Module, width: int, classes: int, *, bnneck: bool) -> None:
        super().__init__()
        self.width, self.classes = width, classes
        self.backbone = backbone
        self.neck: nn.Module = nn.Identity()
        if bnneck:
            self.neck = nn.BatchNorm1d(width)
            self.neck.bias.requires_grad_(False)
        self.classifier = nn.Linear(width, classes, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(feature before the neck (B, D), logits (B, C)) of normalized images (B, 3, H, W)."""
        features = self.backbone(images)
        return features, self.classifier(self.neck(features))

    def head_parameters(self) -> list[nn.Parameter]:
        """What neck and classifier learn."""
        return [*self.neck.parameters(), *self.classifier.parameters()]

    def embed(self, images: Tensor) -> Tensor:
        """Test features (B, D): after the neck."""
        return self.neck(self.backbone(images))


def seeded_backbone(config: NetworkConfig, seed: int) -> nn.Module:
    """The backbone; what is random in it depends on `seed` alone, and not on the number of identities.

    Raises:
        WeightsError: if the requested weights cannot be had.
        InputError: unknown backbone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_backbone(config)


def assemble_network(backbone: nn.Module, config: NetworkConfig, classes: int, seed: int) -> ReidNetwork:
    """Neck and classifier on a backbone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ReidNetwork(backbone, _feature_width(backbone, config), classes, bnneck=config.bnneck)


def build_backbone(config: NetworkConfig) -> nn.Module:
    """The backbone with its weights, first activation and last stride."""
    name = config.backbone
    library, colon, rest = name.partition(":")
    backbone: nn.Module
    if colon:
        if config.weights == "hub":
            raise WeightsError(
                f"network.weights 'hub' for {name}: only timm's weights are fetched (torchreid's are pickles on Google "
                "Drive); give a safetensors file, or 'none' to train from scratch"
            )
        backbone = load_name(LIBRARIES[library].build)(rest)
    else:
        backbone = _timm_backbone(name, from_hub=config.weights == "hub", size=(config.height, config.width))
    if isinstance(config.weights, Path):
        load_backbone_weights(backbone, config.weights)
    if not config.stem_relu and name.partition(".")[0] in BOT_RESNETS:
        backbone.act1 = nn.Identity()
    if config.last_stride == 1 and not set_last_stride_to_one(backbone):
        logger.info("network.last_stride: %s has no strided last stage, so it stays as it is", name)
    return backbone


def _timm_backbone(name: str, *, from_hub: bool, size: tuple[int, int]) -> nn.Module:
    if not timm.is_model(name):
        near = timm.list_models(f"*{name[:6]}*")[:5]
        raise InputError(f"network.backbone '{name}' is unknown to timm {timm.__version__}; near: {', '.join(near)}")
    try:
        return timm.create_model(name, pretrained=from_hub, num_classes=0)
    except Exception as error:  # whatever the hub client raises: offline, no such file, no weights
        if not from_hub:
            raise
        raise WeightsError(
            f"ImageNet weights of '{name}' cannot be had from the hub ({type(error).__name__}); give "
            "--network.weights FILE.safetensors, or --network.weights none to train from scratch"
        ) from error


def load_backbone_weights(backbone: nn.Module, path: Path) -> None:
    """Load a safetensors file into a backbone; only a classifier's tensors may be left over.

    Raises:
        WeightsError: if the file is missing, corrupt or of another architecture.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"network.weights {path} cannot be read as safetensors ({error})") from None
    try:
        missing, unexpected = backbone.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise WeightsError(f"network.weights {path} does not fit the backbone: {str(error).splitlines()[-1]}") from None
    unexpected = [name for name in unexpected if name.split(".")[0] not in HEAD_NAMES]
    if missing or unexpected:
        raise WeightsError(
            f"network.weights {path} is of another architecture: {len(missing)} tensors missing "
            f"({', '.join(missing[:2])}), {len(unexpected)} unknown ({', '.join(unexpected[:2])})"
        )


def set_last_stride_to_one(backbone: nn.Module) -> bool:
    """Stride 1 in the last stage, without dilation (BoT trick 4; timm's ``output_stride`` would dilate).

    Returns:
        whether there was a stride to change.
    """
    stages: Any = getattr(backbone, "feature_info", None)
    if not stages:
        return False
    stage = backbone.get_submodule(stages[-1]["module"])
    changed = False
    for parent in list(stage.modules()):
        for name, module in parent.named_children():
            if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
                module.stride = (1, 1)
                changed = True
            elif isinstance(module, nn.AvgPool2d) and module.stride in (2, (2, 2)):
                setattr(parent, name, nn.Identity())  # the shortcut's pooling in ResNet-D
                changed = True
    return changed


def _feature_width(backbone: nn.Module, config: NetworkConfig) -> int:
    """Width of the backbone's output, found by asking it (timm's `num_features` is wrong for a few).

    Raises:
        InputError: if the backbone cannot take images of this size.
    """
    backbone.eval()
    try:
        with torch.no_grad():
            output = backbone(torch.zeros(1, 3, config.height, config.width))
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"network.backbone '{config.backbone}' cannot take {config.height}x{config.width} images: {error}"
        ) from None
    finally:
        backbone.train()
    return output.shape[1]
