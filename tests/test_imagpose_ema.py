"""The EMA weights: their warm-up, their place in the model, and their exact return from a training state."""

from pathlib import Path

import torch
from torch import Tensor, nn

from datasets.runtime.training.checkpoints import Checkpoints
from imagpose.training.ema import DenoiserEma


def step(model: nn.Module, number: int) -> None:
    """Move the weights by what a step's number decides."""
    draws = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape, generator=draws)


def train(model: nn.Module, ema: DenoiserEma, first: int, last: int) -> None:
    for number in range(first, last):
        step(model, number)
        ema.update()


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_the_average_forgets_the_first_weights_and_warms_up_as_the_settings_say() -> None:
    model = nn.Linear(3, 2)
    ema = DenoiserEma(model, decay=0.5)
    expected = torch.full_like(model.weight, torch.nan).detach()
    for number in range(1, 21):
        step(model, number)
        ema.update()
        kept = 0.0 if number == 1 else min(0.5, number / (9 + number))
        now = model.weight.detach()
        expected = now.clone() if number == 1 else kept * expected + (1 - kept) * now
    torch.testing.assert_close(ema.state()["weight"], expected)


def test_the_average_takes_the_models_place_and_leaves_it_again() -> None:
    model = nn.Linear(3, 2)
    ema = DenoiserEma(model, decay=0.9)
    train(model, ema, 0, 5)
    own, average = weights(model), [ema.state()[name].clone() for name in ("weight", "bias")]
    with ema.in_model():
        assert all(map(torch.equal, weights(model), average))
    assert all(map(torch.equal, weights(model), own))
    ema.copy_to_model()
    assert all(map(torch.equal, weights(model), average))


def test_a_resumed_average_ends_with_the_same_bits_and_knows_its_place_in_the_warm_up(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole, part, again = (nn.Linear(3, 2) for _ in range(3))
    part.load_state_dict(whole.state_dict())
    uninterrupted, stopped = DenoiserEma(whole, 0.999), DenoiserEma(part, 0.999)
    train(whole, uninterrupted, 0, 12)
    train(part, stopped, 0, 5)
    Checkpoints(tmp_path).save(5, {"model": part, "ema": stopped})
    resumed = DenoiserEma(again, 0.999)
    assert Checkpoints(tmp_path).restore({"model": again, "ema": resumed})["step"] == 5
    train(again, resumed, 5, 12)
    assert all(torch.equal(uninterrupted.state()[name], value) for name, value in resumed.state().items())
