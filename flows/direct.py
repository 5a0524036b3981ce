"""A regeneration without Prefect: ``python -m flows direct --preset NAME [--field value ...]``.

For machines where Prefect is not installed or no server may run, such as a GPU node without a network. The same stages,
store, locks and report as `python -m flows regenerate`; what Prefect adds is missing: its UI, retries, schedules and
artifacts. What either of them has made, the other finds complete.
"""

from __future__ import annotations

import logging
import signal
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

from datasets.runtime.command_line import TERMINATED
from datasets.runtime.config import StageConfig
from flows.config import RegenerateConfig
from flows.pipeline import Regeneration
from flows.process.locks import only_run
from flows.runs.finished import keep_run
from flows.runs.notes import RunNotes
from flows.stages import Resources, run_stages, stage_name

logger = logging.getLogger(__name__)


def regenerate_directly(config: RegenerateConfig) -> dict[str, str]:
    """All stages in this process' children, under the set's lock.

    Returns:
        `report`: path of report.html in this run's own folder; `latest`: the path that always shows the newest one;
        `table`: path of the results table.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # as Ctrl-C: the stage in hand saves and ends
    resources = Resources.of(config)

    def make(configs: Sequence[StageConfig]) -> list[Path]:
        if not configs:
            return []
        notes.uses(configs)
        found = run_stages(configs, config.store, resources=resources)
        logger.info("%s: %s", stage_name(configs[0]), found)
        return found.folders

    run, lock = str(uuid.uuid4()), config.set_lock()
    with only_run(lock, f"{config.preset} {run}", logger.warning, _still_wanted):
        notes = RunNotes(config, run, lock)
        result = Regeneration(config, make).make()
        finished = keep_run(config, result, run)
        notes.finish(result.report, finished.kept.folder)
    return finished.paths()


def _still_wanted() -> None:
    """Nobody cancels this run from elsewhere; Ctrl-C does."""
