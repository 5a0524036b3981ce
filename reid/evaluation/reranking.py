"""k-reciprocal re-ranking (Zhong et al. 2017, https://arxiv.org/abs/1701.08398), sparse and in chunks.

Each image is described by its k-reciprocal neighbors, weighted by exp(-distance) and averaged over its `k2` nearest;
the re-ranked distance is (1 - weight) x the Jaccard distance of two descriptions + weight x the original one, which is
the squared Euclidean one of unit features over its row's maximum, as in the authors' Python code. (torchreid's
function squares what it is given: it equals this one when fed plain Euclidean distances.)

The descriptions have some hundred entries per row of the N x N matrix that public code fills, so they are kept sparse,
and distances are computed for a chunk of rows at a time: at Market-1501's size a few hundred MB instead of 9 GB.

Legend: Q queries, G gallery images, N = Q + G, queries first.
"""

from __future__ import annotations

import logging
from typing import Protocol

import numpy as np
from scipy import sparse

from datasets.runtime.progress import Progress
from reid.config import RerankConfig
from reid.evaluation.ranking import FeatureError, normalized

logger = logging.getLogger(__name__)

CHUNK_BYTES = 32 * 2**20
PAIRS_AT_A_TIME = 4096
ROWS_AT_A_TIME = 512


class AllPairs(Protocol):
    """Squared distances between all N images."""

    count: int
    """N."""

    def rows(self, start: int, stop: int) -> np.ndarray:
        """(stop - start, N) float32, from images `start` .. `stop` - 1 to all; the caller may overwrite it."""

    def pairs(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """(P,) float32 between the images `first` and `second`, (P,) positions."""


class FeaturePairs:
    """Squared Euclidean distances of unit features, 2 - 2 cosine."""

    def __init__(self, features: np.ndarray) -> None:
        """Pairs of `features`, (N, D) float32 of length 1."""
        self.features, self.count = features, len(features)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """See `AllPairs`."""
        return _squared(self.features[start:stop] @ self.features.T)

    def pairs(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """See `AllPairs`."""
        cosines = np.empty(len(first), dtype=np.float32)
        for start in range(0, len(first), PAIRS_AT_A_TIME):
            part = slice(start, start + PAIRS_AT_A_TIME)
            cosines[part] = np.einsum("pd,pd->p", self.features[first[part]], self.features[second[part]])
        return _squared(cosines)


def _squared(cosines: np.ndarray) -> np.ndarray:
    cosines *= -2
    cosines += 2
    return np.maximum(cosines, 0, out=cosines)


def rerank_features(query_features: np.ndarray, gallery_features: np.ndarray, config: RerankConfig) -> np.ndarray:
    """Re-ranked distances (Q, G) float32 of (Q, D) and (G, D) features of any scale; leave junk out beforehand.

    Raises:
        FeatureError: features not finite, or of unequal widths.
    """
    if query_features.shape[1:] != gallery_features.shape[1:]:
        raise FeatureError(f"features of shapes {query_features.shape} and {gallery_features.shape} do not compare")
    features = normalized(np.concatenate([query_features, gallery_features]))
    return rerank(FeaturePairs(features), len(query_features), config)


def rerank(distances: AllPairs, queries: int, config: RerankConfig) -> np.ndarray:
    """Re-ranked distances (Q, G) float32 from the distances of all pairs, the `queries` queries first."""
    neighbors, greatest, result = _nearest(distances, queries, min(config.k1, distances.count - 1))
    described = _describe(distances, neighbors, greatest)
    if config.k2 > 1:
        described = _average(described, neighbors[:, : config.k2])
    _mix_in_jaccard(result, described[:queries], described[queries:], config.weight)
    return result


def _nearest(distances: AllPairs, queries: int, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, k + 1) nearest images of each, itself included; (N,) greatest distance of each row; (Q, G) scaled distances.

    Equal distances count in the order of the images.
    """
    count = distances.count
    neighbors = np.empty((count, k + 1), dtype=np.int32)
    greatest = np.empty(count, dtype=np.float32)
    scaled = np.empty((queries, count - queries), dtype=np.float32)
    step = max(1, CHUNK_BYTES // (4 * count))
    progress = Progress(logger, "re-ranking", count, "images")
    for start in range(0, count, step):
        rows = distances.rows(start, min(start + step, count))
        greatest[start : start + len(rows)] = np.maximum(rows.max(axis=1), np.finfo(np.float32).tiny)
        limits = np.partition(rows, k, axis=1)[:, k]
        for i, (row, limit) in enumerate(zip(rows, limits, strict=True), start=start):
            near = np.flatnonzero(row <= limit)
            neighbors[i] = near[np.argsort(row[near], kind="stable")[: k + 1]]
        part = rows[: max(0, queries - start), queries:]
        np.divide(part, greatest[start : start + len(part), None], out=scaled[start : start + len(part)])
        progress.update(len(rows))
    return neighbors, greatest, scaled


def _reciprocal(neighbors: np.ndarray) -> np.ndarray:
    """(N, k + 1) bool: whether each image is itself among the nearest of the neighbor it names."""
    found = np.empty(neighbors.shape, dtype=bool)
    for start in range(0, len(neighbors), ROWS_AT_A_TIME):
        part = neighbors[start : start + ROWS_AT_A_TIME]
        image = np.arange(start, start + len(part))[:, None, None]
        found[start : start + len(part)] = (neighbors[part] == image).any(axis=2)
    return found


def _describe(distances: AllPairs, neighbors: np.ndarray, greatest: np.ndarray) -> sparse.csr_matrix:
    """(N, N) weights of each image's expanded k-reciprocal neighbors; the rows sum to 1."""
    half = neighbors[:, : int(np.around((neighbors.shape[1] - 1) / 2)) + 1]
    reciprocal, half_reciprocal = _reciprocal(neighbors), _reciprocal(half)
    rows, columns = [], []
    for start in range(0, len(neighbors), ROWS_AT_A_TIME):
        part = slice(start, start + ROWS_AT_A_TIME)
        near, chosen = neighbors[part], reciprocal[part]
        further, kept = half[near], half_reciprocal[near]  # (n, k + 1, half + 1): the neighbors' own reciprocal ones
        own = np.where(chosen, near, -1)
        shared = ((further[..., None] == own[:, None, None, :]).any(axis=3) & kept).sum(axis=2)
        expanded = chosen & (shared > 2 / 3 * kept.sum(axis=2))
        for mask, images in ((chosen, near), (kept & expanded[..., None], further)):
            rows.append(start + np.nonzero(mask)[0])
            columns.append(images[mask])
    size = (len(neighbors), len(neighbors))
    rows, columns = np.concatenate(rows), np.concatenate(columns)
    pattern = sparse.csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=size)
    rows = np.repeat(np.arange(size[0]), np.diff(pattern.indptr))
    weights = np.exp(-distances.pairs(rows, pattern.indices) / greatest[rows])
    sums = np.bincount(rows, weights, size[0])
    pattern.data = (weights / sums[rows]).astype(np.float32)
    return pattern


def _average(described: sparse.csr_matrix, nearest: np.ndarray) -> sparse.csr_matrix:
    """Mean description of each image's nearest (N, k2), itself included (the paper's local query expansion)."""
    count, k = nearest.shape
    starts = np.arange(count + 1) * k
    chosen = sparse.csr_matrix(
        (np.full(count * k, 1 / k, dtype=np.float32), nearest.ravel(), starts), shape=(count,) * 2
    )
    return chosen @ described


def _mix_in_jaccard(result: np.ndarray, query: sparse.csr_matrix, gallery: sparse.csr_matrix, weight: float) -> None:
    """`result` (Q, G) in place: (1 - weight) x Jaccard distance of the descriptions + weight x what it holds."""
    columns = gallery.tocsc()
    images = result.shape[1]
    for i, row in enumerate(result):
        entries = slice(query.indptr[i], query.indptr[i + 1])
        named, values = query.indices[entries], query.data[entries]
        starts, ends = columns.indptr[named], columns.indptr[named + 1]
        lengths = ends - starts
        # Positions of all entries of the named columns, one after the other.
        at = np.arange(lengths.sum()) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths)
        least = np.minimum(columns.data[at], np.repeat(values, lengths))
        common = np.bincount(columns.indices[at], least, images)
        row *= weight
        row += (1 - weight) * (1 - common / (2 - common))
