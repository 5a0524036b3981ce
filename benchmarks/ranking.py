"""The evaluator at Market-1501's full size, 3,368 x 15,913 x 2,048, against torchreid's Python ranker.

Each measurement runs in a process of its own, so that its peak memory is its own. CPU seconds, not wall seconds: other
work on the machine then counts little.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from reid.ranking import Labels, distance_rows, normalised, rank_distances, rank_features

QUERIES, GALLERY, WIDTH, IDENTITIES, DISTRACTORS = 3368, 15913, 2048, 750, 2798


def features() -> tuple[np.ndarray, np.ndarray, Labels, Labels]:
    """Clustered random features of Market-1501's counts: (Q, D), (G, D), query and gallery labels."""
    rng = np.random.default_rng(0)
    query_pids = np.sort(rng.integers(1, IDENTITIES + 1, QUERIES))
    gallery_pids = np.concatenate([np.zeros(DISTRACTORS, int), rng.integers(1, IDENTITIES + 1, GALLERY - DISTRACTORS)])
    centres = rng.standard_normal((IDENTITIES + 1, WIDTH), dtype=np.float32)

    def noisy(pids: np.ndarray) -> np.ndarray:
        found = rng.standard_normal((len(pids), WIDTH), dtype=np.float32)
        found *= 4
        found[pids > 0] += centres[pids[pids > 0]]
        return found

    labels = [Labels(pids=pids, camids=rng.integers(1, 7, len(pids))) for pids in (query_pids, gallery_pids)]
    return noisy(query_pids), noisy(gallery_pids), labels[0], labels[1]


def _memory_mib(name: str) -> float:
    """A figure of this process from Linux: 'VmRSS' now, 'VmHWM' the peak since `_forget_peak`."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) / 1024


def _forget_peak() -> float:
    """Start the peak anew; returns the memory in use now, in MiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory_mib("VmRSS")


def ours(queue: multiprocessing.Queue) -> None:
    """From features, distances included."""
    query_features, gallery_features, query, gallery = features()
    before = _forget_peak()
    started = time.process_time()
    for _ in distance_rows(normalised(query_features), normalised(gallery_features)):
        pass
    distance_seconds = time.process_time() - started
    started = time.process_time()
    summary = rank_features(query_features, gallery_features, query, gallery).summary()
    seconds = time.process_time() - started
    queue.put(
        {"seconds": seconds, "distances": distance_seconds, "peak": _memory_mib("VmHWM") - before, "summary": summary}
    )


def torchreids(queue: multiprocessing.Queue) -> None:
    """From a ready distance matrix; ours on the same matrix beside it."""
    from torchreid.reid.metrics.rank import eval_market1501

    query_features, gallery_features, query, gallery = features()
    distances = -normalised(query_features) @ normalised(gallery_features).T
    del query_features, gallery_features
    before = _forget_peak()
    started = time.process_time()
    cmc, mean_ap = eval_market1501(distances, query.pids, gallery.pids, query.camids, gallery.camids, 50)
    seconds = time.process_time() - started
    peak = _memory_mib("VmHWM") - before
    ranking = rank_distances(distances, query, gallery)
    difference = max(
        abs(ranking.summary()["map"] - mean_ap),
        *(abs(ranking.cmc(rank) - float(cmc[rank - 1])) for rank in range(1, 51)),
    )
    queue.put({"seconds": seconds, "peak": peak, "difference": difference, "rank1": float(cmc[0]), "map": mean_ap})


def in_a_process(function: Callable) -> dict:
    """Run a measurement in a fresh process."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=function, args=(queue,))
    process.start()
    result = queue.get()
    process.join()
    return result


def main() -> int:
    """Print both measurements."""
    mine = in_a_process(ours)
    ranking_seconds = mine["seconds"] - mine["distances"]
    print(f"{QUERIES:,} queries x {GALLERY:,} images x {WIDTH:,}: CPU seconds, extra peak MiB")
    print(f"  reid.ranking   {ranking_seconds:6.2f} s beyond the {mine['distances']:.2f} s of the distances, "
          f"{mine['peak']:6.0f} MiB, distances included")  # fmt: skip
    theirs = in_a_process(torchreids)
    print(f"  torchreid      {theirs['seconds']:6.2f} s, {theirs['peak']:6.0f} MiB beside the distance matrix")
    print(f"  ratio {theirs['seconds'] / ranking_seconds:.0f}x; Rank-1 {theirs['rank1']:.4f}, mAP {theirs['map']:.4f}")
    print(f"  largest difference on the same distances {theirs['difference']:.1e}")
    return 0
