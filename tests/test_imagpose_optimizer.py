"""AdamW and Muon over one model: who moves what, and how far."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from imagpose.training.optimizer import DenoiserOptimizer


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "conv_in": nn.Conv2d(3, 8, 3),
            "inner": nn.Conv2d(8, 6, 3),
            "norm": nn.GroupNorm(2, 6),
            "head": nn.Linear(6, 5),
        }
    )


def with_gradients(model: nn.Module, seed: int = 1) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return model


def test_adamw_moves_every_parameter_as_pytorchs_own() -> None:
    ours, theirs = network(), network()
    optimizer = DenoiserOptimizer(ours.named_parameters(), "adamw", 1e-2, 0.1)
    reference = torch.optim.AdamW(theirs.parameters(), lr=1e-2, weight_decay=0.1)
    for step in range(3):
        with_gradients(ours, step), with_gradients(theirs, step)
        optimizer.step(1e-2)
        reference.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)
        assert a.grad is None


def test_muon_moves_kernels_and_matrices_in_all_directions_alike() -> None:
    model = with_gradients(network())
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    adamw = with_gradients(network())
    DenoiserOptimizer(model.named_parameters(), "muon", 0.1, 0.0).step(0.1)
    DenoiserOptimizer(adamw.named_parameters(), "adamw", 0.1, 0.0).step(0.1)
    other = dict(adamw.named_parameters())
    for name, parameter in model.named_parameters():
        if name in ("inner.weight", "head.weight"):
            change = (before[name] - parameter).detach().flatten(1)
            singular = torch.linalg.svdvals(change)
            assert singular.max() < 2.5 * singular.min(), name  # the gradient's own are spread ten times as far
            size = change.square().mean().sqrt()
            assert size == pytest.approx(0.1 * 0.2, rel=0.2), name  # the size of AdamW's steps, by its authors
        else:
            torch.testing.assert_close(parameter, other[name])


def test_state_goes_by_name_and_comes_back() -> None:
    first, second = network(), network()
    a = DenoiserOptimizer(first.named_parameters(), "muon", 1e-2, 0.0)
    with_gradients(first)
    a.step(1e-2)
    assert {"inner.weight.momentum_buffer", "conv_in.weight.exp_avg", "norm.bias.step"} <= set(a.state())
    b = DenoiserOptimizer(second.named_parameters(), "muon", 1e-2, 0.0)
    second.load_state_dict(first.state_dict())
    b.load_state({name: tensor.clone() for name, tensor in a.state().items()})
    for model, optimizer in ((first, a), (second, b)):
        with_gradients(model, 2)
        optimizer.step(1e-2)
    for x, y in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(x, y)
