"""A network that embeds many images on a CPU is compiled: the same features, and without a compiler it goes on."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import nn

from datasets.runtime.training.compilation import can_compile
from reid.evaluation import embedding
from reid.evaluation.embedding import NetworkEmbedder
from reid.evaluation.features import extract_features
from reid.training.model import ReidNetwork

CPU = torch.device("cpu")


def network(seed: int) -> ReidNetwork:
    """A network with everything that freezing folds: a convolution, normalizations, a neck."""
    torch.manual_seed(seed)
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    found = ReidNetwork(nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), *pooled), 6, 4, bnneck=True)
    for module in found.modules():
        if not isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            continue
        nn.init.normal_(module.weight)
        module.running_mean.normal_()
        module.running_var.uniform_(0.5, 2)
    return found


def pixels(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 16, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(embedding, "IMAGES_BEFORE_COMPILING", 4)
    monkeypatch.setattr(embedding, "COMPILED_BATCH", 4)


@pytest.mark.skipif(not can_compile(), reason="no C++ compiler")
def test_each_networks_compiled_features_are_its_plain_ones_whatever_the_batch(soon, caplog):
    images = pixels(15)
    for seed in (0, 1):  # frozen weights of the first must not serve the second
        plain = NetworkEmbedder(network(seed), CPU)(images)
        embed = NetworkEmbedder(network(seed), CPU)
        with caplog.at_level(logging.INFO):
            found = extract_features(embed, images, batch_size=6)  # 6 plain, then 6 and 3 in fours
        np.testing.assert_allclose(found, plain, atol=1e-5 * np.abs(plain).max())
        assert embed._compiled is not None and embed._compiled.run is not embed._compiled.network
    assert caplog.text.count("compiling the network") == 2


def test_few_images_are_not_worth_compiling(monkeypatch):
    monkeypatch.setattr(embedding, "can_compile", lambda: True)
    embed = NetworkEmbedder(network(0), CPU)
    embed(pixels(16))
    embed(pixels(16))
    assert embed._compiled is None


def test_where_compiling_fails_or_there_is_no_compiler_the_network_goes_on_as_it_is(soon, monkeypatch, caplog):
    def broken(module):
        raise RuntimeError("no such header")

    images = pixels(12)
    plain = NetworkEmbedder(network(0), CPU)(images)
    monkeypatch.setattr(torch, "compile", broken)
    for there, warnings in ((True, 1), (False, 0)):
        monkeypatch.setattr(embedding, "can_compile", lambda there=there: there)
        caplog.clear()
        found = extract_features(NetworkEmbedder(network(0), CPU), images, batch_size=4)
        np.testing.assert_allclose(found, plain, atol=1e-5)
        assert caplog.text.count("embedding goes on without") == warnings
