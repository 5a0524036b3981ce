"""Exponential moving average (EMA) of the denoiser's weights: diffusers' `EMAModel`, saved by parameter names."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

STEP = "optimization_step"
"""How many updates there were, among the tensors of a state: the warm-up depends on it."""


class DenoiserEma:
    """The average of a model's weights over its training.

    Update k, counted from 1, keeps the share ``min(decay, k / (9 + k))`` of the average, the first one none of it: the
    warm-up of diffusers (``use_ema_warmup=False``), so that the random first weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start from the model's weights of now, on its device."""
        self.parameters = dict(model.named_parameters())
        self.ema = EMAModel(self.parameters.values(), decay=decay, foreach=True)

    def update(self) -> None:
        """Take the model's weights into the average, once after every optimization step."""
        self.ema.step(self.parameters.values())

    def copy_to_model(self) -> None:
        """Put the average into the model for good."""
        self.ema.copy_to(self.parameters.values())

    @contextmanager
    def in_model(self) -> Generator[None, None, None]:
        """The average in the model's place; the model's own weights wait in the CPU's memory and come back."""
        self.ema.store(self.parameters.values())
        self.copy_to_model()
        try:
            yield
        finally:
            self.ema.restore(self.parameters.values())

    def weights(self) -> dict[str, Tensor]:
        """The average by the parameters' names; the tensors themselves."""
        return dict(zip(self.parameters, self.ema.shadow_params, strict=True))

    def state(self) -> dict[str, Tensor]:
        """The average by the parameters' names, and the number of updates; for a training state."""
        return self.weights() | {STEP: torch.tensor(self.ema.optimization_step)}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave."""
        for name, shadow in self.weights().items():
            shadow.copy_(tensors[name])
        self.ema.optimization_step = int(tensors[STEP])
