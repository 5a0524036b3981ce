"""A small training for tests of processes: imported by them, and run as a script by the processes that they start."""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL

from datasets.shards.encoded import EncodedImages
from imagpose.config import ModelConfig, TrainGeneratorConfig
from imagpose.training.inputs import FrozenParts
from imagpose.training.train import Trainer

STEPS = 7


def new_trainer(encoded: Path, folder: Path, **fields) -> Trainer:
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=2,
        latent_channels=4,
    )
    model = ModelConfig(
        channels=(16, 32),
        attention=(False, True),
        head_width=8,
        cross_attention_dim=16,
        norm_groups=8,
        pose_channels=(4, 4, 8),
        token_patch=4,
    )
    defaults = {
        "encoded": encoded,
        "model": model,
        "steps": STEPS,
        "batch_size": 6,
        "log_every": 1,
        "checkpoint_every": 2,
        "warmup_steps": 2,
        "sample_steps": 1,
        "device": "cpu",
        "tensorboard": False,
        "validation_identities": 2,
        "optimizer": "muon",  # matrices by Muon, the rest by AdamW: both are tested
    }
    folder.mkdir(parents=True, exist_ok=True)
    frozen = FrozenParts(vae=vae, image_encoder=None, view_size=(32, 16), token_size=(32, 16))
    return Trainer(
        TrainGeneratorConfig(**{**defaults, **fields}), folder, EncodedImages(encoded), frozen, Accelerator(cpu=True)
    )


def signaled(run: Trainer, step: int, number: signal.Signals) -> Trainer:
    """Send this process a signal in the middle of a step."""
    train_step = run._train_step

    def with_signal(rate: float) -> torch.Tensor:
        if run.step == step - 1:
            os.kill(os.getpid(), number)
        return train_step(rate)

    run._train_step = with_signal
    return run


def one_of_two(rank: int, encoded: Path, folder: Path) -> None:
    """A whole run, then one of which only the second process is told to stop, in its third step."""
    run = new_trainer(encoded, folder / "whole", gradient_accumulation=2)
    assert run.accelerator.num_processes == 2
    run.run()
    stopped = new_trainer(encoded, folder / "stopped")
    try:
        (signaled(stopped, 3, signal.SIGTERM) if rank == 1 else stopped).run()
    except SystemExit as stop:
        (folder / f"rank{rank}.json").write_text(json.dumps({"step": stopped.step, "code": stop.code}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    task, encoded, folder, number = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    if task == "killed":
        signaled(new_trainer(encoded, folder), number, signal.SIGKILL).run()
    else:
        one_of_two(number, encoded, folder)
