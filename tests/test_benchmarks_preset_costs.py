"""What a preset's training step costs: computed and measured on the same network."""

import torch

from benchmarks import preset_costs, preset_steps
from benchmarks.gpu import full_size_step
from imagpose.config import BUILT_IN
from imagpose.training.generators import load_denoiser


def test_the_network_that_is_measured_is_the_presets_own():
    network = preset_steps.preset_network("market-small")
    shapes = {name: value.shape for name, value in network.build().state_dict().items()}
    assert shapes == {name: value.shape for name, value in load_denoiser(BUILT_IN).state_dict().items()}
    assert (network.view, network.tokens, network.stride) == ((128, 64), 129, 4)
    market = preset_steps.preset_network("market")
    assert (market.tokens, market.token_width, market.stride) == (129, 768, 8)


def test_measured_and_computed_stand_side_by_side(monkeypatch, capsys):
    monkeypatch.setattr(full_size_step, "WARM_UP", 0)
    monkeypatch.setattr(preset_steps, "STEPS", 1)
    monkeypatch.setattr(preset_steps, "measured_presets", lambda: ["market-small"])
    step = preset_steps._step("market-small", torch.device("cpu"))
    monkeypatch.setattr(preset_steps, "measured", lambda name: preset_steps._figures(step, 1) | {"gib": 0.5})
    found = preset_steps.say_measured(preset_costs.costs, {"CPU,": 2.0}, 0.5)["presets"]["market-small"]
    computed = preset_costs.costs("market-small")
    assert found["canvases"] == 1 and found["seconds"] > 0
    row = capsys.readouterr().out.splitlines()[-1].split(" | ")
    assert row[:4] == ["| `market-small`", "1", f"{computed['fixed_gib'] + computed['gib_per_canvas']:.2f}", "0.50"]
    assert row[4] == f"{computed['tflop_per_canvas']:.3f}"  # at 1 TFLOP/s


def test_what_does_not_fit_is_measured_in_halves(monkeypatch):
    tried = []

    def figures(step, canvases):
        tried.append(canvases)
        if canvases > 4:
            raise torch.OutOfMemoryError
        return {"canvases": canvases}

    monkeypatch.setattr(preset_steps, "_step", lambda name, device: None)
    monkeypatch.setattr(preset_steps, "_figures", figures)
    assert preset_steps._on_gpu("deepfashion-512") == {"canvases": 4}
    assert tried == [16, 8, 4]
