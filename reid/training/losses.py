"""The losses of BoT (Luo et al. 2019): identity, batch-hard triplet, center.

Legend: B images, C identities, D feature width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from reid.config import LossConfig


def identity_loss(logits: Tensor, labels: Tensor, is_synthetic: Tensor, config: LossConfig) -> Tensor:
    """Cross-entropy with smoothed labels, (1 - e) * onehot + e / C, a weighted mean over the batch.

    Args:
        logits: (B, C).
        labels: (B,).
        is_synthetic: (B,) bool; those images have their own weight and smoothing.
    """
    losses = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=config.label_smoothing)
    if config.synthetic_label_smoothing is not None:
        smoothing = config.synthetic_label_smoothing
        other = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
        losses = torch.where(is_synthetic, other, losses)
    return weighted_mean(losses, is_synthetic, config.synthetic_weight)


def weighted_mean(losses: Tensor, is_synthetic: Tensor, synthetic_weight: float) -> Tensor:
    """Mean of (B,) losses in which a real image counts 1 and a synthetic one `synthetic_weight`."""
    if synthetic_weight == 1.0:
        return losses.mean()
    weights = torch.where(is_synthetic, synthetic_weight, 1.0)
    return (weights * losses).sum() / weights.sum()


def euclidean_distances(features: Tensor) -> Tensor:
    """All pairs' Euclidean (not squared) distances of (B, D) features, (B, B)."""
    squares = features.pow(2).sum(dim=1)
    squared = squares[:, None] + squares[None, :] - 2 * features @ features.T
    return squared.clamp(min=1e-12).sqrt()  # the root has no slope at 0


def batch_hard_triplet_loss(features: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Hinge on (farthest of the same person) - (nearest of another) + margin, averaged over anchors (Hermans 2017).

    Args:
        features: (B, D), un-normalized, before the neck.
        labels: (B,); at least two different ones.
    """
    distances = euclidean_distances(features.float())
    same = labels[:, None] == labels[None, :]
    hardest_positive = distances.masked_fill(~same, float("-inf")).amax(dim=1)
    hardest_negative = distances.masked_fill(same, float("inf")).amin(dim=1)
    return functional.relu(hardest_positive - hardest_negative + margin).mean()


class CenterLoss(nn.Module):
    """Mean squared distance of a feature to the learned center of its person (Wen et al. 2016), as in BoT."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.centers = nn.Parameter(torch.randn(classes, width))

    def forward(self, features: Tensor, labels: Tensor, is_synthetic: Tensor, synthetic_weight: float) -> Tensor:
        """Loss of (B, D) features with (B,) labels."""
        losses = (features.float() - self.centers[labels]).pow(2).sum(dim=1)
        return weighted_mean(losses, is_synthetic, synthetic_weight)
