"""What only a GPU can tell: it computes what the CPU does, is never waited for within a step, and is shared.

``GPU_TESTS_ON=cpu`` rehearses them without one.
"""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from datasets.runtime.manifests import manifest_of
from imagpose.canvas.layout import CanvasRequest, SourceFeatures
from imagpose.sampling.pipeline import load_pipeline
from imagpose.training.train import Trainer
from reid.config import AugmentationConfig
from reid.data.images import augment
from reid.evaluation.embedding import NetworkEmbedder
from reid.evaluation.features import extract_features
from reid.evaluation.ranking import normalized
from tests.test_device_waits import reid_trainer
from tests.test_imagpose_canvas import RandomImages
from tests.test_imagpose_train import config, frozen  # noqa: F401 - a fixture

pytestmark = pytest.mark.gpu
PROJECT = Path(__file__).resolve().parents[1]
DEVICE = os.environ.get("GPU_TESTS_ON", "cuda")
CLOSE = {"rtol": 2e-2, "atol": 2e-3}
"""TF32 convolutions and other orders of summation, over a few layers."""


@contextmanager
def without_waiting():
    """Inside the block an operation that waits for the GPU is an error."""
    if DEVICE == "cpu":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def generator_trainer(folder, frozen, device=DEVICE, **fields):  # noqa: F811
    folder.mkdir(exist_ok=True)
    settings = config(device=device, **fields)
    precision = "no" if settings.precision == "fp32" else settings.precision
    AcceleratorState._reset_state(reset_partial_state=True)  # it remembers the first device and precision of a process
    return Trainer(
        settings, folder, RandomImages(), frozen, Accelerator(cpu=device == "cpu", mixed_precision=precision)
    )


def test_a_gpu_augments_images_as_the_cpu_does():
    pixels = torch.randint(0, 256, (16, 3, 64, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    settings = AugmentationConfig(padding=5, erasing=0.8, color_jitter=0.3)
    both = [augment(pixels.to(device), settings, torch.Generator().manual_seed(1)).cpu() for device in ("cpu", DEVICE)]
    torch.testing.assert_close(*both, rtol=0, atol=0.02)  # a color may be rounded to the next of 256


def test_a_reid_step_on_a_gpu_is_that_of_the_cpu():
    runs = [reid_trainer(device) for device in ("cpu", DEVICE)]
    pixels, positions = runs[0].training_set.images.pixels, runs[0].sampler.epoch(0)[0]
    features = [normalized(extract_features(NetworkEmbedder(run.network, run.device), pixels)) for run in runs]
    assert (features[0] * features[1]).sum(1).min() > 0.999  # cosines; after a step Adam's signs would decide
    for run in runs:
        run.network.train()
    parts = [{name: value.cpu() for name, value in run.train_step(positions).items()} for run in runs]
    torch.testing.assert_close(parts[1], parts[0], **CLOSE)


@pytest.mark.parametrize("loss", [{}, {"synthetic_triplet": False, "synthetic_weight": 0.5}])
def test_a_reid_step_never_waits_for_the_gpu(loss):
    run = reid_trainer(DEVICE, **loss)
    positions = run.sampler.epoch(0)[0]
    run.train_step(positions)
    with without_waiting():
        losses = run.train_step(positions)
    assert all(value.isfinite().all() for value in losses.values())


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_generators_first_step_on_a_gpu_is_that_of_the_cpu(tmp_path, frozen, optimizer):  # noqa: F811
    losses = []
    for device in ("cpu", DEVICE):
        run = generator_trainer(tmp_path / device, frozen, device, optimizer=optimizer)
        run.batches = run._batches()
        losses.append(run._train_step(1e-3).cpu())
    torch.testing.assert_close(losses[1], losses[0], **CLOSE)


def test_a_generators_step_never_waits_for_the_gpu(tmp_path, frozen):  # noqa: F811
    run = generator_trainer(tmp_path, frozen, optimizer="muon", ema_decay=0.9, precision="bf16")
    run.batches = run._batches()
    for _ in range(2):
        run._train_step(1e-3)
    with without_waiting():
        losses = run._train_step(1e-3)
    assert losses.isfinite().all()


@pytest.mark.parametrize("compiled", [False, True])
def test_a_training_in_bfloat16_resumes_on_a_gpu(tmp_path, frozen, compiled):  # noqa: F811
    if compiled and DEVICE == "cpu":
        pytest.skip("takes a minute on a CPU")
    fields = {"optimizer": "muon", "precision": "bf16", "compile": compiled, "workers": 1}
    first = generator_trainer(tmp_path, frozen, steps=8, **fields)
    first.run()
    second = generator_trainer(tmp_path, frozen, steps=12, **fields)
    assert second.step == 4
    assert {shadow.device.type for shadow in second.ema.ema.shadow_params} == {torch.device(DEVICE).type}
    assert np.isfinite(second.run()["loss"])


def test_pictures_of_a_gpu_are_those_of_the_cpu():
    draws = torch.Generator().manual_seed(0)
    joints = np.random.default_rng(0).random((18, 3)) * [64, 128, 1]
    built_in = PROJECT / "imagpose" / "builtin"
    pictures = []
    for device in ("cpu", DEVICE):
        pipeline = load_pipeline(built_in, torch.device(device), photographs=False)
        shape = (pipeline.unet.config.out_channels, 128 // pipeline._stride, 64 // pipeline._stride)
        width = pipeline.feature_conditioning.config.image_token_dim
        source = SourceFeatures(
            latents=torch.randn(shape, generator=draws.manual_seed(1)),
            tokens=torch.randn(9, width, generator=draws.manual_seed(2)),
            keypoints=joints,
        )
        request = CanvasRequest(sources=[source], poses=[joints] * 3, seed=3)
        pictures.append(np.stack(pipeline(request, num_inference_steps=4).images[0]).astype(int))
    assert np.abs(pictures[0] - pictures[1]).mean() < 2


@pytest.mark.slow
def test_a_whole_regeneration_runs_with_several_runs_on_the_gpu(tmp_path):
    command = [sys.executable, "-m", "flows", "direct", "--preset", "smoke", "--device", DEVICE, "--fractions", "40"]
    command += ["--store", str(tmp_path / "store"), "--output", str(tmp_path / "out"), "--runs-per-gpu", "2"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    (run,) = (tmp_path / "store" / "synthesize").glob("*/manifest.json")
    assert json.loads(run.read_text())["config"]["device"] == DEVICE
    assert manifest_of(run.parent)["summary"]


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Tests of other files begin as in a new process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
