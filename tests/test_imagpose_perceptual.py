"""The perceptual term of the generator's loss: of one masked view of each canvas, in training alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from pydantic import ValidationError

from datasets.runtime.errors import WeightsError
from datasets.runtime.hashing import file_sha256
from imagpose.canvas.training import CanvasPlan, make_batch
from imagpose.canvas.view_grid import join_views, split_views, unpack_views
from imagpose.config import NoiseConfig, TrainGeneratorConfig
from imagpose.metrics import published
from imagpose.training.inputs import FrozenParts
from imagpose.training.objective import noise_of_step
from imagpose.training.perceptual import masked_view
from imagpose.training.train import Trainer
from tests.test_imagpose_canvas import CANVAS, RandomImages
from tests.test_imagpose_lpips import weight_files
from tests.test_imagpose_train import config, frozen_parts

PLANS = [
    CanvasPlan(slots=(10, 11, 12, 13), visible=(True, False, False, False), reference=10),
    CanvasPlan(slots=(1, 2, -1, -1), visible=(True, False, False, False), reference=1),
    CanvasPlan(slots=(0, -1, -1, -1), visible=(False,) * 4, reference=0),
    CanvasPlan(slots=(14, 15, 16, 17), visible=(True, True, False, True), reference=15),
]


@pytest.fixture(scope="module")
def vgg16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random convolutions in the place of VGG16's."""
    return weight_files(tmp_path_factory.mktemp("vgg16"), "vgg16")[0]


@pytest.fixture
def known(vgg16: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, taken for the published ones."""
    monkeypatch.setitem(
        published.WEIGHTS, "vgg16", replace(published.WEIGHTS["vgg16"], also={file_sha256(vgg16): "this test"})
    )
    return vgg16


@pytest.fixture(scope="module")
def frozen() -> FrozenParts:
    return frozen_parts()


def trainer(folder: Path, frozen: FrozenParts, **fields) -> Trainer:
    folder.mkdir(exist_ok=True)
    return Trainer(config(batch_size=4, **fields), folder, RandomImages(), frozen, Accelerator(cpu=True))


def batch_of(run: Trainer):
    noise, timesteps = noise_of_step(run.config, 0, CANVAS, 1000)
    return make_batch(run.source, PLANS, run.config.visible_weight), noise, timesteps


def test_each_masked_view_is_picked_by_some_timesteps_and_no_other_is(tmp_path, frozen) -> None:
    batch, _, _ = batch_of(trainer(tmp_path, frozen))
    picked = torch.stack([masked_view(batch, torch.full((4,), timestep))[0] for timestep in range(12)])
    masked = torch.tensor([[False, True, True, True], [False, True, False, False], [True] + [False] * 3, [0, 0, 1, 0]])
    assert torch.equal(masked_view(batch, torch.zeros(4, dtype=torch.long))[1], masked.sum(1))
    assert (picked.sum(2) == 1).all()
    assert torch.equal(picked.float().mean(0), masked / masked.sum(1, keepdim=True)), "each as often as the others"


def test_the_term_is_lpips_of_decoded_views_and_nothing_where_the_prediction_is_right(tmp_path, frozen, known) -> None:
    run = trainer(tmp_path, frozen, perceptual_weight=2.0, vgg16=known)
    term, scheduler = run.objective.perceptual, run.scheduler
    batch, noise, timesteps = batch_of(run)
    noisy = scheduler.add_noise(batch.latents, noise, timesteps)
    right = scheduler.get_velocity(batch.latents, noise, timesteps)
    assert term.errors(right, noisy, timesteps, batch).abs().max() < 1e-4

    picked, counts = masked_view(batch, timesteps)
    # the prediction means other latents in the picked view only, then in the other views only
    other = torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(1))
    signal, spread = (level.reshape(4, 1, 1, 1) for level in term.levels.at(timesteps))
    changed = (signal * noisy - other) / spread
    mine = picked.flatten()[:, None, None, None]
    found = term.errors(
        join_views(torch.where(mine, split_views(changed), split_views(right))), noisy, timesteps, batch
    )
    views = (unpack_views(latents)[picked] / frozen.vae.config.scaling_factor for latents in (other, batch.latents))
    with torch.no_grad():
        distances = term.lpips(*(frozen.vae.decode(latents).sample for latents in views))
    cells = batch.latents[0, 0].numel() / 4
    torch.testing.assert_close(found.sum((1, 2, 3)) / cells, 2.0 * counts * distances, rtol=1e-3, atol=1e-4)
    elsewhere = join_views(torch.where(mine, split_views(right), split_views(changed)))
    assert term.errors(elsewhere, noisy, timesteps, batch).abs().max() < 1e-4


def test_it_trains_the_denoiser_and_nothing_else_and_validation_goes_without_it(tmp_path, frozen, known) -> None:
    plain = trainer(tmp_path / "plain", frozen)
    run = trainer(tmp_path / "perceptual", frozen, perceptual_weight=2.0, vgg16=known, steps=3)
    batch, noise, timesteps = batch_of(run)
    for one in (plain, run):  # at the start of training the output layer is all zeros
        torch.nn.init.constant_(one.model.unet.conv_out.weight, 0.01)
    same = [one.objective.errors(one.model, batch, noise, timesteps) for one in (plain, run)]
    assert torch.equal(*same)
    more = run.objective.trained_errors(run.model, batch, noise, timesteps) - same[0]
    assert (more.sum((1, 2, 3)) > 0).all()
    more.sum().backward()
    assert run.model.unet.conv_in.weight.grad.abs().max() > 0
    term = run.objective.perceptual
    assert all(parameter.grad is None for part in (term.vae, term.lpips) for parameter in part.parameters())
    before = run.model.unet.conv_in.weight.clone()
    run.run()
    assert not torch.equal(before, run.model.unet.conv_in.weight)


def test_a_weight_without_network_other_weights_and_predicted_noise_are_refused(tmp_path, frozen, vgg16) -> None:
    for half in ({"perceptual_weight": 1.0}, {"vgg16": vgg16}):
        with pytest.raises(ValidationError, match="perceptual_weight and vgg16 go together"):
            TrainGeneratorConfig(encoded=tmp_path, **half)
    with pytest.raises(ValidationError, match=r"perceptual_weight needs noise\.prediction_type v_prediction"):
        config(perceptual_weight=1.0, vgg16=vgg16, noise=NoiseConfig(prediction_type="epsilon"))
    with pytest.raises(WeightsError, match=r"--vgg16 .* is not the published file's"):
        trainer(tmp_path, frozen, perceptual_weight=1.0, vgg16=vgg16)
