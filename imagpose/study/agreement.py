"""How far people agree beyond chance, for answers that are names (nominal).

Fleiss' kappa (Psychological Bulletin 76(5), 1971) where everybody answered everything, Krippendorff's alpha ("Computing
Krippendorff's Alpha-Reliability", 2011, section C) where answers are missing. Neither is in SciPy.
"""

from __future__ import annotations

import numpy as np


def fleiss_kappa(counts: np.ndarray) -> float | None:
    """Fleiss' kappa.

    Args:
        counts: (items, categories): how many raters chose it; every item has the same number of raters, at least 2.

    Returns:
        1 for full agreement, 0 for as much as by chance; None where only one category was ever chosen (0 / 0).
    """
    raters = counts.sum(1)
    if len(counts) == 0 or raters[0] < 2 or (raters != raters[0]).any():
        raise ValueError("every item needs the same number of raters, at least two")
    observed = ((counts**2).sum(1) - raters) / (raters * (raters - 1))
    chance = ((counts.sum(0) / counts.sum()) ** 2).sum()
    return None if chance == 1 else float((observed.mean() - chance) / (1 - chance))


def krippendorff_alpha(counts: np.ndarray) -> float | None:
    """Krippendorff's alpha for nominal data.

    Args:
        counts: (items, categories): how many raters chose it; items with fewer than two ratings pair with nothing and
            do not count.

    Returns:
        1 for full agreement, 0 for as much as by chance; None where nothing pairs or only one category was chosen.
    """
    paired = counts[counts.sum(1) >= 2].astype(float)
    sizes = paired.sum(1, keepdims=True)
    total = paired.sum()
    by_category = paired.sum(0)
    expected = total**2 - (by_category**2).sum()
    if total == 0 or expected == 0:
        return None
    disagreeing = ((sizes[:, 0] ** 2 - (paired**2).sum(1)) / (sizes[:, 0] - 1)).sum()
    return float(1 - (total - 1) * disagreeing / expected)
