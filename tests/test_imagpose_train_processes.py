"""Training across processes: two make the steps of one, one that is killed is gone on from, all stop together."""

import json
import multiprocessing
import os
import random
import signal
import socket
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL

from imagpose.checkpoint import states
from imagpose.config import ModelConfig, TrainConfig
from imagpose.train import Trainer
from imagpose.training_inputs import FrozenParts
from tests.test_imagpose_canvas import RandomImages

STEPS = 7


def new_trainer(folder: Path, **fields) -> Trainer:
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4), down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, norm_num_groups=2, latent_channels=4,
    )  # fmt: skip
    model = ModelConfig(
        channels=(16, 32), attention=(False, True), head_width=8, cross_attention_dim=16, norm_groups=8,
        pose_channels=(4, 4, 8), token_patch=4,
    )  # fmt: skip
    defaults = {
        "encoded": Path("nowhere"), "model": model, "steps": STEPS, "batch_size": 6, "log_every": 1,
        "checkpoint_every": 2, "warmup_steps": 2, "sample_steps": 1, "device": "cpu", "tensorboard": False,
        "validation_identities": 2,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    frozen = FrozenParts(vae=vae, image_encoder=None, view_size=(32, 16), token_size=(32, 16))
    return Trainer(TrainConfig(**{**defaults, **fields}), folder, RandomImages(), frozen, Accelerator(cpu=True))


def losses(folder: Path, name: str = "train") -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in map(json.loads, (folder / "logs" / f"{name}.jsonl").open())]


def signalled(run: Trainer, step: int, number: signal.Signals) -> Trainer:
    """Send this process a signal in the middle of a step."""
    train_step = run._train_step

    def with_signal(rate: float) -> torch.Tensor:
        if run.step == step - 1:
            os.kill(os.getpid(), number)
        return train_step(rate)

    run._train_step = with_signal
    return run


def killed(folder: Path, step: int) -> None:
    torch.set_num_threads(1)
    signalled(new_trainer(folder), step, signal.SIGKILL).run()


def one_of_two(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": "2"}  # fmt: skip
    run = new_trainer(folder / "whole", gradient_accumulation=2)
    assert run.accelerator.num_processes == 2
    run.run()
    stopped = new_trainer(folder / "stopped")
    try:
        (signalled(stopped, 3, signal.SIGTERM) if rank == 1 else stopped).run()
    except SystemExit as stop:
        (folder / f"rank{rank}.json").write_text(json.dumps({"step": stopped.step, "code": stop.code}))


def in_processes(target, arguments: list[tuple]) -> list[int]:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=target, args=given) for given in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=200)
        process.kill()
        process.join()
    return [process.exitcode for process in processes]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    new_trainer(folder).run()
    return folder


def test_a_run_killed_at_a_random_step_goes_on_with_the_same_losses(tmp_path, alone) -> None:
    step = random.randint(2, STEPS)
    assert in_processes(killed, [(tmp_path, step)]) == [-signal.SIGKILL]
    resumed = new_trainer(tmp_path)
    assert resumed.step == (step - 1) // 2 * 2, f"killed in step {step}"
    resumed.run()
    for name in ("train", "validation"):
        assert [row[0] for row in losses(tmp_path, name)] == [row[0] for row in losses(alone, name)]
        for (at, loss), (_, expected) in zip(losses(tmp_path, name), losses(alone, name), strict=True):
            assert loss == pytest.approx(expected, abs=1e-6), f"{name} step {at}, killed in step {step}"


def test_two_processes_make_the_steps_of_one_and_stop_at_the_same_one(tmp_path, alone) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert in_processes(one_of_two, [(rank, port, tmp_path) for rank in (0, 1)]) == [0, 0]
    for name in ("train", "validation"):
        assert len(losses(alone, name)) == len(losses(tmp_path / "whole", name))
        for (_, ours), (_, theirs) in zip(losses(tmp_path / "whole", name), losses(alone, name), strict=True):
            assert ours == pytest.approx(theirs, rel=2e-4)
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second == {"step": 3, "code": 143}
    assert states(tmp_path / "stopped" / ".scratch")[0].name == "state-00000003.safetensors"
