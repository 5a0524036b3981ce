"""Feature centralization at test time (Pose2ID: Yuan et al., CVPR 2025, https://arxiv.org/abs/2503.00938).

*NFC*: each feature plus those of its mutual nearest neighbors. *IPG*: each feature plus `weight` x the mean feature of
further pictures of the same image, for example in standard poses. *ID2*: how densely an identity's features lie.

Legend: N images, D width of the features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from reid.config import NfcConfig
from reid.evaluation.ranking import normalized

CHUNK_BYTES = 32 * 2**20
ROWS_AT_A_TIME = 512


def add_mutual_neighbors(features: np.ndarray, config: NfcConfig) -> np.ndarray:
    """Each feature plus the sum of its mutual nearest neighbors', (N, D) float32; a new array.

    j is a mutual neighbor of i if j is among the `k1` images nearest to i and i among the `k2` nearest to j (of those
    `k1` again), by Euclidean distance, the image itself left out. Of equally distant images the first counts.

    Args:
        features: (N, D) float32, as they are compared: `reid evaluate` gives them unit length.
    """
    count = min(config.k1, len(features) - 1)
    result = features.copy()
    if count < 1:
        return result
    nearest = nearest_others(features, count)
    images = np.arange(len(features))[:, None]
    mutual = np.empty(nearest.shape, dtype=bool)
    for column in range(count):
        mutual[:, column] = (nearest[nearest[:, column], : config.k2] == images).any(axis=1)
    for start in range(0, len(features), ROWS_AT_A_TIME):
        for column in range(count):
            rows = start + np.flatnonzero(mutual[start : start + ROWS_AT_A_TIME, column])
            result[rows] += features[nearest[rows, column]]
    return result


def nearest_others(features: np.ndarray, count: int) -> np.ndarray:
    """The `count` images nearest to each, nearest first, itself left out: (N, count) positions.

    Distances exist for a chunk of rows at a time.
    """
    squares = np.einsum("nd,nd->n", features, features)
    found = np.empty((len(features), count), dtype=np.int32)
    step = max(1, CHUNK_BYTES // (4 * len(features)))
    buffer = np.empty((min(step, len(features)), len(features)), dtype=np.float32)
    for start in range(0, len(features), step):
        part = features[start : start + step]
        rows = np.matmul(part, features.T, out=buffer[: len(part)])
        rows *= -2
        rows += squares  # the row's own square changes no order
        inside = np.arange(len(part))
        rows[inside, start + inside] = np.inf
        for column in range(count):
            best = rows.argmin(axis=1)
            found[start : start + len(part), column] = best
            rows[inside, best] = np.inf
    return found


def identity_density(parts: Sequence[np.ndarray], pids: np.ndarray) -> float:
    """ID2: mean squared distance of unit features from the mean of their identity's; smaller is denser.

    Args:
        parts: features (N_i, D) one after the other.
        pids: (N,) of all of them; images of nobody (0 and below) do not count.
    """
    people, where = np.unique(pids, return_inverse=True)
    sums = np.zeros((len(people), parts[0].shape[1]))
    start = 0
    for part in parts:
        for first in range(0, len(part), ROWS_AT_A_TIME):
            block = normalized(part[first : first + ROWS_AT_A_TIME])
            of = where[start + first : start + first + len(block)]
            sums += sparse.csr_matrix((np.ones(len(of)), (of, np.arange(len(of)))), (len(people), len(of))) @ block
        start += len(part)
    counts = np.bincount(where)
    # Squared distances of unit vectors from their mean add up to count - |sum|^2 / count.
    spreads = counts - (sums**2).sum(axis=1) / counts
    total, images = float(spreads[people > 0].sum()), int(counts[people > 0].sum())
    return total / images if images else float("nan")
