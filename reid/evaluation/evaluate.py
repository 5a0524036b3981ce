"""Test a trained network on the query and gallery splits of any shards."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from datasets.runtime import devices
from datasets.runtime.errors import ArtifactError, InputError, WeightsError
from datasets.runtime.manifests import manifest_of
from datasets.runtime.reading.contents import artifact_file
from datasets.runtime.remote.copies import is_file
from reid.config import EvaluateReidConfig, NetworkConfig, TrainReidConfig
from reid.data.images import read_images
from reid.evaluation.averaging import averaged_features, picture_sources
from reid.evaluation.embedding import NetworkEmbedder
from reid.evaluation.features import evaluate_features, features_of, write_metrics
from reid.evaluation.post_processing import Cost, Features, PostProcessing
from reid.evaluation.ranking import Labels, refuse_unmatched
from reid.training.model import ReidNetwork, assemble_network, read_normalization, seeded_backbone

GREATEST = 2**53
"""Identity or camera in a file of features: what floating point can hold too."""


def make_evaluation(config: EvaluateReidConfig, directory: Path) -> dict[str, Any]:
    """Write ``metrics.json``, ``per_query.parquet`` and ``ranked.parquet`` of a run's network, or of features."""
    post = PostProcessing(nfc=config.nfc, rerank=config.rerank)
    if config.features is not None:
        query, gallery = (read_features(config.features, split) for split in ("query", "gallery"))
        metrics = evaluate_features(query, gallery, directory, config.max_rank, post)
        write_metrics(directory, metrics)
        return metrics
    assert config.run is not None and config.test_shards is not None  # the config's own rule
    device = devices.pick(config.device)
    network, settings = load_network(config.run)
    size = (settings.height, settings.width)
    query, gallery = (read_images(config.test_shards, s, size, workers=config.workers) for s in ("query", "gallery"))
    refuse_unmatched(query.labels, gallery.labels)
    sources = picture_sources(config, [*query.keys, *gallery.keys])
    embed = NetworkEmbedder(network, device)
    started = time.perf_counter()
    plain = features_of(embed, query, gallery)
    cost = Cost(embedding=1000 * (time.perf_counter() - started) / (len(query) + len(gallery)))
    averaged = averaged_features(config, embed, (query, gallery), plain, sources)
    metrics = evaluate_features(*plain, directory, config.max_rank, replace(post, averaged=averaged, cost=cost))
    if averaged:
        facts = {name: item.facts for name, item in averaged.items()}
        metrics |= {"centralize": facts, "protocol": config.protocol}
    write_metrics(directory, metrics)
    return metrics


def read_features(path: Path, split: str) -> Features:
    """One split's rows of a file of features.

    Raises:
        InputError: the file cannot be read, lacks a column or has no such row; an identity or camera is no whole
            number, a key is missing or stands twice.
    """
    columns = ["key", "split", "pid", "camid", "feature"]
    try:
        table = pq.read_table(path, columns=columns).to_pandas()
        table = table[table.split == split]
        values = np.stack(table.feature.to_list()).astype(np.float32)
        labels = Labels(pids=_whole_numbers(table.pid), camids=_whole_numbers(table.camid))
        _refuse_keys(table.key)
    except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: no features of split '{split}'; it takes Parquet with {', '.join(columns)}, features of equal "
            f"length ({' '.join(str(error).split())})"
        ) from None
    return Features(keys=table.key.astype(str).tolist(), values=values, labels=labels)


def _whole_numbers(column: pd.Series) -> np.ndarray:
    """A column as integers; numpy would cut fractions off and make somebody of a missing value."""
    numbers = pd.to_numeric(column)
    if len(bad := column[numbers.isna() | (numbers % 1 != 0) | (numbers.abs() > GREATEST)]):
        raise ValueError(f"{column.name} {bad.iloc[0]} is no whole number up to {GREATEST}")
    return numbers.to_numpy(dtype=np.int64)


def _refuse_keys(keys: pd.Series) -> None:
    if keys.isna().any():
        raise ValueError("a row has no key")
    if len(twice := keys[keys.duplicated()]):
        raise ValueError(f"key {twice.iloc[0]} stands twice")


def load_network(run: Path) -> tuple[ReidNetwork, NetworkConfig]:
    """A finished run's network and its settings.

    Raises:
        ArtifactError: `run` is no re-ID run.
        WeightsError: its weights are corrupt.
    """
    settings = manifest_of(run, TrainReidConfig.stage)["config"].get("network")
    path = Path(run) / "model.safetensors"
    if settings is None or not is_file(path):
        raise ArtifactError(f"{run} is no re-ID run; give the folder of a finished 'python -m reid train'")
    before_the_setting = {"stem_relu": True}  # what every run had while there was no such setting
    config = NetworkConfig.model_validate(before_the_setting | settings | {"weights": "none"})
    try:
        with safe_open(artifact_file(run, path.name), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            normalization = read_normalization(file.metadata())
        network = assemble_network(seeded_backbone(config, 0), config, len(tensors["classifier.weight"]), 0)
        network.load_state_dict(tensors)
        network.normalization = normalization
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise WeightsError(f"{path} cannot be loaded ({error}); delete the run and make it again") from None
    return network, config
