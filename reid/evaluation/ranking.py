"""CMC, mAP and mINP under the Market-1501 protocol, exact, in little memory, and defined on every input.

The protocol (Zheng et al. 2015 and its official evaluation code): gallery images with pid -1 (junk) are dropped;
pid 0 (distractors) stay as negatives; for each query, gallery images of the same person by the same camera are left
out. A query without any match left is counted as unmatched and takes no part in the means.

- **mAP** is the mean of the precisions at the hits, as in BoT, fast-reid and torchreid; **mAP (trapezoid)** averages
  the precision before and at each hit, as the official MATLAB code does; **mINP** is matches / rank of the last match
  (Ye et al. 2021).
- **Ties** are broken against the query: a negative at the same distance comes first. The result therefore depends on
  neither the sort nor the order of files, and a collapsed network scores nearly 0 and not 100 %. A tie is two distances
  that are equal in float32, in which features are kept and multiplied (`rank_distances`: in the type of its matrix).
  Distances that are equal in exact arithmetic may differ by a rounding error, and are then ranked by it.
- The rank of the k-th match is k + the number of negatives no farther away, so no ranking is ever built: one sort of
  plain numbers per query, in chunks of queries; the full distance matrix is never allocated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from datasets.runtime.errors import InputError

JUNK, DISTRACTOR = -1, 0
CHUNK_BYTES = 32 * 2**20
BLOCK_ROWS = 512
NO_MATCH = "no query has a match in the gallery under another camera; check pids and camids of both splits"


class FeatureError(InputError):
    """Features or distances that cannot be ranked."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Identity and camera of each image: pids and camids of one split, both (N,) integers on the split-wide scale."""

    pids: np.ndarray
    camids: np.ndarray

    def __post_init__(self) -> None:
        if self.pids.shape != self.camids.shape or self.pids.ndim != 1:
            raise FeatureError(
                f"pids {self.pids.shape} and camids {self.camids.shape} must be two rows of equal length"
            )

    def __len__(self) -> int:
        return len(self.pids)


def refuse_unmatched(query: Labels, gallery: Labels) -> None:
    """Refuse a test set without a single match; a network need not be trained to know that.

    Raises:
        FeatureError: no query shows a person whom another camera has taken in the gallery.
    """
    cameras: dict[int, set[int]] = {}
    for pid, camid in zip(gallery.pids.tolist(), gallery.camids.tolist(), strict=True):
        if pid not in (JUNK, DISTRACTOR):
            cameras.setdefault(pid, set()).add(camid)
    queries = zip(query.pids.tolist(), query.camids.tolist(), strict=True)
    if not any(cameras.get(pid, set()) - {camid} for pid, camid in queries):
        raise FeatureError(NO_MATCH)


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """What the evaluator found, query by query (Q rows); an unmatched query has rank 0 and NaN precisions."""

    first_rank: np.ndarray
    """(Q,) rank of the first match, from 1."""
    last_rank: np.ndarray
    """(Q,) rank of the last match."""
    matches: np.ndarray
    """(Q,) how many gallery images match."""
    ap: np.ndarray
    """(Q,) average precision, mean of the precisions at the hits."""
    ap_trapezoid: np.ndarray
    """(Q,) average precision by the trapezoidal rule."""
    inp: np.ndarray
    """(Q,) inverse negative penalty: matches / last rank."""

    @property
    def matched(self) -> np.ndarray:
        """(Q,) which queries have a match in the gallery at all."""
        return self.matches > 0

    def cmc(self, rank: int) -> float:
        """Share of the matched queries whose first match is at `rank` or before, also beyond the gallery's size."""
        return float(np.mean(self.first_rank[self.matched] <= rank))

    def summary(self) -> dict[str, float | int]:
        """The headline figures, all in [0, 1] except the counts."""
        matched = self.matched
        if not matched.any():
            raise FeatureError(NO_MATCH)
        return {
            "rank1": self.cmc(1),
            "rank5": self.cmc(5),
            "rank10": self.cmc(10),
            "map": float(self.ap[matched].mean()),
            "map_trapezoid": float(self.ap_trapezoid[matched].mean()),
            "minp": float(self.inp[matched].mean()),
            "queries": int(matched.sum()),
            "unmatched_queries": int((~matched).sum()),
        }


def normalized(features: np.ndarray, kept: np.ndarray | None = None) -> np.ndarray:
    """A copy of the features at length 1, (N, D) float32; a zero feature stays zero.

    Args:
        kept: (N,) bool, to take only these rows; in one copy, for a gallery is large.

    Raises:
        FeatureError: if a feature is not finite (its rows are named).
    """
    if features.ndim != 2:
        raise FeatureError(f"features have shape {features.shape}; expected (images, dimensions)")
    taken = features.copy() if kept is None else features[kept]
    features = taken.astype(np.float32, copy=False)
    blocks = [features[start : start + BLOCK_ROWS] for start in range(0, len(features), BLOCK_ROWS)]
    bad = np.flatnonzero([not finite for block in blocks for finite in np.all(np.isfinite(block), axis=1)])
    if len(bad):
        raise FeatureError(
            f"{len(bad)} of {len(features)} features are not finite (first: row {bad[0]}); the network has diverged"
        )
    for block in blocks:
        block /= np.maximum(np.linalg.norm(block, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return features


def rank_features(
    query_features: np.ndarray,
    gallery_features: np.ndarray,
    query: Labels,
    gallery: Labels,
    *,
    chunk_bytes: int = CHUNK_BYTES,
) -> Ranking:
    """Rank the gallery for each query by cosine distance.

    Args:
        query_features, gallery_features: (Q, D) and (G, D), of any length and scale.
        query, gallery: their labels; junk is dropped here.
        chunk_bytes: size of the piece of the distance matrix that exists at a time.

    Raises:
        FeatureError: features not finite, of unequal widths, or not as many as labels.
    """
    kept = gallery.pids != JUNK
    if len(kept) != len(gallery_features):
        raise FeatureError(f"{len(gallery_features)} gallery features but {len(gallery)} gallery labels")
    gallery_features, query_features = normalized(gallery_features, kept), normalized(query_features)
    gallery = Labels(pids=gallery.pids[kept], camids=gallery.camids[kept])
    if query_features.shape[1] != gallery_features.shape[1]:
        raise FeatureError(
            f"features of width {query_features.shape[1]} and {gallery_features.shape[1]} do not compare"
        )
    return _rank_rows(distance_rows(query_features, gallery_features, chunk_bytes), len(query_features), query, gallery)


def rank_distances(distances: np.ndarray, query: Labels, gallery: Labels) -> Ranking:
    """The same from a ready (Q, G) distance matrix, for example a re-ranked one; smaller is nearer.

    Raises:
        FeatureError: if a distance is not finite or the shape is not (queries, gallery).
    """
    if distances.shape != (len(query), len(gallery)):
        raise FeatureError(f"distances {distances.shape} do not fit {len(query)} queries x {len(gallery)} images")
    if not np.isfinite(distances).all():
        raise FeatureError("distances are not all finite")
    kept = gallery.pids != JUNK
    rows = (row[kept] for row in distances)
    return _rank_rows(rows, len(distances), query, Labels(pids=gallery.pids[kept], camids=gallery.camids[kept]))


def distance_rows(query: np.ndarray, gallery: np.ndarray, chunk_bytes: int = CHUNK_BYTES) -> Iterator[np.ndarray]:
    """Rows of the distance matrix, minus the cosine, made in chunks; a row is only valid until the next is requested.

    Minus the cosine and not 1 - cosine, whose rounding would turn unequal distances into ties.
    """
    rows = max(1, chunk_bytes // max(1, 4 * len(gallery)))
    buffer = np.empty((min(rows, len(query)), len(gallery)), dtype=np.float32)
    for start in range(0, len(query), rows):
        part = query[start : start + rows]
        yield from np.matmul(-part, gallery.T, out=buffer[: len(part)])


class MatchIndex:
    """Finds the gallery images of a query's person: matches (another camera) and left-out ones (the same camera)."""

    def __init__(self, gallery: Labels) -> None:
        self.gallery = gallery
        self.order = np.argsort(gallery.pids, kind="stable")
        self.sorted_pids = gallery.pids[self.order]

    def of(self, pid: int, camid: int) -> tuple[np.ndarray, np.ndarray]:
        """(all images of the person, those of them that match), as positions in the gallery."""
        if pid in (JUNK, DISTRACTOR):
            raise FeatureError(
                f"a query with pid {pid} is nobody's image; only gallery images may be junk or distractors"
            )
        first, last = (np.searchsorted(self.sorted_pids, pid, side=side) for side in ("left", "right"))
        same_person = self.order[first:last]
        return same_person, same_person[self.gallery.camids[same_person] != camid]


def _rank_rows(rows: Iterator[np.ndarray], count: int, query: Labels, gallery: Labels) -> Ranking:
    """Rank each row of distances; the rows are overwritten."""
    if count != len(query):
        raise FeatureError(f"{count} query features but {len(query)} query labels")
    index = MatchIndex(gallery)
    result = _empty_ranking(count)
    for i, (row, pid, camid) in enumerate(zip(rows, query.pids.tolist(), query.camids.tolist(), strict=True)):
        same_person, match = index.of(pid, camid)
        if len(match):
            distances = np.sort(row[match])
            row[same_person] = np.inf  # leaves the negatives as the only finite ones
            row.sort()
            ranks = np.searchsorted(row, distances, side="right") + np.arange(1, len(match) + 1)
            _score(result, i, ranks)
    return result


def _empty_ranking(count: int) -> Ranking:
    def integers() -> np.ndarray:
        return np.zeros(count, dtype=np.int64)

    def unknown() -> np.ndarray:
        return np.full(count, np.nan)

    return Ranking(
        first_rank=integers(),
        last_rank=integers(),
        matches=integers(),
        ap=unknown(),
        ap_trapezoid=unknown(),
        inp=unknown(),
    )


def _score(result: Ranking, i: int, ranks: np.ndarray) -> None:
    """Fill query `i` from the ranks of its matches, (M,) ascending, from 1."""
    hits = np.arange(1, len(ranks) + 1)
    at = hits / ranks
    # Official code: precision one rank before the hit; 1 before the first rank.
    before = np.where(ranks > 1, (hits - 1) / np.maximum(ranks - 1, 1), 1.0)
    result.first_rank[i], result.last_rank[i], result.matches[i] = ranks[0], ranks[-1], len(ranks)
    result.ap[i] = at.mean()
    result.ap_trapezoid[i] = (before + at).mean() / 2
    result.inp[i] = len(ranks) / ranks[-1]


def nearest(row: np.ndarray, same_person: np.ndarray, match: np.ndarray, count: int) -> np.ndarray:
    """Positions of the `count` nearest valid gallery images of a query, under the same tie rule as the figures.

    Args:
        row: (G,) distances, junk already dropped.
        same_person, match: from `MatchIndex.of`.

    Returns:
        at most `count` positions, nearest first; equal distances: negatives first, then by position.
    """
    positions = np.delete(np.arange(len(row)), np.setdiff1d(same_person, match))
    if len(positions) > count:
        limit = np.partition(row[positions], count - 1)[count - 1]
        positions = positions[row[positions] <= limit]
    return positions[np.lexsort((np.isin(positions, match), row[positions]))][:count]
