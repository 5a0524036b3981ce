"""Features of images, and the files that an evaluation writes."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from datasets.runtime.atomic import write_text_atomically
from datasets.runtime.progress import Progress
from reid.data.images import ImageSet
from reid.evaluation.embedding import NetworkEmbedder
from reid.evaluation.post_processing import (
    NOTHING,
    Features,
    PostProcessing,
    evaluate_variants,
    write_per_query,
)
from reid.evaluation.ranking import JUNK, Labels, MatchIndex, distance_rows, nearest, normalized, rank_features
from reid.training.model import ReidNetwork

logger = logging.getLogger(__name__)


def extract_features(
    embed: NetworkEmbedder, pixels_u8: Tensor, *, batch_size: int = 128, label: str = "features"
) -> np.ndarray:
    """Test features (N, D) float32 of (N, 3, H, W) uint8 images; no flip, no augmentation."""
    progress = Progress(logger, label, len(pixels_u8), "images")
    parts = []
    for start in range(0, len(pixels_u8), batch_size):
        parts.append(embed(pixels_u8[start : start + batch_size]))
        progress.update(len(parts[-1]))
    return np.concatenate(parts) if parts else np.empty((0, embed.width), dtype=np.float32)


def evaluate(
    network: ReidNetwork,
    query: ImageSet,
    gallery: ImageSet,
    device: torch.device,
    directory: Path,
    max_rank: int,
    post: PostProcessing = NOTHING,
) -> dict[str, Any]:
    """Rank the gallery for each query by the network's features; see `evaluate_features`."""
    features = features_of(NetworkEmbedder(network, device), query, gallery)
    return evaluate_features(*features, directory, max_rank, post)


def features_of(embed: NetworkEmbedder, query: ImageSet, gallery: ImageSet) -> tuple[Features, Features]:
    """Test features of both splits."""
    query_features, gallery_features = (
        Features(keys=images.keys, values=extract_features(embed, images.pixels, label=label), labels=images.labels)
        for images, label in ((query, "query features"), (gallery, "gallery features"))
    )
    return query_features, gallery_features


def evaluate_features(
    query: Features,
    gallery: Features,
    directory: Path,
    max_rank: int,
    post: PostProcessing = NOTHING,
) -> dict[str, Any]:
    """Rank the gallery for each query; write ``per_query.parquet`` and ``ranked.parquet``; return the figures.

    Args:
        post: what is also tried at test time; see `reid.evaluation.post_processing.evaluate_variants` for what that
            writes and returns.
    """
    started = time.perf_counter()
    ranking = rank_features(query.values, gallery.values, query.labels, gallery.labels)
    took = 1000 * (time.perf_counter() - started) / (len(query.labels) + len(gallery.labels))
    summary = ranking.summary() | gallery_counts(gallery.labels)
    write_per_query(directory / "per_query.parquet", query, ranking)
    if post.tries_anything:
        post = replace(post, cost=replace(post.cost, processing=took))
        summary |= evaluate_variants(query, gallery, ranking, directory, post)
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


def gallery_counts(gallery: Labels) -> dict[str, int]:
    """How many gallery images are ranked, and how many of what kind."""
    junk = int((gallery.pids == JUNK).sum())
    return {"gallery": len(gallery) - junk, "distractors": int((gallery.pids == 0).sum()), "junk": junk}


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
