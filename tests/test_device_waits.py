"""A training step does not wait for the device: nothing in it needs a tensor's value on the CPU.

Seen without a GPU: the operations that would wait are counted wherever they run. `tests/test_gpu.py` asks CUDA itself.
"""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from reid.config import BatchConfig, LossConfig, NetworkConfig, ScheduleConfig, TrainReidConfig
from reid.data.training_set import TrainingSet
from reid.training.distributed import Processes
from reid.training.model import assemble_network, seeded_backbone
from reid.training.train import RunningMeans, Trainer
from tests.test_imagpose_train import frozen, trainer  # noqa: F401 - a fixture
from tests.test_reid_training_parts import TINY, image_set

WAITING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero"}
"""Operations whose result's value or size the CPU must know."""


class Waits(TorchDispatchMode):
    """Collects the operations that would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        masks = [
            index for index in (args[1] if len(args) > 1 and isinstance(args[1], list) else []) if index is not None
        ]
        by_mask = function.name().startswith("aten::index") and any(index.dtype == torch.bool for index in masks)
        if function.name() in WAITING or by_mask:
            self.found.append(function.name())
        return function(*args, **(kwargs or {}))


def reid_trainer(device: str = "cpu", **loss) -> Trainer:
    network = NetworkConfig(**TINY.model_dump() | {"frozen_stages": 1})
    config = TrainReidConfig(
        shards=".",
        test_shards=".",
        network=network,
        batch=BatchConfig(identities=3, images=4),
        loss=LossConfig(**loss),
        schedule=ScheduleConfig(steps=8),
        device=device,
    )
    pids = np.repeat(np.arange(1, 5), 8)
    images = image_set(pids)
    data = TrainingSet(images=images, labels=pids - 1, is_synthetic=np.tile([0, 1], 16).astype(bool), pids=[1, 2, 3, 4])
    made = Trainer(config, assemble_network(seeded_backbone(network, 0), network, 4, 0), data, Processes(1, device))
    made.network.train()
    return made


@pytest.mark.parametrize(
    "loss", [{}, {"synthetic_triplet": False, "synthetic_weight": 0.5, "synthetic_label_smoothing": 0.2}]
)
def test_a_reid_step_and_its_log_wait_for_nothing_until_a_row_is_due(loss):
    run, means = reid_trainer(**loss), RunningMeans()
    positions = run.sampler.epoch(0)[0]
    run.train_step(positions)  # the optimizer makes its state
    with Waits() as waits:
        for _ in range(2):
            means.add(run.train_step(positions))
    assert waits.found == []
    with Waits() as waits:
        assert set(means.take()) == {"loss", "identity_loss", "triplet_loss", "center_loss", "accuracy"}
    assert len(waits.found) <= 1


def test_a_generators_step_waits_for_nothing(tmp_path, frozen):  # noqa: F811
    run = trainer(tmp_path, frozen, steps=4, optimizer="muon", ema_decay=0.9)
    run.batches = run._batches()
    batch = next(run.batches)
    run.batches = iter([batch, batch])
    run._train_step(1e-3)
    with Waits() as waits:
        run._train_step(1e-3)
    assert waits.found == []


def test_what_a_batch_leaves_out_of_the_triplet_loss_is_found_on_the_cpu():
    run = reid_trainer(synthetic_triplet=False)
    positions = run.sampler.epoch(0)[0]
    numbers = run._in_triplet(positions)
    assert numbers.tolist() == np.flatnonzero(~run.training_set.is_synthetic[positions]).tolist()
    assert 0 < len(numbers) < len(positions)
    assert reid_trainer()._in_triplet(positions) is None


def test_means_of_a_log_row_are_the_steps_means():
    means = RunningMeans()
    for value in (1.0, 2.0, 6.0):
        means.add({"loss": torch.tensor(value), "accuracy": torch.tensor(value / 10)})
    assert means.take() == pytest.approx({"loss": 3.0, "accuracy": 0.3})
    means.add({"loss": torch.tensor(4.0)})
    assert means.take() == {"loss": 4.0}
