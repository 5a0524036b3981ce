"""What keeps a store small without anybody's help."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger

from datasets.runtime.errors import InputError
from flows.process.commands import Guard, run_commands
from flows.server.watch import RunWatch


@flow(name="prune-store", result_serializer="json")
def prune_store(
    store: Path = Path("runs/store"), keep_runs: int = 4, older_than: float = 14.0, remove: bool = True
) -> str:
    """Remove what no kept result needs (`python -m datasets store prune`); returns the last line of what was done.

    Args:
        store: the store's root.
        keep_runs: of each preset, so many different results are kept, newest first.
        older_than: days; whatever was made or used later is kept too.
        remove: False lists what would be removed.

    Raises:
        InputError: there is no such store.
    """
    if not store.is_dir():
        raise InputError(f"store {store.absolute()} is not a folder; give a store's root, as the worker sees it")
    logger = get_run_logger()
    command = [sys.executable, "-m", "datasets", "store", "prune", "--store", str(store.absolute())]
    command += ["--keep-runs", str(keep_runs), "--older-than", str(older_than), *(["--remove"] if remove else [])]
    lines: list[str] = []

    def on_line(line: str) -> None:
        lines.append(line)
        logger.info("%s", line)

    log = store.absolute() / "logs" / f"{time.strftime('%Y%m%d-%H%M%S')}-datasets-store-prune.log"
    run_commands([(command, log)], on_line, Guard(still_wanted=RunWatch()))
    text = "\n".join(f"- {line}" for line in lines)
    create_markdown_artifact(text, key="pruned-store", description=f"What left {store}, and what stays")
    return lines[-1]
