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
from dataclasses import dataclass
from pathlib import Path

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
class PostProcessing:
    """What is also tried; nothing by default."""

    nfc: NfcConfig | None = None
    rerank: RerankConfig | None = None


NOTHING = PostProcessing()


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One combination."""

    name: str
    pair: Pair
    ranking: Ranking
    seconds: float
    """Of what was done to features or distances, and of ranking."""


def evaluate_variants(
    query: Features,
    gallery: Features,
    plain: Ranking,
    directory: Path,
    post: PostProcessing,
    averaged: Mapping[str, Pair],
) -> dict[str, float]:
    """Test every combination; its figures' names begin with the combination's name.

    Writes ``per_query_NAME.parquet`` of each, ``test_time.parquet`` of all (the plain features first, gains in mAP over
    them paired by query, with 95 % intervals over people) and ``logs/test_time.json``, seconds for a thousand images.

    Args:
        query, gallery: junk included; it is left out here, for it must not be anybody's neighbor.
        plain: the ranking by the features as they are.
        averaged: query and gallery features by name, junk included.
    """
    kept = gallery.labels.pids != JUNK
    labels = Labels(pids=gallery.labels.pids[kept], camids=gallery.labels.camids[kept])
    pairs = {"": (query.values, gallery.values[kept])} | {n: (q, g[kept]) for n, (q, g) in averaged.items()}
    rows = [_row("plain", pairs[""], plain, plain, query.labels, labels)]
    found: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for variant in _variants(pairs, query.labels, labels, post):
        write_per_query(directory / f"per_query_{variant.name}.parquet", query, variant.ranking)
        summary = variant.ranking.summary()
        found |= {f"{variant.name}_{name}": summary[name] for name in FIGURES}
        rows.append(_row(variant.name, variant.pair, variant.ranking, plain, query.labels, labels))
        seconds[variant.name] = round(1000 * variant.seconds / (len(query.labels) + len(labels)), 4)
        logger.info("%s: Rank-1 %.1f %%, mAP %.1f %%", variant.name, 100 * summary["rank1"], 100 * summary["map"])
    pd.DataFrame(rows).to_parquet(directory / "test_time.parquet", index=False)
    (directory / LOGS).mkdir(exist_ok=True)
    text = json.dumps({"seconds_per_thousand_images": seconds}, indent=1)
    write_text_atomically(directory / LOGS / "test_time.json", text + "\n")
    return found


def _variants(pairs: Mapping[str, Pair], query: Labels, gallery: Labels, post: PostProcessing) -> Iterator[Variant]:
    """All combinations but the plain one, each made when it is requested."""
    for origin, given in pairs.items():
        for nfc in (None, post.nfc)[: 1 + (post.nfc is not None)]:
            started = time.perf_counter()
            pair = given if nfc is None else _centralized(given, nfc)
            preparing = time.perf_counter() - started
            for rerank in (None, post.rerank)[: 1 + (post.rerank is not None)]:
                parts = (origin, "" if nfc is None else "nfc", "" if rerank is None else "reranked")
                if name := "_".join(filter(None, parts)):
                    started = time.perf_counter()
                    ranking = _ranking(pair, query, gallery, rerank)
                    took = preparing + time.perf_counter() - started
                    yield Variant(name=name, pair=pair, ranking=ranking, seconds=took)


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
