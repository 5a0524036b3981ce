"""Train BoT on a subset, with or without synthetic images, and test it: one run of the benchmark.

A run depends on its config and its images alone: every step draws from a generator of its own, made from the seed and
the step, so an interrupted run that resumes from its checkpoint ends with the same weights.
"""

from __future__ import annotations

import json
import logging
import math
import os
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

from datasets.runtime import devices
from datasets.runtime.errors import ArtifactError, DivergedError, InputError, WeightsError
from datasets.runtime.manifests import SCRATCH, manifest_of
from datasets.runtime.progress import Progress
from datasets.runtime.reading.contents import artifact_file, read_json
from datasets.runtime.remote.copies import is_file
from datasets.runtime.training.checkpoints import Checkpoints, Part
from reid.config import ScheduleConfig, TrainReidConfig, run_name
from reid.data.images import augment, read_images, send
from reid.data.sampler import IdentitySampler, native_steps
from reid.data.training_set import (
    TrainingSet,
    has_provenance,
    read_synthetic_table,
    read_training_set,
    refuse_other_subset,
)
from reid.evaluation.features import evaluate, write_metrics
from reid.evaluation.post_processing import PostProcessing
from reid.evaluation.ranking import refuse_unmatched
from reid.training.distributed import Processes
from reid.training.execution import memory_format, precision_of, runnable
from reid.training.losses import CenterLoss, batch_hard_triplet_loss, identity_loss
from reid.training.model import NORMALIZATION, ReidNetwork, assemble_network, read_normalization, seeded_backbone
from reid.training.pretrained import PACKAGE
from reid.training.schedule import rate_factor, stretched_epoch

logger = logging.getLogger(__name__)

LOG_ROWS = 100
"""About how many rows of means `log.jsonl` gets."""
MODEL = "model.safetensors"
LOG = "log.jsonl"
METRICS = "metrics.json"


def make_run(config: TrainReidConfig, directory: Path) -> dict[str, Any]:
    """Train, test, write ``model.safetensors, metrics.json, per_query.parquet, ranked.parquet, log.jsonl``."""
    logger.info("run: %s", run_name(config))
    processes = Processes(config.processes, config.device)
    device = processes.device
    backbone = seeded_backbone(config.network, config.seed)  # first: it is what may lack its weights
    if config.init_from is not None and config.protocol == "leak-free":
        refuse_other_subset(config.init_from, config)
    training_set = read_training_set(config)
    size = (config.network.height, config.network.width)
    query, gallery = (read_images(config.test_shards, s, size, workers=config.workers) for s in ("query", "gallery"))
    if not (query.pids > 0).any():
        raise InputError(f"{config.test_shards} has no query image of a person; nothing could be tested")
    refuse_unmatched(query.labels, gallery.labels)
    shared = set(query.pids.tolist()) & set(training_set.pids)
    if shared and config.shards == config.test_shards:
        logger.warning(
            "%d queried identities have training images under the same number (first: %d); if they are the same "
            "people, the figures are not of people whom the network has never seen",
            len(shared),
            min(shared),
        )
    network = assemble_network(backbone, config.network, len(training_set.pids), config.seed)
    if config.init_from is not None:
        init_from_run(network, config.init_from)
    trainer = Trainer(config, network, training_set, processes)
    started = time.monotonic()
    trainer.run(directory)
    training_seconds = time.monotonic() - started
    if not processes.first:
        return {}
    save_network(network, directory / MODEL)
    post = PostProcessing(nfc=config.nfc, rerank=config.rerank)
    metrics = evaluate(network, query, gallery, device, directory, config.max_rank, post) | trainer.facts()
    write_metrics(directory, metrics)
    return metrics | {"training_seconds": round(training_seconds, 2), "device": str(device)}


def init_from_run(network: ReidNetwork, run: Path) -> None:
    """Take over another run's network; its classifier too if that has as many identities.

    Raises:
        WeightsError: if the other network is of another architecture.
    """
    manifest_of(run, TrainReidConfig.stage)
    if not is_file(run / MODEL):
        raise ArtifactError(f"init_from {run} holds no {MODEL}; delete the run and make it again")
    with safe_open(artifact_file(run, MODEL), framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        if (found := read_normalization(file.metadata())) != network.normalization:
            raise WeightsError(
                f"init_from {run} normalizes images by {found}, this run by {network.normalization}; "
                "give both the same network.weights"
            )
    if tensors["classifier.weight"].shape != network.classifier.weight.shape:
        del tensors["classifier.weight"]
    try:
        missing, unexpected = network.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise WeightsError(f"init_from {run} has another network: {str(error).splitlines()[-1].strip()}") from None
    if unexpected or set(missing) - {"classifier.weight"}:
        raise WeightsError(f"init_from {run} has another network: {[*missing, *unexpected][0]}")


def save_network(network: ReidNetwork, path: Path) -> None:
    """Weights as safetensors, contiguous, on the CPU; the file's header says how images are normalized."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, path, metadata={NORMALIZATION: json.dumps(network.normalization._asdict())})


@dataclass
class RunningMeans:
    """Means of the losses since the last row of the log; until then they stay on the device, and nobody waits."""

    pending: list[dict[str, Tensor]] = field(default_factory=list)

    def add(self, values: dict[str, Tensor]) -> None:
        """Add one step's values."""
        self.pending.append(values)

    def take(self) -> dict[str, float]:
        """The means; starts anew."""
        names, steps = list(self.pending[0]), self.pending
        means = torch.stack([torch.stack([values[name] for name in names]) for values in steps]).double().mean(0)
        self.pending = []
        return dict(zip(names, means.tolist(), strict=True))


def build_optimizer(network: ReidNetwork, schedule: ScheduleConfig) -> torch.optim.Adam:
    """Adam with coupled L2, as BoT's; two groups, the backbone's parameters first, because their rates may differ."""
    groups = [network.backbone.parameters(), network.head_parameters()]
    trained = [[parameter for parameter in group if parameter.requires_grad] for group in groups]
    return torch.optim.Adam(
        [{"params": group} for group in trained],
        lr=schedule.learning_rate,
        weight_decay=schedule.weight_decay,
        fused=True,  # one pass over the weights: a seventh of the time on a CPU
    )


class Trainer:
    """The training loop and all its state.

    Args:
        config: the run.
        network: moved to the processes' device.
        training_set: real and synthetic images; moved to a GPU whole, as bytes.
        processes: who trains together.
    """

    def __init__(
        self, config: TrainReidConfig, network: ReidNetwork, training_set: TrainingSet, processes: Processes
    ) -> None:
        device = processes.device
        network.backbone = processes.prepare(network.backbone)
        self.layout = memory_format(config)
        self.precision = precision_of(config, network.backbone, device)
        self.config, self.training_set, self.device, self.processes = config, training_set, device, processes
        self.network = network.to(device).to(memory_format=self.layout)
        self.pixels = training_set.images.pixels.to(device)
        self.labels = torch.from_numpy(training_set.labels).to(device)
        self.is_synthetic = torch.from_numpy(training_set.is_synthetic).to(device)
        labels, is_synthetic, camids = training_set.labels, training_set.is_synthetic, training_set.images.camids
        self.sampler = IdentitySampler(labels, is_synthetic, config.batch, config.seed, camids)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.center_loss = CenterLoss(len(training_set.pids), network.width).to(device)
        self.optimizer = build_optimizer(network, config.schedule)
        self.center_optimizer = torch.optim.SGD(self.center_loss.parameters(), lr=config.loss.center_learning_rate)
        epochs = config.schedule.epochs if config.schedule.steps is None else 1
        self.native = native_steps(labels, is_synthetic, config.batch, config.seed, epochs)
        self.steps = max(1, round(config.schedule.times * (config.schedule.steps or sum(self.native))))
        self.backbone = runnable(config, network.backbone, device, self.steps)
        self.step = 0

    def facts(self) -> dict[str, Any]:
        """What the table says about a run beside its figures."""
        config, batch = self.config, self.config.batch
        synthetic = self.training_set.synthetic_count
        before = 0 if config.init_from is None else read_json(config.init_from, METRICS)["steps"]
        return {
            **{name: getattr(config, name) for name in ("protocol", "fraction", "draw", "seed", "arm")},
            "images": self.training_set.real_count,
            "synthetic_images": synthetic,
            "provenance": self._provenance(),
            "identities": len(self.training_set.pids),
            "steps": self.steps + before,
            "steps_before": before,
            "steps_per_epoch": self.native[0],
            "batch_identities": self.sampler.identities,
            "batch_images": batch.images,
            "batch_synthetic": batch.synthetic if synthetic else 0,
            "backbone": config.network.backbone,
            "weights": self._weights_in_words(),
            "parameters": sum(p.numel() for p in self.network.backbone.parameters()),
            "precision": self.precision,
            "pixel_mean": list(self.network.normalization.mean),
            "pixel_std": list(self.network.normalization.std),
            "height": config.network.height,
            "width": config.network.width,
        }

    def _provenance(self) -> str:
        """Whether the synthetic images say what they were made from; '' without any."""
        tables = [read_synthetic_table(folder) for folder in self.config.synthetic]
        return "" if not tables else "stated" if all(map(has_provenance, tables)) else "unknown"

    def _weights_in_words(self) -> str:
        if self.config.init_from is not None:
            return "another run"
        weights = self.config.network.weights
        named = {"none": "from scratch", "hub": "ImageNet (timm)", PACKAGE: "ImageNet (package)"}
        return named.get(str(weights), f"file {Path(weights).name}")

    def run(self, directory: Path) -> None:
        """Train to the last step, from the checkpoint in `directory` if there is one."""
        self.checkpoints = Checkpoints(directory / SCRATCH)
        self.load(directory)
        self.network.train()
        every = max(1, self.steps // LOG_ROWS)
        means, saved_at = RunningMeans(), time.monotonic()
        first = self.processes.first
        progress = Progress(logger, f"training {self.config.arm}", self.steps, "steps", done=self.step)
        with (directory / LOG if first else Path(os.devnull)).open("a", encoding="utf-8") as log:
            for epoch, positions in self._batches():
                rate = self._set_rate(epoch)
                means.add(self.train_step(positions))
                self.step += 1
                if first:
                    progress.update()
                if self.step % every and self.step < self.steps:
                    continue
                row = {"step": self.step, "epoch": epoch, "learning_rate": rate} | means.take()
                if not math.isfinite(row["loss"]):
                    raise DivergedError(
                        f"the loss is not finite at step {self.step}; try --schedule.learning-rate below {rate:g}"
                    )
                log.write(json.dumps(row) + "\n")
                log.flush()
                # Checkpoints lie on the log's rows only, so that a resumed run's means are the same.
                due = time.monotonic() - saved_at > self.config.checkpoint_seconds
                if first and due and self.step < self.steps:
                    self.checkpoints.save(self.step, self._parts())
                    saved_at = time.monotonic()

    def _batches(self) -> Iterator[tuple[int, np.ndarray]]:
        """(epoch of the schedule from 1, positions in the training set) of each step from `self.step` on."""
        at, number = 0, 0
        while at < self.steps:
            batches = self.sampler.epoch(number)
            for positions in batches[max(0, self.step - at) : self.steps - at]:
                yield self._epoch(), positions
            at += len(batches)
            number += 1

    def _epoch(self) -> int:
        """Epoch of the schedule, from 1, in which the next step lies."""
        schedule = self.config.schedule
        if schedule.steps is None and schedule.times == 1:
            return int(np.searchsorted(np.cumsum(self.native), self.step, side="right")) + 1
        return stretched_epoch(schedule, self.step, self.steps)

    def _set_rate(self, epoch: int) -> float:
        rate = self.config.schedule.learning_rate * rate_factor(self.config.schedule, epoch)
        backbone, head = self.optimizer.param_groups
        backbone["lr"] = (
            0.0 if epoch <= self.config.schedule.frozen_epochs else rate * self.config.schedule.backbone_rate
        )
        head["lr"] = rate
        return rate

    def train_step(self, positions: np.ndarray) -> dict[str, Tensor]:
        """One step on the images at `positions`; returns the loss and its parts."""
        generator = torch.Generator().manual_seed(seed_of_step(self.config.seed, self.step))
        index = send(torch.from_numpy(positions), self.device)
        images = augment(self.pixels[index], self.config.augmentation, generator, self.network.normalization)
        share = images[self.processes.share(len(images))].contiguous(memory_format=self.layout)
        labels, is_synthetic = self.labels[index], self.is_synthetic[index]
        with devices.autocast(self.device, self.precision):
            features = self.processes.gather(self.backbone(share), len(images))
            logits = self.network.classifier(self.network.neck(features))
        in_triplet = self._in_triplet(positions)
        loss, parts = self._loss(features.float(), logits.float(), labels, is_synthetic, in_triplet)
        self.optimizer.zero_grad(set_to_none=True)
        self.center_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        own = list(self.network.backbone.parameters())
        self.processes.add_gradients(own, [*self.network.head_parameters(), *self.center_loss.parameters()])
        self.optimizer.step()
        gradient = self.center_loss.centers.grad
        if self.config.loss.center_weight and gradient is not None:
            gradient.div_(self.config.loss.center_weight)  # BoT: the centers learn at full rate
            self.center_optimizer.step()
        return {"loss": loss.detach(), **parts}

    def _in_triplet(self, positions: np.ndarray) -> Tensor | None:
        """Which of a batch's images take part in the triplet loss, by number; None: all.

        Found on the CPU: a GPU would have to be waited for, to learn how many there are.
        """
        if self.config.loss.synthetic_triplet:
            return None
        return send(torch.from_numpy(np.flatnonzero(~self.training_set.is_synthetic[positions])), self.device)

    def _loss(
        self, features: Tensor, logits: Tensor, labels: Tensor, is_synthetic: Tensor, in_triplet: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config.loss
        identity = identity_loss(logits, labels, is_synthetic, config)
        loss, parts = identity, {"identity_loss": identity.detach()}
        if config.triplet_weight:
            chosen = (features, labels) if in_triplet is None else (features[in_triplet], labels[in_triplet])
            triplet = batch_hard_triplet_loss(*chosen, config.triplet_margin)
            loss = loss + config.triplet_weight * triplet
            parts["triplet_loss"] = triplet.detach()
        if config.center_weight:
            center = self.center_loss(features, labels, is_synthetic, config.synthetic_weight)
            loss = loss + config.center_weight * center
            parts["center_loss"] = center.detach()
        parts["accuracy"] = (logits.argmax(dim=1) == labels).float().mean()
        return loss, parts

    def _parts(self) -> dict[str, Part]:
        """What a training state holds; the centers' SGD has no moments."""
        return {"network": self.network, "centers": self.center_loss, "optimizer": self.optimizer}

    def load(self, directory: Path) -> None:
        """Resume from the newest training state, if there is one; rows of the log after it are dropped."""
        self.step = int(self.checkpoints.restore(self._parts())["step"])
        self.processes.wait()  # nobody may read a state that the first has written since
        log = directory / LOG
        if self.processes.first and log.is_file():
            rows = [line for line in log.read_text().splitlines() if _step_of(line) <= self.step]
            log.write_text("".join(f"{row}\n" for row in rows))


def seed_of_step(seed: int, step: int) -> int:
    """What a step's generator starts from; torch takes 64 bits, so of a run's seed of more than 32 bits a hash."""
    if seed < 2**32:
        return seed * 2**32 + step
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0])


def _step_of(line: str) -> float:
    """Step of a row of the log; a row that a kill cut short counts as after everything."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return math.inf
