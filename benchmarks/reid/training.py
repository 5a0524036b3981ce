"""Training steps of re-ID networks a second: ours as it was, as it is, compiled, in bfloat16, and torchreid's engine.

The same networks, input size (128x64) and batch (16 identities of 4 images) for all, random weights, one process with
all cores. Ways are timed in turn, round by round, so that what else the machine does hits all alike. torchreid's engine
(`ImageTripletEngine`: triplet and cross-entropy, Adam) gets its batches from memory; ours does the whole step: flips,
crops, erasing, losses, Adam; torchreid is left out where it is not installed. Environment: REID_STEPS (timed steps of
each way, default 12), REID_BACKBONES.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.machine import machine
from reid.config import AugmentationConfig, NetworkConfig, ScheduleConfig, TrainReidConfig
from reid.data.images import ImageSet
from reid.data.training_set import TrainingSet
from reid.training.distributed import Processes
from reid.training.model import assemble_network, seeded_backbone
from reid.training.train import Trainer

BACKBONES = ("resnet18", "tf_efficientnet_lite0")
HEIGHT, WIDTH, PEOPLE, IMAGES = 128, 64, 64, 8
WARM_UP = 2


def training_set(height: int, width: int) -> TrainingSet:
    """Noise with the labels of `PEOPLE` identities of `IMAGES` images."""
    count = PEOPLE * IMAGES
    pixels = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8)
    labels = np.repeat(np.arange(PEOPLE), IMAGES)
    images = ImageSet(keys=[str(i) for i in range(count)], pixels=pixels, pids=labels + 1, camids=np.ones(count, int))
    return TrainingSet(
        images=images, labels=labels, is_synthetic=np.zeros(count, bool), pids=list(range(1, PEOPLE + 1))
    )


def finished() -> None:
    """Wait until a GPU has computed what it was given: a step returns before."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def network_of(backbone: str) -> NetworkConfig:
    """The backbone with random weights at the benchmark's size."""
    return NetworkConfig(backbone=backbone, weights="none", height=HEIGHT, width=WIDTH)


def trainer(backbone: str, **settings: Any) -> Trainer:
    """Our training loop on noise."""
    fields: dict[str, Any] = {
        "shards": Path(),  # named, not read: the images are noise
        "test_shards": Path(),
        "network": network_of(backbone),
        "augmentation": AugmentationConfig(padding=5),
        "schedule": ScheduleConfig(steps=1000),
    }
    config = TrainReidConfig(**fields | settings)
    network = assemble_network(seeded_backbone(config.network, 0), config.network, PEOPLE, 0)
    return Trainer(config, network, training_set(config.network.height, config.network.width), Processes(1, "auto"))


def ours(backbone: str, **settings: Any) -> Callable[[], None]:
    """One step of ours."""
    loop = trainer(backbone, **settings)
    loop.network.train()
    batches = _forever(loop)

    def step() -> None:
        loop.train_step(next(batches))
        loop.step += 1

    return step


def before(backbone: str) -> Callable[[], None]:
    """One step as this project took it before: channels first, an Adam that goes over the weights one by one."""
    loop = trainer(backbone, compile=False, channels_last=False)
    plain = [{"params": group["params"]} for group in loop.optimizer.param_groups]
    loop.optimizer = torch.optim.Adam(plain, lr=3.5e-4, weight_decay=5e-4)
    loop.network.train()
    batches = _forever(loop)

    def step() -> None:
        loop.train_step(next(batches))
        loop.step += 1

    return step


def _forever(loop: Trainer) -> Iterator[np.ndarray]:
    number = 0
    while True:
        yield from loop.sampler.epoch(number)
        number += 1


class _ForTorchreid(nn.Module):
    """The same backbone with the outputs that torchreid's triplet engine expects."""

    def __init__(self, backbone: str) -> None:
        super().__init__()
        self.backbone = seeded_backbone(network_of(backbone), 0)  # with our last stride: as many operations
        width = self.backbone(torch.zeros(2, 3, HEIGHT, WIDTH)).shape[1]
        self.classifier = nn.Linear(width, PEOPLE)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(logits (B, C), features (B, D)) of images (B, 3, H, W)."""
        features = self.backbone(images)
        return self.classifier(features), features


class _Manager:
    """What torchreid's engine reads of its data manager."""

    num_train_pids = PEOPLE
    train_loader: tuple[()] = ()
    test_loader: tuple[()] = ()


def torchreids(backbone: str) -> Callable[[], None]:
    """One step of torchreid's engine on a batch in memory."""
    from torchreid.reid.engine import ImageTripletEngine

    model = _ForTorchreid(backbone).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3.5e-4, weight_decay=5e-4)
    engine = ImageTripletEngine(cast("Any", _Manager()), model, optimizer, use_gpu=torch.cuda.is_available())
    engine.model = model
    data = {
        "img": torch.randn(64, 3, HEIGHT, WIDTH),
        "pid": torch.arange(16).repeat_interleave(4),
        "camid": torch.zeros(64, dtype=torch.long),
        "impath": [""] * 64,
    }

    def step() -> None:
        engine.forward_backward(data)

    return step


def ways(backbone: str) -> dict[str, Callable[[], None]]:
    """What is compared, by name."""
    there = importlib.util.find_spec("torchreid") is not None
    return {
        **({"torchreid's engine": torchreids(backbone)} if there else {}),
        "ours before (channels first, plain Adam)": before(backbone),
        "ours, not compiled": ours(backbone, compile=False),
        "ours, compiled": ours(backbone, compile=True),
        "ours, bfloat16, not compiled": ours(backbone, compile=False, precision="bf16"),
        "ours as it chooses (1,000 steps)": ours(backbone, precision="auto"),
    }


def main() -> int:
    """Print a table for each network; returns 0."""
    steps = int(os.environ.get("REID_STEPS", "12"))
    names = os.environ.get("REID_BACKBONES", ",".join(BACKBONES)).split(",")
    print(json.dumps(machine("torch", "timm")))
    for backbone in names:
        compared = ways(backbone)
        seconds: dict[str, list[float]] = {name: [] for name in compared}
        for turn in range(WARM_UP + steps):
            for name, step in compared.items():
                finished()
                started = time.perf_counter()
                step()
                finished()
                if turn >= WARM_UP:
                    seconds[name].append(time.perf_counter() - started)
        reference = statistics.median(seconds["ours before (channels first, plain Adam)"])
        print(f"{backbone}, batch 64 of {HEIGHT}x{WIDTH}, {torch.get_num_threads()} threads")
        for name, found in seconds.items():
            median = statistics.median(found)
            print(f"  {name:<42} {median:6.3f} s a step   {reference / median:5.2f} times 'before'")
    return 0
