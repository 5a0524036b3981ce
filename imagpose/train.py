"""Train the IMAGPose denoiser on encoded images (paper, Eq. 4): frozen features were computed once, only it runs here.

Exactly resumable: canvases, noise and timesteps of a step are functions of the seed and the step's number, so weights,
averaged weights, optimiser and the step are all there is to save. Under ``torchrun`` every process takes its share of
the same batch, so the number of processes does not change what is learned.
"""

from __future__ import annotations

import json
import logging
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDIMScheduler
from torch import Tensor, nn

from datasets.artifacts import manifest_of, model_sha256, write_text_atomically
from datasets.encoded import EncodedImages
from datasets.errors import InputError, WeightsError
from datasets.progress import Progress
from datasets.subsets import read_subset
from imagpose.canvas import EMPTY, CanvasBatch, CanvasPlan, ViewSource, canvas_counts, make_batch, plan_batch
from imagpose.checkpoint import (
    Generator,
    delete_states,
    is_stable_diffusion,
    load_denoiser,
    load_state,
    load_unet2d,
    save_generator,
    save_state,
)
from imagpose.config import TrainConfig
from imagpose.modeling.denoiser import IMAGPose, denoiser_from_unet2d, new_denoiser
from imagpose.noise import noise_scheduler, prediction_target, timestep_weights
from imagpose.training_samples import save_samples

logger = logging.getLogger(__name__)

LOG = "train_log.jsonl"
TERMINATED = 128 + signal.SIGTERM


class DivergedError(InputError):
    """The loss is not finite; another learning rate or precision is the way out."""


def make_generator(config: TrainConfig, directory: Path) -> dict[str, Any]:
    """Train and save a generator in `directory`, going on from the checkpoint found there.

    Returns: counts, last losses and speed.
    Raises: InputError: inputs that do not fit. DivergedError: the loss became NaN or infinite.
    """
    accelerator = _accelerator(config)
    source = read_training_images(config)
    frozen = FrozenParts.of(config)
    counts = canvas_counts(source)
    logger.info("training on %s", ", ".join(f"{value} {name}" for name, value in counts.items()))
    trainer = Trainer(config, directory, source, frozen, accelerator)
    summary = trainer.run()
    if accelerator.is_main_process:
        trainer.use_average()
        save_generator(directory, frozen.generator(trainer.model.cpu(), trainer.scheduler), frozen.folders)
        delete_states(directory)
    accelerator.wait_for_everyone()
    return {**counts, **summary, "parameters": sum(p.numel() for p in trainer.model.parameters())}


def _accelerator(config: TrainConfig) -> Accelerator:
    if config.device.startswith("cuda:"):
        torch.cuda.set_device(config.device)
    return Accelerator(cpu=config.device == "cpu", mixed_precision=config.precision)


def read_training_images(config: TrainConfig) -> EncodedImages:
    """The encoded images of the training split, or of one subset of it."""
    if config.subset is not None and config.fraction is not None:
        return EncodedImages(config.encoded, read_subset(config.subset, config.fraction, config.draw))
    images = EncodedImages(config.encoded)
    train = [key for key, split in zip(images.keys, images.splits, strict=True) if split == "train"]
    if not train:
        raise InputError(f"{config.encoded} holds no training images; encode shards of the training split")
    return images if len(train) == len(images) else EncodedImages(config.encoded, train)


@dataclass(frozen=True, kw_only=True)
class FrozenParts:
    """The models that made the encoded images, taken over into the generator's folder."""

    vae: AutoencoderKL
    image_encoder: nn.Module
    view_size: tuple[int, int]
    token_size: tuple[int, int]
    folders: Mapping[str, Path] = field(default_factory=dict)
    """Where they were read from."""

    @classmethod
    def of(cls, config: TrainConfig) -> FrozenParts:
        """Open the encoders that `config.encoded` was made with.

        Raises: WeightsError: they are gone, or are not the ones any more.
        """
        from transformers import AutoModel
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()  # its bar for two small files would tear the log lines apart
        made = manifest_of(config.encoded, "encode")
        index = json.loads((config.encoded / "index.json").read_text())
        settings = made["config"]
        for name in ("vae", "image_encoder"):
            folder = Path(settings[name])
            if not folder.is_dir() or model_sha256(folder) != index[f"{name}_sha256"]:
                raise WeightsError(f"{folder} is not the {name} that {config.encoded} was encoded with; encode again")
        return cls(
            vae=AutoencoderKL.from_pretrained(settings["vae"], local_files_only=True).eval(),
            image_encoder=AutoModel.from_pretrained(settings["image_encoder"], local_files_only=True).eval(),
            view_size=(settings["view_height"], settings["view_width"]),
            token_size=(settings["token_height"], settings["token_width"]),
            folders={name: Path(settings[name]) for name in ("vae", "image_encoder")},
        )

    def generator(self, model: IMAGPose, scheduler: DDIMScheduler) -> Generator:
        """All parts together."""
        return Generator(
            model=model, vae=self.vae, scheduler=scheduler, image_encoder=self.image_encoder,
            view_size=self.view_size, token_size=self.token_size,
        )  # fmt: skip


def initial_denoiser(config: TrainConfig, latent_channels: int, image_token_dim: int, stride: int) -> IMAGPose:
    """A denoiser from nothing (same seed, same weights), from a generator, or from Stable Diffusion.

    Raises: InputError: its sizes do not fit the encoded images.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if config.init_from is None:
            model = new_denoiser(config.model, latent_channels, image_token_dim)
        elif is_stable_diffusion(config.init_from):
            model = denoiser_from_unet2d(load_unet2d(config.init_from), config.model, image_token_dim)
        else:
            model = load_denoiser(config.init_from)
    found = (model.latent_channels, model.feature_conditioning.config.image_token_dim, model.pose_encoder.stride)
    wanted = (latent_channels, image_token_dim, stride)
    if found != wanted:
        raise InputError(
            f"the denoiser takes latent channels, token width and stride {found}, the encoded images have {wanted}; "
            "use the encoders of `init_from`, or change `model`"
        )
    return model


def learning_rate_at(config: TrainConfig, step: int) -> float:
    """Rate of the step that follows `step` finished ones: linear warm-up, then constant or a cosine to a twentieth."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / (config.warmup_steps + 1)
    if config.learning_rate_schedule == "constant":
        return config.learning_rate
    share = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * (0.05 + 0.95 * (1 + math.cos(math.pi * share)) / 2)


def noise_of_step(
    config: TrainConfig, step: int, latent_canvas: tuple[int, int, int], train_timesteps: int
) -> tuple[Tensor, Tensor]:
    """Noise (batch, C, 2h, 2w) and timesteps (batch,) of a step: a function of seed and step.

    The timesteps are stratified, one in each of `batch_size` equal parts of [0, T): each is uniform over T, and the
    loss of a small batch varies less.
    """
    draws = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    noise = torch.randn(config.batch_size, *latent_canvas, generator=draws)
    places = torch.randperm(config.batch_size, generator=draws) + torch.rand(config.batch_size, generator=draws)
    return noise, (places / config.batch_size * train_timesteps).long().clamp(max=train_timesteps - 1)


def loss_sum(
    model: nn.Module, scheduler: DDIMScheduler, weights: Tensor, batch: CanvasBatch, noise: Tensor, timesteps: Tensor
) -> Tensor:
    """Weighted squared error, summed over the batch's canvases and cells and averaged over channels.

    Args: weights: (T,) of the timesteps.
    """
    noisy = scheduler.add_noise(batch.latents, noise, timesteps)
    prediction = model(
        noisy, timesteps, batch.mask, batch.latents * batch.mask, batch.skeletons, batch.image_tokens,
        batch.source_latents, batch.keep_image, batch.keep_texture,
    )  # fmt: skip
    target = prediction_target(scheduler, batch.latents, noise, timesteps)
    error = (prediction.float() - target).square().mean(1, keepdim=True)
    return (error * batch.loss_weights * weights[timesteps][:, None, None, None]).sum()


def total_weight(plans: list[CanvasPlan], config: TrainConfig, cells: int) -> float:
    """Sum of the batch's loss weights over its views' cells: what makes a mean of `loss_sum`."""
    visible = sum(seen for plan in plans for seen in plan.visible)
    masked = sum(
        slot != EMPTY and not seen for plan in plans for slot, seen in zip(plan.slots, plan.visible, strict=True)
    )
    return cells * (masked + config.visible_weight * visible)


@dataclass
class Trainer:
    """One training run: its model, its state on disk and its loop."""

    config: TrainConfig
    directory: Path
    source: ViewSource
    frozen: FrozenParts
    accelerator: Accelerator
    pending: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        channels, *cells = self.source.latent_shape
        stride = self.source.view_size[0] // cells[0]
        self.canvas_shape = (channels, 2 * cells[0], 2 * cells[1])
        self.cells = cells[0] * cells[1]
        self.scheduler = noise_scheduler(self.config.noise)
        self.device = self.accelerator.device
        self.weights = timestep_weights(self.config.noise, self.scheduler).to(self.device)
        self.model = initial_denoiser(self.config, channels, self.source.token_shape[1], stride).to(self.device).train()
        if self.config.gradient_checkpointing:
            self.model.unet.enable_gradient_checkpointing()
        self.average = [p.detach().clone() for p in self.model.parameters()] if self.config.ema_decay else []
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=self.config.learning_rate, weight_decay=self.config.weight_decay, fused=True
        )
        self.step = load_state(self.directory, self.model, self.average, self.optimizer)
        if self.step:
            logger.info("going on from step %d", self.step)
        wrapped = self.accelerator.prepare_model(self.model)
        self.network = torch.compile(wrapped) if self.config.compile else wrapped

    def run(self) -> dict[str, Any]:
        """All remaining steps; returns last loss and speed."""
        config, started, first = self.config, time.monotonic(), self.step
        log = TrainLog(self.directory / LOG, self.step)
        progress = Progress(
            logger, "train", config.steps * config.batch_size * 4, "images", done=first * config.batch_size * 4
        )
        self.pending = []
        with _stop_requests() as stop:
            while self.step < config.steps:
                rate = learning_rate_at(config, self.step)
                self.pending.append(self._train_step(rate))
                self.step += 1
                due = self.step == config.steps
                if (
                    due
                    or stop.is_set()
                    or self.step % config.log_every == 0
                    or self.step % config.checkpoint_every == 0
                ):
                    mean = self._checked_loss()
                    if self.accelerator.is_main_process:
                        log.add(step=self.step, loss=mean, learning_rate=rate, seconds=time.monotonic() - started)
                if (stop.is_set() or self.step % config.checkpoint_every == 0) and not due:
                    self._save(log)
                if stop.is_set() and not due:
                    logger.info("stopped at step %d; the same command goes on from there", self.step)
                    sys.exit(TERMINATED)
                if due or self.step % config.sample_every == 0:
                    self._sample()
                loss = f", loss {log.last:.4f}" if log.rows else ""
                progress.update(config.batch_size * 4, f"step {self.step}{loss}")
        if self.accelerator.is_main_process:
            log.write()
        seconds = time.monotonic() - started
        canvases = (self.step - first) * config.batch_size
        return {
            "steps": self.step,
            "loss": log.recent(),
            "canvases_per_second": round(canvases / max(seconds, 1e-9), 2),
        }

    def _train_step(self, rate: float) -> Tensor:
        config, processes = self.config, self.accelerator.num_processes
        plans = plan_batch(self.source, config, self.step)
        noise, timesteps = noise_of_step(config, self.step, self.canvas_shape, len(self.weights))
        mine = slice(self.accelerator.process_index, None, processes)
        batch = make_batch(self.source, plans[mine], config.visible_weight).to(self.device)
        # every process divides by the whole batch's weight; DDP then averages over processes, hence the factor
        scale = processes / max(total_weight(plans, config, self.cells), 1e-9)
        with self.accelerator.autocast():
            total = loss_sum(
                self.network, self.scheduler, self.weights, batch, noise[mine].to(self.device),
                timesteps[mine].to(self.device),
            )  # fmt: skip
        loss = total * scale
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.model.parameters(), config.max_gradient_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._update_average()
        return loss.detach()

    def _update_average(self) -> None:
        if self.average:
            decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(self.average, [p.detach() for p in self.model.parameters()], 1 - decay)

    def _checked_loss(self) -> float:
        """Mean loss since the last call, over all processes."""
        losses = torch.stack(self.pending)
        if self.accelerator.num_processes > 1:
            losses = self.accelerator.reduce(losses, "mean")
        self.pending = []
        if not torch.isfinite(losses).all():
            bad = self.step - len(losses) + 1 + int((~torch.isfinite(losses)).int().argmax())
            raise DivergedError(
                f"the loss is not finite at step {bad}; lower --learning-rate ({self.config.learning_rate}), or use "
                "--precision no; earlier checkpoints are kept"
            )
        return float(losses.mean())

    def _save(self, log: TrainLog) -> None:
        if self.accelerator.is_main_process:
            log.write()
            save_state(self.directory, self.step, self.model, self.average, self.optimizer)
        self.accelerator.wait_for_everyone()

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The averaged weights in the model's place."""
        parameters = [p.detach() for p in self.model.parameters()]
        kept = [p.clone() for p in parameters] if self.average else []
        self.use_average()
        try:
            yield
        finally:
            for parameter, value in zip(parameters, kept, strict=bool(kept)):
                parameter.copy_(value)

    def use_average(self) -> None:
        """Put the averaged weights into the model for good."""
        with torch.no_grad():
            for parameter, value in zip(self.model.parameters(), self.average, strict=bool(self.average)):
                parameter.copy_(value)

    def _sample(self) -> None:
        if self.accelerator.is_main_process:
            with self._averaged():
                self.model.eval()
                pipeline = self.frozen.generator(self.model, self.scheduler).pipeline()
                save_samples(pipeline, self.source, self.config, self.directory / f"samples-{self.step:06d}.png")
                self.model.train()
        self.accelerator.wait_for_everyone()


class TrainLog:
    """``train_log.jsonl``: one line each `log_every` steps, cut back to the resumed step."""

    def __init__(self, path: Path, step: int) -> None:
        """Read what an interrupted run wrote up to `step`."""
        lines = path.read_text().splitlines() if path.is_file() else []
        self.path = path
        self.rows = [row for row in map(json.loads, lines) if row["step"] <= step]
        self.before = self.rows[-1]["seconds"] if self.rows else 0.0

    @property
    def last(self) -> float:
        """The newest mean loss."""
        return self.rows[-1]["loss"] if self.rows else math.nan

    def recent(self, rows: int = 10) -> float:
        """Mean of the newest entries."""
        values = [row["loss"] for row in self.rows[-rows:]]
        return round(sum(values) / max(1, len(values)), 6)

    def add(self, *, step: int, loss: float, learning_rate: float, seconds: float) -> None:
        """One more entry; `seconds` counts from this process's start."""
        self.rows.append(
            {"step": step, "loss": loss, "learning_rate": learning_rate, "seconds": round(self.before + seconds, 2)}
        )

    def write(self) -> None:
        """Write the file anew, whole."""
        write_text_atomically(self.path, "".join(json.dumps(row) + "\n" for row in self.rows))


@contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, so that the step in hand is finished and saved before the process ends."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
