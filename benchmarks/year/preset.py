"""Preset `year`: `smoke` with one fraction, so that a week costs half a minute of processor time.

Loaded by name (`IMAGPOSE_REID_EXTENSIONS=benchmarks.year.preset`), as any extension is.
"""

from __future__ import annotations

from flows.presets import PRESETS, Preset, smoke
from flows.settings import RegenerateSettings

NAME, FRACTION = "year", 60


def year() -> RegenerateSettings:
    """Every stage of `smoke`, with half as many trainings and an equal course."""
    return smoke().model_copy(update={"fractions": [FRACTION], "miniature": None})


PRESETS.register(Preset(NAME, "smoke with one fraction, for a simulated year", year))
