"""Configs of this package's stages and the training recipes.

Light on purpose: the flows import them, so nothing here may import torch.
"""

from imagpose.config.frozen import (
    TINY_VIEW,
    TrainImageEncoderConfig,
    TrainImageEncoderSettings,
    TrainVaeConfig,
    TrainVaeSettings,
)
from imagpose.config.synthesis import (
    EvaluateGeneratorConfig,
    GenerateConfig,
    ShowPicturesConfig,
    SynthesizeConfig,
    SynthesizeSettings,
)
from imagpose.config.training import (
    ABLATIONS,
    SD_MODEL,
    AblateConfig,
    CheckModelConfig,
    ModelConfig,
    NoiseConfig,
    TrainGeneratorConfig,
    TrainGeneratorSettings,
    paper,
    recommended,
)

__all__ = [
    "ABLATIONS",
    "SD_MODEL",
    "TINY_VIEW",
    "AblateConfig",
    "CheckModelConfig",
    "EvaluateGeneratorConfig",
    "GenerateConfig",
    "ModelConfig",
    "NoiseConfig",
    "ShowPicturesConfig",
    "SynthesizeConfig",
    "SynthesizeSettings",
    "TrainGeneratorConfig",
    "TrainGeneratorSettings",
    "TrainImageEncoderConfig",
    "TrainImageEncoderSettings",
    "TrainVaeConfig",
    "TrainVaeSettings",
    "paper",
    "recommended",
]
