"""Preset `year`: `smoke` with one fraction, so that a week costs half a minute of processor time.

Loaded by name (`IMAGPOSE_REID_EXTENSIONS=benchmarks.year.preset`), as any extension is; importing it registers it.
"""

from __future__ import annotations

from benchmarks.year.plan import FRACTION, NAME
from flows.presets import PRESETS, Preset, smoke
from flows.settings import RegenerateSettings


def year() -> RegenerateSettings:
    """Every stage of `smoke`, with half as many trainings and an equal course."""
    return smoke().model_copy(update={"fractions": [FRACTION], "miniature": None})


PRESETS.register(Preset(NAME, "smoke with one fraction, for a simulated year", year))
