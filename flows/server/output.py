"""What a stage's command writes, handed on to the run's log and to a progress artifact."""

from __future__ import annotations

import logging
import re
import time
from typing import cast
from uuid import UUID

import prefect.artifacts

from datasets.runtime.progress import PROGRESS_PATTERN

OWN_PREFIX = re.compile(r"^\d\d:\d\d:\d\d (?P<level>[A-Z]+) (?P<logger>[\w.]+): (?P<message>.*)$")
"""How the packages' commands begin a line (`datasets.runtime.command_line`); the log has its own time and level."""
PROGRESS = re.compile(PROGRESS_PATTERN)
logger = logging.getLogger(__name__)
SECONDS_BETWEEN_UPDATES = 5.0


class StageOutput:
    """Logs each line of a command at the level that it gives itself, and keeps one progress artifact up to date.

    Args:
        name: the stage's name; also the artifact's key.
        logger: the run's logger.
    """

    def __init__(self, name: str, logger: logging.Logger | logging.LoggerAdapter[logging.Logger]) -> None:
        self.name = name
        self.logger = logger
        self._artifact: UUID | None = None
        self._last_update = 0.0

    def __call__(self, line: str) -> None:
        """Take one line."""
        own = OWN_PREFIX.match(line)
        level = logging.getLevelNamesMapping().get(own["level"], logging.INFO) if own else logging.INFO
        message = own["message"] if own else line
        self.logger.log(level, "%s", message)
        if (progress := PROGRESS.search(message)) is not None:
            self._show(progress)

    def finish(self) -> None:
        """Say that the stage is done, where progress was shown at all."""
        if self._artifact is not None:
            self._publish(100.0, "")

    def _show(self, progress: re.Match[str]) -> None:
        now = time.monotonic()
        done, total = int(progress["done"]), int(progress["total"])
        if now - self._last_update < SECONDS_BETWEEN_UPDATES or not total:
            return
        self._last_update = now
        percent = min(99.0, 100.0 * done / total)
        self._publish(percent, progress["label"])

    def _publish(self, percent: float, label: str) -> None:
        """Create the artifact, or bring it up to date; work must not fail because a server does not answer."""
        try:
            if self._artifact is None:
                key = re.sub(r"[^a-z0-9]+", "-", f"progress-{self.name.lower()}").strip("-")
                description = f"{self.name}: {label}, of what is in hand"
                artifact = prefect.artifacts.create_progress_artifact(percent, key=key, description=description)
                self._artifact = cast(UUID, artifact)  # a coroutine in an asynchronous flow only
            else:
                prefect.artifacts.update_progress_artifact(self._artifact, percent)
        except Exception as error:  # whatever a server says that is away, or just starting
            logger.debug("no progress artifact: %s", error)
