"""Training across processes: two make the steps of one, one that is killed resumes, all stop together."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from datasets.runtime.training.checkpoints import Checkpoints
from tests.small_encoded import encoded_artifact
from tests.training_worker import STEPS, new_trainer

TESTS = Path(__file__).resolve().parent


def losses(folder: Path, name: str = "train") -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in map(json.loads, (folder / "logs" / f"{name}.jsonl").open())]


def start(*arguments: object, **environment: object) -> subprocess.Popen:
    changed = {name: str(value) for name, value in environment.items()}
    return subprocess.Popen(
        [sys.executable, str(TESTS / "training_worker.py"), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(TESTS.parent), **changed},
    )


def ends(processes: list[subprocess.Popen]) -> list[int]:
    try:
        return [process.wait(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="module")
def encoded(tmp_path_factory) -> Path:
    return encoded_artifact(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory, encoded: Path) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    new_trainer(encoded, folder).run()
    return folder


def test_a_run_killed_at_a_random_step_goes_on_with_the_same_losses(tmp_path, alone, encoded) -> None:
    step = random.randint(2, STEPS)
    assert ends([start("killed", encoded, tmp_path, step)]) == [-signal.SIGKILL]
    resumed = new_trainer(encoded, tmp_path)
    assert resumed.step == (step - 1) // 2 * 2, f"killed in step {step}"
    resumed.run()
    for name in ("train", "validation"):
        assert [row[0] for row in losses(tmp_path, name)] == [row[0] for row in losses(alone, name)]
        for (at, loss), (_, expected) in zip(losses(tmp_path, name), losses(alone, name), strict=True):
            assert loss == pytest.approx(expected, abs=1e-6), f"{name} step {at}, killed in step {step}"


def test_two_processes_make_the_steps_of_one_and_stop_at_the_same_one(tmp_path, alone, encoded) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    both = [start("pair", encoded, tmp_path, rank, RANK=rank, LOCAL_RANK=rank, **common) for rank in (0, 1)]
    assert ends(both) == [0, 0]
    for name in ("train", "validation"):
        assert len(losses(alone, name)) == len(losses(tmp_path / "whole", name))
        for (_, ours), (_, theirs) in zip(losses(tmp_path / "whole", name), losses(alone, name), strict=True):
            assert ours == pytest.approx(theirs, rel=2e-4)
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second == {"step": 3, "code": 143}
    assert Checkpoints(tmp_path / "stopped" / ".scratch").states()[0].name == "state-00000003.safetensors"


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
def test_processes_of_torchrun_work_together_on_the_device_auto_without_a_gpu(tmp_path, encoded) -> None:
    """Left to itself, accelerate would let each of them train alone."""
    script = f"""
from pathlib import Path
from imagpose.config import TrainGeneratorConfig
from imagpose.training.train import _accelerator
together = _accelerator(TrainGeneratorConfig(encoded=Path({str(encoded)!r}), device="auto"))
Path({str(tmp_path)!r}, str(together.process_index)).write_text(f"{{together.num_processes}} {{together.device.type}}")
"""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    done = subprocess.run([*torchrun, sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / name).read_text() for name in "01"] == ["2 cpu", "2 cpu"]
