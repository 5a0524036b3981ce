"""Make the artifacts of a stage: find what is complete, run one command for the rest.

Nothing heavy starts for a complete artifact: `artifact_directory` reads manifests, and this module never imports torch.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from datasets.poses.config import ExtractPosesConfig
from datasets.runtime.atomic import write_text_atomically
from datasets.runtime.config import StageConfig
from datasets.runtime.hashing import json_sha256
from datasets.runtime.keys import artifact_directory, artifact_key
from datasets.runtime.manifests import is_complete, manifest_of
from datasets.shards.config import EncodeConfig
from flows.config import RegenerateConfig
from flows.process.commands import GRACE_SECONDS, Guard, run_commands
from flows.process.locks import hold_gpus, visible_gpus

logger = logging.getLogger(__name__)

MakeArtifacts = Callable[[Sequence[StageConfig]], list[Path]]
"""Makes what is missing of several artifacts of one stage; returns their folders in order."""

TORCHRUN_STAGES = frozenset({("imagpose", "train"), ("imagpose", "distill")})
"""Stages whose command spreads over GPUs."""
SIDE_BY_SIDE_STAGES = frozenset(
    {
        *TORCHRUN_STAGES,
        ("imagpose", "synthesize"),
        ("imagpose", "draw-poses"),
        ("reid", "train"),
        ("reid", "evaluate"),
    }
)
"""Stages whose artifacts are made by several processes at once: on a CPU, or sharing a GPU (`Resources.runs_per_gpu`).

Small networks gain little from a second thread: on two cores one process took 17 canvases per second with two threads
and 12 with one, so two processes of one thread make 24 (docs/model.md)."""


MAP_STAGES = frozenset(
    {
        ("datasets", "extract-poses"),
        ("datasets", "encode"),
        *TORCHRUN_STAGES,
        ("imagpose", "synthesize"),
        ("imagpose", "draw-poses"),
        ("reid", "train"),
        ("reid", "evaluate"),
        ("reid", "check-identity"),
    }
)
"""Stages whose artifacts, or shares of them, the nodes of a cluster make side by side."""
SHARES = 8
"""Parts that the shards of one encoding are dealt into on a cluster."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a stage may use, and for how long; none of it changes a result."""

    gpus: int = 1
    """GPUs that training is spread over."""
    workers: int = 1
    """Processes that work side by side on a CPU."""
    runs_per_gpu: int = 1
    """Processes that work side by side on one GPU."""
    nodes: int = 1
    """Machines that training is spread over, `gpus` on each."""
    rendezvous: str = ""
    """HOST:PORT where their processes meet."""
    ray: str | None = None
    """Address of a Ray cluster whose nodes share the work of `MAP_STAGES`."""
    grace_seconds: float = GRACE_SECONDS
    """Between SIGTERM and SIGKILL when a run ends early."""
    environment: dict[str, str] = field(default_factory=dict, repr=False)
    """Variables that the commands find in their environment; may hold secrets."""

    @classmethod
    def of(cls, config: RegenerateConfig) -> Resources:
        """Those of a regeneration."""
        names = ("gpus", "workers", "runs_per_gpu", "nodes", "rendezvous", "ray", "grace_seconds")
        return cls(**{name: getattr(config, name) for name in names})


@dataclass(frozen=True)
class StageResult:
    """What `run_stages` found and made."""

    folders: list[Path]
    """Finished artifacts, in the order of the configs."""
    made: list[Path]
    """Those of them that this call made; the others were complete before."""

    def __str__(self) -> str:
        found = len(set(self.folders)) - len(self.made)
        return f"{len(self.made)} made, {found} already complete" if self.made else f"{found} already complete"


def run_stages(
    configs: Sequence[StageConfig],
    store: Path,
    *,
    resources: Resources = Resources(),
    on_line: Callable[[str], None] = logger.info,
    still_wanted: Callable[[], None] = lambda: None,
) -> StageResult:
    """The finished artifacts of `configs`, all of one stage; what is missing is made by child processes.

    One process makes them all, so that libraries and models are loaded once; several share them where that is faster
    (`SIDE_BY_SIDE_STAGES`).

    Args:
        configs: settings of one stage's artifacts.
        store: the store's root.
        resources: what the commands may use.
        on_line: called with each line that the command writes.
        still_wanted: called often; raises to stop the commands.

    Raises:
        CommandError: the stage's command failed.
        ArtifactError: an input is no finished artifact.
    """
    store = store.absolute()
    configs = [with_absolute_paths(config) for config in configs]  # the commands run in the project's folder
    folders = [artifact_directory(config, store) for config in configs]
    missing = {folder: config for folder, config in zip(folders, configs, strict=True) if not is_complete(folder)}
    if missing:
        work = list(missing.values())
        on_cluster = resources.ray is not None and _command(work[0]) in MAP_STAGES
        shares = [share for config in work for share in pieces_of(config)] if on_cluster else []
        made: list[Path] = []
        if shares:
            made = run_stages(shares, store, resources=resources, on_line=on_line, still_wanted=still_wanted).made
        _run(work, store, resources, on_line, still_wanted, on_cluster=on_cluster and not shares)
        for folder in made:
            shutil.rmtree(folder)  # the whole holds all of it
    for folder in missing:
        manifest_of(folder)  # the command succeeded; check that the artifact exists
    return StageResult(folders, list(missing))


def _run(
    configs: list[StageConfig],
    store: Path,
    resources: Resources,
    on_line: Callable[[str], None],
    still_wanted: Callable[[], None],
    *,
    on_cluster: bool,
) -> None:
    files = [write_config(config, store) for config in configs]
    by_torchrun = _command(configs[0]) in TORCHRUN_STAGES and resources.gpus * resources.nodes > 1
    count = 1 if by_torchrun else min(processes_side_by_side(configs[0], resources), len(configs))
    count = len(configs) if on_cluster else count
    commands = []
    for share in (files[start::count] for start in range(count)):
        digest = json_sha256([str(file) for file in share])[:8]
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{stage_name(configs[0]).replace(' ', '-')}-{digest}.log"
        commands.append((stage_command(configs[0], share, store, resources), store / "logs" / name))
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count))} if count > 1 else {}
    device = getattr(configs[0], "device", "cpu")  # a stage without such a field works on the CPU
    gpu_count = resources.gpus if _command(configs[0]) in TORCHRUN_STAGES else 1
    if resources.nodes > 1 and by_torchrun:
        on_line(f"to be run on each of the {resources.nodes} machines: {shlex.join(commands[0][0])}")
    guard = Guard(environment=resources.environment, grace_seconds=resources.grace_seconds, still_wanted=still_wanted)
    if on_cluster and resources.ray is not None:
        from flows.process.cluster import run_on_cluster

        gpu_count = 0 if device == "cpu" else gpu_count
        run_on_cluster(resources.ray, commands, on_line, guard, device=device, gpus=gpu_count)
        return
    with hold_gpus(device, gpu_count, on_line, still_wanted) as (environment, locks):
        environment = {**threads, **guard.environment, **environment}
        run_commands(commands, on_line, replace(guard, environment=environment, keep_open=locks))


def pieces_of(config: StageConfig) -> list[StageConfig]:
    """What an artifact is made from piecemeal: the whole then takes over every piece and computes nothing."""
    if isinstance(config, EncodeConfig) and not config.only:
        names = sorted(path.name for path in config.shards.glob("*.tar"))
        parts = [names[start::SHARES] for start in range(min(SHARES, len(names)))]
        return [config.model_copy(update={"only": part}) for part in parts] if len(parts) > 1 else []
    if isinstance(config, ExtractPosesConfig) and len(config.splits) > 1:
        return [config.model_copy(update={"splits": [split]}) for split in config.splits]
    return []


def describe_made(folder: Path) -> dict[str, Any]:
    """What a finished artifact's manifest says of the work it took: every number of its summary."""
    manifest = manifest_of(folder)
    counts = {name: value for name, value in manifest["summary"].items() if isinstance(value, int | float)}
    return {"seconds": manifest["seconds"], **counts}


def processes_side_by_side(config: StageConfig, resources: Resources) -> int:
    """How many processes may make a stage's artifacts at once, on this machine's cores or on one GPU."""
    if _command(config) not in SIDE_BY_SIDE_STAGES:
        return 1
    device = getattr(config, "device", None)
    on_cpu = device == "cpu" or (device == "auto" and not visible_gpus())  # torch stays unimported
    return resources.workers if on_cpu else resources.runs_per_gpu


def stage_name(config: StageConfig) -> str:
    """What a person calls the stage: package and command."""
    return " ".join(_command(config))


def _command(config: StageConfig) -> tuple[str, str]:
    return config.package, config.command or config.stage


def with_absolute_paths(config: StageConfig) -> StageConfig:
    """A stage's config whose paths mean the same from every working directory."""
    return config.model_copy(update={name: _absolute(getattr(config, name)) for name in type(config).model_fields})


def _absolute(value: Any) -> Any:
    if isinstance(value, Path):
        return value.absolute()
    if isinstance(value, list):
        return [_absolute(item) for item in value]
    if isinstance(value, tuple):
        return tuple(_absolute(item) for item in value)
    if isinstance(value, dict):
        return {name: _absolute(item) for name, item in value.items()}
    if isinstance(value, BaseModel):
        return value.model_copy(update={name: _absolute(getattr(value, name)) for name in type(value).model_fields})
    return value


def write_config(config: StageConfig, store: Path) -> Path:
    """Write a config where a person can run the same command from it again."""
    path = store / "configs" / f"{config.package}-{config.stage}-{artifact_key(config)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, config.model_dump_json(indent=1) + "\n")
    return path


def stage_command(
    config: StageConfig, files: Sequence[Path], store: Path, resources: Resources = Resources()
) -> list[str]:
    """The command that makes the artifacts of several configs of one stage in one process.

    torchrun, not `accelerate launch`: it hands SIGTERM on to the trainers, so that they save and stop.
    """
    command = [*_launcher(config, resources), "-m", *_command(config)]
    command += ["--store", str(store)]
    for file in files:
        command += ["--config", str(file)]
    return command


def _launcher(config: StageConfig, resources: Resources) -> list[str]:
    if _command(config) not in TORCHRUN_STAGES or resources.gpus * resources.nodes == 1:
        return [sys.executable]
    where = ["--standalone"]
    if resources.nodes > 1:
        where = [
            "--nnodes",
            str(resources.nodes),
            "--rdzv-backend",
            "c10d",
            "--rdzv-endpoint",
            resources.rendezvous,
            "--rdzv-id",
            artifact_key(config),
        ]
    return [sys.executable, "-m", "torch.distributed.run", *where, "--nproc-per-node", str(resources.gpus)]
