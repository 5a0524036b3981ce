"""What a student minimizes: guidance and consistency distillation (Luo et al. 2023, Latent Consistency Models).

https://arxiv.org/abs/2310.04378, Algorithm 1, with diffusers' own scalings (`LCMScheduler`). The student f maps every
point of its teacher's guided path to the path's end. Two neighboring points, k timesteps apart, must have the same:

    x_s = sqrt(a_s) x_0 + sqrt(1 - a_s) n                      a noised training canvas, s on the solver's grid
    x_t = DDIM step of the teacher from x_s, s to t = s - k    its prediction guided, u + w (c - u), as in sampling
    f(x, s) = c_skip(s) x + c_out(s) x_0(x, s)                 x_0 from the network's prediction; f(x, 0) = x
    loss = sqrt((f(x_s, s) - f_EMA(x_t, t))^2 + c^2) - c       f_EMA: the student's EMA weights, no gradient

One scale w is distilled, not a range of them with an embedding of w: every preset and published set here samples at one
scale, and a network without a further input stays the generator that it was.

`B` canvases, `C, 2h, 2w` a canvas's latents, `T` timesteps.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import LCMScheduler
from torch import Tensor
from torch.func import functional_call

from datasets.runtime.errors import InputError
from imagpose.canvas.layout import Canvases
from imagpose.canvas.training import CanvasBatch
from imagpose.config import DistillSettings
from imagpose.config.samplers import SAMPLERS, STUDENTS_SAMPLER
from imagpose.modeling.denoiser import IMAGPose
from imagpose.sampling.guidance import GuidedPrediction
from imagpose.training.ema import DenoiserEma
from imagpose.training.generators import Generator
from imagpose.training.noise import NoiseLevels
from imagpose.training.objective import Objective, predict


def student_scheduler(teacher: Generator, solver_steps: int) -> LCMScheduler:
    """The scheduler that a student is trained with and keeps: its teacher's noise, and the grid it was distilled along.

    Raises:
        InputError: a teacher that cannot be distilled, or a grid that does not fit its noise schedule.
    """
    noise = teacher.scheduler.config
    if isinstance(teacher.scheduler, LCMScheduler):
        raise InputError("this teacher is a few-step student itself; give the generator that it was distilled from")
    if not teacher.model.uses_masked_latents:
        raise InputError(
            "this teacher sees no latents of the sources (ablations B0 to B2, M1); distill a model that does"
        )
    if noise.prediction_type == "epsilon" and noise.rescale_betas_zero_snr:
        raise InputError("this teacher predicts noise at zero signal, from which no picture follows; train with v")
    if noise.num_train_timesteps % solver_steps:
        raise InputError(
            f"solver_steps {solver_steps} does not divide the teacher's {noise.num_train_timesteps} timesteps, so that "
            "sampling would not start from pure noise; give a divisor, such as 50"
        )
    return SAMPLERS[STUDENTS_SAMPLER].with_noise(dict(noise) | {"original_inference_steps": solver_steps})


class ConsistencyDistillation(Objective):
    """Neighboring points of the teacher's guided path have one end."""

    sampler, guidance = STUDENTS_SAMPLER, 1.0

    def __init__(
        self, config: DistillSettings, teacher: IMAGPose, scheduler: LCMScheduler, student: IMAGPose, ema: DenoiserEma
    ) -> None:
        """Teacher and student on one device; `ema` averages the student's weights."""
        self.config, self.scheduler = config, scheduler
        self.teacher, self.student, self.ema = teacher.eval().requires_grad_(False), student, ema
        device = next(student.parameters()).device
        self.weights = torch.ones(scheduler.config.num_train_timesteps, device=device)
        self.stride = scheduler.config.num_train_timesteps // config.solver_steps
        self.levels = NoiseLevels(scheduler, device)

    def errors(self, network: Callable[..., Tensor], batch: CanvasBatch, noise: Tensor, timesteps: Tensor) -> Tensor:
        """As `Objective` says; timesteps are taken to the end of their part of the solver's grid."""
        start = (timesteps // self.stride + 1) * self.stride - 1
        end = (start - self.stride).clamp(min=0)
        noisy = self.scheduler.add_noise(batch.latents, noise, start)
        found = self.consistent(predict(network, noisy, start, batch), noisy, start)
        with torch.no_grad():
            earlier = self.solver_step(batch, noise, noisy, start, end)
            wanted = self.consistent(predict(self._target, earlier, end, batch), earlier, end)
        c = self.config.huber
        distance = ((found - wanted).square() + c**2).sqrt() - c
        return distance.mean(1, keepdim=True) * batch.loss_weights

    def consistent(self, prediction: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """The end of the path, f(x, s), from the network's prediction at x: (B, C, 2h, 2w) float32; x itself at 0."""
        kept, changed = (
            share[:, None, None, None]
            for share in self.scheduler.get_scalings_for_boundary_condition_discrete(timesteps.float())
        )
        clean, _ = self.levels.ends(prediction.float(), noisy, timesteps)
        return kept * noisy + changed * clean

    def solver_step(self, batch: CanvasBatch, noise: Tensor, noisy: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Where the teacher's guided path leads from `noisy`, by one DDIM step: (B, C, 2h, 2w).

        Visible views follow the noise level, as in sampling; empty slots too.
        """
        canvases = Canvases(
            layouts=[],
            visible=batch.mask.bool(),
            known=batch.latents * batch.mask,
            skeletons=batch.skeletons,
            image_tokens=batch.image_tokens,
            source_latents=batch.source_latents,
            noise=noise,
            keep_image=batch.keep_image,
            keep_texture=batch.keep_texture,
        )
        config = self.config
        guided = GuidedPrediction(self.teacher, canvases, config.guidance, config.unconditional, reuse_conditions=False)
        clean, rest = self.levels.ends(guided(noisy, start), noisy, start)
        signal, spread = self.levels.at(end)
        drawn = (batch.mask == 0) & (batch.loss_weights > 0)
        return torch.where(drawn, signal * clean + spread * rest, signal * batch.latents + spread * noise)

    def _target(self, *inputs: Tensor) -> Tensor:
        """The student with its EMA weights."""
        return functional_call(self.student, self.ema.weights(), inputs)
