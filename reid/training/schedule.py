"""Learning rate per epoch: warm-up, then steps or a cosine."""

from __future__ import annotations

import math

from reid.config import ScheduleConfig


def rate_factor(config: ScheduleConfig, epoch: int) -> float:
    """What the learning rate is multiplied by in an epoch (from 1), as reid-strong-baseline's ``WarmupMultiStepLR``.

    Its scheduler steps at the *start* of an epoch, so the first epoch runs at 0.01 * 0.9 + 0.1 = 0.109 of the rate and
    a milestone takes hold in its own epoch.
    """
    if config.decay == "steps":
        factor = config.decay_factor ** sum(epoch >= milestone for milestone in config.milestones)
    else:
        after_warmup = max(config.epochs - config.warmup_epochs, 1)
        progress = min(max(epoch - 1 - config.warmup_epochs, 0) / after_warmup, 1.0)
        factor = 0.5 * (1 + math.cos(math.pi * progress))
    if epoch < config.warmup_epochs:
        share = epoch / config.warmup_epochs
        factor *= config.warmup_factor * (1 - share) + share
    return factor


def stretched_epoch(config: ScheduleConfig, step: int, steps: int) -> int:
    """Epoch of the schedule (from 1) in which `step` (from 0) lies when the schedule is stretched over `steps`."""
    return step * config.epochs // steps + 1
