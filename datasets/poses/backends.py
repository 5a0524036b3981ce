"""Pose backends: the networks that find skeletons, one declared object for each. Torch-free.

A new one is a `PoseBackend` that is registered (`POSE_BACKENDS.register`); its estimator is imported by name when it is
opened, because it needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.runtime.registry import Registry, load_name

if TYPE_CHECKING:  # needs NumPy and OpenCV, which settings do without
    from datasets.poses.estimation import PoseEstimator


@dataclass(frozen=True, kw_only=True)
class PoseBackend:
    """A network that finds skeletons."""

    name: str
    """As settings give it, and as it stands in a pose artifact."""
    opener: str
    """``module:callable``, called as ``(weights, device=..., **options)``; returns a `PoseEstimator`."""
    options: tuple[str, ...] = ()
    """Fields of `ExtractPosesSettings` that the opener takes."""
    weights: Path | None = None
    """Weights that come with the package; without, the opener knows where to look."""
    crops_only: bool = False
    """It finds one person at most, in a crop of that person; `datasets.poses.scenes` searches a scene crop by crop."""
    parts_alone: int = 1
    """So many parts of 512 images one process makes in less time than further processes need to start."""

    def open(self, weights: Path | None, device: object, settings: object | None = None) -> PoseEstimator:
        """The estimator on a device.

        Args:
            weights: the weights' file; None for the package's own or those that the opener finds.
            device: a `torch.device`.
            settings: an `ExtractPosesSettings` to take the options from; the opener's defaults without.

        Raises:
            WeightsError: the weights are missing, or not of this network.
        """
        chosen = {} if settings is None else {name: getattr(settings, name) for name in self.options}
        return load_name(self.opener)(weights or self.weights, device=device, **chosen)


OPENPOSE_TINY = PoseBackend(
    name="openpose-tiny",
    opener="datasets.poses.tiny.estimator:TinyPoseEstimator",
    weights=Path(__file__).parents[1] / "builtin" / "openpose_tiny" / "weights.safetensors",
    crops_only=True,
    parts_alone=8,
)
OPENPOSE = PoseBackend(
    name="openpose",
    opener="datasets.poses.openpose.estimator:load_openpose",
    options=("weights_sha256", "scales"),
)

POSE_BACKENDS: Registry[PoseBackend] = Registry("pose backend", OPENPOSE_TINY, OPENPOSE)


def open_backend(name: str, weights: Path | None, device: object) -> PoseEstimator:
    """The estimator of a config's backend, with the backend's default options; see `PoseBackend.open`."""
    return POSE_BACKENDS[name].open(weights, device)


def with_built_in_weights(given: Any, *, backend: str, weights: str) -> Any:
    """A config's raw fields with the package's own weights filled in, so that their content counts in the key.

    Args:
        given: what the config is made from; anything but a mapping is left as it is.
        backend: name of the field that names the backend.
        weights: name of the field of the weights' file.
    """
    if not isinstance(given, Mapping) or given.get(weights):
        return given
    chosen = POSE_BACKENDS.get(str(given.get(backend)))
    return given if chosen is None or chosen.weights is None else {**given, weights: chosen.weights}
