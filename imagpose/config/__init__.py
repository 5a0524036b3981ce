"""Configs of this package's stages and the training recipes.

Light on purpose: the flows import them, so nothing here may import torch.
"""

from imagpose.config.frozen import TINY_VIEW, TrainImageEncoderConfig, TrainVaeConfig
from imagpose.config.synthesis import EvaluateConfig, GenerateConfig, ShowPicturesConfig, SynthesizeConfig
from imagpose.config.training import (
    ABLATIONS,
    SD_MODEL,
    AblateConfig,
    CheckModelConfig,
    ModelConfig,
    NoiseConfig,
    TrainConfig,
    paper,
    recommended,
    tiny,
)

__all__ = [
    "ABLATIONS",
    "SD_MODEL",
    "TINY_VIEW",
    "AblateConfig",
    "CheckModelConfig",
    "EvaluateConfig",
    "GenerateConfig",
    "ModelConfig",
    "NoiseConfig",
    "ShowPicturesConfig",
    "SynthesizeConfig",
    "TrainConfig",
    "TrainImageEncoderConfig",
    "TrainVaeConfig",
    "paper",
    "recommended",
    "tiny",
]
