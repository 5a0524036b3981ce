"""Make the artifacts of a stage: find what is complete, run one command for the rest.

Nothing heavy starts for a complete artifact: `artifact_directory` reads manifests, and this module never imports torch.
"""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets.artifacts import StageConfig, artifact_directory, artifact_key, is_complete, json_sha256, manifest_of
from flows.commands import run_command

logger = logging.getLogger(__name__)

TORCHRUN_STAGES = frozenset({("imagpose", "train")})
"""Stages whose command spreads over GPUs."""


@dataclass(frozen=True)
class StageResult:
    """What `run_stages` found and made."""

    folders: list[Path]
    """Finished artifacts, in the order of the configs."""
    made: int
    """How many of them this call made; the others were complete before."""

    def __str__(self) -> str:
        found = len(set(self.folders)) - self.made
        return f"{self.made} made, {found} already complete" if self.made else f"{found} already complete"


def run_stages(
    configs: Sequence[StageConfig], store: Path, *, gpus: int = 1, on_line: Callable[[str], None] = logger.info
) -> StageResult:
    """The finished artifacts of `configs`, all of one stage; what is missing is made by one child process.

    Args:
        configs: settings of one stage's artifacts.
        store: the store's root.
        gpus: GPUs that training is spread over.
        on_line: called with each line that the command writes.
    Raises: CommandError: the stage's command failed. ArtifactError: an input is no finished artifact.
    """
    store = store.absolute()
    folders = [artifact_directory(config, store) for config in configs]
    missing = {folder: config for folder, config in zip(folders, configs, strict=True) if not is_complete(folder)}
    if missing:
        _run_command(list(missing.values()), store, gpus, on_line)
    for folder in missing:
        manifest_of(folder)  # the command said yes; see that it is there
    return StageResult(folders, len(missing))


def _run_command(configs: list[StageConfig], store: Path, gpus: int, on_line: Callable[[str], None]) -> None:
    files = [write_config(config, store) for config in configs]
    digest = json_sha256([str(file) for file in files])[:8]
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{stage_name(configs[0]).replace(' ', '-')}-{digest}.log"
    run_command(stage_command(configs[0], files, store, gpus), store / "logs" / name, on_line)


def stage_name(config: StageConfig) -> str:
    """What a person calls the stage: package and command."""
    return f"{config.package} {config.stage}"


def write_config(config: StageConfig, store: Path) -> Path:
    """Write a config where a person can run the same command from it again."""
    path = store / "configs" / f"{config.package}-{config.stage}-{artifact_key(config)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(config.model_dump_json(indent=1) + "\n")
    return path


def stage_command(config: StageConfig, files: Sequence[Path], store: Path, gpus: int = 1) -> list[str]:
    """The command that makes the artifacts of several configs of one stage in one process.

    torchrun, not `accelerate launch`: it hands SIGTERM on to the trainers, so that they save and stop.
    """
    launcher = [sys.executable]
    if gpus > 1 and (config.package, config.stage) in TORCHRUN_STAGES:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(gpus)]
    command = [*launcher, "-m", config.package, config.stage, "--store", str(store)]
    for file in files:
        command += ["--config", str(file)]
    return command


def copy_result(source: Path, folder: Path) -> Path:
    """Copy a result file to a stable place; nothing is written when it is there already."""
    target = folder / source.name
    if not target.is_file() or target.read_bytes() != source.read_bytes():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return target
