"""Training: it learns, it stops and resumes exactly, it refuses what does not fit, its folder opens again."""

import json
import os
import shutil
import signal
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file

from datasets.runtime.artifacts import build
from datasets.runtime.errors import DivergedError, InputError, WeightsError
from datasets.runtime.manifests import manifest_of
from datasets.runtime.training.checkpoints import Checkpoints
from datasets.runtime.verify import verify
from imagpose.canvas.layout import CanvasRequest, SourceFeatures
from imagpose.canvas.training import CanvasPlan, make_batch
from imagpose.config import ModelConfig, NoiseConfig, TrainGeneratorConfig
from imagpose.training import train
from imagpose.training.generators import load_denoiser, load_generator, save_generator
from imagpose.training.inputs import FrozenParts, initial_denoiser
from imagpose.training.objective import learning_rate_at, loss_sum, noise_of_step, total_weight
from imagpose.training.train import Trainer, make_generator
from imagpose.training.validation import BUCKETS, validation_cases, validation_losses
from tests.small_encoded import encoded_artifact
from tests.test_imagpose_canvas import CANVAS, RandomImages

MODEL = ModelConfig(
    channels=(16, 32),
    attention=(False, True),
    head_width=8,
    cross_attention_dim=16,
    norm_groups=8,
    pose_channels=(4, 4, 8),
    token_patch=4,
)


def frozen_parts() -> FrozenParts:
    """A VAE of random weights, and no image encoder."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=2,
        latent_channels=4,
    )
    return FrozenParts(vae=vae, image_encoder=None, view_size=(32, 16), token_size=(32, 16))


@pytest.fixture(scope="module")
def frozen() -> FrozenParts:
    return frozen_parts()


class OnePerson(RandomImages):
    """Four views of one person, each of smooth unit-variance latents of its own."""

    def __init__(self) -> None:
        super().__init__((4,))
        draws = torch.randn(4, 4, 4, 2, generator=torch.Generator().manual_seed(0))
        smooth = torch.nn.functional.interpolate(draws, scale_factor=2, mode="bilinear")
        self.views = (smooth - smooth.mean()) / smooth.std()

    def latents(self, indices, flipped=False) -> torch.Tensor:
        return self.views[torch.as_tensor(np.asarray(indices))]

    def tokens(self, indices, flipped=False) -> torch.Tensor:
        return self.views[torch.as_tensor(np.asarray(indices))].flatten(2).repeat(1, 2, 1)[:, :5, :20]


def config(**fields) -> TrainGeneratorConfig:
    defaults = {
        "model": MODEL,
        "steps": 12,
        "batch_size": 2,
        "log_every": 1,
        "checkpoint_every": 4,
        "warmup_steps": 2,
        "sample_steps": 2,
        "device": "cpu",
    }
    return TrainGeneratorConfig(**{"encoded": Path("nowhere"), **defaults, **fields})


def trainer(folder: Path, frozen: FrozenParts, **fields) -> Trainer:
    folder.mkdir(exist_ok=True)
    return Trainer(config(**fields), folder, RandomImages(), frozen, Accelerator(cpu=True))


def losses(folder: Path) -> list[tuple[int, float]]:
    lines = (folder / "logs" / "train.jsonl").read_text().splitlines()
    return [(row["step"], row["loss"]) for row in map(json.loads, lines)]


@pytest.fixture(scope="module", params=["adamw", "muon"])
def undisturbed(request, tmp_path_factory, frozen: FrozenParts) -> tuple[Path, dict[str, torch.Tensor], str]:
    folder = tmp_path_factory.mktemp("undisturbed")
    run = trainer(folder, frozen, optimizer=request.param)
    run.run()
    return folder, run.model.state_dict(), request.param


def test_a_run_stopped_by_sigterm_goes_on_exactly(tmp_path, frozen, undisturbed, monkeypatch) -> None:
    whole, weights, optimizer = undisturbed
    first = trainer(tmp_path, frozen, optimizer=optimizer)
    train_step = first._train_step

    def stopped_in_step_six(rate: float) -> torch.Tensor:
        if first.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_step(rate)

    monkeypatch.setattr(first, "_train_step", stopped_in_step_six)
    with pytest.raises(SystemExit) as stop:
        first.run()
    assert stop.value.code == 143
    second = trainer(tmp_path, frozen, optimizer=optimizer)
    assert second.step == 6
    second.run()
    assert losses(tmp_path) == losses(whole)
    assert all(torch.equal(value, weights[key]) for key, value in second.model.state_dict().items())


def test_a_run_killed_between_checkpoints_repeats_the_lost_steps(tmp_path, frozen, undisturbed, monkeypatch) -> None:
    whole, _, optimizer = undisturbed
    first = trainer(tmp_path, frozen, optimizer=optimizer)
    train_step = first._train_step

    def killed_in_step_eleven(rate: float) -> torch.Tensor:
        if first.step == 10:
            raise KeyboardInterrupt
        return train_step(rate)

    monkeypatch.setattr(first, "_train_step", killed_in_step_eleven)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    newest, _ = Checkpoints(tmp_path / ".scratch").states()
    newest.write_bytes(b"cut off")  # corrupt: the one before it serves
    second = trainer(tmp_path, frozen, optimizer=optimizer)
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
    noise, timesteps = noise_of_step(run.config, 0, CANVAS, 1000)

    def part(which: slice) -> torch.Tensor:
        batch = make_batch(run.source, plans[which], run.config.visible_weight)
        return loss_sum(run.objective, run.model, batch, noise[which], timesteps[which])

    torch.testing.assert_close(part(slice(0, 4, 2)) + part(slice(1, 4, 2)), part(slice(None)), rtol=1e-4, atol=1e-4)
    assert total_weight(plans, 0.1, cells=32) == pytest.approx(32 * (3 + 1 + 1 + 1 + 0.1 * 5))


def test_timesteps_of_a_batch_cover_the_whole_range() -> None:
    steps = torch.cat([noise_of_step(config(batch_size=4), step, (4, 2, 2), 1000)[1][None] for step in range(200)])
    assert torch.equal(steps.div(250, rounding_mode="floor").sort(1).values, torch.arange(4).expand(200, 4))
    assert steps[:, 0].float().mean() == pytest.approx(500, abs=60)


def test_one_canvas_is_learned_by_heart_and_sampled_again(tmp_path, frozen) -> None:
    model = MODEL.model_copy(update={"channels": (32, 32), "cross_attention_dim": 32})
    run = trainer(
        tmp_path,
        frozen,
        model=model,
        batch_size=4,
        steps=300,
        learning_rate=6e-3,
        warmup_steps=10,
        flip=0.0,
        min_masked=3,
        max_masked=3,
        drop_image_tokens=0.0,
        drop_texture_tokens=0.0,
        drop_both=0.0,
        ema_decay=0.95,
        noise=NoiseConfig(min_snr_gamma=None),
        visible_weight=0.0,
        log_every=10,
        checkpoint_every=1000,
        sample_every=1000,
        tensorboard=False,
    )
    one = OnePerson()
    run.source = one
    run.run()
    values = [loss for _, loss in losses(tmp_path)]
    assert np.mean(values[-3:]) < values[0] / 10
    run.use_ema()
    pipeline = frozen.generator(run.model, run.scheduler).pipeline()
    sources = [SourceFeatures(latents=one.views[0], tokens=one.tokens([0])[0], keypoints=one.keypoints(0))]
    request = CanvasRequest(sources=sources, poses=[one.keypoints(i) for i in (1, 2, 3)], seed=0)
    made = pipeline([request], num_inference_steps=8, guidance_scale=1.0, output_type="latent").images[0]
    error = [np.square(made[i] - one.views[i + 1].numpy()).mean() for i in range(3)]
    others = [np.square(made[i] - one.views[0].numpy()).mean() for i in range(3)]
    assert max(error) < 0.15 < 1 < min(others)  # the views have unit variance


def test_a_loss_that_is_not_finite_stops_the_run_with_its_step(tmp_path, frozen, monkeypatch) -> None:
    run = trainer(tmp_path, frozen, log_every=10, checkpoint_every=100)
    train_step = run._train_step
    monkeypatch.setattr(run, "_train_step", lambda rate: train_step(rate) * (torch.nan if run.step == 6 else 1))
    with pytest.raises(DivergedError, match="not finite at step 7"):
        run.run()
    assert not (tmp_path / ".scratch").exists()


def test_a_saved_generator_opens_again_and_can_be_gone_on_from(tmp_path, frozen, undisturbed) -> None:
    _, weights, _ = undisturbed
    run = trainer(tmp_path / "run", frozen)
    run.model.load_state_dict(weights)
    save_generator(tmp_path / "generator", frozen.generator(run.model, run.scheduler))
    loaded = load_generator(tmp_path / "generator")
    assert loaded.view_size == (32, 16) and loaded.scheduler.config.rescale_betas_zero_snr
    assert all(torch.equal(value, weights[key]) for key, value in loaded.model.state_dict().items())
    again = initial_denoiser(config(init_from=tmp_path / "generator"), 4, 20, 4)
    assert all(torch.equal(value, weights[key]) for key, value in again.state_dict().items())
    less = config(init_from=tmp_path / "generator", add_parts=True)
    less = less.model_copy(update={"model": less.model.model_copy(update={"texture_tokens": False})})
    with pytest.raises(InputError, match="generator to start from has texture_tokens, which `model` switches off"):
        initial_denoiser(less, 4, 20, 4)
    with pytest.raises(ValueError, match="add_parts without init_from"):
        config(add_parts=True)
    with pytest.raises(ValueError, match="token width and stride"):
        initial_denoiser(config(init_from=tmp_path / "generator"), 4, 96, 4)
    assert all(
        torch.isfinite(value).all()
        for value in load_file(tmp_path / "generator" / "unet" / "diffusion_pytorch_model.safetensors").values()
    )


@pytest.mark.parametrize("other", [False, True])
def test_a_start_from_a_generator_of_other_latents_says_so(tmp_path, frozen, monkeypatch, caplog, other) -> None:
    base = tmp_path / "generator"
    run = trainer(tmp_path / "run", frozen)
    save_generator(base, frozen.generator(run.model, run.scheduler))
    vae = shutil.copytree(base / "vae", tmp_path / "train-vae")
    (vae / "reconstructions.png").touch()
    if other:
        (vae / "config.json").write_text((vae / "config.json").read_text() + " ")
    monkeypatch.setattr(train, "train_and_save", lambda *_: {})
    make_generator(config(encoded=encoded_artifact(tmp_path / "store", vae=vae), init_from=base), tmp_path)
    said = [message for message in caplog.messages if "encoded by another vae" in message]
    assert len(said) == other
    assert all(str(base) in message for message in said)


def test_encoders_that_are_gone_or_changed_are_named(tmp_path, frozen) -> None:
    frozen.vae.save_pretrained(tmp_path / "vae")
    encoded = encoded_artifact(tmp_path / "store", vae=tmp_path / "vae")
    with pytest.raises(WeightsError, match="gone or were changed: image_encoder; encode again"):
        FrozenParts.of(config(encoded=encoded))
    (tmp_path / "vae" / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match=f"gone or were changed: {tmp_path / 'vae'}, image_encoder; encode again"):
        FrozenParts.of(config(encoded=encoded))


def stable_diffusion_folder(folder: Path) -> UNet2DConditionModel:
    """A small folder in the layout of a published Stable Diffusion pipeline."""
    torch.manual_seed(3)
    unet = UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        cross_attention_dim=24,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=2,
    )
    unet.save_pretrained(folder / "unet")
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    return unet


def test_training_starts_from_a_stable_diffusion_folder_as_it_is(tmp_path, frozen) -> None:
    unet = stable_diffusion_folder(tmp_path / "sd").eval()
    settings = config(init_from=tmp_path / "sd")
    model = initial_denoiser(settings, 4, 20, 4).eval()
    weight = model.unet.conv_in.weight
    assert weight.shape[1] == 4 + 1 + 4 + 8
    assert torch.equal(weight[:, :4], unet.conv_in.weight) and not weight[:, 4:].any()
    draws = torch.Generator().manual_seed(0)
    latents, tokens = torch.randn(1, 4, 16, 8, generator=draws), torch.randn(1, 5, 20, generator=draws)
    skeletons, source = torch.rand(1, 3, 64, 32, generator=draws), torch.randn(1, 4, 8, 4, generator=draws)
    with torch.no_grad():
        context = model.feature_conditioning(tokens, source)
        ours = model(latents, torch.tensor([300]), torch.ones(1, 1, 16, 8), latents, skeletons, tokens, source)
        assert torch.equal(ours, unet(latents, torch.tensor([300]), context).sample)
    run = trainer(tmp_path / "run", frozen, init_from=tmp_path / "sd", steps=2)
    run.run()
    save_generator(tmp_path / "generator", frozen.generator(run.model, run.scheduler))
    assert str(tmp_path) not in (tmp_path / "generator" / "unet" / "config.json").read_text()


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


def test_nobody_is_left_waiting_for_a_signal_outside_the_main_thread(tmp_path, frozen) -> None:
    result = []
    thread = threading.Thread(target=lambda: result.append(trainer(tmp_path, frozen, steps=1).run()))
    thread.start()
    thread.join()
    assert result[0]["steps"] == 1


def test_parts_of_a_batch_give_the_gradients_of_the_whole(tmp_path, frozen) -> None:
    whole, parts = (
        trainer(tmp_path / "a", frozen, batch_size=5),
        trainer(tmp_path / "b", frozen, batch_size=5, gradient_accumulation=3),
    )
    for run in (whole, parts):
        run.optimizer.step = lambda rate: None  # the gradients stay
        run.batches = run._batches()
        run.loss = run._train_step(0.0)
    torch.testing.assert_close(whole.loss, parts.loss, rtol=1e-3, atol=1e-5)  # loss, gradient norm
    noise = 1e-5 * max(parameter.grad.abs().max() for parameter in whole.model.parameters())  # some are all but zero
    for (name, a), b in zip(whole.model.named_parameters(), parts.model.parameters(), strict=True):
        assert (a.grad - b.grad).abs().max() <= 0.01 * a.grad.abs().max() + noise, name
    with pytest.raises(InputError, match="every part needs a canvas"):
        trainer(tmp_path / "c", frozen, batch_size=2, gradient_accumulation=3)


def test_validation_asks_the_same_questions_of_people_whom_no_step_sees(tmp_path, frozen) -> None:
    run = trainer(tmp_path, frozen, validation_identities=2, validation_every=6)
    held = set(run.held_out.by_pid)
    assert len(held) == 1 and not held & set(run.source.by_pid)  # a fifth of five people
    assert {run.source.source.pids[row] for row in run.held_out.rows} == held
    assert torch.equal(
        run.held_out.latents([0], np.zeros(1)), RandomImages().latents([run.held_out.rows[0]], np.zeros(1))
    )
    summary = run.run()
    rows = [json.loads(line) for line in (tmp_path / "logs" / "validation.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [6, 12] and summary["validation_loss"] == rows[1]["loss"]
    buckets = [value for name, value in rows[1].items() if name.startswith("loss_t")]
    assert len(buckets) == BUCKETS and np.mean(buckets) == pytest.approx(rows[1]["loss"], abs=1e-5)
    with run.ema.in_model():
        again = validation_losses(
            run.objective,
            run.model.eval(),
            run.held_out,
            validation_cases(run.held_out, run.config),
            run.accelerator,
            3,
        )
    assert again["loss"] == pytest.approx(rows[1]["loss"], rel=1e-4)  # other batches, same cases
    assert list((tmp_path / "logs" / "tensorboard").iterdir()) and (tmp_path / "logs" / "samples-000012.png").is_file()


def test_the_newest_states_are_kept_and_an_equal_retraining_has_equal_content(tmp_path, frozen) -> None:
    contents = []
    for name, every in (("a", 1), ("b", 3)):

        def make(settings: TrainGeneratorConfig, directory: Path) -> dict:
            run = Trainer(settings, directory, RandomImages(), frozen, Accelerator(cpu=True))
            summary = run.run()
            contents.append([path.name for path in Checkpoints(directory / ".scratch").states()])
            run.use_ema()
            save_generator(directory, frozen.generator(run.model, run.scheduler))
            return summary

        encoded = encoded_artifact(tmp_path)
        settings = config(encoded=encoded, steps=8, checkpoint_every=2, keep_checkpoints=every, log_every=every)
        folder = build(settings, make, output=tmp_path / name)
        assert not (folder / ".scratch").exists() and verify(folder) == []
        contents.append(manifest_of(folder)["content_sha256"])
    assert contents[0] == ["state-00000006.safetensors"] and len(contents[2]) == 3
    assert contents[1] == contents[3]


def test_a_view_that_the_network_cannot_halve_is_refused(tmp_path, frozen) -> None:
    images = RandomImages()
    images.view_size, images.latent_shape = (36, 20), (4, 9, 5)
    (tmp_path / "run").mkdir()
    with pytest.raises(InputError, match="multiples of 8 for this denoiser; encode with --view-height 40"):
        Trainer(config(), tmp_path / "run", images, frozen, Accelerator(cpu=True))
