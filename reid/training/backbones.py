"""Libraries of backbones besides timm, by the word before the colon of ``network.backbone``. Torch-free.

One more is one `LIBRARIES.register` (docs/extending.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from datasets.runtime.registry import Registry


@dataclass(frozen=True)
class BackboneLibrary:
    """Where backbones of a name ``LIBRARY:NAME`` come from."""

    name: str
    """LIBRARY."""
    build: str
    """``module:function``; called with NAME, it returns a torch module from (B, 3, H, W) to (B, D), or raises
    `InputError` for a name that it does not know."""


LIBRARIES: Registry[BackboneLibrary] = Registry(
    "library of backbones", BackboneLibrary("torchreid", "reid.training.torchreid_backbone:TorchreidBackbone")
)


def check_backbone(name: str) -> str:
    """`name`, if its library is known; timm's names have no colon, and are checked when the network is built.

    Raises:
        ValueError: nobody knows the library.
    """
    library, colon, _ = name.partition(":")
    if colon:
        LIBRARIES.known(library)
    return name
