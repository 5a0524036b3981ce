"""A classifier of rendered people, trained on real renderings only: who is it on a generated image?

The stage's artifact holds the classifier and the pictures that are measured with it. Neither depends on a generator, so
the next generator finds both. The network is a small ResNet from scratch with BoT's neck: it shares nothing with the
image encoder that the generator looks through.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from benchmarks.people.rendered_people import People, render_people
from datasets.runtime import devices
from datasets.runtime.config import Precision, Seed, StageConfig
from datasets.runtime.manifests import SCRATCH, manifest_of
from datasets.runtime.training.run import TrainingRun, set_learning_rate, step_generator
from datasets.runtime.training.schedules import warmup_cosine
from reid.config import AugmentationConfig, NetworkConfig
from reid.data.images import augment, normalize
from reid.training.model import ReidNetwork, assemble_network, seeded_backbone

logger = logging.getLogger(__name__)

WEIGHTS, PICTURES = "judge.safetensors", "pictures.safetensors"
BACKBONE = "test_resnet.r160_in1k"
AUGMENTATION = AugmentationConfig(padding=5, erasing=0.3, erasing_area=(0.02, 0.2), color_jitter=0.1)
MEASURED = ("source", "target")
"""Pictures that the judge is not trained on."""


class JudgeConfig(StageConfig):
    """A rendered population, a part of its pictures to train a judge on, the other part to measure with."""

    stage: ClassVar[str] = "benchmark-judge"
    package: ClassVar[str] = "benchmarks"

    seed: Seed = 2601
    """Of the population; the demo's is 1501, the built-in models' 1001. Also the judge's first weights and batches."""
    identities: int = Field(64, ge=2)
    """People, all unknown to the built-in models; chance is one in so many."""
    judge_images: int = Field(24, ge=2)
    """Pictures of each person that the judge is trained on."""
    sources: int = Field(3, ge=1)
    """Further pictures of each person that a generator is shown."""
    targets: int = Field(3, ge=1)
    """Further pictures of each person whose poses are requested; multiples of 3 fill IMAGPose*'s canvases."""
    height: int = Field(128, ge=32)
    """Of all pictures, in pixels; the generator's view."""
    width: int = Field(64, ge=16)
    """Of all pictures, in pixels."""
    steps: int = Field(500, ge=1)
    """The judge's training."""
    batch_size: int = Field(64, ge=4)
    """Pictures of a step, at random."""
    learning_rate: float = Field(6e-3, gt=0)
    """Adam's peak, after a warm-up of a tenth; then a cosine to zero."""
    precision: Precision = "bf16"
    """Arithmetic of the judge's training; bf16 takes half the time where the processor has it."""


def make_judge(config: JudgeConfig, directory: Path) -> dict[str, Any]:
    """Render, train, and write both; returns the judge's accuracy on pictures that it was not trained on."""
    people = _people(config, directory)
    network = _train(config, people.pop("judge").pictures, directory)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, directory / WEIGHTS)
    _save({role: people[role] for role in MEASURED}, directory / PICTURES)
    truth = np.arange(config.identities)[:, None]
    accuracy = {role: float((_answers(network, drawn.pictures) == truth).mean()) for role, drawn in people.items()}
    logger.info("the judge knows %s", {role: f"{100 * share:.1f} %" for role, share in accuracy.items()})
    return {"accuracy": accuracy, "chance": 1 / config.identities}


def _people(config: JudgeConfig, directory: Path) -> dict[str, People]:
    """All pictures by role; kept while the judge is in training, so that an interrupted one need not draw again."""
    kept = directory / SCRATCH / PICTURES
    if not kept.is_file():
        cv2.setNumThreads(1)  # OpenCV's own threads wait for each other where other work shares the cores
        counts = {"judge": config.judge_images, "source": config.sources, "target": config.targets}
        size = (config.height, config.width)
        people = {role: render_people(config.seed, config.identities, n, role, size) for role, n in counts.items()}
        kept.parent.mkdir(exist_ok=True)
        _save(people, kept)
    return _load(kept)


def _save(people: dict[str, People], path: Path) -> None:
    tensors = {
        f"{role}.{k}": torch.from_numpy(v.copy()) for role, drawn in people.items() for k, v in vars(drawn).items()
    }
    temporary = path.with_name(f".{path.name}.tmp")
    save_file(tensors, temporary)
    temporary.replace(path)


def _load(path: Path) -> dict[str, People]:
    fields: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in load_file(path).items():
        role, _, field = name.partition(".")
        fields.setdefault(role, {})[field] = tensor.numpy()
    return {role: People(**values) for role, values in fields.items()}


def _network(config: JudgeConfig) -> ReidNetwork:
    settings = NetworkConfig(backbone=BACKBONE, weights="none", height=config.height, width=config.width)
    return assemble_network(seeded_backbone(settings, config.seed), settings, config.identities, config.seed)


def _train(config: JudgeConfig, pictures: np.ndarray, directory: Path) -> ReidNetwork:
    network = _network(config).train().to(memory_format=torch.channels_last)
    pixels = torch.from_numpy(pictures.reshape(-1, *pictures.shape[2:])).permute(0, 3, 1, 2)
    labels = torch.arange(config.identities).repeat_interleave(pictures.shape[1])
    optimizer = torch.optim.Adam(network.parameters(), config.learning_rate, weight_decay=5e-4)
    run = TrainingRun(directory, "train the judge", config.steps, {"network": network, "optimizer": optimizer})
    while run.step < config.steps:
        rate = warmup_cosine(run.step, config.steps, config.learning_rate, warmup=max(1, config.steps // 10), floor=0.0)
        set_learning_rate(optimizer, rate)
        generator = step_generator(config.seed, run.step)
        rows = torch.randint(len(pixels), (config.batch_size,), generator=generator)
        images = augment(pixels[rows], AUGMENTATION, generator).contiguous(memory_format=torch.channels_last)
        with devices.autocast(torch.device("cpu"), config.precision):
            _, logits = network(images)
        loss = functional.cross_entropy(logits.float(), labels[rows], label_smoothing=0.1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        run.finished_step({"loss": loss}, rate, log_every=50, checkpoint_every=100)
    return network.eval()


@torch.inference_mode()
def _answers(network: ReidNetwork, pictures: np.ndarray) -> np.ndarray:
    """Whom each of (..., H, W, 3) uint8 pictures shows, (...) int."""
    pixels = torch.from_numpy(pictures.reshape(-1, *pictures.shape[-3:])).permute(0, 3, 1, 2)
    found = [network(normalize(chunk))[1].argmax(1) for chunk in pixels.split(128)]
    return torch.cat(found).numpy().reshape(pictures.shape[:-3])


class Judge:
    """What a finished artifact of the stage holds."""

    def __init__(self, directory: Path) -> None:
        """Load classifier, sources and targets."""
        manifest = manifest_of(directory, JudgeConfig.stage)
        self.config, self.summary = JudgeConfig(**manifest["config"]), manifest["summary"]
        people = _load(directory / PICTURES)
        self.sources, self.targets = (people[role] for role in MEASURED)
        self._network = _network(self.config)
        self._network.load_state_dict(load_file(directory / WEIGHTS), strict=True)
        self._network.eval()

    def answers(self, pictures: np.ndarray) -> np.ndarray:
        """Whom each of (..., H, W, 3) uint8 pictures shows, as the person's number."""
        return _answers(self._network, pictures)
