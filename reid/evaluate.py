"""Test a trained network on the query and gallery splits of any shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from datasets.artifacts import manifest_of
from datasets.errors import ArtifactError, WeightsError
from reid.config import EvaluateConfig, NetworkConfig, TrainConfig
from reid.data import read_images
from reid.features import choose_device, evaluate, write_metrics
from reid.model import ReidNetwork, assemble_network, seeded_backbone


def make_evaluation(config: EvaluateConfig, directory: Path) -> dict[str, Any]:
    """Write ``metrics.json``, ``per_query.parquet`` and ``ranked.parquet`` of a finished run's network."""
    device = choose_device(config.device)
    network, settings = load_network(config.run)
    size = (settings.height, settings.width)
    query, gallery = (read_images(config.test_shards, s, size, workers=config.workers) for s in ("query", "gallery"))
    metrics = evaluate(network.to(device), query, gallery, device, directory, config.max_rank)
    write_metrics(directory, metrics)
    return metrics


def load_network(run: Path) -> tuple[ReidNetwork, NetworkConfig]:
    """A finished run's network and its settings.

    Raises: ArtifactError: `run` is no re-ID run. WeightsError: its weights are damaged.
    """
    settings = manifest_of(run, TrainConfig.stage)["config"].get("network")
    path = Path(run) / "model.safetensors"
    if settings is None or not path.is_file():
        raise ArtifactError(f"{run} is no re-ID run; give the folder of a finished 'python -m reid train'")
    config = NetworkConfig.model_validate(settings | {"weights": "none"})
    try:
        tensors = load_file(path)
        network = assemble_network(seeded_backbone(config, 0), config, len(tensors["classifier.weight"]), 0)
        network.load_state_dict(tensors)
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise WeightsError(f"{path} cannot be loaded ({error}); delete the run and make it again") from None
    return network, config
