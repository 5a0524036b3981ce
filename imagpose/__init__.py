"""Pose-guided person synthesis with IMAGPose: one to three photographs, one to three poses, one diffusion canvas.

Importing this package is light (no torch). The saved models' classes are loaded on first use; diffusers looks them up
here by name when it opens a generator's ``model_index.json``, and needs the base classes beside them.
"""

from __future__ import annotations

import importlib

_CLASSES = {
    "FeatureConditioning": "imagpose.modeling.feature_conditioning",
    "IMAGPose": "imagpose.modeling.denoiser",
    "IMAGPosePipeline": "imagpose.sampling.pipeline",
    "IMAGPoseUNet": "imagpose.modeling.unet",
    "ModelMixin": "diffusers",
    "PoseEncoder": "imagpose.modeling.pose_encoder",
}
__all__ = sorted(_CLASSES)  # pyrefly: ignore[unresolvable-dunder-all]  # one list, not two


def __getattr__(name: str) -> object:
    if name in _CLASSES:
        return getattr(importlib.import_module(_CLASSES[name]), name)
    raise AttributeError(f"module 'imagpose' has no attribute {name!r}")
