"""The rows of the artifact that shows what each stage found and made, what it took, and how large it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from datasets.runtime.manifests import is_complete, manifest_of
from datasets.store.inventory import spoken_size
from flows.stages import describe_made
from reid.report.data import spoken_seconds

Row = dict[str, str]


def stage_rows(name: str, result: Mapping[str, Any]) -> list[Row]:
    """A row for what a stage found complete, and one for each artifact that it made.

    Args:
        name: the task's name.
        result: what the task returned: `folders`, and `made` of them.
    """
    made = [Path(folder) for folder in result["made"]]
    found = sorted(set(result["folders"]) - set(result["made"]))
    rows = [_row(name, f"{len(found)} already complete", bytes_of(map(Path, found)))] if found else []
    for folder in made:
        counts = describe_made(folder)
        seconds = counts.pop("seconds")
        time, text = spoken_seconds(seconds), ", ".join(f"{_short(n)} {what}" for what, n in _named(counts).items())
        rows.append(_row(name, f"{folder.parent.name}/{folder.name}", bytes_of([folder]), time, text))
    return rows


def total_row(artifacts: Iterable[str], store: Path) -> Row:
    """How much all artifacts of a run hold."""
    folders = [store / name for name in artifacts]
    there = [folder for folder in folders if is_complete(folder)]
    return _row("all", f"{len(there)} artifacts of this run", bytes_of(there))


def bytes_of(folders: Iterable[Path]) -> int:
    """Size of the files of finished artifacts."""
    return sum(file["size"] for folder in folders for file in manifest_of(folder)["files"])


def _row(stage: str, artifact: str, size: int, time: str = "", counts: str = "") -> Row:
    return {"stage": stage, "artifact": artifact, "time": time, "size": spoken_size(size), "counts": counts}


def _named(counts: Mapping[str, float]) -> dict[str, float]:
    return {name.replace("_", " "): value for name, value in counts.items()}


def _short(count: float) -> str:
    return f"{count:,}" if isinstance(count, int) else f"{count:,.4g}"
