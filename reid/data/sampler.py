"""P identities x K images per batch, with a quota of synthetic ones.

The rule is that of BoT's ``RandomIdentitySampler``: an epoch cuts each identity's shuffled images into groups of K (one
with fewer is drawn with replacement), draws P identities that still have a group for each batch, and ends when fewer
than P have one. Each epoch has its own generator, so any epoch can be made again without those before it.
"""

from __future__ import annotations

import numpy as np

from reid.config import BatchConfig

REAL_ONLY = {"synthetic": 0, "fill_with_synthetic": False, "cameras": "any"}


class IdentitySampler:
    """Batches of positions in a training set, grouped by identity.

    Args:
        labels: (N,) class of each image.
        is_synthetic: (N,) bool.
        config: P, K and the quota. With fewer than P classes, P is the number of classes.
        seed: first part of each epoch's seed.
        camids: (N,) cameras, for `BatchConfig.cameras` 'spread'.
    """

    def __init__(
        self,
        labels: np.ndarray,
        is_synthetic: np.ndarray,
        config: BatchConfig,
        seed: int,
        camids: np.ndarray | None = None,
    ) -> None:
        if config.cameras == "spread" and camids is None:
            raise ValueError("batch.cameras 'spread' needs the cameras of the images")
        pooled = config.synthetic is None
        classes = np.unique(labels[~is_synthetic])
        counts_as_real = np.ones_like(is_synthetic) if pooled else ~is_synthetic
        self.real = [np.flatnonzero((labels == c) & counts_as_real) for c in classes]
        self.synthetic = [np.flatnonzero((labels == c) & ~counts_as_real) for c in classes]
        self.identities = min(config.identities, len(classes))
        self.images = config.images
        self.quota = config.synthetic or 0
        self.fill_with_synthetic = config.fill_with_synthetic
        self.camids = camids if config.cameras == "spread" else None
        self.seed = seed

    def epoch(self, number: int) -> list[np.ndarray]:
        """The batches of epoch `number` (from 0): (P * K,) positions each, K of an identity side by side."""
        rng = np.random.default_rng((self.seed, number))
        groups = [self._groups(c, rng) for c in range(len(self.real))]
        waiting = list(range(len(groups)))
        batches = []
        while len(waiting) >= self.identities:
            drawn = rng.choice(len(waiting), self.identities, replace=False)
            chosen = [waiting[i] for i in drawn]
            batches.append(np.concatenate([groups[c].pop() for c in chosen]))
            emptied = {c for c in chosen if not groups[c]}
            waiting = [c for c in waiting if c not in emptied]
        return batches

    def _groups(self, c: int, rng: np.random.Generator) -> list[np.ndarray]:
        """An identity's images of one epoch as groups of K: real ones once each, and the quota of synthetic ones."""
        real, synthetic = self.real[c], self.synthetic[c]
        quota = min(self.quota, len(synthetic))
        if self.fill_with_synthetic and len(synthetic):
            quota = max(quota, min(self.images - len(real), len(synthetic)))
        needed = self.images - quota
        if len(real) < needed:
            real = rng.choice(real, needed, replace=True)
        real = self._spread(rng.permutation(real))
        count = len(real) // needed
        extra = self._spread(_cycle(synthetic, count * quota, rng))
        return [
            np.concatenate([real[g * needed : (g + 1) * needed], extra[g * quota : (g + 1) * quota]])
            for g in range(count)
        ]

    def _spread(self, images: np.ndarray) -> np.ndarray:
        """An identity's shuffled images, reordered so that neighbors come from different cameras where they can."""
        if self.camids is None:
            return images
        camids, turns = self.camids[images], np.empty(len(images), dtype=np.int64)
        for camid in np.unique(camids):
            turns[camids == camid] = np.arange((camids == camid).sum())
        return images[np.argsort(turns, kind="stable")]


def native_steps(
    labels: np.ndarray, is_synthetic: np.ndarray, config: BatchConfig, seed: int, epochs: int
) -> list[int]:
    """Steps of each of BoT's epochs on the real images alone, whatever else a batch holds.

    So an arm with synthetic images takes as many steps as the arm without them.
    """
    real = IdentitySampler(
        labels[~is_synthetic], np.zeros((~is_synthetic).sum(), dtype=bool), config.model_copy(update=REAL_ONLY), seed
    )
    return [len(real.epoch(number)) for number in range(epochs)]


def _cycle(items: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` items in random order, each used up before any comes again."""
    if count == 0:
        return items[:0]
    rounds = [rng.permutation(items) for _ in range(-(-count // len(items)))]
    return np.concatenate(rounds)[:count]
