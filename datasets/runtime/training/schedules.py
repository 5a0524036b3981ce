"""Learning-rate schedules as plain functions of the step. No torch.

A rate is computed from the step's number alone, so a resumed training needs no scheduler's state.
"""

from __future__ import annotations

import math


def linear_warmup(peak: float, step: int, steps: int) -> float:
    """Rate of a step (from 0) of a warm-up that would reach `peak` at its `steps`-th step."""
    return peak * (step + 1) / steps


def cosine_decay(peak: float, share: float, floor: float = 0.0) -> float:
    """Half a cosine from `peak` to `floor` x `peak`.

    Args:
        peak: the rate at share 0.
        share: how much of the decay is done, in [0, 1]; beyond it the rate stays at the floor.
        floor: what is left in the end, as a share of `peak`.
    """
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))


def linear_decay(peak: float, left: float, floor: float = 0.0) -> float:
    """A straight line down to `floor` x `peak`.

    Args:
        peak: the rate before the decay.
        left: how much of the decay is still to come, 1 to 0; more than 1 before it begins.
        floor: the lowest rate, as a share of `peak`.
    """
    return peak * max(floor, min(1.0, left))


def warmup_cosine(step: int, steps: int, peak: float, *, warmup: int, floor: float) -> float:
    """Rate of a step (from 0): a linear warm-up, then a cosine to `floor` x `peak` at the last step."""
    if step < warmup:
        return linear_warmup(peak, step, warmup)
    return cosine_decay(peak, (step - warmup) / max(1, steps - warmup), floor)
