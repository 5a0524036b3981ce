"""What is done to features and distances at test time, in figures of their own beside the headline's.

Every combination is tried of where the features come from (the images alone, or averaged with further pictures of
them), with and without neighbor feature centralization, with and without re-ranking. Its name lists what was done, in
this order: ``centralized_nfc_reranked``.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from datasets.runtime.arrays.bootstrap import bootstrap_interval
from datasets.runtime.atomic import write_text_atomically
from datasets.runtime.manifests import LOGS
from reid.config import NfcConfig, RerankConfig
from reid.evaluation.centralization import add_mutual_neighbors, identity_density
from reid.evaluation.ranking import JUNK, Labels, Ranking, normalized, rank_distances, rank_features
from reid.evaluation.reranking import rerank_features

logger = logging.getLogger(__name__)

FIGURES = ("rank1", "rank5", "rank10", "map", "map_trapezoid", "minp")
RESAMPLES = 2000
Pair = tuple[np.ndarray, np.ndarray]
"""Query and gallery features, (Q, D) and (G, D)."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features of the images of a split."""

    keys: list[str]
    values: np.ndarray
    """(N, D)."""
    labels: Labels


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds for a thousand test images; None where nobody measured."""

    drawing: float | None = 0.0
    """Their further pictures, made by a generator, with the images' encoding for it."""
    embedding: float | None = None
    """The images themselves and their further pictures, decoding of the pictures included."""
    processing: float = 0.0
    """What is done to features and distances, and ranking."""

    def __add__(self, other: Cost) -> Cost:
        """Both together; unknown where one of them is."""
        known = self.embedding is not None and other.embedding is not None
        return Cost(
            drawing=None if self.drawing is None or other.drawing is None else self.drawing + other.drawing,
            embedding=(self.embedding or 0.0) + (other.embedding or 0.0) if known else None,
            processing=self.processing + other.processing,
        )


@dataclass(frozen=True, kw_only=True)
class Averaged:
    """Features averaged with those of further pictures."""

    pair: Pair
    facts: dict[str, Any] = field(default_factory=dict)
    """What ``metrics.json`` says of the pictures."""
    cost: Cost = Cost()
    """Of the further pictures alone."""


@dataclass(frozen=True, kw_only=True)
class PostProcessing:
    """What is also tried; nothing by default."""

    nfc: NfcConfig | None = None
    rerank: RerankConfig | None = None
    averaged: Mapping[str, Averaged] = field(default_factory=dict)
    """Further features of the same images by name, junk included."""
    cost: Cost = Cost()
    """Of the plain features."""

    @property
    def tries_anything(self) -> bool:
        """Whether there is more to test than the plain features."""
        return bool(self.nfc or self.rerank or self.averaged)


NOTHING = PostProcessing()


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One combination."""

    name: str
    pair: Pair
    ranking: Ranking
    cost: Cost


def evaluate_variants(
    query: Features,
    gallery: Features,
    plain: Ranking,
    directory: Path,
    post: PostProcessing,
) -> dict[str, float]:
    """Test every combination; its figures' names begin with the combination's name.

    Writes ``per_query_NAME.parquet`` of each, ``test_time.parquet`` of all (the plain features first, gains in mAP over
    them paired by query, with 95 % intervals over people) and ``logs/test_time.json``, seconds for a thousand images.

    Args:
        query, gallery: junk included; it is left out here, for it must not be anybody's neighbor.
        plain: the ranking by the features as they are.
        post: what is tried, and what the plain features and ranking by them cost.
    """
    kept = gallery.labels.pids != JUNK
    labels = Labels(pids=gallery.labels.pids[kept], camids=gallery.labels.camids[kept])
    origins = {"": Averaged(pair=(query.values, gallery.values), cost=post.cost)}
    before = replace(post.cost, processing=0.0)
    origins |= {name: replace(item, cost=before + item.cost) for name, item in post.averaged.items()}
    origins = {n: replace(item, pair=(item.pair[0], item.pair[1][kept])) for n, item in origins.items()}
    rows = [_row("plain", origins[""].pair, plain, plain, query.labels, labels)]
    found: dict[str, float] = {}
    seconds = {"plain": _rounded(post.cost)}
    for variant in _variants(origins, query.labels, labels, post):
        write_per_query(directory / f"per_query_{variant.name}.parquet", query, variant.ranking)
        summary = variant.ranking.summary()
        found |= {f"{variant.name}_{name}": summary[name] for name in FIGURES}
        rows.append(_row(variant.name, variant.pair, variant.ranking, plain, query.labels, labels))
        seconds[variant.name] = _rounded(variant.cost)
        logger.info("%s: Rank-1 %.1f %%, mAP %.1f %%", variant.name, 100 * summary["rank1"], 100 * summary["map"])
    pd.DataFrame(rows).to_parquet(directory / "test_time.parquet", index=False)
    (directory / LOGS).mkdir(exist_ok=True)
    text = json.dumps({"seconds_per_thousand_images": seconds}, indent=1)
    write_text_atomically(directory / LOGS / "test_time.json", text + "\n")
    return found


def _rounded(cost: Cost) -> dict[str, float | None]:
    return {name: None if value is None else round(value, 4) for name, value in asdict(cost).items()}


def _variants(
    origins: Mapping[str, Averaged], query: Labels, gallery: Labels, post: PostProcessing
) -> Iterator[Variant]:
    """All combinations but the plain one, each made when it is requested."""
    images = len(query) + len(gallery)
    for origin, given in origins.items():
        for nfc in (None, post.nfc)[: 1 + (post.nfc is not None)]:
            started = time.perf_counter()
            pair = given.pair if nfc is None else _centralized(given.pair, nfc)
            preparing = time.perf_counter() - started
            for rerank in (None, post.rerank)[: 1 + (post.rerank is not None)]:
                parts = (origin, "" if nfc is None else "nfc", "" if rerank is None else "reranked")
                if name := "_".join(filter(None, parts)):
                    started = time.perf_counter()
                    ranking = _ranking(pair, query, gallery, rerank)
                    took = 1000 * (preparing + time.perf_counter() - started) / images
                    yield Variant(name=name, pair=pair, ranking=ranking, cost=replace(given.cost, processing=took))


def _centralized(pair: Pair, config: NfcConfig) -> Pair:
    query, gallery = (add_mutual_neighbors(normalized(features), config) for features in pair)
    return query, gallery


def _ranking(pair: Pair, query: Labels, gallery: Labels, rerank: RerankConfig | None) -> Ranking:
    if rerank is None:
        return rank_features(*pair, query, gallery)
    return rank_distances(rerank_features(*pair, rerank), query, gallery)


def _row(name: str, pair: Pair, ranking: Ranking, plain: Ranking, query: Labels, gallery: Labels) -> dict[str, object]:
    """A row of ``test_time.parquet``; `id2` is of the features, which re-ranking leaves as they are."""
    summary, matched = ranking.summary(), plain.matched
    gains = (ranking.ap - plain.ap)[matched]
    interval = bootstrap_interval(gains, query.pids[matched], RESAMPLES, 0) or (np.nan, np.nan)
    pids = np.concatenate([query.pids, gallery.pids])
    return {
        "variant": name,
        **{figure: summary[figure] for figure in FIGURES},
        "map_gain": float(gains.mean()),
        "map_gain_low": interval[0],
        "map_gain_high": interval[1],
        "id2": identity_density(pair, pids),
    }


def write_per_query(path: Path, query: Features, ranking: Ranking) -> None:
    """One row per query: ``query, pid, camid, matches, first_rank, last_rank, ap, ap_trapezoid, inp``."""
    columns = {"query": query.keys, "pid": query.labels.pids, "camid": query.labels.camids}
    for name in ("matches", "first_rank", "last_rank", "ap", "ap_trapezoid", "inp"):
        columns[name] = getattr(ranking, name)
    pd.DataFrame(columns).to_parquet(path, index=False)
