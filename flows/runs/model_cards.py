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
    backends = dict.fromkeys(name for name in (_found_by(config), config.synthesize.pose_backend) if name is not None)
    built_in_weights = (POSE_BACKENDS[name].weights for name in backends)
    return [*cards, *(weights.parent / "README.md" for weights in built_in_weights if weights is not None)]


def _found_by(config: RegenerateConfig) -> str | None:
    """The network that finds skeletons of the people's images; None where all are published."""
    settings = config.completes_poses() if config.poses else config.extract_poses
    return None if settings is None else settings.backend
