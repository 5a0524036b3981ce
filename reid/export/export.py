"""``python -m reid export``: a run's network as ONNX, with its facts inside the file and beside it.

The graph takes RGB images as bytes and normalizes them itself, so no user has to know how it was trained. It is written
by torch's TorchScript exporter, which needs nothing but `onnx`; the newer exporter also needs `onnxscript`.
"""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from datasets.runtime.atomic import write_text_atomically
from datasets.runtime.errors import InputError
from datasets.runtime.manifests import manifest_of
from reid.config import ExportConfig, NetworkConfig, TrainReidConfig
from reid.evaluation.evaluate import load_network
from reid.export.card import card_of, readme_of
from reid.export.exported import FACTS, INPUT, MODEL, OUTPUT, PACKAGES, optional
from reid.training.model import ReidNetwork

logger = logging.getLogger(__name__)

OPSET = 17
TOLERANCE = 1e-4
"""Largest difference from PyTorch's features, as a share of the largest of them (at least of 1)."""
CHECKED_BATCHES = (1, 3)


class EmbeddingGraph(nn.Module):
    """Bytes to test features: normalization, backbone, neck."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: ReidNetwork) -> None:
        super().__init__()
        self.backbone, self.neck = network.backbone, network.neck
        for name, values in network.normalization._asdict().items():
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """(B, D) of (B, 3, H, W) uint8."""
        return self.neck(self.backbone((images.float() / 255 - self.mean) / self.std))


def make_export(config: ExportConfig, directory: Path) -> dict[str, Any]:
    """Write ``model.onnx``, ``model.json`` and ``README.md``; returns the facts and the difference from PyTorch.

    Raises:
        InputError: a library is missing, the network cannot be written as ONNX, or its features differ.
    """
    libraries = {name: optional(name) for name in PACKAGES}  # before any work
    network, settings = load_network(config.run)
    graph = EmbeddingGraph(network).eval()
    facts = facts_of(network, settings, config.run)
    write_graph(graph, settings, directory / MODEL)
    add_facts(libraries["onnx"], directory / MODEL, facts)
    difference = largest_difference(libraries["onnxruntime"], graph, settings, directory / MODEL)
    if not difference <= TOLERANCE:
        raise InputError(
            f"the exported network of {config.run} differs from PyTorch's by {difference:.1e} (at most {TOLERANCE:g} "
            f"is allowed); network.backbone '{settings.backbone}' cannot be exported by this version of torch"
        )
    facts["checked"] = {"difference": float(f"{difference:.2g}"), "tolerance": TOLERANCE}
    write_text_atomically(directory / "model.json", json.dumps(facts, indent=1) + "\n")
    write_text_atomically(directory / "README.md", readme_of(facts))
    logger.info("exported %s: features within %.1e of PyTorch's", settings.backbone, difference)
    return {name: facts[name] for name in ("input", "normalization", "output", "checked")}


def facts_of(network: ReidNetwork, settings: NetworkConfig, run: Path) -> dict[str, Any]:
    """What a user of the file has to know: input, normalization, output, and the run's card."""
    return {
        "input": {
            "name": INPUT,
            "shape": ["batch", 3, settings.height, settings.width],
            "type": "uint8",
            "color": "RGB",
            "height": settings.height,
            "width": settings.width,
            "resize": "bilinear (Pillow), proportions not kept",
        },
        "normalization": {**network.normalization._asdict(), "where": "inside the graph"},
        "output": {"name": OUTPUT, "shape": ["batch", network.width], "compare": "cosine"},
        "card": card_of(manifest_of(run, TrainReidConfig.stage)),
    }


def write_graph(graph: nn.Module, settings: NetworkConfig, path: Path) -> None:
    """The network as ONNX, with any number of images a batch.

    Raises:
        InputError: an operator of the network has no counterpart in ONNX.
    """
    example = torch.zeros(2, 3, settings.height, settings.width, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter announces its successor, the tracer every constant it folds
        try:
            torch.onnx.export(
                graph,
                (example,),
                str(path),
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
            )
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"network.backbone '{settings.backbone}' cannot be exported to ONNX: {reason}") from None


def add_facts(onnx: Any, path: Path, facts: dict[str, Any]) -> None:
    """Put the facts into the file's metadata, once as a whole and each by its name, and check the file."""
    model = onnx.load(str(path))
    entries = {name: json.dumps(value) for name, value in facts.items()}
    onnx.helper.set_model_props(model, {FACTS: json.dumps(facts), **entries})
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def largest_difference(onnxruntime: Any, graph: nn.Module, settings: NetworkConfig, path: Path) -> float:
    """Between PyTorch's and onnxruntime's features of random images, in the unit of `TOLERANCE`; NaN if one is."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    differences = []
    for count in CHECKED_BATCHES:
        images = rng.integers(0, 256, (count, 3, settings.height, settings.width), dtype=np.uint8)
        with torch.inference_mode():
            expected = graph(torch.from_numpy(images)).numpy()
        found = session.run([OUTPUT], {INPUT: images})[0]
        differences.append(np.abs(found - expected).max() / np.maximum(1.0, np.abs(expected).max()))
    return float(np.max(differences))  # NaN if one is, which Python's max would pass over
