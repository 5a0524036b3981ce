"""Training: it learns, it stops and resumes exactly, it refuses what does not fit, its folder opens again."""

import json
import os
import signal
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from safetensors.torch import load_file

from imagpose.canvas import CanvasPlan, make_batch
from imagpose.checkpoint import load_denoiser, load_generator, save_generator, states
from imagpose.config import ModelConfig, TrainConfig, paper, recommended
from imagpose.objective import learning_rate_at, loss_sum, noise_of_step, total_weight
from imagpose.train import DivergedError, Trainer
from imagpose.training_inputs import FrozenParts, initial_denoiser
from tests.test_imagpose_canvas import RandomImages

MODEL = ModelConfig(
    channels=(16, 32), attention=(False, True), head_width=8, cross_attention_dim=16, norm_groups=8,
    pose_channels=(4, 4, 8), token_patch=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def frozen() -> FrozenParts:
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4), down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, norm_num_groups=2, latent_channels=4,
    )  # fmt: skip
    return FrozenParts(vae=vae, image_encoder=None, view_size=(32, 16), token_size=(32, 16))


def config(**fields) -> TrainConfig:
    defaults = {
        "model": MODEL, "steps": 12, "batch_size": 2, "log_every": 1, "checkpoint_every": 4, "warmup_steps": 2,
        "sample_steps": 2, "device": "cpu",
    }  # fmt: skip
    return TrainConfig(**{"encoded": Path("nowhere"), **defaults, **fields})


def trainer(folder: Path, frozen: FrozenParts, **fields) -> Trainer:
    folder.mkdir(exist_ok=True)
    return Trainer(config(**fields), folder, RandomImages(), frozen, Accelerator(cpu=True))


def losses(folder: Path) -> list[tuple[int, float]]:
    lines = (folder / "logs" / "train.jsonl").read_text().splitlines()
    return [(row["step"], row["loss"]) for row in map(json.loads, lines)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, frozen: FrozenParts) -> tuple[Path, dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    run = trainer(folder, frozen)
    run.run()
    return folder, run.model.state_dict()


def test_a_run_stopped_by_sigterm_goes_on_exactly(tmp_path, frozen, undisturbed, monkeypatch) -> None:
    whole, weights = undisturbed
    first = trainer(tmp_path, frozen)
    train_step = first._train_step

    def stopped_in_step_six(rate: float) -> torch.Tensor:
        if first.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_step(rate)

    monkeypatch.setattr(first, "_train_step", stopped_in_step_six)
    with pytest.raises(SystemExit) as stop:
        first.run()
    assert stop.value.code == 143
    second = trainer(tmp_path, frozen)
    assert second.step == 6
    second.run()
    assert losses(tmp_path) == losses(whole)
    assert all(torch.equal(value, weights[key]) for key, value in second.model.state_dict().items())


def test_a_run_killed_between_checkpoints_repeats_the_lost_steps(tmp_path, frozen, undisturbed, monkeypatch) -> None:
    whole, _ = undisturbed
    first = trainer(tmp_path, frozen)
    train_step = first._train_step

    def killed_in_step_eleven(rate: float) -> torch.Tensor:
        if first.step == 10:
            raise KeyboardInterrupt
        return train_step(rate)

    monkeypatch.setattr(first, "_train_step", killed_in_step_eleven)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    newest, _ = states(tmp_path / ".scratch")
    newest.write_bytes(b"cut off")  # damaged: the one before it serves
    second = trainer(tmp_path, frozen)
    assert second.step == 4
    second.run()
    assert losses(tmp_path) == losses(whole)


def test_two_halves_of_a_batch_add_up_to_the_whole(frozen, tmp_path) -> None:
    run = trainer(tmp_path, frozen, batch_size=4)
    plans = [
        CanvasPlan(slots=(10, 11, 12, 13), visible=(True, False, False, False), reference=10),
        CanvasPlan(slots=(1, 2, -1, -1), visible=(True, False, False, False), reference=1),
        CanvasPlan(slots=(0, -1, -1, -1), visible=(False,) * 4, reference=0),
        CanvasPlan(slots=(14, 15, 16, 17), visible=(True, True, False, True), reference=15),
    ]
    noise, timesteps = noise_of_step(run.config, 0, run.canvas_shape, 1000)

    def part(which: slice) -> torch.Tensor:
        batch = make_batch(run.source, plans[which], run.config.visible_weight)
        return loss_sum(run.model, run.scheduler, run.weights, batch, noise[which], timesteps[which])

    torch.testing.assert_close(part(slice(0, 4, 2)) + part(slice(1, 4, 2)), part(slice(None)), rtol=1e-4, atol=1e-4)
    assert total_weight(plans, 0.1, cells=32) == pytest.approx(32 * (3 + 1 + 1 + 1 + 0.1 * 5))


def test_timesteps_of_a_batch_cover_the_whole_range() -> None:
    steps = torch.cat([noise_of_step(config(batch_size=4), step, (4, 2, 2), 1000)[1][None] for step in range(200)])
    assert torch.equal(steps.div(250, rounding_mode="floor").sort(1).values, torch.arange(4).expand(200, 4))
    assert steps[:, 0].float().mean() == pytest.approx(500, abs=60)


def test_one_canvas_is_learned_by_heart(tmp_path, frozen) -> None:
    run = trainer(
        tmp_path, frozen, batch_size=4, steps=120, learning_rate=4e-3, flip=0.0, sample_every=1000, log_every=40,
        checkpoint_every=1000, visible_weight=1.0, warmup_steps=10,
    )  # fmt: skip
    run.source = RandomImages((4,))
    draws = torch.Generator().manual_seed(0)
    views = torch.randn(4, 4, 8, 4, generator=draws)
    run.source.latents = lambda indices, mirrored: views[torch.as_tensor(np.asarray(indices))]
    run.run()
    values = [loss for _, loss in losses(tmp_path)]
    assert values[-1] < 0.55 * values[0]


def test_a_loss_that_is_not_finite_stops_the_run_with_its_step(tmp_path, frozen, monkeypatch) -> None:
    run = trainer(tmp_path, frozen, log_every=10, checkpoint_every=100)
    train_step = run._train_step
    monkeypatch.setattr(run, "_train_step", lambda rate: train_step(rate) * (torch.nan if run.step == 6 else 1))
    with pytest.raises(DivergedError, match="not finite at step 7"):
        run.run()
    assert not (tmp_path / ".scratch").exists()


def test_a_saved_generator_opens_again_and_can_be_gone_on_from(tmp_path, frozen, undisturbed) -> None:
    _, weights = undisturbed
    run = trainer(tmp_path / "run", frozen)
    run.model.load_state_dict(weights)
    save_generator(tmp_path / "generator", frozen.generator(run.model, run.scheduler))
    loaded = load_generator(tmp_path / "generator")
    assert loaded.view_size == (32, 16) and loaded.scheduler.config.rescale_betas_zero_snr
    assert all(torch.equal(value, weights[key]) for key, value in loaded.model.state_dict().items())
    again = initial_denoiser(config(init_from=tmp_path / "generator"), 4, 20, 4)
    assert all(torch.equal(value, weights[key]) for key, value in again.state_dict().items())
    with pytest.raises(ValueError, match="token width and stride"):
        initial_denoiser(config(init_from=tmp_path / "generator"), 4, 96, 4)
    assert all(torch.isfinite(value).all() for value in load_file(
        tmp_path / "generator" / "unet" / "diffusion_pytorch_model.safetensors").values())  # fmt: skip


def test_a_folder_that_is_no_generator_is_refused_in_one_line(tmp_path) -> None:
    for opened in (load_generator, load_denoiser):
        with pytest.raises(ValueError, match="give") as error:
            opened(tmp_path)
        assert "\n" not in str(error.value)


def test_the_learning_rate_warms_up_and_falls() -> None:
    settings = config(steps=100, warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate_at(settings, step) for step in range(101)]
    assert rates[0] == pytest.approx(1 / 11) and rates[10] == pytest.approx(1) and rates[100] == pytest.approx(0.05)
    assert all(a < b for a, b in pairwise(rates[:11]))
    assert all(a > b for a, b in pairwise(rates[10:]))


def test_recipes_say_what_the_paper_says_and_what_we_change() -> None:
    paper_text, ours = paper(Path("e")), recommended(Path("e"))
    assert (paper_text.noise.beta_schedule, paper_text.noise.prediction_type) == ("linear", "epsilon")
    assert (paper_text.steps, paper_text.batch_size, paper_text.learning_rate) == (300_000, 4, 5e-5)
    assert (paper_text.min_masked, paper_text.max_masked, paper_text.sample_steps) == (1, 4, 20)
    assert ours.noise.zero_terminal_snr and ours.noise.min_snr_gamma == 5 and ours.precision == "bf16"
    assert paper(Path("e"), steps=10).steps == 10


def test_nobody_is_left_waiting_for_a_signal_outside_the_main_thread(tmp_path, frozen) -> None:
    result = []
    thread = threading.Thread(target=lambda: result.append(trainer(tmp_path, frozen, steps=1).run()))
    thread.start()
    thread.join()
    assert result[0]["steps"] == 1
