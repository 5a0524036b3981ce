"""Trains the small pose network on crops with known skeletons, real or rendered (stage ``train-pose``).

Every random choice of a step depends only on the seed and the step number, so an interrupted training resumes exactly.
The learning rate is constant until the last part of the run. An exponential moving average (EMA) of the weights is
evaluated and saved, so the network in the working folder is usable in the middle of a run as well.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from datasets.poses.config import TrainPoseConfig
from datasets.poses.skeleton import present_joints
from datasets.poses.tiny.augmentation import augment, forget_outside
from datasets.poses.tiny.decoding import decode_person
from datasets.poses.tiny.estimator import MIN_SCORES, maps_of
from datasets.poses.tiny.model_card import model_card
from datasets.poses.tiny.network import PoseNetworkConfig, TinyPoseNetwork, fold_normalization, read_facts, save_network
from datasets.poses.tiny.people import PoseCrops, load_pose_crops, split_by_identity
from datasets.poses.tiny.quality import pose_quality
from datasets.poses.tiny.targets import field_targets, field_weights, heat_targets, to_cells, to_pixels
from datasets.runtime import devices
from datasets.runtime.atomic import write_text_atomically
from datasets.runtime.manifests import is_complete, manifest_of, recorded_path
from datasets.runtime.training.run import TrainingRun, set_learning_rate
from datasets.runtime.training.schedules import linear_decay, linear_warmup

logger = logging.getLogger(__name__)

FIELD_LOSS_WEIGHT = 0.5
EVALUATED_IMAGES = 1024
"""Held-out crops of each set that the reported figures are measured on."""


def make_pose_network(config: TrainPoseConfig, directory: Path) -> dict[str, Any]:
    """Train and save a network; returns the held-out figures of each set."""
    device = devices.pick(config.device)
    sets = [
        load_pose_crops(*pair, config.height, config.width) for pair in zip(config.images, config.poses, strict=True)
    ]
    parts = [split_by_identity(people, config.seed) for people in sets]
    train, held_out = [part[0] for part in parts], [part[1] for part in parts]
    network = new_network(config).to(device).to(memory_format=torch.channels_last)
    ema = copy.deepcopy(network).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=1e-4, fused=True)
    parts = {"network": network, "ema": ema, "optimizer": optimizer}
    run = TrainingRun(directory, "train-pose", config.steps, parts)
    while run.step < config.steps:
        rate = learning_rate(run.step, config)
        set_learning_rate(optimizer, rate)
        batch = draw_batch(train, config, run.step)
        network.train()
        losses = batch_losses(network, batch, config, device)
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        update_ema(ema, network, min(config.ema_decay, (1 + run.step) / (10 + run.step)))
        run.finished_step(losses, rate, log_every=50, checkpoint_every=config.checkpoint_every)
        if run.step % config.validation_every == 0 or run.step == config.steps:
            quality = measure(ema, held_out, config, device)
            run.write({"step": run.step, "held_out": quality})
            _save(ema, train, quality, run.step, config, directory)
    facts = read_facts(directory)
    return {
        **facts,
        "seconds": round(run.seconds, 1),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
    }


def _save(
    network: TinyPoseNetwork,
    train: Sequence[PoseCrops],
    quality: list[dict[str, float]],
    step: int,
    config: TrainPoseConfig,
    directory: Path,
) -> None:
    """Write the network as it is now, with config.json and model card."""
    facts = {
        "steps": step,
        "batch_size": config.batch_size,
        "images": [len(people) for people in train],
        "sets": [_origin(index, poses) for index, poses in zip(config.images, config.poses, strict=True)],
        "shares": sampling_probabilities(config),
        "seed": config.seed,
        "held_out": quality,
    }
    save_network(network, directory, facts)
    write_text_atomically(directory / "README.md", model_card(facts, network.config))


def _origin(index: Path, poses: Path) -> str:
    """What a set is, in words: its folder's name, 'miniature' if rendered, and where its skeletons are from."""
    root = recorded_path(manifest_of(index, "index"), "root")
    name = manifest_of(root)["stage"] if is_complete(root) else root.name
    return f"{name}, skeletons of {manifest_of(poses)['stage']}"


def new_network(config: TrainPoseConfig) -> TinyPoseNetwork:
    """A network with random weights, drawn by the config's seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return TinyPoseNetwork(PoseNetworkConfig(height=config.height, width=config.width))


def learning_rate(step: int, config: TrainPoseConfig) -> float:
    """Warm-up over 200 steps (a tenth of a short run), constant, then linear decay to a hundredth."""
    warmup = max(1, min(200, config.steps // 10))
    if step < warmup:
        return linear_warmup(config.learning_rate, step, warmup)
    decay_steps = max(1, config.steps * config.decay_percent // 100)
    return linear_decay(config.learning_rate, (config.steps - step) / decay_steps, floor=0.01)


@torch.no_grad()
def update_ema(ema: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the exponential moving average (EMA) of weights and of normalization statistics towards the network's.

    diffusers' `EMAModel` averages parameters alone, while batch normalization's statistics must follow too.
    """
    theirs = network.state_dict()
    for name, value in ema.state_dict().items():
        if value.is_floating_point():
            value.lerp_(theirs[name], 1 - decay)
        else:
            value.copy_(theirs[name])


def sampling_probabilities(config: TrainPoseConfig) -> list[float]:
    """How often each set is drawn; sums to 1."""
    shares = np.array(config.sampling_weights or [1.0] * len(config.images), np.float64)
    return (shares / shares.sum()).tolist()


def draw_batch(
    sets: Sequence[PoseCrops], config: TrainPoseConfig, step: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A step's augmented crops (B, H, W, 3) uint8, keypoints (B, 18, 3) and weights of their joints (B, 18).

    A joint that was moved out of the picture is certainly absent; one that is missing from the file may be visible, so
    its heat map gets a smaller weight.
    """
    rng = np.random.default_rng([config.seed, 2, step])
    which = rng.choice(len(sets), config.batch_size, p=sampling_probabilities(config))
    trust = config.missing_weight or [1.0] * len(sets)
    pixels, keypoints, weights = [], [], []
    for number in which:
        people = sets[number]
        row, other = rng.integers(len(people), size=2)
        image, moved = augment(people.pixels[row], people.keypoints[row], people.pixels[other], rng)
        pixels.append(image)
        weights.append(np.where(present_joints(moved), 1.0, trust[number]))
        keypoints.append(forget_outside(moved, config.height, config.width))
    return np.stack(pixels), np.stack(keypoints), np.stack(weights).astype(np.float32)


def batch_losses(
    network: TinyPoseNetwork,
    batch: tuple[np.ndarray, np.ndarray, np.ndarray],
    config: TrainPoseConfig,
    device: torch.device,
) -> dict[str, Tensor]:
    """Cross entropy of the heat maps and squared error of the fields; 'loss' is what is minimized."""
    pixels, keypoints, joint_weights = batch
    rows, columns = network.map_size
    cells = torch.from_numpy(to_cells(keypoints[..., :2]).astype(np.float32))
    heat, fields = heat_targets(cells, rows, columns), field_targets(cells, rows, columns)
    heat_weights = torch.from_numpy(joint_weights)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device).float() / 255
    with devices.autocast(device, config.precision):
        logits, predicted = network(images)
    heat_loss = F.binary_cross_entropy_with_logits(logits.float(), heat.to(device), reduction="none").sum((2, 3))
    field_loss = (predicted.float() - fields.to(device)).square().sum((2, 3))
    heat_loss = (heat_loss * heat_weights.to(device)).mean()
    field_loss = (field_loss * field_weights(heat_weights).to(device)).mean()
    return {
        "loss": heat_loss + FIELD_LOSS_WEIGHT * field_loss,
        "heat": heat_loss.detach(),
        "fields": field_loss.detach(),
    }


def measure(
    network: TinyPoseNetwork, held_out: Sequence[PoseCrops], config: TrainPoseConfig, device: torch.device
) -> list[dict[str, float]]:
    """The held-out figures of each set, in order."""
    folded = fold_normalization(network).to(device).to(memory_format=torch.channels_last)
    results = []
    for number, people in enumerate(held_out):
        rng = np.random.default_rng([config.seed, 3])
        some = people.at(rng.permutation(len(people))[:EVALUATED_IMAGES])
        skeletons = []
        for start in range(0, len(some), config.batch_size):
            heat, fields = maps_of(folded, some.pixels[start : start + config.batch_size])
            skeletons.append(decode_person(heat.cpu(), fields.cpu()))
        predicted = np.concatenate(skeletons)
        predicted[..., :2] = to_pixels(predicted[..., :2])
        quality = pose_quality(predicted, some.keypoints, config.height, MIN_SCORES)
        logger.info("held out of %s: %s", config.images[number], ", ".join(f"{k} {v:.4f}" for k, v in quality.items()))
        results.append(quality)
    return results
