"""Train the IMAGPose denoiser on encoded images (paper, Eq. 4): frozen features were computed once, only it runs here.

Exactly resumable: canvases, noise and timesteps of a step are functions of the seed and the step's number, so weights,
EMA weights, optimizer and the step are all there is to save. Under ``torchrun`` every process takes its share of
the same batch, in as many parts as memory asks for, so neither number changes what is learned.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from datasets.runtime import devices
from datasets.runtime.errors import DivergedError, InputError
from datasets.runtime.manifests import SCRATCH
from datasets.runtime.training.checkpoints import Checkpoints, Part
from datasets.runtime.training.compilation import CompiledOrPlain
from datasets.shards.encoders_used import other_encoders
from datasets.shards.loader import stream_steps
from imagpose.canvas.training import ViewSource, canvas_counts
from imagpose.config import CanvasTrainingConfig, TrainGeneratorConfig
from imagpose.config.published_unets import is_stable_diffusion
from imagpose.metrics.lpips import published_lpips
from imagpose.modeling.denoiser import IMAGPose
from imagpose.training.batches import StepBatch, StepReader
from imagpose.training.ema import DenoiserEma
from imagpose.training.generators import load_generator, save_generator
from imagpose.training.inputs import FrozenParts, check_view_size, hold_out, initial_denoiser, read_training_images
from imagpose.training.log import TrainingLog, TrainingProgress, peak_memory_mib
from imagpose.training.noise import noise_scheduler
from imagpose.training.objective import NoisePrediction, Objective, learning_rate_at, loss_sum
from imagpose.training.optimizer import DenoiserOptimizer
from imagpose.training.perceptual import PerceptualTerm
from imagpose.training.samples import save_samples
from imagpose.training.stop_request import stop_on_sigterm
from imagpose.training.validation import validation_cases, validation_losses

logger = logging.getLogger(__name__)

TERMINATED = 128 + signal.SIGTERM
SomeConfig = TypeVar("SomeConfig", bound=CanvasTrainingConfig)


def make_generator(config: TrainGeneratorConfig, directory: Path) -> dict[str, Any]:
    """Train and save a generator in `directory`, resuming from a checkpoint found there.

    Returns:
        Counts, last losses, speed and peak memory.

    Raises:
        InputError: inputs that do not fit.
        DivergedError: the loss became NaN or infinite.
    """
    base = config.init_from
    if base is not None and not is_stable_diffusion(base) and (others := other_encoders(config.encoded, base)):
        logger.warning(
            "%s was encoded by another %s than the own one of init_from, %s: the first steps learn the new features",
            config.encoded,
            " and ".join(others),
            base,
        )
    return train_and_save(Trainer, config, directory)


def train_and_save(kind: type[CanvasTrainer[SomeConfig]], config: SomeConfig, directory: Path) -> dict[str, Any]:
    """Everything that a training command does, with the trainer that it takes.

    Returns:
        Counts, last losses, speed and peak memory.

    Raises:
        InputError: inputs that do not fit.
        DivergedError: the loss became NaN or infinite.
    """
    accelerator = _accelerator(config)
    source = read_training_images(config)
    frozen = FrozenParts.of(config)
    trainer = kind(config, directory, source, frozen, accelerator)
    counts = canvas_counts(trainer.source)
    logger.info("training on %s", ", ".join(f"{value} {name}" for name, value in counts.items()))
    summary = trainer.run()
    if accelerator.is_main_process:
        trainer.use_ema()
        save_generator(directory, frozen.generator(trainer.model.cpu(), trainer.scheduler), frozen.folders)
        load_generator(directory)  # a generator that does not open must not count as finished
    accelerator.wait_for_everyone()
    return {**counts, **summary, "parameters": sum(p.numel() for p in trainer.model.parameters())}


def _accelerator(config: CanvasTrainingConfig) -> Accelerator:
    if config.device.startswith("cuda:"):
        torch.cuda.set_device(config.device)
    # accelerate left to itself makes no process group where there is no GPU: each process would train all by itself
    on_cpu = devices.pick(config.device).type == "cpu"
    accelerator = Accelerator(cpu=on_cpu, mixed_precision="no" if config.precision == "fp32" else config.precision)
    if accelerator.num_processes != (started := int(os.environ.get("WORLD_SIZE", "1"))):
        raise InputError(
            f"torchrun started {started} processes, but accelerate sees {accelerator.num_processes}; "
            f"pass --device cpu or cuda instead of '{config.device}'"
        )
    return accelerator


@dataclass
class CanvasTrainer(ABC, Generic[SomeConfig]):
    """One training run: its model, its state on disk and its loop. What is trained, and for what, subclasses say."""

    config: SomeConfig
    directory: Path
    source: ViewSource
    frozen: FrozenParts
    accelerator: Accelerator
    pending: list[Tensor] = field(default_factory=list)
    """Loss and gradient norm of the steps since the last look at them, left on the device."""

    def __post_init__(self) -> None:
        config, self.device = self.config, self.accelerator.device
        self._check_batch()
        self.source, self.held_out = hold_out(self.source, config.validation_identities, config.seed)
        self.validation_cases = validation_cases(self.held_out, config) if self.held_out else []
        channels, *cells = self.source.latent_shape
        stride = self.source.view_size[0] // cells[0]
        self.model = self._initial_model(channels, self.source.token_shape[1], stride).to(self.device).train()
        check_view_size(self.model, self.source.view_size)
        if config.gradient_checkpointing:
            self.model.unet.enable_gradient_checkpointing()
        self.ema = DenoiserEma(self.model, config.ema_decay) if config.ema_decay else None
        self.objective = self._objective()
        self.scheduler = self.objective.scheduler
        self.optimizer = DenoiserOptimizer(
            self.model.named_parameters(), config.optimizer, config.learning_rate, config.weight_decay
        )
        self.parts: dict[str, Part] = {"model": self.model, "optimizer": self.optimizer}
        if self.ema:
            self.parts["ema"] = self.ema
        self.checkpoints = Checkpoints(self.directory / SCRATCH, config.keep_checkpoints)
        self.step = int(self.checkpoints.restore(self.parts)["step"])
        self.wrapped: nn.Module = self.accelerator.prepare_model(self.model)
        # beside the model, which is saved: its names and those of its EMA weights stay as they are
        self.network: Callable[..., Tensor] = (
            CompiledOrPlain(self.wrapped, "training") if config.compile else self.wrapped
        )

    @abstractmethod
    def _initial_model(self, latent_channels: int, image_token_dim: int, stride: int) -> IMAGPose:
        """What is trained, on the CPU."""

    @abstractmethod
    def _objective(self) -> Objective:
        """What its steps minimize; model and EMA weights are in place."""

    def _check_batch(self) -> None:
        shares = self.accelerator.num_processes * self.config.gradient_accumulation
        if self.config.batch_size < shares:
            raise InputError(
                f"batch_size {self.config.batch_size} cannot be cut into {shares} parts "
                f"({self.accelerator.num_processes} processes x gradient_accumulation "
                f"{self.config.gradient_accumulation}); every part needs a canvas"
            )

    def run(self) -> dict[str, Any]:
        """All remaining steps; returns last losses, speed and memory."""
        config, started, first = self.config, time.monotonic(), self.step
        log = TrainingLog(
            self.directory,
            first,
            first=self.accelerator.is_main_process,
            tensorboard=config.tensorboard,
            device=self.device,
        )
        progress = TrainingProgress(config.steps, config.batch_size, first, self.device)
        self.pending, self.batches = [], self._batches()
        with stop_on_sigterm() as stop:
            while self.step < config.steps:
                rate = learning_rate_at(config, self.step)
                self.pending.append(self._train_step(rate))
                self.step += 1
                self._after_step(log, rate, stop.agreed())
                progress.finished_step(log.train.rows[-1]["loss"] if log.train.rows else None)
        log.close()
        return self._summary(log, self.step - first, time.monotonic() - started)

    def _after_step(self, log: TrainingLog, rate: float, stopped: bool) -> None:
        """Log, validate, draw and save when it is time; leave if the process was asked to."""
        config, done = self.config, self.step == self.config.steps
        save = not done and (stopped or self.step % config.checkpoint_every == 0)
        if done or save or self.step % config.log_every == 0:
            log.add_step(self.step, {**self._checked_losses(rate), "learning_rate": rate})
        if done or not stopped:
            self._look(log, done)
        if save:
            self._save(log)
        if stopped and not done:
            logger.info("stopped at step %d; the same command resumes there", self.step)
            sys.exit(TERMINATED)

    def _summary(self, log: TrainingLog, steps: int, seconds: float) -> dict[str, Any]:
        return {
            "steps": self.step,
            "loss": log.recent_loss(),
            "validation_loss": log.validation.rows[-1]["loss"] if log.validation.rows else None,
            "canvases_per_second": round(steps * self.config.batch_size / max(seconds, 1e-9), 2),
            "peak_memory_mib": round(peak_memory_mib(self.device), 1),
        }

    def _batches(self) -> Iterator[StepBatch]:
        """This process's share of every remaining step."""
        reader = StepReader(
            source=self.source,
            config=self.config,
            train_timesteps=len(self.objective.weights),
            process=self.accelerator.process_index,
            processes=self.accelerator.num_processes,
        )
        steps = range(self.step, self.config.steps)
        return stream_steps(reader, steps, self.config.workers, pinned=self.device.type == "cuda")

    def _train_step(self, rate: float) -> Tensor:
        """One step; returns loss and gradient norm, (2,), not yet waited for."""
        config, processes = self.config, self.accelerator.num_processes
        work = next(self.batches)
        # every process divides by the whole batch's weight; DDP then averages over processes, hence the factor
        scale = processes / max(work.total_weight, 1e-9)
        loss = torch.zeros((), device=self.device)
        for number, ((_, canvases), draws) in enumerate(zip(work.parts, work.draws, strict=True), 1):
            batch = canvases.to(self.device)
            noise, timesteps = (drawn.to(self.device, non_blocking=True) for drawn in draws)
            # the processes exchange gradients once a step, with the last part's
            with nullcontext() if number == len(work.parts) else self.accelerator.no_sync(self.wrapped):
                with self.accelerator.autocast():
                    total = loss_sum(self.objective, self.network, batch, noise, timesteps)
                self.accelerator.backward(total * scale)
            loss += total.detach() * scale
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), config.max_gradient_norm)
        self.optimizer.step(rate)
        if self.ema:
            self.ema.update()
        return torch.stack([loss, norm.detach()])

    def _checked_losses(self, rate: float) -> dict[str, float]:
        """Means of loss and gradient norm since the last call, over all processes."""
        values = torch.stack(self.pending)
        if self.accelerator.num_processes > 1:
            values = self.accelerator.reduce(values, "mean")
        self.pending = []
        finite = torch.isfinite(values).all(1)
        if not finite.all():
            bad = self.step - len(values) + 1 + int((~finite).int().argmax())
            raise DivergedError(self._divergence(bad, rate))
        loss, norm = values.mean(0).tolist()
        return {"loss": loss, "gradient_norm": norm}

    def _divergence(self, step: int, rate: float) -> str:
        config = self.config
        ways = [f"--learning-rate below {config.learning_rate:g}"]
        if config.warmup_steps < 100:
            ways.append(f"--warmup-steps above {config.warmup_steps}")
        if config.precision != "fp32":
            ways.append("--precision fp32")
        return (
            f"the loss is not finite at step {step} (learning rate {rate:g}); try {', or '.join(ways)}; nothing was "
            "saved after that step"
        )

    def _save(self, log: TrainingLog) -> None:
        if self.accelerator.is_main_process:
            log.write()
            self.checkpoints.save(self.step, self.parts)
        self.accelerator.wait_for_everyone()

    def _look(self, log: TrainingLog, done: bool) -> None:
        """Validation and pictures, when it is time; both with the EMA weights, in evaluation mode."""
        measured = self.held_out if done or self.step % self.config.validation_every == 0 else None
        draw = done or self.step % self.config.sample_every == 0
        if not (measured or draw):
            return
        with self.ema.in_model() if self.ema else nullcontext():
            self.model.eval()
            if measured:
                losses = validation_losses(
                    self.objective,
                    self.model,
                    measured,
                    self.validation_cases,
                    self.accelerator,
                    self.config.batch_size,
                )
                logger.info("validation at step %d: loss %.4f", self.step, losses["loss"])
                log.add_validation(self.step, losses)
            if draw and self.accelerator.is_main_process:
                pipeline = self.frozen.generator(self.model, self.scheduler).pipeline()
                path = log.folder / f"samples-{self.step:06d}.png"
                people, how = self.held_out or self.source, self.objective
                picture = save_samples(
                    pipeline, people, self.config, path, sampler=how.sampler, guidance_scale=how.guidance
                )
                if picture is not None:
                    log.add_picture(self.step, "samples", picture)
            self.model.train()
        self.accelerator.wait_for_everyone()

    def use_ema(self) -> None:
        """Put the EMA weights into the model for good."""
        if self.ema:
            self.ema.copy_to_model()


class Trainer(CanvasTrainer[TrainGeneratorConfig]):
    """The training of a generator (Eq. 4)."""

    def _initial_model(self, latent_channels: int, image_token_dim: int, stride: int) -> IMAGPose:
        return initial_denoiser(self.config, latent_channels, image_token_dim, stride)

    def _objective(self) -> Objective:
        return NoisePrediction(self.config, self.device, self._perceptual_term())

    def _perceptual_term(self) -> PerceptualTerm | None:
        config = self.config
        if config.vgg16 is None:
            return None
        lpips = published_lpips(config.vgg16, "vgg16", self.source.view_size, self.device)
        vae = deepcopy(self.frozen.vae).to(self.device, memory_format=torch.channels_last)
        return PerceptualTerm(config.perceptual_weight, vae, lpips, noise_scheduler(config.noise), self.device)
