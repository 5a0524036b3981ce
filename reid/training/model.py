"""BoT's network: any backbone, pooled; a batch-normalization neck; a linear classifier.

Legend: B images, H, W pixels, D feature width, C identities.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from datasets.runtime.errors import InputError, WeightsError
from datasets.runtime.registry import load_name
from reid.config import NetworkConfig
from reid.training.backbone_weights import load_backbone_weights, load_package_weights
from reid.training.backbones import LIBRARIES
from reid.training.pretrained import IMAGENET, PACKAGE, Normalization, weights_package
from reid.training.stages import first_stages, set_last_stride_to_one

logger = logging.getLogger(__name__)

NORMALIZATION = "normalization"
"""Key in the header of a saved network's file."""
BOT_RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
"""The networks of BoT's own ``modeling/backbones/resnet.py``."""


class ReidNetwork(nn.Module):
    """Backbone, neck and classifier.

    Args:
        backbone: module from (B, 3, H, W) to (B, D).
        width: D.
        classes: C.
        bnneck: whether test features and logits come after a batch normalization without shift (BoT trick 5).
        normalization: how images become the backbone's input.
    """

    def __init__(
        self, backbone: nn.Module, width: int, classes: int, *, bnneck: bool, normalization: Normalization = IMAGENET
    ) -> None:
        super().__init__()
        self.width, self.classes, self.normalization = width, classes, normalization
        self.backbone = backbone
        self.frozen: list[nn.Module] = []
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

    def freeze(self, modules: list[nn.Module]) -> None:
        """Keep weights and statistics of these parts of the backbone as they are."""
        self.frozen = modules
        for module in modules:
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> ReidNetwork:
        """As of any module; what is frozen keeps its statistics."""
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

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
        network = ReidNetwork(
            backbone,
            _feature_width(backbone, config),
            classes,
            bnneck=config.bnneck,
            normalization=normalization_of(config, backbone),
        )
    network.freeze(first_stages(backbone, config.frozen_stages))
    return network


def normalization_of(config: NetworkConfig, backbone: nn.Module) -> Normalization:
    """What the backbone's weights were trained with: the package's, else timm's ``default_cfg``; ImageNet's for others.

    Networks from nothing and torchreid's have ImageNet's.
    """
    if config.weights == PACKAGE:
        return weights_package(config.backbone).normalization
    declared: Any = getattr(backbone, "default_cfg", None)
    if config.weights == "none" or not declared:
        return IMAGENET
    return Normalization(mean=tuple(declared["mean"]), std=tuple(declared["std"]))


def read_normalization(metadata: dict[str, str] | None) -> Normalization:
    """From the header of a saved network; files of earlier versions have none, and were all trained with ImageNet's."""
    if not metadata or NORMALIZATION not in metadata:
        return IMAGENET
    fields = json.loads(metadata[NORMALIZATION])
    return Normalization(mean=tuple(fields["mean"]), std=tuple(fields["std"]))


def build_backbone(config: NetworkConfig) -> nn.Module:
    """The backbone with its weights, first activation and last stride."""
    name = config.backbone
    package = weights_package(name) if config.weights == PACKAGE else None
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
    elif package is not None:
        load_package_weights(backbone, package)
    if not config.stem_relu and name.partition(".")[0] in BOT_RESNETS:
        backbone.act1 = nn.Identity()
    if config.last_stride == 1 and not set_last_stride_to_one(backbone, (config.height, config.width)):
        logger.info("network.last_stride: %s has no last stride of 2 that could be 1, so it stays as it is", name)
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
