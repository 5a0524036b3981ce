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
PROCESS = re.compile(r"^\[(?P<number>\d+)\] ")
"""Which of several processes wrote a line (`flows.process.commands.run_commands`)."""
PROGRESS = re.compile(PROGRESS_PATTERN)
logger = logging.getLogger(__name__)
SECONDS_BETWEEN_UPDATES = 5.0


class StageOutput:
    """Logs each line of a command at the level that it gives itself, and keeps a progress artifact for each process.

    Args:
        name: the stage's name; also the artifacts' key.
        logger: the run's logger.
        of_preset: ends the keys, so that presets do not replace each other's.
    """

    def __init__(
        self, name: str, logger: logging.Logger | logging.LoggerAdapter[logging.Logger], of_preset: str = ""
    ) -> None:
        self.name, self.of_preset = name, of_preset
        self.logger = logger
        self._progress: dict[str, _Progress] = {}

    def __call__(self, line: str) -> None:
        """Take one line."""
        process = PROCESS.match(line)
        number, mark = (process["number"], process[0]) if process else ("", "")
        own = OWN_PREFIX.match(line := line.removeprefix(mark))
        level = logging.getLevelNamesMapping().get(own["level"], logging.INFO) if own else logging.INFO
        message = own["message"] if own else line
        self.logger.log(level, "%s", mark + message)
        if (progress := PROGRESS.search(message)) is not None:
            if number not in self._progress:
                self._progress[number] = _Progress(*self._title(number))
            self._progress[number].show(progress)

    def finish(self) -> None:
        """Say that the stage is done, where progress was shown at all."""
        for progress in self._progress.values():
            progress.finish()

    def _title(self, number: str) -> tuple[str, str]:
        """What a process is called, and its artifact's key."""
        title = f"{self.name}, process {number}" if number else self.name
        key = re.sub(r"[^a-z0-9]+", "-", f"progress-{title}-{self.of_preset}".lower()).strip("-")
        return title, key


class _Progress:
    """The progress artifact of one process."""

    def __init__(self, title: str, key: str) -> None:
        self.title, self.key = title, key
        self._artifact: UUID | None = None
        self._last_update = 0.0

    def show(self, progress: re.Match[str]) -> None:
        """Bring the artifact up to date, not more often than every few seconds."""
        now = time.monotonic()
        done, total = int(progress["done"]), int(progress["total"])
        if now - self._last_update < SECONDS_BETWEEN_UPDATES or not total:
            return
        self._last_update = now
        self._publish(min(99.0, 100.0 * done / total), progress["label"])

    def finish(self) -> None:
        """All of it is done."""
        if self._artifact is not None:
            self._publish(100.0, "")

    def _publish(self, percent: float, label: str) -> None:
        """Create the artifact, or bring it up to date; work must not fail because a server does not answer."""
        try:
            if self._artifact is None:
                description = f"{self.title}: {label}, of what is in hand"
                artifact = prefect.artifacts.create_progress_artifact(percent, key=self.key, description=description)
                self._artifact = cast(UUID, artifact)  # a coroutine in an asynchronous flow only
            else:
                prefect.artifacts.update_progress_artifact(self._artifact, percent)
        except Exception as error:  # whatever a server says that is away, or just starting
            logger.debug("no progress artifact: %s", error)
