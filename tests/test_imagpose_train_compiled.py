"""A compiled training is the plain one: names, steps, states; where compiling fails it goes on without."""

import functools
import logging

import pytest
import torch
from safetensors import safe_open

from datasets.runtime.keys import describe_config
from datasets.runtime.training import compilation
from datasets.runtime.training.checkpoints import Checkpoints
from datasets.runtime.training.compilation import can_compile
from imagpose.config import TrainGeneratorSettings
from tests.test_imagpose_train import frozen, losses, trainer  # noqa: F401 - a fixture

COMPILER = pytest.param(
    "inductor", marks=[pytest.mark.slow, pytest.mark.skipif(not can_compile(), reason="no C++ compiler")]
)


@pytest.fixture(params=["aot_eager", COMPILER])
def backend(request, monkeypatch) -> str:
    """The graphs of a compiled network without half a minute of C++, or with it."""
    torch._dynamo.reset()
    monkeypatch.setattr(compilation.torch, "compile", functools.partial(torch.compile, backend=request.param))
    return request.param


def names_of_newest_state(folder) -> set[str]:
    with safe_open(Checkpoints(folder / ".scratch").states()[0], "pt") as file:
        return set(file.keys())


def test_a_training_goes_on_compiled_or_not_as_it_began(tmp_path, frozen, backend) -> None:  # noqa: F811
    whole = trainer(tmp_path / "plain", frozen, steps=8)
    whole.run()
    for begun, goes_on in ((True, False), (False, True)):
        folder = tmp_path / f"begun-{begun}"
        trainer(folder, frozen, steps=8, compile=begun, checkpoint_every=5).run()
        assert names_of_newest_state(folder) == names_of_newest_state(tmp_path / "plain")
        second = trainer(folder, frozen, steps=8, compile=goes_on)
        assert second.step == 5
        second.run()
        assert second.model.state_dict().keys() == whole.model.state_dict().keys()
        assert losses(folder) == [(step, pytest.approx(loss, rel=1e-4)) for step, loss in losses(tmp_path / "plain")]
        for name, value in second.ema.weights().items():
            # where a gradient is hardly above rounding, Adam's step follows its sign
            torch.testing.assert_close(value, whole.ema.weights()[name], rtol=0, atol=second.config.learning_rate)


def test_where_compiling_fails_training_goes_on_without(tmp_path, frozen, monkeypatch, caplog) -> None:  # noqa: F811
    def broken(network):
        def call(*inputs):
            raise RuntimeError("no such header")

        return call

    trainer(tmp_path / "plain", frozen, steps=3).run()
    monkeypatch.setattr(compilation.torch, "compile", broken)
    with caplog.at_level(logging.WARNING):
        trainer(tmp_path / "compiled", frozen, steps=3, compile=True).run()
    assert losses(tmp_path / "compiled") == losses(tmp_path / "plain")
    assert caplog.text.count("training goes on without") == 1


def test_compiling_makes_no_other_generator_of_the_same_recipe() -> None:
    assert describe_config(TrainGeneratorSettings(compile=True)) == describe_config(TrainGeneratorSettings())
