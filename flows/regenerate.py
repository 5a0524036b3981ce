"""The parent flow: from a data set to the table that says what synthesis gains.

``python -m flows regenerate --preset demo`` runs it with Prefect's own temporary server; ``prefect.yaml`` deploys it.
What it does, stage by stage, is in `flows.pipeline`; a task makes the artifacts of one stage, in one child process,
and returns their folders. Nothing but paths and configs passes between tasks. Complete artifacts are found from their
manifests, so a second run does nothing, and Prefect's own cache, which never looks whether a file still exists, is off.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from httpx import TransportError
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.tasks import exponential_backoff

from datasets.runtime.command_line import BUSY, IO_ERROR, PASSING_ERRORS
from datasets.runtime.config import StageConfig
from datasets.runtime.errors import InputError
from flows.config import RegenerateConfig
from flows.pipeline import Regeneration
from flows.preflight import check
from flows.process.commands import CommandError
from flows.process.locks import only_run
from flows.runs.notes import RunNotes
from flows.server.automations import limits_of_the_site
from flows.server.loopback import bypass_proxies_for_loopback
from flows.server.output import StageOutput
from flows.server.publish import publish
from flows.server.site import check_site, command_environment, with_data_of_the_site
from flows.server.stage_table import stage_rows, total_row
from flows.server.temporary import temporary_server
from flows.server.watch import RunWatch
from flows.stages import Resources, run_stages, stage_name


async def may_pass(task: Any, task_run: Any, state: Any) -> bool:
    """Whether a retry may help: the reason was a disk, a network, Prefect's server or another run at work."""
    error = await state.aresult(raise_on_failure=False)
    if isinstance(error, CommandError):
        return error.exit_code in (IO_ERROR, BUSY)
    return isinstance(error, TransportError) or (isinstance(error, OSError) and error.errno in PASSING_ERRORS)


@task(
    task_run_name="{name}",
    cache_policy=NO_CACHE,
    result_serializer="json",
    retries=3,
    retry_delay_seconds=exponential_backoff(10),
    retry_jitter_factor=0.3,
    retry_condition_fn=may_pass,
)
def make_artifacts(name: str, configs: list[StageConfig], store: Path, resources: Resources) -> dict[str, Any]:
    """The finished artifacts of one stage, made where they are missing: `folders` in order, `made` those that were."""
    logger = get_run_logger()
    output = StageOutput(name, logger, flow_run.name or "")
    resources = replace(resources, environment=command_environment())  # here, so that no secret is a parameter
    result = run_stages(configs, store, resources=resources, on_line=output, still_wanted=RunWatch())
    output.finish()
    logger.info("%s: %s", name, result)
    return {"folders": [str(folder) for folder in result.folders], "made": [str(folder) for folder in result.made]}


@flow(name="regenerate", flow_run_name="{config.preset}", result_serializer="json")
def regenerate(config: RegenerateConfig) -> dict[str, str]:
    """Regenerate the augmented data set and its benchmark: index, poses, shards, generators, synthesis, re-ID, report.

    Args:
        config: all settings; ``{"preset": "demo"}`` is enough, any other field overrides the preset's.

    Returns:
        `report`: path of report.html in this run's own folder; `latest`: the path that always shows the newest one;
        `table`: path of the results table; `benchmark`: the benchmark's folder.
    """
    config = with_data_of_the_site(config)
    check_site()
    limits_of_the_site()
    check(config, command_environment())
    logger = get_run_logger()
    stages: list[dict[str, str]] = []
    name = f"{config.preset}, {flow_run.name} {flow_run.id}"
    lock = config.set_lock()
    with only_run(lock, name, logger.warning, RunWatch()):
        notes = RunNotes(config, str(flow_run.id), lock)
        make = stage_maker(config, stages, notes)
        regeneration = Regeneration(config, lambda configs: make(configs, regeneration.purpose))
        result = regeneration.make()
        stages.append(total_row(notes.record.artifacts, notes.store))
        published = publish(config, result, stages)
        notes.finish(result.report, Path(published["report"]).parent)
        return published


def stage_maker(
    config: RegenerateConfig, stages: list[dict[str, str]], notes: RunNotes
) -> Callable[[Sequence[StageConfig], str], list[Path]]:
    """What `Regeneration` makes artifacts by: a task for each stage, named after it and its purpose.

    Args:
        config: the settings.
        stages: collects what the tasks did.
        notes: says which artifacts the run uses before it looks for them, so that nobody prunes them meanwhile.
    """
    resources = Resources.of(config)
    seconds = config.stage_hours and config.stage_hours * 3600
    make = make_artifacts.with_options(timeout_seconds=seconds) if seconds else make_artifacts
    # Prefect draws its edges by the identity of what earlier tasks returned, the keys of a dict included, which all
    # tasks share. So the lists of folders are passed on, in one list that no task can have returned.
    returned: dict[Path, list[str]] = {}
    after: list[list[str]] = []

    def run(configs: Sequence[StageConfig], purpose: str) -> list[Path]:
        if not configs:
            return []
        name = ", ".join(filter(None, [stage_name(configs[0]), purpose]))
        inputs = notes.uses(configs)
        after[:] = {id(returned[path]): returned[path] for path in inputs if path in returned}.values()
        result = make(name, list(configs), config.store, resources, wait_for=after)
        stages.extend(stage_rows(name, result))
        returned.update({Path(folder): result["folders"] for folder in result["folders"]})
        return [Path(folder) for folder in result["folders"]]

    return run


def run_embedded(config: RegenerateConfig) -> dict[str, str]:
    """Run the flow in this process; see `embedded`."""
    with embedded(config.store):
        return regenerate(config)


@contextlib.contextmanager
def embedded(store: Path) -> Generator[None]:
    """Run flows in this process, with Prefect's temporary server unless PREFECT_API_URL names another.

    No heartbeats: nobody watches this run for its death, and joining their thread costs a second.
    """
    bypass_proxies_for_loopback()  # also for those who do not come through __main__
    for name in ("prefect", "prefect.flow_runs", "prefect.task_runs"):
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(_without_our_traceback)
    try:
        log = store.absolute() / "logs" / "prefect-server.log"
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}), temporary_server(log):
            yield
    finally:
        logging.getLogger("prefect").setLevel(logging.WARNING)  # the table is to be the last thing on the screen


def _without_our_traceback(record: logging.LogRecord) -> bool:
    """Drop the traceback of a failed command or bad input from a record, which is kept: it has said what is wrong.

    The record itself is changed, as Python 3.11 ignores a filter that returns another one.
    """
    if record.exc_info and isinstance(record.exc_info[1], (CommandError, InputError)):
        record.exc_info = record.exc_text = None
    return True
