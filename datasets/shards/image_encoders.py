"""Image encoders by name: those of the paper's Table 3 that are published for transformers, and what each one needs.

A config may give a name instead of a folder: ``--image-encoder dinov2-large`` means ``weights/dinov2-large``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator

from datasets.runtime.config import Role

WEIGHTS = Path("weights")
"""Where weights that are given by name are looked for, below the folder that one works in."""


@dataclass(frozen=True, kw_only=True)
class NamedEncoder:
    """One published vision transformer (its vision half, for CLIP)."""

    repository: str
    """On the Hugging Face hub."""
    kind: str
    """transformers class."""
    width: int
    """Width of its tokens."""
    layers: int
    heads: int
    patch: int
    """Side of a patch in pixels; picture sides must be multiples of it."""
    mlp_width: int
    """Width inside the feed-forward layers."""
    gated: bool = False
    """Whether the feed-forward layers are SwiGLU (DINOv2-G)."""

    def download(self, folder: Path) -> str:
        """The command that gets it."""
        return f"hf download {self.repository} --local-dir {folder}"


NAMED_ENCODERS = {
    "dinov2-base": NamedEncoder(
        repository="facebook/dinov2-base", kind="Dinov2Model", width=768, layers=12, heads=12, patch=14, mlp_width=3072
    ),
    "dinov2-large": NamedEncoder(
        repository="facebook/dinov2-large",
        kind="Dinov2Model",
        width=1024,
        layers=24,
        heads=16,
        patch=14,
        mlp_width=4096,
    ),
    "dinov2-giant": NamedEncoder(
        repository="facebook/dinov2-giant",
        kind="Dinov2Model",
        width=1536,
        layers=40,
        heads=24,
        patch=14,
        mlp_width=4096,
        gated=True,
    ),
    "clip-base": NamedEncoder(
        repository="openai/clip-vit-base-patch16",
        kind="CLIPVisionModel",
        width=768,
        layers=12,
        heads=12,
        patch=16,
        mlp_width=3072,
    ),
    "clip-huge": NamedEncoder(
        repository="laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        kind="CLIPVisionModel",
        width=1280,
        layers=32,
        heads=16,
        patch=14,
        mlp_width=5120,
    ),
    "clip-bigg": NamedEncoder(
        repository="laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
        kind="CLIPVisionModel",
        width=1664,
        layers=48,
        heads=16,
        patch=14,
        mlp_width=8192,
    ),
}
"""Table 3's encoders. Its "CLIP-B/14" was never published; B/16 stands for it."""


def folder_of(value: object) -> object:
    """A named encoder's folder; anything else as it is."""
    return WEIGHTS / value if isinstance(value, str) and value in NAMED_ENCODERS and not Path(value).is_dir() else value


def how_to_get(folder: Path) -> str:
    """The end of an error message: the command that fills a named encoder's folder, or what else to give."""
    named = NAMED_ENCODERS.get(folder.name)
    if named is not None:
        return f"get it by '{named.download(folder)}'"
    return f"give the folder of a saved model, or one of {', '.join(NAMED_ENCODERS)}"


EncoderFolder = Annotated[Path, Role.MODEL, BeforeValidator(folder_of)]
"""A config's image encoder: a saved model's folder, or a name of `NAMED_ENCODERS`."""
