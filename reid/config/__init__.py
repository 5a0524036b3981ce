"""Configs of this package's stages: every setting with its source. No code that runs a stage belongs here.

Light on purpose: the flows import them, so nothing here may import torch.
"""

from reid.config.fields import CentralizeConfig, NfcConfig, RerankConfig
from reid.config.history import HistoryConfig, HistoryEntry, RememberedGain
from reid.config.results import BenchmarkConfig, BenchmarkSettings, DeclaredComparison, PlanRunsConfig, ReportConfig
from reid.config.testing import CheckIdentityConfig, CheckIdentitySettings, EvaluateReidConfig
from reid.config.training import (
    AugmentationConfig,
    BatchConfig,
    LossConfig,
    NetworkConfig,
    ScheduleConfig,
    TrainReidConfig,
    TrainReidSettings,
    cheap_augmentation,
    lite_recipe,
    run_name,
    tiny_recipe,
)
from reid.config.use import EmbedConfig, ExportConfig

__all__ = [
    "AugmentationConfig",
    "BatchConfig",
    "BenchmarkConfig",
    "BenchmarkSettings",
    "CentralizeConfig",
    "CheckIdentityConfig",
    "CheckIdentitySettings",
    "DeclaredComparison",
    "EmbedConfig",
    "EvaluateReidConfig",
    "ExportConfig",
    "HistoryConfig",
    "HistoryEntry",
    "LossConfig",
    "NetworkConfig",
    "NfcConfig",
    "PlanRunsConfig",
    "RememberedGain",
    "ReportConfig",
    "RerankConfig",
    "ScheduleConfig",
    "TrainReidConfig",
    "TrainReidSettings",
    "cheap_augmentation",
    "lite_recipe",
    "run_name",
    "tiny_recipe",
]
