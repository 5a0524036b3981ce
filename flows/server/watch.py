"""Checks, while a command works, whether its flow run is still wanted.

Prefect tells a run that it was cancelled by a signal that its worker sends, and that it was suspended only when it
starts another task. A run whose worker has died, or whose training takes days, would hear nothing.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import Abort, Pause
from prefect.runtime import flow_run
from prefect.states import Cancelled

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 2.0
SECONDS_FOR_THE_WORKER = 2.0
"""Time for a worker to pass a cancellation on before the run stops itself."""


class RunWatch:
    """Called often; every few seconds looks up the run's state and raises if the run should stop.

    If the server does not answer, the work continues, and is found from its manifests later.
    """

    def __init__(self) -> None:
        self.run_id = flow_run.id
        self._next = time.monotonic() + SECONDS_BETWEEN_LOOKS
        self._client = get_client(sync_client=True, httpx_settings={"timeout": 2.0}) if self.run_id else None

    def __call__(self) -> None:
        """Look, if it is time.

        Raises:
            Pause: the run was suspended.
            Abort: it was cancelled, or somebody has declared it finished.
        """
        if self._client is None or time.monotonic() < self._next:
            return
        state = self._state(self._client)
        self._next = time.monotonic() + SECONDS_BETWEEN_LOOKS
        if state is None or state.is_running() or state.is_pending() or state.is_scheduled():
            return
        name = (state.name or state.type.value).lower()
        if state.is_paused():
            raise Pause(f"the run is {name}: resume it and it continues from here", state=state)
        if state.is_cancelling():
            if (datetime.now(UTC) - state.timestamp).total_seconds() < SECONDS_FOR_THE_WORKER:
                return
            state = Cancelled(message="Cancelled; no worker passed this on, so the run stopped itself.")
            self._client.set_flow_run_state(self.run_id, state, force=True)
        raise Abort(f"the run is {name}")

    def _state(self, client: SyncPrefectClient) -> State | None:
        try:
            return client.read_flow_run(self.run_id).state
        except Exception as error:  # the server is away or still starting
            logger.debug("no state of run %s: %s", self.run_id, error)
            return None
