"""Stages made in this process, one by one, as their commands make them: no start-up of libraries for each."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

from datasets.runtime.artifacts import build
from datasets.runtime.command_line import Command
from datasets.runtime.config import StageConfig
from datasets.runtime.registry import load_name
from flows.stages import MakeArtifacts


def maker(store: Path) -> MakeArtifacts:
    """What `flows.pipeline.Regeneration` makes artifacts by."""

    def make(configs: Sequence[StageConfig]) -> list[Path]:
        return [build(config, load_name(command_of(config).run), store=store) for config in configs]

    return make


def command_of(config: StageConfig) -> Command:
    """The command that makes a config's artifact."""
    return importlib.import_module(f"{config.package}.__main__").COMMANDS[config.command or config.stage]
