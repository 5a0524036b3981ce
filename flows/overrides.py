"""The command that makes a regeneration again: its preset, and every setting that differs from it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from flows.config import RegenerateConfig


def regenerate_command(config: RegenerateConfig) -> str:
    """What to type, less where things lie on this machine and how many processes work: that changes no result."""
    words = ["python", "-m", "flows", "regenerate"]
    if config.preset != "none":
        words += ["--preset", config.preset]
    if config.root is not None:
        words += ["--root", config.root.name]
        words += ["--poses", ",".join(path.name for path in config.poses)] if config.poses else []
    before = RegenerateConfig(preset=config.preset).resolved()
    for flag, value in _differences(before, config.resolved(), ""):
        words += [f"--{flag}", value]
    return shlex.join(words)


def _differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in after.items():
        old = before.get(name)
        if name == "preset" or value == old:
            continue
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            yield from _differences(old, value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}".replace("_", "-"), _as_flag(value)


def _as_flag(value: Any) -> str:
    """A value as the command line reads it: lists of plain values with commas, everything nested as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(item, str | int | float) for item in value):
        return ",".join(map(str, value))
    return json.dumps(value)
