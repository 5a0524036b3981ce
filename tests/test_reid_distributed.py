"""A batch spread over two processes is the batch of one process: gradients, weights, files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from datasets.runtime.errors import InputError
from reid.training.distributed import Processes

ROOT = Path(__file__).resolve().parent.parent
WORKER = """
import sys, numpy as np, torch
from pathlib import Path
from safetensors.torch import save_file
from reid.config import AugmentationConfig, BatchConfig, NetworkConfig, ScheduleConfig, TrainReidConfig
from reid.data.images import ImageSet
from reid.training.distributed import Processes
from reid.training.model import assemble_network, seeded_backbone
from reid.training.train import Trainer, save_network
from reid.data.training_set import TrainingSet

torch.set_num_threads(1)
count, out = int(sys.argv[1]), Path(sys.argv[2])
# Layer norm instead of batch norm in the backbone: the one thing that processes on CPUs cannot share.
network = NetworkConfig(backbone="test_vit.r160_in1k", weights="none", height=160, width=160)
config = TrainReidConfig(shards=".", test_shards=".", network=network, batch=BatchConfig(identities=3, images=3),
                     schedule=ScheduleConfig(steps=3, warmup_epochs=0), processes=count, device="cpu")
rng = np.random.default_rng(0)
pids = np.repeat(np.arange(1, 5), 4)
images = ImageSet(keys=[str(i) for i in range(16)], pids=pids, camids=np.ones(16, int),
                  pixels=torch.from_numpy(rng.integers(0, 256, (16, 3, 160, 160), dtype=np.uint8)))
data = TrainingSet(images=images, labels=pids - 1, is_synthetic=np.zeros(16, bool), pids=[1, 2, 3, 4])
processes = Processes(count, "cpu")
trainer = Trainer(config, assemble_network(seeded_backbone(network, 0), network, 4, 0), data, processes)
trainer.train_step(trainer.sampler.epoch(0)[0])
if processes.first:
    gradients = {n: p.grad.clone() for n, p in trainer.network.named_parameters() if p.grad is not None}
    gradients["centers"] = trainer.center_loss.centers.grad.clone()
    save_file(gradients, out / f"gradients-{count}.safetensors")
trainer.run(out / str(count))
if processes.first:
    save_network(trainer.network, out / f"network-{count}.safetensors")
"""


def run(count, out, port):
    (out / str(count)).mkdir()
    script = out / "worker.py"
    script.write_text(WORKER)
    common = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MASTER_ADDR": "127.0.0.1"}
    children = [
        subprocess.Popen(
            [sys.executable, str(script), str(count), str(out)],
            env=common
            if count == 1
            else {
                **common,
                "MASTER_PORT": str(port),
                "WORLD_SIZE": str(count),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "LOCAL_WORLD_SIZE": str(count),
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    for child in children:
        _, error = child.communicate(timeout=240)
        assert child.returncode == 0, error[-2000:]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_make_the_gradients_of_one_with_the_whole_batch(tmp_path, unused_port):
    run(1, tmp_path, 0)
    run(2, tmp_path, unused_port)  # 9 images: shares of 5 and 4, and triplets across them
    one, two = (load_file(tmp_path / f"gradients-{count}.safetensors") for count in (1, 2))
    assert one.keys() == two.keys()
    for name, gradient in one.items():
        torch.testing.assert_close(two[name], gradient, rtol=2e-4, atol=1e-6, msg=name)
    one, two = (load_file(tmp_path / f"network-{count}.safetensors") for count in (1, 2))
    moved = [name for name in one if (one[name].float() - two[name].float()).abs().max() > 2e-3]
    assert not moved
    logs = [[json.loads(line) for line in (tmp_path / str(n) / "log.jsonl").open()] for n in (1, 2)]
    assert [row["step"] for row in logs[1]] == [row["step"] for row in logs[0]]
    np.testing.assert_allclose([row["loss"] for row in logs[0]], [row["loss"] for row in logs[1]], rtol=1e-3)


@pytest.fixture
def unused_port():
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def test_another_number_of_processes_than_was_started_is_refused(monkeypatch):
    with pytest.raises(InputError, match="torchrun --nproc-per-node 2 -m reid train"):
        Processes(2, "cpu")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(InputError, match="processes 1, but 4 started"):
        Processes(1, "cpu")


def test_a_batch_that_cannot_be_shared_is_refused():
    processes = Processes(1, "cpu")
    assert processes.share(5) == slice(0, 5)
    processes.count = 4
    with pytest.raises(InputError, match="a batch of 5 images cannot be shared by 4"):
        processes.share(5)
