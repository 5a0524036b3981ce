"""Cards of the built-in models that a regeneration uses: what they have seen belongs in its report."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from datasets.poses.backends import POSE_BACKENDS
from flows.config import RegenerateConfig
from imagpose.config import BUILT_IN


def model_cards(config: RegenerateConfig, models: Iterable[Path | None]) -> list[Path]:
    """The cards of built-in models that are used or fine-tuned.

    Args:
        config: the regeneration's settings.
        models: folders of VAE, image encoder and generator that the subsets start from.
    """
    paths = (*models, config.vae, config.image_encoder, config.generator)
    used = any(path is not None and path.absolute().is_relative_to(BUILT_IN) for path in paths)
    cards = sorted(BUILT_IN.rglob("README.md")) if used else []
    extraction = config.extract_poses.backend if config.extract_poses is not None and not config.poses else None
    backends = dict.fromkeys(name for name in (extraction, config.synthesize.pose_backend) if name is not None)
    built_in_weights = (POSE_BACKENDS[name].weights for name in backends)
    return [*cards, *(weights.parent / "README.md" for weights in built_in_weights if weights is not None)]
