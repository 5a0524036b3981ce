"""k-reciprocal re-ranking at Market-1501's full size, and against torchreid's at a quarter of it.

torchreid's function needs 9 GB and two minutes at full size, so both run side by side at a quarter (842 x 3,977), on
the same distances: torchreid gets their square root, because it squares what it is given. Ours then runs alone at full
size from features of 2,048 numbers. Its seconds are those beyond making the distances of all pairs once, chunk by
chunk, with nothing done to them; torchreid's are from the ready matrices. Every measurement has its own process.
``BENCHMARK_RERANKING_FULL=1`` also runs torchreid at full size (needs 12 GB).
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

import numpy as np

from benchmarks.isolated import forget_peak, in_a_process, memory_mb
from benchmarks.machine import machine
from reid.config import RerankConfig
from reid.evaluation.ranking import normalized
from reid.evaluation.reranking import CHUNK_BYTES, FeaturePairs, rerank, rerank_features

FULL = (3368, 15913, 2048, 750)
QUARTER = (842, 3977, 512, 188)
"""Queries, gallery images, width of the features, identities."""
CONFIG = RerankConfig()
CLOSE = 1e-5


def features(size: tuple[int, int, int, int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Clustered random features, (Q, D) and (G, D) float32."""
    queries, gallery, width, identities = size
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((identities, width), dtype=np.float32)
    found = []
    for count in (queries, gallery):
        part = rng.standard_normal((count, width), dtype=np.float32)
        part *= 2
        part += centers[rng.integers(0, identities, count)]
        found.append(part)
    return found[0], found[1]


class ReadyPairs:
    """Distances from a ready symmetric matrix, so that both contestants get the very same."""

    def __init__(self, matrix: np.ndarray) -> None:
        self.matrix, self.count = matrix, len(matrix)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """See `reid.evaluation.reranking.AllPairs`."""
        return self.matrix[start:stop].copy()

    def pairs(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """See `reid.evaluation.reranking.AllPairs`."""
        return self.matrix[first, second]


def side_by_side(size: tuple[int, int, int, int], roots: str) -> dict[str, float]:
    """Both on the same distances.

    Args:
        roots: type of the square roots that torchreid gets; float64 gives the distances back to the last bit.
    """
    from torchreid.reid.utils.rerank import re_ranking

    queries = size[0]
    matrix = FeaturePairs(normalized(np.concatenate(features(size)))).rows(0, size[0] + size[1])
    matrix = np.minimum(matrix, matrix.T)
    root = np.sqrt(matrix.astype(roots))
    if roots == "float32":
        matrix = np.square(root, out=matrix)
    parts = [root[:queries, queries:], root[:queries, :queries], root[queries:, queries:]]
    before = forget_peak()
    started = time.process_time()
    theirs = re_ranking(*parts, k1=CONFIG.k1, k2=CONFIG.k2, lambda_value=CONFIG.weight)
    torchreid_seconds = time.process_time() - started
    torchreid_peak = memory_mb("VmHWM") - before
    del root, parts
    before = forget_peak()
    started = time.process_time()
    mine = rerank(ReadyPairs(matrix), queries, CONFIG)
    seconds = time.process_time() - started
    return {
        "torchreid_seconds": torchreid_seconds,
        "torchreid_extra_peak_mb": torchreid_peak,
        "seconds": seconds,
        "extra_peak_mb": memory_mb("VmHWM") - before,
        "difference": float(np.abs(mine - theirs).max()),
        "share_beyond_1e-5": float((np.abs(mine - theirs) > CLOSE).mean()),
    }


def at_full_size() -> dict[str, Any]:
    """Ours from features: CPU seconds of the distances alone and of all, extra peak memory."""
    query_features, gallery_features = features(FULL)
    before = forget_peak()
    started = time.process_time()
    result = rerank_features(query_features, gallery_features, CONFIG)
    seconds = time.process_time() - started
    peak = memory_mb("VmHWM") - before
    sane = bool(np.isfinite(result).all() and result.min() >= 0 and result.max() <= 1)
    del result
    started = time.process_time()
    pairs = FeaturePairs(normalized(np.concatenate([query_features, gallery_features])))
    step = max(1, CHUNK_BYTES // (4 * pairs.count))
    for start in range(0, pairs.count, step):
        pairs.rows(start, min(start + step, pairs.count))
    distance_seconds = time.process_time() - started
    return {"seconds": seconds, "distance_seconds": distance_seconds, "extra_peak_mb": peak, "in_range": sane}


def main() -> int:
    """Print both measurements and, last, all of it as JSON; returns 1 if a check fails."""
    quarter = in_a_process(side_by_side, QUARTER, "float64")
    full = in_a_process(at_full_size)
    beyond = full["seconds"] - full["distance_seconds"]
    result: dict[str, Any] = {
        "benchmark": "reranking",
        "ratio": round(quarter["torchreid_seconds"] / quarter["seconds"], 1),
        "extra_peak_mb": round(full["extra_peak_mb"]),
        "full_seconds_beyond_distances": round(beyond, 2),
        "full": {name: round(value, 2) for name, value in full.items()},
        "quarter": {name: float(f"{value:.4g}") for name, value in quarter.items()},
    }
    checks = {
        "equal_to_torchreid_to_1e-5": quarter["difference"] < CLOSE,
        "full_size_in_range": full["in_range"],
        "full_size_below_1_gb": full["extra_peak_mb"] < 1000,
    }
    print(
        f"quarter size: torchreid {quarter['torchreid_seconds']:.2f} CPU s, {quarter['torchreid_extra_peak_mb']:.0f} "
        f"MB; ours {quarter['seconds']:.2f} s, {quarter['extra_peak_mb']:.0f} MB; ratio {result['ratio']}x; largest "
        f"difference {quarter['difference']:.1e}"
    )
    print(
        f"full size: ours {beyond:.2f} CPU s beyond {full['distance_seconds']:.1f} s of distances, "
        f"{full['extra_peak_mb']:.0f} MB"
    )
    if os.environ.get("BENCHMARK_RERANKING_FULL"):
        whole = in_a_process(side_by_side, FULL, "float32")
        result["full_side_by_side"] = {name: float(f"{value:.4g}") for name, value in whole.items()}
        result["full_ratio"] = round(whole["torchreid_seconds"] / whole["seconds"], 1)
        print(
            f"full size: torchreid {whole['torchreid_seconds']:.1f} CPU s, "
            f"{whole['torchreid_extra_peak_mb']:.0f} MB; ours on its matrix {whole['seconds']:.1f} s; "
            f"ratio {result['full_ratio']}x; "
            f"{100 * whole['share_beyond_1e-5']:.4f} % of the results differ by more than 1e-5"
        )
    print(json.dumps({**result, "checks": checks, "machine": machine("numpy", "scipy", "torchreid")}))
    return 0 if all(checks.values()) else 1
