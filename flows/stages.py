"""Make the artifacts of a stage: find what is complete, run one command for the rest.

Nothing heavy starts for a complete artifact: `artifact_directory` reads manifests, and this module never imports torch.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets.artifacts import StageConfig, artifact_directory, artifact_key, is_complete, json_sha256, manifest_of
from flows.commands import run_commands

logger = logging.getLogger(__name__)

TORCHRUN_STAGES = frozenset({("imagpose", "train")})
"""Stages whose command spreads over GPUs."""
SIDE_BY_SIDE_STAGES = frozenset({("imagpose", "train"), ("imagpose", "synthesize"), ("reid", "train")})
"""Stages whose artifacts are made by several processes at once where there is no GPU.

Small networks gain little from a second thread: on two cores one process took 17 canvases a second with two threads and
12 with one, so two processes of one thread make 24 (docs/model.md)."""


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
    configs: Sequence[StageConfig],
    store: Path,
    *,
    gpus: int = 1,
    workers: int = 1,
    on_line: Callable[[str], None] = logger.info,
) -> StageResult:
    """The finished artifacts of `configs`, all of one stage; what is missing is made by child processes.

    One process makes them all, so that libraries and models are loaded once; on a CPU `workers` processes share them
    where that is faster (`SIDE_BY_SIDE_STAGES`).

    Args:
        configs: settings of one stage's artifacts.
        store: the store's root.
        gpus: GPUs that training is spread over.
        workers: processes that work side by side on a CPU.
        on_line: called with each line that the command writes.
    Raises: CommandError: the stage's command failed. ArtifactError: an input is no finished artifact.
    """
    store = store.absolute()
    folders = [artifact_directory(config, store) for config in configs]
    missing = {folder: config for folder, config in zip(folders, configs, strict=True) if not is_complete(folder)}
    if missing:
        _run(list(missing.values()), store, gpus, workers, on_line)
    for folder in missing:
        manifest_of(folder)  # the command said yes; see that it is there
    return StageResult(folders, len(missing))


def _run(configs: list[StageConfig], store: Path, gpus: int, workers: int, on_line: Callable[[str], None]) -> None:
    files = [write_config(config, store) for config in configs]
    count = min(workers, len(configs)) if runs_side_by_side(configs[0]) else 1
    commands = []
    for share in (files[start::count] for start in range(count)):
        digest = json_sha256([str(file) for file in share])[:8]
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{stage_name(configs[0]).replace(' ', '-')}-{digest}.log"
        commands.append((stage_command(configs[0], share, store, gpus), store / "logs" / name))
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count))} if count > 1 else {}
    run_commands(commands, on_line, environment=threads)


def runs_side_by_side(config: StageConfig) -> bool:
    """Whether a stage's artifacts are made by several processes: small networks on a CPU."""
    device = getattr(config, "device", None)
    on_cpu = device == "cpu" or (device == "auto" and not Path("/dev/nvidiactl").exists())  # torch stays unimported
    return on_cpu and (config.package, config.command or config.stage) in SIDE_BY_SIDE_STAGES


def stage_name(config: StageConfig) -> str:
    """What a person calls the stage: package and command."""
    return f"{config.package} {config.command or config.stage}"


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
    name = config.command or config.stage
    if gpus > 1 and (config.package, name) in TORCHRUN_STAGES:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(gpus)]
    command = [*launcher, "-m", config.package, name, "--store", str(store)]
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
