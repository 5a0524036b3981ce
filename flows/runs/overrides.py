"""What a regeneration's settings differ in from its preset's, and the command that makes it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from datasets.runtime.hashing import json_sha256
from flows.config import RegenerateConfig


def regenerate_command(config: RegenerateConfig) -> str:
    """What to type, less where things lie on this machine and how many processes work: that changes no result."""
    words = ["python", "-m", "flows", "regenerate"]
    if config.preset != "none":
        words += ["--preset", config.preset]
    if config.root is not None:
        words += ["--root", config.root.name]
        words += ["--poses", ",".join(path.name for path in config.poses)] if config.poses else []
    for flag, value in _given(config):
        words += _words(flag, value)
    return shlex.join(words)


def variant(config: RegenerateConfig) -> str:
    """Eight hex digits that stand for what differs from the preset; empty for its own settings.

    Also empty where the results have a place of their own: `output` is given, or there is no preset.
    """
    if config.output is not None or config.preset == "none":
        return ""
    given = [(flag, _as_text(value)) for flag, value in _given(config)]
    return json_sha256(given)[:8] if given else ""


def _given(config: RegenerateConfig) -> Iterator[tuple[str, Any]]:
    """Flag and value of every setting that differs from the preset's and can change a result."""
    yield from _differences(RegenerateConfig(preset=config.preset).resolved(), config.resolved(), "")
    yield from (("synthetic", f"{name}={_without_machine(path)}") for name, path in config.synthetic.items())
    data_sets = {
        "pretrain.people": None if config.pretrain is None else config.pretrain.people,
        "pose-bank.people": None if config.pose_bank is None else config.pose_bank.people,
    }
    for name, others in data_sets.items():
        if others and others.root is not None:
            yield f"{name}.root", others.root.name
            if others.poses:
                yield f"{name}.poses", ",".join(path.name for path in others.poses)


def _without_machine(path: Path) -> str:
    """The last part of a path, or all from the first part on that stands for fraction or draw."""
    first = next((place for place, part in enumerate(path.parts) if "{" in part), len(path.parts) - 1)
    return str(Path(*path.parts[first:]))


def _differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in after.items():
        old = before.get(name)
        if name == "preset" or value == old:
            continue
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            yield from _differences(old, value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}".replace("_", "-"), value


def _words(flag: str, value: Any) -> list[str]:
    """A flag with its value; a switch has none."""
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}", _as_text(value)]


def _as_text(value: Any) -> str:
    """A value as the command line reads it: lists of plain values with commas, everything nested as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(item, str | int | float) for item in value):
        return ",".join(map(str, value))
    return json.dumps(value)
