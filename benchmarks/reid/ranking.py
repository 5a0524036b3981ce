"""The evaluator at Market-1501's full size, 3,368 x 15,913 x 2,048, against torchreid's Python ranker.

torchreid's wheel brings no compiled ranker, so its Python one is what its users run. Ours starts from features and
never holds the distance matrix; its seconds are what the same call costs more than the distances alone, and no less
than it costs on a ready matrix. torchreid gets the ready matrix. Each measurement runs in a process of its own; CPU
seconds, because other work on the machine counts little there.

mINP is not in torchreid, and its CMC is a float32 mean. So all figures are also compared with the protocol walked
through query by query: sort, leave out, count. All get the same distances, made free of ties, about which the public
code has no rule.
"""

from __future__ import annotations

import json
import time

import numpy as np

from benchmarks.isolated import forget_peak, in_a_process, memory_mb
from benchmarks.machine import machine
from reid.evaluation.ranking import Labels, distance_rows, normalized, rank_distances, rank_features

QUERIES, GALLERY, WIDTH, IDENTITIES, DISTRACTORS = 3368, 15913, 2048, 750, 2798
RANKS = 50
ROUNDS = 3
EXACT = 1e-9


def features(seed: int = 0) -> tuple[np.ndarray, np.ndarray, Labels, Labels]:
    """Clustered random features of Market-1501's counts: (Q, D), (G, D), query and gallery labels."""
    rng = np.random.default_rng(seed)
    query_pids = np.sort(rng.integers(1, IDENTITIES + 1, QUERIES))
    gallery_pids = np.concatenate([np.zeros(DISTRACTORS, int), rng.integers(1, IDENTITIES + 1, GALLERY - DISTRACTORS)])
    centers = rng.standard_normal((IDENTITIES + 1, WIDTH), dtype=np.float32)

    def noisy(pids: np.ndarray) -> np.ndarray:
        found = rng.standard_normal((len(pids), WIDTH), dtype=np.float32)
        found *= 4
        found[pids > 0] += centers[pids[pids > 0]]
        return found

    labels = [Labels(pids=pids, camids=rng.integers(1, 7, len(pids))) for pids in (query_pids, gallery_pids)]
    return noisy(query_pids), noisy(gallery_pids), labels[0], labels[1]


def ours() -> dict[str, float]:
    """From features: CPU seconds of the distances alone and of all, extra peak memory."""
    query_features, gallery_features, query, gallery = features()
    before = forget_peak()
    distances, everything = [], []
    for _ in range(ROUNDS):
        started = time.process_time()
        for _row in distance_rows(normalized(query_features), normalized(gallery_features)):
            pass
        distances.append(time.process_time() - started)
        started = time.process_time()
        rank_features(query_features, gallery_features, query, gallery).summary()
        everything.append(time.process_time() - started)
    return {
        "distance_seconds": min(distances),
        "seconds": min(everything),
        "extra_peak_mb": memory_mb("VmHWM") - before,
    }


def torchreids() -> dict[str, float | bool]:
    """The ranker of torchreid and the walk on a ready matrix, and ours on the same one."""
    from torchreid.reid.metrics.rank import eval_market1501

    query_features, gallery_features, query, gallery = features()
    distances = -normalized(query_features) @ normalized(gallery_features).T
    del query_features, gallery_features
    for row in distances:  # float32 has ties among 15,913 values; their places in the row have none, in the same order
        row[np.argsort(row, kind="stable")] = np.arange(len(row), dtype=np.float32)
    before = forget_peak()
    started = time.process_time()
    cmc, mean_ap = eval_market1501(distances, query.pids, gallery.pids, query.camids, gallery.camids, RANKS)
    seconds = time.process_time() - started
    peak = memory_mb("VmHWM") - before
    started = time.process_time()
    ranking = rank_distances(distances, query, gallery)
    ready_seconds = time.process_time() - started
    first_rank, ap, inp = walk(distances, query, gallery)
    matched = ranking.matched
    walked = [np.mean(first_rank[matched] <= rank) for rank in range(1, RANKS + 1)]
    curve = [ranking.cmc(rank) for rank in range(1, RANKS + 1)]
    return {
        "torchreid_seconds": seconds,
        "torchreid_extra_peak_mb": peak,
        "seconds_on_a_ready_matrix": ready_seconds,
        "map": ranking.summary()["map"],
        "rank1": ranking.cmc(1),
        "map_difference_torchreid": abs(ranking.summary()["map"] - mean_ap),
        "cmc_difference_torchreid": float(np.abs(curve - cmc).max()),
        "cmc_hits_equal": bool((np.rint(cmc * matched.sum()) == np.rint(np.array(curve) * matched.sum())).all()),
        "cmc_difference": float(np.abs(np.subtract(curve, walked)).max()),
        "map_difference": float(np.abs(ranking.ap - ap)[matched].max()),
        "minp_difference": float(np.abs(ranking.inp - inp)[matched].max()),
    }


def walk(distances: np.ndarray, query: Labels, gallery: Labels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First rank, average precision and inverse negative penalty of each query (Q,), the slow and plain way."""
    found = np.full((3, len(query)), np.nan)
    for i, row in enumerate(distances):
        order = np.argsort(row)
        order = order[(gallery.pids[order] != query.pids[i]) | (gallery.camids[order] != query.camids[i])]
        hits = np.flatnonzero(gallery.pids[order] == query.pids[i]) + 1
        if len(hits):
            found[:, i] = hits[0], np.mean(np.arange(1, len(hits) + 1) / hits), len(hits) / hits[-1]
    return found[0], found[1], found[2]


def main() -> int:
    """Print both measurements and, last, all of it as JSON; returns 1 if a check fails."""
    mine, theirs = in_a_process(ours), in_a_process(torchreids)
    seconds = max(mine["seconds"] - mine["distance_seconds"], theirs["seconds_on_a_ready_matrix"])
    checks = {
        "torchreids_map_to_1e-9": theirs["map_difference_torchreid"] < EXACT,
        "torchreids_cmc_to_its_float32": bool(theirs["cmc_hits_equal"]),
        "cmc_to_1e-9": theirs["cmc_difference"] < EXACT,
        "ap_of_every_query_to_1e-9": theirs["map_difference"] < EXACT,
        "minp_of_every_query_to_1e-9": theirs["minp_difference"] < EXACT,
    }
    result = {
        "benchmark": "ranking",
        "ratio": round(theirs["torchreid_seconds"] / seconds, 1),
        "seconds_beyond_distances": round(seconds, 3),
        **{name: round(value, 3) for name, value in mine.items()},
        **{name: value if isinstance(value, bool) else float(f"{value:.6g}") for name, value in theirs.items()},
        "checks": {name: bool(passed) for name, passed in checks.items()},
        "machine": machine("numpy", "torchreid"),
    }
    print(f"{QUERIES:,} queries x {GALLERY:,} images x {WIDTH:,}: CPU seconds, extra peak memory")
    print(
        f"  reid.evaluation.ranking  {seconds:6.2f} s beyond {mine['distance_seconds']:.2f} s of distances, "
        f"{mine['extra_peak_mb']:6.0f} MB with them"
    )
    print(
        f"  torchreid     {theirs['torchreid_seconds']:6.2f} s, {theirs['torchreid_extra_peak_mb']:6.0f} MB beside "
        "the matrix"
    )
    print(f"  ratio {result['ratio']}x")
    print(json.dumps(result))
    return 0 if all(checks.values()) else 1
