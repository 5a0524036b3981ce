"""How a regeneration differs from the one before it, and whether that is more than their intervals.

Each gain has an interval of its own. Taken as independent, the difference of two of them is known to the root of the
sum of the squared half-widths. Most of the test set is the same from week to week, so the two are not independent, and
the difference is known better than that: what is called more than the intervals is so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reid.config import HistoryEntry, RememberedGain

SHORT = 12
"""Digits of a commit that are shown."""
DIRTY = "-dirty"
"""What follows them where files differed from it."""


@dataclass(frozen=True, kw_only=True)
class Shift:
    """The change of one gain, in points."""

    fraction: int
    before: RememberedGain
    after: RememberedGain

    @property
    def value(self) -> float:
        """By how much the gain rose."""
        return self.after.value - self.before.value

    @property
    def margin(self) -> float | None:
        """What the two intervals allow; None where one of them is unknown."""
        halves = [_half_width(gain) for gain in (self.before, self.after)]
        return None if None in halves else math.hypot(*(half for half in halves if half is not None))

    @property
    def certain(self) -> bool:
        """Whether the change is more than that."""
        return self.margin is not None and abs(self.value) > self.margin


def _half_width(gain: RememberedGain) -> float | None:
    return None if gain.low is None or gain.high is None else (gain.high - gain.low) / 2


def shifts(before: HistoryEntry, after: HistoryEntry) -> list[Shift]:
    """The changes of the headline's gains that both have."""
    earlier = {(gain.fraction, gain.arm, gain.baseline, gain.protocol): gain for gain in before.gains}
    found = []
    for gain in after.headline():
        old = earlier.get((gain.fraction, gain.arm, gain.baseline, gain.protocol))
        if old is not None:
            found.append(Shift(fraction=gain.fraction, before=old, after=gain))
    return found


def changes(before: HistoryEntry, after: HistoryEntry) -> list[str]:
    """What else changed between the two, one line each: data, settings, versions, code."""
    found = []
    if before.images != after.images:
        names = [*after.counts, *(name for name in before.counts if name not in after.counts)]
        moved = [(name, after.counts.get(name, 0) - before.counts.get(name, 0)) for name in names]
        parts = [f"{count:+,} {name}".replace("-", "\N{MINUS SIGN}") for name, count in moved if count]
        found.append(f"data: {', '.join(parts)}" if parts else "data: other images, equally many")
    found += [f"setting {line}" for line in _different(before.config, after.config, "")]
    found += [f"version of {line}" for line in _different(before.versions, after.versions, "")]
    if before.code and after.code and before.code != after.code:
        found.append(f"code: {_short(before.code)} → {_short(after.code)}")
    return found


def _different(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if name not in before or name not in after:  # another version of the code has other settings
            yield f"{prefix}{name}: new, {_shown(new)}" if name in after else f"{prefix}{name}: gone, was {_shown(old)}"
        elif isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _different(old, new, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}: {_shown(old)} → {_shown(new)}"


def _short(code: str) -> str:
    return code[:SHORT] + (DIRTY if code.endswith(DIRTY) else "")


def _shown(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def verdict(found: list[Shift]) -> str:
    """One sentence: whether the gains changed by more than their intervals."""
    known = [shift for shift in found if shift.margin is not None]
    if not found:
        return "No gain of this headline was measured then, so nothing can be compared."
    if not known:
        return "At least one of the two has no interval, so whether the gain changed cannot be told."
    at = [f"{shift.fraction} %" for shift in known if shift.certain]
    if not at:
        return "No gain changed by more than the intervals allow."
    one_draw = any("draw" not in (shift.before.unit, shift.after.unit) for shift in known if shift.certain)
    caution = (
        " These intervals are of given images with one draw of the subset, so the luck of the draw may explain it."
        if one_draw
        else ""
    )
    return f"The gain changed by more than the intervals allow at {', '.join(at)}.{caution}"
