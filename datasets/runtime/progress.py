"""Progress of long work as log lines that a person and the flows can both read."""

from __future__ import annotations

import logging
import time

PROGRESS_PATTERN = r"progress (?P<label>[\w .%/+-]+?): (?P<done>\d+)/(?P<total>\d+) (?P<unit>\w+)"
"""What the flows look for in a command's output to update their progress artifact."""


class Progress:
    """Logs ``progress LABEL: 300/1200 images, 120.3 images/s, ETA 0:07`` every few seconds and at the end."""

    def __init__(
        self, logger: logging.Logger, label: str, total: int, unit: str, *, done: int = 0, every_seconds: float = 5.0
    ) -> None:
        self.logger, self.label, self.total, self.unit = logger, label, total, unit
        self.done = self.first = done
        self.every_seconds = every_seconds
        self.started = self.last_line = time.monotonic()

    def update(self, count: int = 1, note: str = "") -> None:
        """Count `count` more units; `note` (for example the current loss) is appended to the line."""
        self.done += count
        now = time.monotonic()
        if now - self.last_line >= self.every_seconds or self.done >= self.total:
            self.last_line = now
            rate = (self.done - self.first) / max(now - self.started, 1e-9)
            eta = int((self.total - self.done) / max(rate, 1e-9))
            self.logger.info(
                "progress %s: %d/%d %s, %.1f %s/s, ETA %d:%02d%s",
                self.label,
                self.done,
                self.total,
                self.unit,
                rate,
                self.unit,
                *divmod(eta, 60),
                note and f", {note}",
            )
