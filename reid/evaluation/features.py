"""Features of images, and the files that an evaluation writes."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from datasets.runtime.atomic import write_text_atomically
from datasets.runtime.progress import Progress
from reid.config import RerankConfig
from reid.data.images import ImageSet, normalize
from reid.evaluation.ranking import (
    JUNK,
    Labels,
    MatchIndex,
    Ranking,
    distance_rows,
    nearest,
    normalized,
    rank_distances,
    rank_features,
)
from reid.evaluation.reranking import rerank_features
from reid.training.model import ReidNetwork

logger = logging.getLogger(__name__)


def extract_features(
    network: ReidNetwork, pixels_u8: Tensor, device: torch.device, *, batch_size: int = 128, label: str = "features"
) -> np.ndarray:
    """Test features (N, D) float32 of (N, 3, H, W) uint8 images; no flip, no augmentation."""
    network.eval().to(memory_format=torch.channels_last)
    progress = Progress(logger, label, len(pixels_u8), "images")
    parts = []
    for start in range(0, len(pixels_u8), batch_size):
        parts.append(embed_batch(network, pixels_u8[start : start + batch_size], device))
        progress.update(len(parts[-1]))
    return np.concatenate(parts) if parts else np.empty((0, network.width), dtype=np.float32)


def embed_batch(network: ReidNetwork, pixels_u8: Tensor, device: torch.device) -> np.ndarray:
    """Test features (B, D) float32 of a batch (B, 3, H, W) uint8 by a network in evaluation mode, channels-last."""
    with torch.inference_mode():
        images = normalize(pixels_u8.to(device), network.normalization)
        return network.embed(images.contiguous(memory_format=torch.channels_last)).float().cpu().numpy()


def evaluate(
    network: ReidNetwork,
    query: ImageSet,
    gallery: ImageSet,
    device: torch.device,
    directory: Path,
    max_rank: int,
    rerank: RerankConfig | None = None,
) -> dict[str, Any]:
    """Rank the gallery for each query by the network's features; see `evaluate_features`."""
    query_features, gallery_features = (
        Features(
            keys=images.keys, values=extract_features(network, images.pixels, device, label=label), labels=images.labels
        )
        for images, label in ((query, "query features"), (gallery, "gallery features"))
    )
    return evaluate_features(query_features, gallery_features, directory, max_rank, rerank)


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features of the images of a split."""

    keys: list[str]
    values: np.ndarray
    """(N, D)."""
    labels: Labels


def evaluate_features(
    query: Features, gallery: Features, directory: Path, max_rank: int, rerank: RerankConfig | None = None
) -> dict[str, Any]:
    """Rank the gallery for each query; write ``per_query.parquet`` and ``ranked.parquet``; return the figures.

    With `rerank` also ``per_query_reranked.parquet``, and figures whose names begin with ``reranked_``.
    """
    ranking = rank_features(query.values, gallery.values, query.labels, gallery.labels)
    summary = ranking.summary() | gallery_counts(gallery.labels)
    write_per_query(directory / "per_query.parquet", query, ranking)
    if rerank is not None:
        summary |= _evaluate_reranked(query, gallery, directory, rerank)
    table = ranked_lists(query, gallery, max_rank)
    table.to_parquet(directory / "ranked.parquet", index=False)
    logger.info(
        "Rank-1 %.1f %%, mAP %.1f %%, mINP %.1f %% over %d queries (%d without a match), %d gallery images, %d junk",
        100 * summary["rank1"],
        100 * summary["map"],
        100 * summary["minp"],
        summary["queries"],
        summary["unmatched_queries"],
        summary["gallery"],
        summary["junk"],
    )
    return summary


def _evaluate_reranked(query: Features, gallery: Features, directory: Path, config: RerankConfig) -> dict[str, float]:
    kept = gallery.labels.pids != JUNK  # junk must not be anybody's neighbor
    labels = Labels(pids=gallery.labels.pids[kept], camids=gallery.labels.camids[kept])
    ranking = rank_distances(rerank_features(query.values, gallery.values[kept], config), query.labels, labels)
    write_per_query(directory / "per_query_reranked.parquet", query, ranking)
    names = ("rank1", "rank5", "rank10", "map", "map_trapezoid", "minp")
    return {f"reranked_{name}": ranking.summary()[name] for name in names}


def gallery_counts(gallery: Labels) -> dict[str, int]:
    """How many gallery images are ranked, and how many of what kind."""
    junk = int((gallery.pids == JUNK).sum())
    return {"gallery": len(gallery) - junk, "distractors": int((gallery.pids == 0).sum()), "junk": junk}


def write_per_query(path: Path, query: Features, ranking: Ranking) -> None:
    """One row per query: ``query, pid, camid, matches, first_rank, last_rank, ap, ap_trapezoid, inp``."""
    columns = {"query": query.keys, "pid": query.labels.pids, "camid": query.labels.camids}
    for name in ("matches", "first_rank", "last_rank", "ap", "ap_trapezoid", "inp"):
        columns[name] = getattr(ranking, name)
    pd.DataFrame(columns).to_parquet(path, index=False)


def ranked_lists(query: Features, gallery: Features, count: int) -> pd.DataFrame:
    """The `count` nearest valid gallery images of each query: ``query, rank, gallery, pid, camid, right, cosine``."""
    kept = np.flatnonzero(gallery.labels.pids != JUNK)
    labels = Labels(pids=gallery.labels.pids[kept], camids=gallery.labels.camids[kept])
    index = MatchIndex(labels)
    distances = distance_rows(normalized(query.values), normalized(gallery.values[kept]))
    pids, camids = query.labels.pids.tolist(), query.labels.camids.tolist()
    rows: list[tuple[object, ...]] = []
    for i, row in enumerate(distances):
        same_person, match = index.of(pids[i], camids[i])
        for rank, position in enumerate(nearest(row, same_person, match, count), start=1):
            image, pid = kept[position], int(labels.pids[position])
            right = pid == pids[i]
            cosine = -float(row[position])
            rows.append((query.keys[i], rank, gallery.keys[image], pid, int(labels.camids[position]), right, cosine))
    return pd.DataFrame(rows, columns=["query", "rank", "gallery", "pid", "camid", "right", "cosine"])


def write_metrics(directory: Path, metrics: dict[str, Any]) -> None:
    """``metrics.json``: shares in [0, 1], counts."""
    write_text_atomically(directory / "metrics.json", json.dumps(metrics, indent=1) + "\n")
