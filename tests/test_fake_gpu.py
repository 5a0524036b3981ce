"""Training steps and sampling on pretended GPU tensors: none has tensors of two devices in one operation.

torch's `FakeTensorMode` follows shapes and devices without computing and needs no card. Its own limits are got around:
a module's parameters are replaced where `Module.to` would swap their contents, and gradients are zeros, because the
engine of the backward pass opens the device.
"""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from benchmarks import sampling
from datasets.runtime import devices
from imagpose.canvas.layout import lay_out
from imagpose.config import DistillSettings, NoiseConfig
from imagpose.distillation.consistency import ConsistencyDistillation, student_scheduler
from imagpose.modeling.denoiser import new_denoiser
from imagpose.sampling.guidance import GuidedPrediction
from imagpose.training.batches import StepBatch, StepReader
from imagpose.training.ema import DenoiserEma
from imagpose.training.generators import Generator
from imagpose.training.noise import noise_scheduler
from imagpose.training.objective import loss_sum
from imagpose.training.train import Trainer
from tests.test_device_waits import reid_trainer
from tests.test_imagpose_canvas import RandomImages
from tests.test_imagpose_train import MODEL, config, frozen_parts

GPU = torch.device("cuda", 0)


@contextlib.contextmanager
def autocast(device, precision):
    """As `devices.autocast`; `torch.autocast` itself turns itself off where there is no card."""
    assert device.type == "cuda"
    torch.set_autocast_enabled("cuda", precision == "bf16")
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", False)


def replace_parameters(module, function, recurse=True, seen=None):
    """In the place of `Module._apply`; a parameter that two modules share stays one."""
    seen = {} if seen is None else seen
    for child in module.children():
        replace_parameters(child, function, recurse, seen)
    with torch.no_grad():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                made = seen.get(id(parameter)) or nn.Parameter(function(parameter), parameter.requires_grad)
                module._parameters[name] = seen[id(parameter)] = made
        for name, buffer in module._buffers.items():
            module._buffers[name] = buffer if buffer is None else function(buffer)
    return module


def zero_gradients(loss):
    """In the place of `Tensor.backward`: a gradient for every parameter that the loss depends on."""
    seen, waiting = set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
            if hasattr(node, "variable"):
                node.variable.grad = torch.zeros_like(node.variable)


@pytest.fixture
def pretended(monkeypatch):
    """The mode in which a GPU is pretended; entered by the tests, as real tensors are made before."""
    monkeypatch.setattr(nn.Module, "_apply", replace_parameters)
    monkeypatch.setattr(torch.Tensor, "backward", zero_gradients)
    monkeypatch.setattr(devices, "autocast", autocast)
    monkeypatch.setattr(devices, "pick", lambda name: GPU)
    return FakeTensorMode(allow_non_fake_inputs=True)


class OneGpu(SimpleNamespace):
    """What the trainer uses of accelerate's `Accelerator`."""

    device, num_processes, process_index, is_main_process = GPU, 1, 0, True

    def autocast(self):
        return autocast(GPU, "bf16")

    def prepare_model(self, model):
        return model

    def no_sync(self, model):
        return contextlib.nullcontext()

    def backward(self, loss):
        loss.backward()

    def clip_grad_norm_(self, parameters, norm):
        return nn.utils.clip_grad_norm_(parameters, norm)


def batches(settings, steps: int) -> list[StepBatch]:
    reader = StepReader(source=RandomImages(), config=settings, train_timesteps=1000, process=0, processes=1)
    return [reader(step) for step in range(steps)]


def test_what_is_looked_for_is_found(pretended):
    with pretended:
        there = torch.ones(2, device=GPU)
        with pytest.raises(RuntimeError):
            there + torch.ones(2)
        with pytest.raises(DataDependentOutputException):
            there.sum().item()


@pytest.mark.parametrize(
    "loss", [{}, {"synthetic_triplet": False, "synthetic_weight": 0.5, "synthetic_label_smoothing": 0.2}]
)
def test_a_reid_step_mixes_no_devices(pretended, loss):
    with pretended:
        run = reid_trainer("cuda", **loss)
        for _ in range(2):
            losses = run.train_step(np.arange(12))
    assert {(value.device, value.dtype) for value in losses.values()} == {(GPU, torch.float32)}


@pytest.mark.parametrize(
    "fields", [{"optimizer": "adamw"}, {"optimizer": "muon", "gradient_accumulation": 2, "ema_decay": 0.9}]
)
def test_a_generators_step_mixes_no_devices_and_waits_for_nothing(pretended, tmp_path, fields):
    settings = config(precision="bf16", device="cuda", **fields)
    steps = batches(settings, 2)
    with pretended:
        run = Trainer(settings, tmp_path, RandomImages(), frozen_parts(), OneGpu())
        run.batches = iter(steps)
        losses = [run._train_step(1e-3) for _ in steps]
        assert {state.device for state in run.optimizer.state().values()} == {GPU}
    assert losses[-1].device == GPU


def test_a_students_step_mixes_no_devices(pretended):
    (step,) = batches(config(device="cuda"), 1)
    ((_, canvases),), ((noise, timesteps),) = step.parts, step.draws
    with pretended:
        teacher, student = (new_denoiser(MODEL, 4, 20).to(GPU) for _ in range(2))
        noised = Generator(model=teacher, vae=None, scheduler=noise_scheduler(NoiseConfig()))
        settings = DistillSettings()
        scheduler = student_scheduler(noised, settings.solver_steps)
        objective = ConsistencyDistillation(settings, teacher, scheduler, student, DenoiserEma(student, 0.9))
        with autocast(GPU, "bf16"):
            loss = loss_sum(objective, student, canvases.to(GPU), noise.to(GPU), timesteps.to(GPU))
    assert loss.device == GPU


@pytest.mark.parametrize("reuse_conditions", [True, False])
@pytest.mark.parametrize("unconditional", ["pose", "pose-and-sources"])
def test_a_guided_prediction_in_bfloat16_mixes_no_devices(pretended, unconditional, reuse_conditions):
    requests = sampling.market_requests(2)
    with pretended:
        model = new_denoiser(sampling.market_model(False), sampling.LATENT_CHANNELS, 768).to(GPU).bfloat16().eval()
        features = [list(request.sources) for request in requests]
        canvases = lay_out(requests, features, sampling.VIEW, GPU, torch.bfloat16)
        guided = GuidedPrediction(model, canvases, 2.0, unconditional, reuse_conditions=reuse_conditions)
        with guided.cached(), torch.no_grad():
            found = guided(canvases.noise, torch.zeros((), dtype=torch.long, device=GPU))
    assert (found.device, found.dtype) == (GPU, torch.float32)
