"""What is worth waking somebody for: a gain that fell, data that shrank; and the settings of the alerts.

A regeneration compares itself with the one before it and says what it finds as an event of Prefect's; automations
(`flows.server.automations`) turn these, and runs that fail, crash or are late, into notifications.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from pydantic import Field, model_validator

from datasets.runtime.config import Config
from reid.config import HistoryEntry
from reid.history.compare import shifts

GAIN_FELL, DATA_SHRANK = "imagpose-reid.gain-fell", "imagpose-reid.data-shrank"
"""Names of the events."""


class AlertsConfig(Config):
    """Make the automations that notify somebody, or bring them up to date.

    What counts is set by the Prefect variables alert_gain_points (2) and alert_data_percent (5).
    """

    webhook: str | None = Field(None, pattern=r"^https?://[^\s/?#]+[^\s]*$")
    """An address that is sent ``{"text": ...}`` by POST, as Slack, Mattermost and others understand it."""
    block: str | None = Field(None, pattern=r"^[\w-]+/[\w-]+$")
    """Or a notification block that there is already, TYPE/NAME: slack-webhook/team, sendgrid-email/ops."""

    @model_validator(mode="after")
    def _one_receiver(self) -> Self:
        if (self.webhook is None) == (self.block is None):
            raise ValueError("give a receiver: either --webhook URL or --block TYPE/NAME")
        return self


@dataclass(frozen=True)
class Limits:
    """From where on a change is told."""

    gain_points: float = 2.0
    """A gain of the headline that fell by more points than that, ..."""
    data_percent: float = 5.0
    """... or training images that became fewer by more percent than that."""


@dataclass(frozen=True)
class Alert:
    """Something that somebody should know."""

    event: str
    text: str


def alerts_of(entries: Sequence[HistoryEntry], limits: Limits = Limits()) -> list[Alert]:
    """What of the newest regeneration is worth telling, against the one before it.

    Args:
        entries: of one series, oldest first.
        limits: from where on.
    """
    if len(entries) < 2:
        return []
    before, after = entries[-2:]
    found = []
    for shift in shifts(before, after):
        if -shift.value > limits.gain_points:
            certain = "more" if shift.certain else "not more"
            text = (
                f"The gain of preset {after.preset} at {shift.fraction} % fell from {shift.before.value:+.1f} to "
                f"{shift.after.value:+.1f} points, {certain} than the intervals allow."
            )
            found.append(Alert(GAIN_FELL, text))
    old, new = (entry.counts.get("training images", 0) for entry in (before, after))
    if old and 100 * (old - new) / old > limits.data_percent:
        text = f"The data of preset {after.preset} shrank from {old:,} to {new:,} training images."
        found.append(Alert(DATA_SHRANK, text))
    return found
