"""``python -m imagpose distill``: a student of a generator that samples in 4 network calls without guidance.

The loop, its checkpoints and its exact resuming are those of training (`imagpose.training.train`).
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

from datasets.runtime.errors import InputError
from datasets.shards.encoders_used import refuse_other_encoders
from imagpose.config import DistillConfig
from imagpose.config.published_unets import is_stable_diffusion
from imagpose.distillation.consistency import ConsistencyDistillation, student_scheduler
from imagpose.modeling.denoiser import IMAGPose
from imagpose.training.generators import load_generator
from imagpose.training.inputs import check_fit
from imagpose.training.objective import Objective
from imagpose.training.train import CanvasTrainer, train_and_save


def make_student(config: DistillConfig, directory: Path) -> dict[str, Any]:
    """Distill and save a student in `directory`, resuming from a checkpoint found there.

    Returns:
        Counts, last losses, speed and peak memory.

    Raises:
        InputError: a teacher that cannot be distilled, or inputs that do not fit.
        DivergedError: the loss became NaN or infinite.
    """
    if is_stable_diffusion(config.teacher):
        raise InputError(f"teacher {config.teacher} is a Stable Diffusion folder; give a generator ('imagpose train')")
    refuse_other_encoders(config.encoded, config.teacher)
    return train_and_save(Distiller, config, directory)


class Distiller(CanvasTrainer[DistillConfig]):
    """The training of a student."""

    def _initial_model(self, latent_channels: int, image_token_dim: int, stride: int) -> IMAGPose:
        self.teacher = load_generator(self.config.teacher)
        self.student_scheduler = student_scheduler(self.teacher, self.config.solver_steps)
        check_fit(self.teacher.model, latent_channels, image_token_dim, stride)
        return deepcopy(self.teacher.model)

    def _objective(self) -> Objective:
        assert self.ema is not None  # DistillConfig.ema_decay is above 0
        teacher = self.teacher.model.to(self.device)
        return ConsistencyDistillation(self.config, teacher, self.student_scheduler, self.model, self.ema)
