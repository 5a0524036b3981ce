"""Settings of this package's stages, training recipes, names that settings may take. No torch: the flows read it."""

from imagpose.config.ablation import AblateConfig
from imagpose.config.canvas_training import CanvasTrainingConfig, CanvasTrainingSettings
from imagpose.config.distillation import DistillConfig, DistillSettings
from imagpose.config.fields import BUILT_IN
from imagpose.config.frozen import (
    TINY_VIEW,
    TrainImageEncoderConfig,
    TrainImageEncoderSettings,
    TrainVaeConfig,
    TrainVaeSettings,
)
from imagpose.config.study import PackStudyConfig, ScoreStudyConfig
from imagpose.config.synthesis import (
    DrawingSettings,
    DrawPosesConfig,
    EvaluateGeneratorConfig,
    GenerateConfig,
    ShowPicturesConfig,
    SynthesizeConfig,
    SynthesizeSettings,
)
from imagpose.config.training import (
    ABLATIONS,
    SD_MODEL,
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
    "BUILT_IN",
    "SD_MODEL",
    "TINY_VIEW",
    "AblateConfig",
    "CanvasTrainingConfig",
    "CanvasTrainingSettings",
    "CheckModelConfig",
    "DistillConfig",
    "DistillSettings",
    "DrawPosesConfig",
    "DrawingSettings",
    "EvaluateGeneratorConfig",
    "GenerateConfig",
    "ModelConfig",
    "NoiseConfig",
    "PackStudyConfig",
    "ScoreStudyConfig",
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
