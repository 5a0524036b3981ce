"""Distillation: a student is its teacher's consistency function, resumes exactly, samples in four calls, says so."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from diffusers import DDIMScheduler, LCMScheduler
from torch import Tensor

from datasets.runtime.errors import InputError
from datasets.runtime.training.checkpoints import Checkpoints
from imagpose.canvas.layout import CanvasRequest, SourceFeatures
from imagpose.canvas.training import CanvasPlan, make_batch
from imagpose.config import DistillConfig, NoiseConfig
from imagpose.distillation.distill import Distiller, make_student
from imagpose.modeling.denoiser import new_denoiser
from imagpose.sampling.pipeline import IMAGPosePipeline
from imagpose.training.generators import load_generator, save_generator
from imagpose.training.inputs import FrozenParts
from imagpose.training.noise import noise_scheduler
from imagpose.training.objective import noise_of_step
from tests.test_imagpose_canvas import CANVAS, RandomImages
from tests.test_imagpose_train import MODEL, frozen_parts, losses

NOISE = NoiseConfig(train_timesteps=100)
PLANS = [
    CanvasPlan(slots=(10, 11, 12, 13), visible=(True, False, False, False), reference=10),
    CanvasPlan(slots=(1, 2, -1, -1), visible=(True, False, False, False), reference=1),
]


@pytest.fixture(scope="module")
def parts() -> FrozenParts:
    return frozen_parts()


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, parts: FrozenParts) -> Path:
    """A generator of random weights, none of them zero, so that every condition counts."""
    return saved(tmp_path_factory.mktemp("teacher"), parts, NOISE)


def saved(folder: Path, parts: FrozenParts, noise: NoiseConfig, **switches: bool) -> Path:
    torch.manual_seed(1)
    model = new_denoiser(MODEL.model_copy(update=switches), 4, 20)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    save_generator(folder, parts.generator(model, noise_scheduler(noise)))
    return folder


def config(teacher: Path, **fields) -> DistillConfig:
    defaults = {
        "steps": 6,
        "batch_size": 2,
        "solver_steps": 10,
        "log_every": 1,
        "checkpoint_every": 4,
        "warmup_steps": 2,
        "sample_steps": 2,
        "device": "cpu",
        "tensorboard": False,
    }
    return DistillConfig(**{"encoded": Path("nowhere"), "teacher": teacher, **defaults, **fields})


def distiller(folder: Path, teacher: Path, parts: FrozenParts, **fields) -> Distiller:
    folder.mkdir(exist_ok=True)
    return Distiller(config(teacher, **fields), folder, RandomImages(), parts, Accelerator(cpu=True))


def student(folder: Path, teacher: Path, parts: FrozenParts) -> IMAGPosePipeline:
    """A student before its first step, saved and opened again."""
    run = distiller(folder / "run", teacher, parts)
    save_generator(folder / "student", parts.generator(run.model, run.scheduler))
    return load_generator(folder / "student").pipeline()


def request(seed: int) -> CanvasRequest:
    images = RandomImages()
    source = SourceFeatures(
        latents=images.latents([0], [False])[0], tokens=images.tokens([0], [False])[0], keypoints=images.keypoints(0)
    )
    return CanvasRequest(sources=[source], poses=[images.keypoints(i) for i in (1, 2, 3)], seed=seed)


LCM = {"sampler": "lcm", "num_inference_steps": 4, "guidance_scale": 1.0, "output_type": "latent"}


def test_at_the_paths_end_the_student_is_the_identity_and_elsewhere_its_clean_latents(tmp_path, teacher, parts) -> None:
    objective = distiller(tmp_path, teacher, parts).objective
    points, prediction = torch.randn(2, 4, 16, 8), torch.randn(2, 4, 16, 8)
    at_zero = objective.consistent(prediction, points, torch.tensor([0, 0]))
    assert torch.equal(at_zero, points)
    at_pure_noise = objective.consistent(prediction, points, torch.tensor([99, 99]))
    torch.testing.assert_close(at_pure_noise, -prediction, rtol=1e-3, atol=1e-3)  # v at zero signal is -x_0
    scheduler = objective.scheduler
    scheduler.set_timesteps(4)
    (first, *_) = scheduler.timesteps
    denoised = scheduler.step(prediction, first, points).denoised
    torch.testing.assert_close(objective.consistent(prediction, points, first.expand(2)), denoised)


def test_the_teachers_step_is_ddims_with_the_guidance_of_sampling(tmp_path, teacher, parts) -> None:
    run = distiller(tmp_path, teacher, parts, guidance=1.7)
    objective, pipeline = run.objective, load_generator(teacher).pipeline()
    canvases = pipeline.lay_out([request(5)], [list(request(5).sources)])
    calls: list[tuple[Tensor, Tensor]] = []
    scheduler_step = DDIMScheduler.step

    def remembered(self, prediction, timestep, latents, **options):
        moved = scheduler_step(self, prediction, timestep, latents, **options)
        calls.append((latents, moved[0]))
        return moved

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DDIMScheduler, "step", remembered)
        pipeline.denoise(canvases, "ddim", 10, 1.7)
    images = RandomImages()
    plan = CanvasPlan(slots=(0, 1, 2, 3), visible=(True, False, False, False), reference=0)
    batch = make_batch(images, [plan], 0.0)
    noisy, expected = calls[0]
    mask = batch.mask.bool()
    start, end = torch.tensor([99]), torch.tensor([89])
    found = objective.solver_step(batch, canvases.noise, noisy, start, end)
    torch.testing.assert_close(found[~mask.expand_as(found)], expected[~mask.expand_as(found)], rtol=1e-4, atol=1e-4)
    known = run.scheduler.add_noise(batch.latents, canvases.noise, end)
    torch.testing.assert_close(found[mask.expand_as(found)], known[mask.expand_as(found)])


def test_a_step_moves_the_student_its_average_follows_and_the_teacher_stays(tmp_path, teacher, parts) -> None:
    run = distiller(tmp_path, teacher, parts)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    average = {name: value.clone() for name, value in run.ema.weights().items()}
    run.batches = run._batches()
    for _ in range(3):
        run._train_step(1e-2)
        run.step += 1
    fixed = load_generator(teacher).model.state_dict()
    assert all(torch.equal(value, fixed[name]) for name, value in run.teacher.model.state_dict().items())
    assert all(parameter.grad is None for parameter in run.teacher.model.parameters())
    moved = [name for name, value in run.model.named_parameters() if not torch.equal(value, before[name])]
    followed = [name for name, value in run.ema.weights().items() if not torch.equal(value, average[name])]
    assert moved and followed == moved
    assert any(not torch.equal(run.ema.weights()[name], dict(run.model.named_parameters())[name]) for name in moved)


def test_the_gradient_is_the_students_alone_and_what_carries_no_weight_has_none(tmp_path, teacher, parts) -> None:
    run = distiller(tmp_path, teacher, parts)
    batch = make_batch(RandomImages(), PLANS, 0.0)
    noise, timesteps = noise_of_step(run.config, 0, CANVAS, 100)
    errors = run.objective.errors(run.model, batch, noise, timesteps)
    assert errors.shape == (2, 1, 16, 8) and not errors[batch.loss_weights == 0].any()
    assert (errors[batch.loss_weights > 0] > 0).all()
    errors.sum().backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in run.model.parameters())
    assert not any(average.requires_grad for average in run.ema.weights().values())


def test_consistency_is_learned(tmp_path, teacher, parts) -> None:
    run = distiller(tmp_path, teacher, parts, steps=60, learning_rate=2e-3, batch_size=4, checkpoint_every=1000)
    batch = make_batch(RandomImages(), PLANS, 0.0)
    noise, timesteps = noise_of_step(run.config, 1000, CANVAS, 100)
    noise, timesteps = noise[:2], torch.tensor([55, 99])

    def error() -> float:
        with torch.no_grad():
            return float(run.objective.errors(run.model, batch, noise, timesteps).sum())

    before = error()
    run.run()
    assert error() < 0.8 * before


def test_a_stopped_distillation_ends_with_the_bits_of_an_uninterrupted_one(
    tmp_path, teacher, parts, monkeypatch
) -> None:
    whole = distiller(tmp_path / "whole", teacher, parts)
    whole.run()
    first = distiller(tmp_path / "parts", teacher, parts)
    train_step = first._train_step

    def stopped_in_step_three(rate: float) -> Tensor:
        if first.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_step(rate)

    monkeypatch.setattr(first, "_train_step", stopped_in_step_three)
    with pytest.raises(SystemExit):
        first.run()
    assert Checkpoints(tmp_path / "parts" / ".scratch").states()
    second = distiller(tmp_path / "parts", teacher, parts)
    assert second.step == 3
    second.run()
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    for found, expected in (
        (second.model.state_dict(), whole.model.state_dict()),
        (second.ema.state(), whole.ema.state()),
    ):
        assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_a_student_samples_in_four_network_calls_without_guidance_and_each_canvas_from_its_seed(
    tmp_path,
    teacher,
    parts,
) -> None:
    pipeline = student(tmp_path, teacher, parts)
    rows: list[tuple[int, int]] = []
    pipeline.unet.register_forward_pre_hook(lambda _, inputs: rows.append((len(inputs[0]), int(inputs[1][0]))))
    together = pipeline([request(5), request(6)], **LCM).images
    assert rows == [(2, 99), (2, 79), (2, 49), (2, 29)]
    alone = pipeline([request(6)], **LCM).images[0]
    torch.testing.assert_close(torch.from_numpy(together[1]), torch.from_numpy(alone), rtol=1e-4, atol=1e-4)
    assert abs(together[0] - together[1]).max() > 0.1


def test_a_students_folder_names_its_scheduler_and_grid(tmp_path, teacher, parts) -> None:
    pipeline = student(tmp_path, teacher, parts)
    assert isinstance(pipeline.scheduler, LCMScheduler) and pipeline.scheduler.config.original_inference_steps == 10
    index = json.loads((tmp_path / "student" / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", "LCMScheduler"]
    assert (
        pipeline.scheduler.config.rescale_betas_zero_snr and pipeline.scheduler.config.prediction_type == "v_prediction"
    )
    trained = load_generator(teacher).scheduler
    torch.testing.assert_close(pipeline.scheduler.alphas_cumprod[:-1], trained.alphas_cumprod[:-1])
    assert pipeline.scheduler.alphas_cumprod[-1] < 1e-6


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"sampler": "unipc"}, "sampler 'unipc' does not fit; pass --sampler lcm --steps 4 --guidance 1"),
        ({"guidance_scale": 2.0}, r"guidance 2 with a few-step student.*pass --guidance 1"),
        ({"num_inference_steps": 11}, "11 steps with a student that was distilled along 10"),
    ],
)
def test_a_student_refuses_what_it_was_not_distilled_for(tmp_path, teacher, parts, settings, reason) -> None:
    pipeline = student(tmp_path, teacher, parts)
    with pytest.raises(InputError, match=reason):
        pipeline([request(0)], **{**LCM, **settings})


def test_lcm_is_refused_on_a_generator_that_was_not_distilled(teacher) -> None:
    with pytest.raises(InputError, match=r"'lcm' needs a generator that 'imagpose distill' made.*unipc, dpm"):
        load_generator(teacher).pipeline()([request(0)], **LCM)


def test_teachers_that_cannot_be_distilled_are_refused_before_any_step(tmp_path, teacher, parts) -> None:
    student(tmp_path, teacher, parts)
    with pytest.raises(InputError, match="is a few-step student itself"):
        distiller(tmp_path / "a", tmp_path / "student", parts)
    with pytest.raises(InputError, match="does not divide the teacher's 100 timesteps"):
        distiller(tmp_path / "b", teacher, parts, solver_steps=30)
    blind = saved(tmp_path / "blind", parts, NOISE, masked_latents=False)
    with pytest.raises(InputError, match="sees no latents of the sources"):
        distiller(tmp_path / "c", blind, parts)
    noise = NoiseConfig(train_timesteps=100, prediction_type="epsilon")
    with pytest.raises(InputError, match="predicts noise at zero signal"):
        distiller(tmp_path / "d", saved(tmp_path / "epsilon", parts, noise), parts)
    (tmp_path / "sd" / "unet").mkdir(parents=True)
    (tmp_path / "sd" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (tmp_path / "sd" / "unet" / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    with pytest.raises(InputError, match="is a Stable Diffusion folder"):
        make_student(config(tmp_path / "sd"), tmp_path)
