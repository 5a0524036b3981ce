"""Image encoders: the kinds that can be read, and by name those of the paper's Table 3 that are published. Torch-free.

A config may give a name instead of a folder: ``--image-encoder dinov2-large`` means ``weights/dinov2-large``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator

from datasets.runtime.config import ModelFolder
from datasets.runtime.errors import WeightsError
from datasets.runtime.reading.json_values import read_object
from datasets.runtime.registry import Registry

WEIGHTS = Path("weights")
"""Where weights that are given by name are looked for, below the folder that one works in."""


@dataclass(frozen=True, kw_only=True)
class EncoderKind:
    """A transformers class whose models can be image encoders."""

    name: str
    """The class."""
    model_types: tuple[str, ...]
    """`model_type` in the config.json of models that it reads."""
    mean: tuple[float, float, float]
    """Mean of RGB in [0, 1] that its models were trained with."""
    std: tuple[float, float, float]
    """Standard deviation likewise."""
    options: Mapping[str, object] = field(default_factory=dict)
    """Further arguments of a call, for pictures of another shape than in pretraining."""


DINOV2 = EncoderKind(
    name="Dinov2Model",
    model_types=("dinov2",),
    mean=(0.485, 0.456, 0.406),  # ImageNet's
    std=(0.229, 0.224, 0.225),
)
CLIP = EncoderKind(
    name="CLIPVisionModel",
    model_types=("clip_vision_model", "clip"),
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    options={"interpolate_pos_encoding": True},  # Dinov2 fits its position table to the picture by itself
)

ENCODER_KINDS: Registry[EncoderKind] = Registry("kind of image encoder", DINOV2, CLIP)


def kind_of(folder: Path) -> EncoderKind:
    """The kind of a saved image encoder.

    Raises:
        WeightsError: the folder holds a model of no known kind.
    """
    try:
        model_type = read_object(folder / "config.json").get("model_type")
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder}/config.json cannot be read ({error}); give the folder of a saved model") from None
    for kind in ENCODER_KINDS.values():
        if model_type in kind.model_types:
            return kind
    known = " or a ".join(ENCODER_KINDS)
    raise WeightsError(f"{folder} holds a '{model_type}' model; an image encoder is a {known}")


@dataclass(frozen=True, kw_only=True)
class NamedEncoder:
    """One published vision transformer (its vision half, for CLIP)."""

    name: str
    """As settings give it."""
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


NAMED_ENCODERS: Registry[NamedEncoder] = Registry(
    "image encoder",
    NamedEncoder(
        name="dinov2-base",
        repository="facebook/dinov2-base",
        kind="Dinov2Model",
        width=768,
        layers=12,
        heads=12,
        patch=14,
        mlp_width=3072,
    ),
    NamedEncoder(
        name="dinov2-large",
        repository="facebook/dinov2-large",
        kind="Dinov2Model",
        width=1024,
        layers=24,
        heads=16,
        patch=14,
        mlp_width=4096,
    ),
    NamedEncoder(
        name="dinov2-giant",
        repository="facebook/dinov2-giant",
        kind="Dinov2Model",
        width=1536,
        layers=40,
        heads=24,
        patch=14,
        mlp_width=4096,
        gated=True,
    ),
    NamedEncoder(
        name="clip-base",
        repository="openai/clip-vit-base-patch16",
        kind="CLIPVisionModel",
        width=768,
        layers=12,
        heads=12,
        patch=16,
        mlp_width=3072,
    ),
    NamedEncoder(
        name="clip-huge",
        repository="laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        kind="CLIPVisionModel",
        width=1280,
        layers=32,
        heads=16,
        patch=14,
        mlp_width=5120,
    ),
    NamedEncoder(
        name="clip-bigg",
        repository="laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
        kind="CLIPVisionModel",
        width=1664,
        layers=48,
        heads=16,
        patch=14,
        mlp_width=8192,
    ),
)
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


EncoderFolder = Annotated[ModelFolder, BeforeValidator(folder_of)]
"""A config's image encoder: a saved model's folder, or a name of `NAMED_ENCODERS`."""
