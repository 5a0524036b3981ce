"""Prefect's side of the alerts: the events that a regeneration emits, and the automations that notify somebody."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any, cast
from uuid import UUID

from prefect.blocks.core import Block
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import get_client
from prefect.events import emit_event
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.variables import Variable

from datasets.runtime.errors import InputError
from flows.alerts import DATA_SHRANK, GAIN_FELL, AlertsConfig, Limits, alerts_of
from reid.config import HistoryEntry

BLOCK = "regeneration-alerts"
"""Name of the webhook block that `make_alerts` creates."""
RUN = "{{ flow_run.name }} ({{ flow_run.id }}) is {{ flow_run.state.name }}: {{ flow_run.state.message }}"
TOLD = "{{ event.payload.text }} {{ event.payload.report }}"
ALERTS = {
    "regeneration-failed": (("prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.TimedOut"), RUN),
    "regeneration-late": (("prefect.flow-run.Late",), RUN),
    "gain-fell": ((GAIN_FELL,), TOLD),
    "data-shrank": ((DATA_SHRANK,), TOLD),
}
"""Automation -> the events that it waits for, and what it says."""


def emit_alerts(entries: Sequence[HistoryEntry], report: str) -> None:
    """Emit an event for everything of the newest regeneration that somebody should know.

    Args:
        entries: of one series, oldest first.
        report: where its report is.
    """
    for alert in alerts_of(entries, limits_of_the_site()):
        resource = {"prefect.resource.id": f"imagpose-reid.preset.{entries[-1].preset}"}
        emit_event(alert.event, resource=resource, payload={"text": alert.text, "report": report})


def limits_of_the_site() -> Limits:
    """The limits that the Prefect variables set.

    Raises:
        InputError: one is no number, or one that no change is ever beyond.
    """
    values = {}
    for name in ("gain_points", "data_percent"):
        if (given := Variable.get(f"alert_{name}", default=None)) is not None:
            try:
                values[name] = float(cast(Any, given))
            except (TypeError, ValueError, OverflowError):
                values[name] = math.nan
            if not (math.isfinite(values[name]) and values[name] >= 0):
                raise InputError(f"variable alert_{name} must be a number from 0 (got {given!r}); correct or unset it")
    return Limits(**values)


def make_alerts(config: AlertsConfig) -> int:
    """Create the automations, or replace those of the same names; prints a line each."""
    block = receiver(config)
    with get_client(sync_client=True) as client:
        for name, (events, body) in ALERTS.items():
            wanted = automation(name, events, body, block)
            known = client.read_automations_by_name(name)
            if known:
                client.update_automation(known[0].id, wanted)
            else:
                client.create_automation(wanted)
            sys.stdout.write(f"{name}: {'replaced' if known else 'made'}\n")
    return 0


def receiver(config: AlertsConfig) -> UUID:
    """The id of the notification block, which is made for a webhook.

    Raises:
        InputError: there is no such block.
    """
    if config.webhook is not None:
        block: Any = CustomWebhookNotificationBlock(
            name=BLOCK,
            url=config.webhook,
            json_data={"text": "{{subject}}\n{{body}}"},
            allow_private_urls=True,  # a receiver inside the own network is the usual case
        )
        return cast(UUID, block.save(BLOCK, overwrite=True))
    try:
        found: Any = Block.load(str(config.block))
    except ValueError as error:
        raise InputError(f"--block {config.block}: {error}") from None
    return found._block_document_id


def automation(name: str, events: Sequence[str], body: str, block: UUID) -> AutomationCore:
    """An automation that notifies the receiver of each of some events."""
    trigger = EventTrigger(expect=set(events), for_each={"prefect.resource.id"}, posture=Posture.Reactive, threshold=1)
    action = SendNotification(block_document_id=block, subject=f"imagpose-reid: {name}", body=body)
    return AutomationCore(name=name, description="Made by python -m flows alerts.", trigger=trigger, actions=[action])
