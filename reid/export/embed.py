"""``python -m reid embed``: features of any images as Parquet, in memory for one batch."""

from __future__ import annotations

import logging
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from datasets.runtime import devices
from reid.config import EmbedConfig
from reid.data.any_images import LABELS, batches, iterate_images
from reid.data.images import decode
from reid.evaluation.embedding import NetworkEmbedder
from reid.evaluation.evaluate import load_network
from reid.export.exported import ExportedNetwork

logger = logging.getLogger(__name__)

FEATURES = "features.parquet"
FEATURE = ("feature", pa.list_(pa.float32()))
LABELED = pa.schema([("key", pa.string()), ("split", pa.string()), ("pid", pa.int64()), ("camid", pa.int64()), FEATURE])
"""What `reid evaluate --features` reads."""
UNLABELED = pa.schema([("key", pa.string()), ("path", pa.string()), FEATURE])


class Embedder(Protocol):
    """A network, of whichever library, that turns images into test features."""

    size: tuple[int, int]
    """(height, width) of its input in pixels."""

    def __call__(self, pixels_u8: np.ndarray) -> np.ndarray:
        """(B, 3, H, W) uint8 RGB to (B, D) float32."""


class RunNetwork:
    """The network of a finished run, in PyTorch."""

    def __init__(self, run: Path, device: torch.device) -> None:
        network, settings = load_network(run)
        self.size = (settings.height, settings.width)
        self.embed = NetworkEmbedder(network, device)

    def __call__(self, pixels_u8: np.ndarray) -> np.ndarray:
        """See `Embedder`."""
        return self.embed(torch.from_numpy(pixels_u8))


def make_features(config: EmbedConfig, directory: Path) -> dict[str, Any]:
    """Write ``features.parquet``; returns how many images of which split.

    Raises:
        InputError: no image, or one that cannot be decoded.
    """
    embedder = open_embedder(config)
    samples = iterate_images(config.images)
    writer: pq.ParquetWriter | None = None
    splits: Counter[str] = Counter()
    width = 0
    with ThreadPoolExecutor(config.workers) as pool:
        for batch in batches(samples, config.batch_size):
            pixels = np.stack(
                list(pool.map(lambda item: decode(config.images, item[0], item[1], *embedder.size), batch))
            )
            features = embedder(pixels)
            table = table_of([facts for facts, _ in batch], features)
            writer = writer or pq.ParquetWriter(directory / FEATURES, table.schema)
            writer.write_table(table)
            splits.update(str(facts.get("split", "unlabeled")) for facts, _ in batch)
            width = features.shape[1]
            logger.info("embedded %d images", splits.total())
    if writer is not None:
        writer.close()
    return {"images": splits.total(), "width": width, "labeled": "unlabeled" not in splits, "splits": dict(splits)}


def open_embedder(config: EmbedConfig) -> Embedder:
    """The network that the config names."""
    if config.exported is not None:
        return ExportedNetwork(config.exported)
    assert config.run is not None  # the config's own rule
    return RunNetwork(config.run, devices.pick(config.device))


def table_of(facts: list[dict[str, Any]], features: np.ndarray) -> pa.Table:
    """A batch's rows, with labels if its images have them."""
    schema = LABELED if all(name in facts[0] for name in LABELS) else UNLABELED
    columns = {name: [row[name] for row in facts] for name in schema.names if name != "feature"}
    return pa.table({**columns, "feature": list(features)}, schema=schema)
