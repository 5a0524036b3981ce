"""Train BoT on a subset, with or without synthetic images, and test it: one run of the benchmark.

A run depends on its config and its images alone: every step draws from a generator of its own, made from the seed and
the step, so an interrupted run that goes on from its checkpoint ends with the same weights.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from datasets.artifacts import manifest_of
from datasets.errors import ArtifactError, WeightsError
from datasets.progress import Progress
from reid.config import TrainConfig, run_name
from reid.data import TrainingSet, augment, join_training_sets, read_images, refuse_leak, subset_keys, synthetic_keys
from reid.features import choose_device, evaluate, write_metrics
from reid.losses import CentreLoss, batch_hard_triplet_loss, identity_loss
from reid.model import ReidNetwork, assemble_network, seeded_backbone
from reid.sampler import IdentitySampler
from reid.schedule import rate_factor, stretched_epoch

logger = logging.getLogger(__name__)

LOG_ROWS = 100
"""About how many rows of means `log.jsonl` gets."""
CHECKPOINT = "checkpoint.safetensors"
MODEL = "model.safetensors"
LOG = "log.jsonl"


class DivergedError(RuntimeError):
    """The loss is not finite any more."""


def make_run(config: TrainConfig, directory: Path) -> dict[str, Any]:
    """Train, test, write ``model.safetensors, metrics.json, per_query.parquet, ranked.parquet, log.jsonl``."""
    logger.info("run: %s", run_name(config))
    device = choose_device(config.device)
    backbone = seeded_backbone(config.network, config.seed)  # first: it is what may lack its weights
    training_set = read_training_set(config)
    size = (config.network.height, config.network.width)
    query, gallery = (read_images(config.test_shards, s, size, workers=config.workers) for s in ("query", "gallery"))
    network = assemble_network(backbone, config.network, len(training_set.pids), config.seed)
    if config.start_from is not None:
        start_from_run(network, config.start_from)
    trainer = Trainer(config, network.to(device), training_set, device)
    started = time.monotonic()
    trainer.run(directory)
    training_seconds = time.monotonic() - started
    save_network(network, directory / MODEL)
    metrics = evaluate(network, query, gallery, device, directory, config.max_rank) | trainer.facts()
    write_metrics(directory, metrics)
    (directory / CHECKPOINT).unlink(missing_ok=True)
    return metrics | {"training_seconds": round(training_seconds, 2), "device": str(device)}


def read_training_set(config: TrainConfig) -> TrainingSet:
    """The subset's real images and the usable images of each synthetic set."""
    size = (config.network.height, config.network.width)
    keys = None if config.subsets is None else subset_keys(config.subsets, config.fraction, config.draw)
    real = read_images(config.shards, "train", size, keys=keys, workers=config.workers)
    if keys is not None and config.protocol == "leak-free":
        for folder in config.synthetic:
            refuse_leak(folder, keys)
    synthetic = [
        read_images(folder, "synthetic", size, keys=usable, workers=config.workers)
        for folder in config.synthetic
        if (usable := synthetic_keys(folder))  # a subset as large as the full set is topped up with nothing
    ]
    training_set = join_training_sets(real, synthetic)
    logger.info(
        "training on %d real and %d synthetic images of %d identities",
        training_set.real_count, training_set.synthetic_count, len(training_set.pids),
    )  # fmt: skip
    return training_set


def start_from_run(network: ReidNetwork, run: Path) -> None:
    """Take over another run's network; its classifier too if that has as many identities.

    Raises: WeightsError: if the other network is of another architecture.
    """
    if manifest_of(run)["config"].get("arm") is None or not (run / MODEL).is_file():
        raise ArtifactError(f"start_from {run} is no re-ID run; give the folder of a finished 'reid train'")
    with safe_open(run / MODEL, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    if tensors["classifier.weight"].shape != network.classifier.weight.shape:
        del tensors["classifier.weight"]
    try:
        missing, unexpected = network.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise WeightsError(f"start_from {run} has another network: {str(error).splitlines()[-1].strip()}") from None
    if unexpected or set(missing) - {"classifier.weight"}:
        raise WeightsError(f"start_from {run} has another network: {[*missing, *unexpected][0]}")


def save_network(network: ReidNetwork, path: Path) -> None:
    """Weights as safetensors, contiguous, on the CPU."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}, path)


@dataclass
class RunningMeans:
    """Means of the losses since the last row of the log."""

    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0

    def add(self, values: dict[str, Tensor]) -> None:
        """Add one step's values."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
        self.count += 1

    def take(self) -> dict[str, float]:
        """The means; starts anew."""
        means = {name: total / self.count for name, total in self.sums.items()}
        self.sums, self.count = {}, 0
        return means


class Trainer:
    """The training loop and all its state.

    Args:
        config: the run.
        network: on `device` already.
        training_set: real and synthetic images; moved to a GPU whole, as bytes.
    """

    def __init__(
        self, config: TrainConfig, network: ReidNetwork, training_set: TrainingSet, device: torch.device
    ) -> None:
        self.config, self.network, self.device, self.training_set = config, network, device, training_set
        self.pixels = training_set.images.pixels.to(device)
        self.labels = torch.from_numpy(training_set.labels).to(device)
        self.is_synthetic = torch.from_numpy(training_set.is_synthetic).to(device)
        self.sampler = IdentitySampler(training_set.labels, training_set.is_synthetic, config.batch, config.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.centre_loss = CentreLoss(len(training_set.pids), network.width).to(device)
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        rate, decay = config.schedule.learning_rate, config.schedule.weight_decay
        self.optimizer = torch.optim.Adam(trained, lr=rate, weight_decay=decay)  # coupled L2, as BoT's Adam
        self.centre_optimizer = torch.optim.SGD(self.centre_loss.parameters(), lr=config.loss.centre_learning_rate)
        self.forward = torch.compile(network) if config.compile else network
        self.epoch_lengths = self._epoch_lengths()
        self.steps = config.schedule.steps or sum(self.epoch_lengths)
        self.step = 0

    def _epoch_lengths(self) -> list[int]:
        """Steps of each native epoch; one epoch's if the schedule is stretched over a number of steps."""
        epochs = self.config.schedule.epochs if self.config.schedule.steps is None else 1
        return [len(self.sampler.epoch(number)) for number in range(epochs)]

    def facts(self) -> dict[str, Any]:
        """What the table says about a run beside its figures."""
        config, batch = self.config, self.config.batch
        synthetic = self.training_set.synthetic_count
        return {
            **{name: getattr(config, name) for name in ("protocol", "fraction", "draw", "seed", "arm")},
            "images": self.training_set.real_count,
            "synthetic_images": synthetic,
            "identities": len(self.training_set.pids),
            "steps": self.steps,
            "steps_per_epoch": self.epoch_lengths[0],
            "batch_identities": self.sampler.identities,
            "batch_images": batch.images,
            "batch_synthetic": batch.synthetic if synthetic else 0,
            "backbone": config.network.backbone,
            "weights": self._weights_in_words(),
            "parameters": sum(p.numel() for p in self.network.backbone.parameters()),
            "height": config.network.height,
            "width": config.network.width,
        }

    def _weights_in_words(self) -> str:
        if self.config.start_from is not None:
            return "another run"
        weights = self.config.network.weights
        return {"none": "from scratch", "hub": "ImageNet (timm)"}.get(str(weights), f"file {Path(weights).name}")

    def run(self, directory: Path) -> None:
        """Train to the last step, from the checkpoint in `directory` if there is one."""
        self.load(directory)
        self.network.train()
        every = max(1, self.steps // LOG_ROWS)
        means, saved_at = RunningMeans(), time.monotonic()
        progress = Progress(logger, f"training {self.config.arm}", self.steps, "steps", done=self.step)
        with (directory / LOG).open("a", encoding="utf-8") as log:
            for epoch, positions in self._batches():
                rate = self._set_rate(epoch)
                means.add(self.train_step(positions))
                self.step += 1
                progress.update()
                if self.step % every and self.step < self.steps:
                    continue
                row = {"step": self.step, "epoch": epoch, "learning_rate": rate} | means.take()
                if not math.isfinite(row["loss"]):
                    raise DivergedError(f"loss is {row['loss']} at step {self.step}; lower schedule.learning_rate")
                log.write(json.dumps(row) + "\n")
                log.flush()
                # Checkpoints lie on the log's rows only, so that a resumed run's means are the same.
                if time.monotonic() - saved_at > self.config.checkpoint_seconds and self.step < self.steps:
                    self.save(directory)
                    saved_at = time.monotonic()

    def _batches(self) -> Iterator[tuple[int, np.ndarray]]:
        """(epoch of the schedule from 1, positions in the training set) of each step from `self.step` on."""
        schedule, at, number = self.config.schedule, 0, 0
        while at < self.steps:
            batches = self.sampler.epoch(number)
            for positions in batches[max(0, self.step - at) : self.steps - at]:
                stretched = schedule.steps is not None
                yield stretched_epoch(schedule, self.step, self.steps) if stretched else number + 1, positions
            at += len(batches)
            number += 1

    def _set_rate(self, epoch: int) -> float:
        rate = self.config.schedule.learning_rate * rate_factor(self.config.schedule, epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def train_step(self, positions: np.ndarray) -> dict[str, Tensor]:
        """One step on the images at `positions`; returns the loss and its parts."""
        generator = torch.Generator().manual_seed(self.config.seed * 2**32 + self.step)
        index = torch.from_numpy(positions).to(self.device)
        images = augment(self.pixels[index], self.config.augmentation, generator)
        labels, is_synthetic = self.labels[index], self.is_synthetic[index]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            features, logits = self.forward(images)
        loss, parts = self._loss(features.float(), logits.float(), labels, is_synthetic)
        self.optimizer.zero_grad(set_to_none=True)
        self.centre_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        if self.config.loss.centre_weight:
            self.centre_loss.centres.grad /= self.config.loss.centre_weight  # BoT: the centres learn at full rate
            self.centre_optimizer.step()
        return {"loss": loss.detach(), **parts}

    def _loss(
        self, features: Tensor, logits: Tensor, labels: Tensor, is_synthetic: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config.loss
        identity = identity_loss(logits, labels, is_synthetic, config)
        loss, parts = identity, {"identity_loss": identity.detach()}
        if config.triplet_weight:
            chosen = torch.ones_like(is_synthetic) if config.synthetic_triplet else ~is_synthetic
            triplet = batch_hard_triplet_loss(features[chosen], labels[chosen], config.triplet_margin)
            loss = loss + config.triplet_weight * triplet
            parts["triplet_loss"] = triplet.detach()
        if config.centre_weight:
            centre = self.centre_loss(features, labels, is_synthetic, config.synthetic_weight)
            loss = loss + config.centre_weight * centre
            parts["centre_loss"] = centre.detach()
        parts["accuracy"] = (logits.argmax(dim=1) == labels).float().mean()
        return loss, parts

    def save(self, directory: Path) -> None:
        """Write the checkpoint: network, centres, Adam's moments, step."""
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors["centres"] = self.centre_loss.centres.data
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{i}.{name}": value for name, value in state.items()}
        temporary = directory / f".{CHECKPOINT}.tmp"
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, temporary, metadata={"step": str(self.step)})
        temporary.replace(directory / CHECKPOINT)

    def load(self, directory: Path) -> None:
        """Go on from the checkpoint, if there is one; rows of the log after it are dropped."""
        path = directory / CHECKPOINT
        if path.is_file():
            with safe_open(path, framework="pt") as file:
                self.step = int(file.metadata()["step"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            self._restore(tensors)
            logger.info("going on from step %d of %d", self.step, self.steps)
        log = directory / LOG
        if log.is_file():
            rows = [line for line in log.read_text().splitlines() if _step_of(line) <= self.step]
            log.write_text("".join(f"{row}\n" for row in rows))

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        network = {n.removeprefix("network."): t for n, t in tensors.items() if n.startswith("network.")}
        self.network.load_state_dict(network)
        self.centre_loss.centres.data.copy_(tensors["centres"])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("adam."):
                _, i, part = name.split(".")
                moments.setdefault(int(i), {})[part] = tensor
        state = self.optimizer.state_dict()
        self.optimizer.load_state_dict({"state": moments, "param_groups": state["param_groups"]})


def _step_of(line: str) -> float:
    """Step of a row of the log; a row that a kill cut short counts as after everything."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return math.inf
