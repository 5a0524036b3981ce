"""The parent flow: from a data set to the table that says what synthesis gains.

``python -m flows regenerate --preset demo`` runs it with Prefect's own temporary server; ``prefect.yaml`` deploys it.
What it does, stage by stage, is in `flows.pipeline`; a task makes the artifacts of one stage, in one child process,
and returns their folders. Nothing but paths and configs passes between tasks. Complete artifacts are found from their
manifests, so a second run does nothing, and Prefect's own cache, which never looks whether a file still exists, is off.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from datasets.artifacts import StageConfig
from flows.commands import CommandError
from flows.config import RegenerateConfig
from flows.output import StageOutput
from flows.pipeline import Regeneration, regenerate_with
from flows.preflight import check
from flows.server import temporary_server
from flows.stages import copy_result, run_stages, stage_name


@task(task_run_name="{name}", cache_policy=NO_CACHE, result_serializer="json")
def make_artifacts(
    name: str, configs: list[StageConfig], store: Path, gpus: int = 1, workers: int = 1
) -> dict[str, Any]:
    """The finished artifacts of one stage, made where they are missing: `folders` in order, `made` how many."""
    logger = get_run_logger()
    output = StageOutput(name, logger)
    result = run_stages(configs, store, gpus=gpus, workers=workers, on_line=output)
    output.finish()
    logger.info("%s: %s", name, result)
    return {"folders": [str(folder) for folder in result.folders], "made": result.made}


@flow(name="regenerate", flow_run_name="{config.preset}", result_serializer="json")
def regenerate(config: RegenerateConfig) -> dict[str, str]:
    """Regenerate the augmented data set and its benchmark: index, poses, shards, generators, synthesis, re-ID, report.

    Args:
        config: all settings; ``{"preset": "demo"}`` is enough, any other field overrides the preset's.
    Returns: `report`: path of report.html; `table`: path of the results table; `benchmark`: the benchmark's folder.
    """
    check(config)
    counts: list[dict[str, Any]] = []

    def run(configs: Sequence[StageConfig]) -> list[Path]:
        if not configs:
            return []
        name = stage_name(configs[0])
        result = make_artifacts(name, list(configs), config.store, config.gpus, config.workers)
        counts.append({"stage": name, "artifacts": len(configs), "made": result["made"]})
        return [Path(folder) for folder in result["folders"]]

    return publish(config, regenerate_with(config, run), counts)


def publish(config: RegenerateConfig, result: Regeneration, counts: list[dict[str, Any]]) -> dict[str, str]:
    """Copy the report to its stable place and show the table in Prefect."""
    folder = config.output_folder().absolute()
    report = copy_result(result.report / "report.html", folder)
    with contextlib.suppress(FileNotFoundError):
        copy_result(result.report / "report.md", folder)
    table = copy_result(table_file(result.benchmark), folder)
    markdown = (result.benchmark / "results.md").read_text()
    create_markdown_artifact(markdown, key="results", description=f"Rank-1 and mAP, preset {config.preset}")
    create_link_artifact(report.as_uri(), key="report", link_text="report.html", description=str(report))
    create_table_artifact(counts, key="stages", description="Artifacts of each stage, and how many this run made")
    return {"report": str(report), "table": str(table), "benchmark": str(result.benchmark)}


def table_file(benchmark: Path) -> Path:
    """The table to print: plain text where the benchmark wrote it, else Markdown."""
    plain = benchmark / "results.txt"
    return plain if plain.is_file() else benchmark / "results.md"


def run_embedded(config: RegenerateConfig) -> dict[str, str]:
    """Run the flow in this process, with Prefect's temporary server unless PREFECT_API_URL names another.

    No heartbeats: nobody watches this run for its death, and joining their thread costs a second.
    """
    for name in ("prefect", "prefect.flow_runs", "prefect.task_runs"):
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(_without_our_traceback)
    try:
        log = config.store.absolute() / "logs" / "prefect-server.log"
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}), temporary_server(log):
            return regenerate(config)
    finally:
        logging.getLogger("prefect").setLevel(logging.WARNING)  # the table shall be the last thing on the screen


def _without_our_traceback(record: logging.LogRecord) -> logging.LogRecord:
    """A failed command has said itself what is wrong; the way through Prefect to it tells nothing more."""
    if record.exc_info and isinstance(record.exc_info[1], CommandError):
        record = copy.copy(record)
        record.exc_info = record.exc_text = None
    return record
