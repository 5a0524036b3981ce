"""The few-step student of a generator."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from datasets.runtime.config import ModelFolder, Probability, Role, StageConfig
from imagpose.config.canvas_training import CanvasTrainingConfig, CanvasTrainingSettings
from imagpose.config.fields import Unconditional


class DistillSettings(CanvasTrainingSettings):
    """How a student learns to reach in a few steps what its teacher samples in many.

    Guidance and consistency distillation of Latent Consistency Models (Luo et al. 2023, arXiv 2310.04378). What
    differs from a generator's training: nothing is dropped, because the student is never guided, and a source is always
    visible, as it is in sampling.
    """

    guidance: float = Field(2.0, ge=0)
    """The teacher's guidance scale, which becomes part of the student's weights."""
    unconditional: Unconditional = "pose"
    """What the unconditional half of the teacher's guidance sees."""
    solver_steps: int = Field(50, ge=2)
    """Steps of the DDIM solver that the student is consistent along; divides the noise schedule's T. T over it is the
    paper's skipping step k, 20 with T = 1000."""
    huber: float = Field(0.001, gt=0)
    """c of the pseudo-Huber distance, sqrt(d^2 + c^2) - c, as in diffusers' scripts."""
    max_masked: int = Field(3, ge=1, le=4)
    """Most views that are masked; sampling shows one view at least."""
    drop_image_tokens: Probability = 0.0
    """Share of canvases without image-encoder tokens."""
    drop_texture_tokens: Probability = 0.0
    """Share of canvases without texture tokens."""
    drop_both: Probability = 0.0
    """Share of canvases without either."""
    drop_everything: Probability = 0.0
    """Share of canvases of which the model sees the poses alone."""
    visible_weight: float = Field(0.0, ge=0)
    """Loss weight of the visible views, which sampling overwrites."""
    steps: int = Field(1000, ge=1)
    """Optimization steps."""
    learning_rate: float = Field(1e-4, gt=0)
    """Rate after warm-up."""
    warmup_steps: int = Field(20, ge=0)
    """Steps of linear warm-up."""
    ema_decay: float = Field(0.95, gt=0, lt=1)
    """Decay of the EMA weights: the network that gives the targets, and the one that is saved; the paper's."""
    sample_steps: Annotated[int, Role.RUNTIME] = Field(4, ge=1)
    """Sampler steps of the progress pictures."""


class DistillConfig(DistillSettings, CanvasTrainingConfig, StageConfig):
    """A student of a generator, which samples in 4 network calls without guidance."""

    stage: ClassVar[str] = "distill-imagpose"
    package: ClassVar[str] = "imagpose"
    command: ClassVar[str | None] = "distill"

    teacher: ModelFolder
    """The generator: the train stage's artifact, or the built-in one."""
