"""What is remembered of each regeneration, and the command that shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets.runtime.config import Config


class RememberedGain(Config):
    """An arm's gain in mAP over another one at one fraction, in points."""

    protocol: str
    fraction: int
    arm: str
    baseline: str
    value: float
    low: float | None = None
    """Lower end of its interval; None where it has none."""
    high: float | None = None
    before: float
    """mAP of `baseline`, percent."""
    after: float
    """mAP of `arm`, percent."""
    unit: str = "none"
    """What runs are counted by ('draw', 'seed', 'none'): without draws an interval is of these images only."""


class HistoryEntry(Config):
    """A regeneration's headline: a row of ``history.parquet``."""

    benchmark: str
    """Content of the table (SHA-256): two regenerations with the same have the same result."""
    finished: str = ""
    """Date and time in UTC, ISO 8601."""
    run: str = ""
    """Id of the flow run."""
    preset: str = ""
    variant: str = ""
    """Stands for settings other than the preset's own; only entries of one variant are compared."""
    pages: str = ""
    """Name of the folder that keeps its report, beside the history."""
    code: str = ""
    """Commit or version of this project."""
    images: str = ""
    """Content of the index (SHA-256): whether the data changed."""
    counts: dict[str, int] = {}
    """Training images and people, queries, gallery images, cameras, synthetic images."""
    quality: dict[str, float] = {}
    """Means over the generators and their sets: validation loss, pose score."""
    seconds: float = 0.0
    """Wall-clock of everything that the result was made from, also in earlier runs."""
    versions: dict[str, str] = {}
    config: dict[str, Any] = {}
    """Resolved settings."""
    arm: str = ""
    """The headline's arm, and ..."""
    reference: str = ""
    """... whom it is compared with."""
    protocol: str = ""
    gains: list[RememberedGain] = []

    def headline(self) -> list[RememberedGain]:
        """The gains of the headline's comparison, by fraction."""
        wanted = (self.arm, self.reference, self.protocol)
        found = [gain for gain in self.gains if (gain.arm, gain.baseline, gain.protocol) == wanted]
        return sorted(found, key=lambda gain: gain.fraction)


class HistoryConfig(Config):
    """Show how the regenerations of a preset went: a line each, what changed, and a page with the trend."""

    history: Path
    """``history.parquet``, beside the reports: runs/PRESET/history.parquet."""
    variant: str = ""
    """Which settings, where they are not the preset's own: the eight digits of the link latest-XXXXXXXX."""
    html: Path | None = None
    """Write a page with the trend as well."""
