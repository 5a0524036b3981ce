"""The ground floor: devices, training states, schedules, the words for precision, errors that a user can fix."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from pydantic import BaseModel, ValidationError
from torch import nn

from datasets.__main__ import COMMANDS as DATASETS
from datasets.runtime import devices
from datasets.runtime.command_line import Command, main, one_line
from datasets.runtime.config import Precision
from datasets.runtime.errors import DivergedError, InputError, WeightsError
from datasets.runtime.registry import load_name
from datasets.runtime.training.checkpoints import Checkpoints
from datasets.runtime.training.run import TrainingRun
from datasets.runtime.training.schedules import cosine_decay, linear_decay, linear_warmup, warmup_cosine
from imagpose.__main__ import COMMANDS as IMAGPOSE
from imagpose.config import GenerateConfig
from reid.__main__ import COMMANDS as REID

REPOSITORY = Path(__file__).resolve().parent.parent


def test_auto_is_the_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.pick("auto") == devices.pick("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices.pick("auto") == torch.device("cuda")
    assert devices.pick("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("name", "gpus", "message"),
    [
        ("cuda", 0, "no usable GPU"),
        ("cuda:2", 2, "cuda:0 to cuda:1"),
        ("gpu", 0, "is unknown"),
        ("meta", 0, "is not supported"),
    ],
)
def test_a_device_that_is_not_there_is_refused_in_one_line(monkeypatch, name, gpus, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(InputError, match=message) as refused:
        devices.pick(name)
    assert f"'{name}'" in str(refused.value) and "\n" not in str(refused.value)


def test_a_cpu_does_not_compute_with_denormal_numbers():
    torch.set_flush_denormal(False)
    smallest = torch.full((64,), 2.0**-126)
    assert (smallest / 2).all()
    devices.pick("cpu")
    assert not (smallest / 2).any() and smallest.all()


WITH_DEVICE = [
    (package, name, command)
    for package, commands in (("datasets", DATASETS), ("imagpose", IMAGPOSE), ("reid", REID))
    for name, command in commands.items()
    if "device" in load_name(command.config).model_fields
]


@pytest.mark.parametrize(("package", "name", "command"), WITH_DEVICE, ids=lambda value: str(value)[:20])
def test_every_command_refuses_a_gpu_that_is_not_there_with_exit_code_2(
    tmp_path, monkeypatch, capsys, package, name, command
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config_class = load_name(command.config)
    config = config_class.model_construct(device="cuda")
    monkeypatch.setattr("datasets.runtime.command_line.parse_config", lambda *_: config)
    monkeypatch.setattr("datasets.runtime.command_line.artifact_directory", lambda *_: tmp_path / "none")
    worked = Command(summary="", config=command.config, run=f"{__name__}:_never")
    assert main(package, {name: worked}, [name, "--store", str(tmp_path)]) == 2
    assert f"python -m {package} {name}: device 'cuda': this machine has no usable GPU" in capsys.readouterr().err


def _never(*_):
    raise AssertionError("the work began")


def test_only_one_module_asks_torch_whether_there_is_a_gpu():
    files = (
        file for package in ("datasets", "imagpose", "reid", "flows") for file in (REPOSITORY / package).rglob("*.py")
    )
    asking = {str(file.relative_to(REPOSITORY)) for file in files if "cuda.is_available" in file.read_text()}
    assert asking == {"datasets/runtime/devices.py"}


def parts(seed: int) -> dict:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), 0.1, fused=True)
    ema = {name: value.detach().clone() for name, value in model.named_parameters()}
    return {"model": model, "optimizer": optimizer, "ema": ema}


def train(training: dict, steps: range) -> None:
    for step in steps:
        images = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(step))
        training["model"](images).square().mean().backward()
        training["optimizer"].step()
        training["optimizer"].zero_grad()
        for name, value in training["model"].named_parameters():
            training["ema"][name].lerp_(value.detach(), 0.1)


def all_tensors(training: dict) -> list[torch.Tensor]:
    return [*training["model"].state_dict().values(), *training["ema"].values()]


def test_a_training_resumed_from_its_state_ends_with_the_same_bits(tmp_path):
    whole = parts(0)
    train(whole, range(6))
    first, second = parts(0), parts(1)
    train(first, range(3))
    Checkpoints(tmp_path / "states").save(3, first, seconds=1.5)
    assert Checkpoints(tmp_path / "states").restore(second) == {"step": 3, "seconds": 1.5}
    train(second, range(3, 6))
    assert all(torch.equal(one, other) for one, other in zip(all_tensors(whole), all_tensors(second), strict=True))


def test_only_the_newest_states_are_kept_and_a_corrupt_one_is_passed_over(tmp_path):
    checkpoints, training = Checkpoints(tmp_path, keep=2), parts(0)
    assert checkpoints.restore(training) == {"step": 0}
    for step in (1, 2, 3):
        train(training, range(step - 1, step))
        checkpoints.save(step, training)
    assert [path.name for path in checkpoints.states()] == [f"state-0000000{n}.safetensors" for n in (3, 2)]
    checkpoints.states()[0].write_bytes(checkpoints.states()[0].read_bytes()[:-40])
    assert checkpoints.restore(parts(1))["step"] == 2
    checkpoints.states()[1].write_bytes(b"")
    with pytest.raises(WeightsError, match=r"no training state can be read .* delete"):
        checkpoints.restore(parts(1))


def test_a_state_of_another_network_is_refused(tmp_path):
    Checkpoints(tmp_path).save(1, parts(0))
    other = {"model": nn.Linear(2, 2)}
    with pytest.raises(WeightsError, match=r"cannot|can be read"):
        Checkpoints(tmp_path).restore(other)


def test_a_loss_that_is_not_finite_ends_the_command_with_exit_code_2(tmp_path, capsys):
    run = TrainingRun(tmp_path, "test", 2, {})
    with pytest.raises(DivergedError, match=r"not finite at step 1 .*--learning-rate below 0.5"):
        run.finished_step({"loss": torch.tensor(math.nan)}, 0.5, log_every=1, checkpoint_every=1)
    command = Command(summary="", config=f"{__name__}:Nothing", run=f"{__name__}:_diverge")
    assert main("test", {"train": command}, ["train"]) == 2
    assert capsys.readouterr().err.strip() == "python -m test train: the loss is not finite"


class Nothing(BaseModel):
    pass


def _diverge(_):
    raise DivergedError("the loss is not finite")


def test_a_schedule_rises_to_its_peak_and_falls_to_its_floor():
    assert [linear_warmup(2.0, step, 4) for step in range(4)] == [0.5, 1.0, 1.5, 2.0]
    assert (cosine_decay(2.0, 0.0), cosine_decay(2.0, 0.5), cosine_decay(2.0, 1.0, 0.1)) == (2.0, 1.0, 0.2)
    assert [linear_decay(1.0, left, 0.25) for left in (3.0, 0.5, 0.0)] == [1.0, 0.5, 0.25]
    rates = [warmup_cosine(step, 20, 1.0, warmup=5, floor=0.1) for step in range(21)]
    assert max(rates) == rates[4] == rates[5] == 1.0 and rates[20] == pytest.approx(0.1)


class WithPrecision(BaseModel):
    precision: Precision = "fp32"


@pytest.mark.parametrize(("former", "now"), [("no", "fp32"), ("float32", "fp32"), ("bfloat16", "bf16")])
def test_a_former_name_of_a_precision_is_answered_with_the_new_one(former, now):
    with pytest.raises(ValidationError) as refused:
        WithPrecision(precision=former)
    assert one_line(refused.value) == f"precision: '{former}' is now called '{now}' (got \"{former}\")"
    assert WithPrecision(precision=now).precision == now


def test_every_setting_called_precision_has_the_same_words():
    classes = [load_name(command.config) for commands in (DATASETS, IMAGPOSE, REID) for command in commands.values()]
    fields = [config.model_fields["precision"] for config in classes if "precision" in config.model_fields]
    words = [re.findall("'([a-z0-9]+)'", str(field.annotation)) for field in fields]
    assert len(fields) >= 6
    assert all(set(found) - {"auto"} == {"fp32", "bf16"} for found in words)  # re-ID may also choose by the processor


@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
def test_no_setting_is_infinite_or_no_number(value):
    with pytest.raises(ValidationError, match="guidance"):
        GenerateConfig.model_validate({"source": ["a.jpg"], "pose": ["b.jpg"], "guidance": value})
