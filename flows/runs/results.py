"""Where the results of a regeneration stay: ``runs/PRESET/DATE-RUN/`` for each, and links to the latest one.

A finished folder is never written again, so an old link, in Prefect or in a mail, still shows what it showed. A run
that gives the same files as the latest one of its settings gets no folder of its own.

    runs/market/2026-11-27-3fa2b1c4/   report.html, report.md, results.txt, samples-20-0.png, run.json
    runs/market/latest                 link to the newest one with the preset's own settings
    runs/market/report.html            link to latest/report.html, and so on
    runs/market/latest-1a2b3c4d        link to the newest one with these other settings (`flows.runs.overrides.variant`)
"""

from __future__ import annotations

import filecmp
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.runtime.atomic import copy_atomically
from datasets.store.records import now
from flows.config import RegenerateConfig
from flows.runs.overrides import variant

LATEST = "latest"
RUN_FILE = "run.json"
EARLIER = "earlier"
"""Folder for what lay here before each run had a folder of its own."""
RUN_ID_LENGTH = 8


@dataclass(frozen=True)
class KeptResults:
    """A regeneration's files, where they stay."""

    folder: Path
    """Never written again."""
    latest: Path
    """The path that shows the newest one of the same settings: a link to `folder`, or a folder of links."""
    new: bool
    """Whether this run made the folder; False where the latest one held the same files."""


def keep_results(
    config: RegenerateConfig, files: Mapping[str, Path], run_id: str, about: Mapping[str, Any]
) -> KeptResults:
    """Copy the files of a finished regeneration into a folder of its own, and link to it.

    Args:
        config: its settings.
        files: by their names in the folder, the files to copy.
        run_id: of Prefect's flow run.
        about: what ``run.json`` says besides; JSON.
    """
    base, of_settings = config.output_folder().absolute(), variant(config)
    link = base / (f"{LATEST}-{of_settings}" if of_settings else LATEST)
    new = not _holds(link, files)
    if new:
        _set_aside(base)
        date = now()
        folder = base / f"{date:%Y-%m-%d}-{run_id[:RUN_ID_LENGTH]}"
        facts = {"preset": config.preset, "variant": of_settings, "run": run_id}
        _copy(files, folder, facts | {"finished": date.isoformat(timespec="seconds"), **about})
        _point(link, folder.name)
    if not of_settings:
        _link_files(base, files)
    return KeptResults(link.resolve(), link if of_settings else base, new)


def _holds(link: Path, files: Mapping[str, Path]) -> bool:
    """Whether a link leads to a folder beside it that has these files with this content, and no others."""
    if not link.is_symlink() or len(link.readlink().parts) != 1 or not link.is_dir():
        return False
    if {path.name for path in link.iterdir()} - {RUN_FILE} != set(files):
        return False
    return all(filecmp.cmp(link / name, source, shallow=False) for name, source in files.items())


def _copy(files: Mapping[str, Path], folder: Path, about: Mapping[str, Any]) -> None:
    """The folder appears when it is whole; a resumed run replaces its own."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, source in files.items():
        copy_result(source, temporary, name)
    (temporary / RUN_FILE).write_text(json.dumps(about, indent=1) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def _point(link: Path, target: str) -> None:
    """Make `link` a relative link to `target`, in one step for whoever reads it."""
    if link.is_symlink() and str(link.readlink()) == target:
        return
    temporary = link.with_name(f".{link.name}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, link)


def _link_files(base: Path, files: Mapping[str, Path]) -> None:
    """Links beside `latest` to each of its files; those of files that it does not have any more are removed."""
    for path in base.iterdir():
        if path.is_symlink() and path.readlink().parent == Path(LATEST) and path.name not in files:
            path.unlink()
    for name in files:
        _point(base / name, f"{LATEST}/{name}")


def _set_aside(base: Path) -> None:
    """Move the files of the layout before this one, which every run overwrote, into a folder `EARLIER`."""
    patterns = ("report.html", "report.md", "results.txt", "results.md", "results.csv", "samples-*.png")
    found = [path for pattern in patterns for path in base.glob(pattern) if not path.is_symlink()]
    for path in found:
        (base / EARLIER).mkdir(exist_ok=True)
        path.replace(base / EARLIER / path.name)


def copy_result(source: Path, folder: Path, name: str | None = None) -> Path:
    """Copy a result file to a stable place, as `name` or its own; nothing is written when it is there already."""
    target = folder / (name or source.name)
    if target.is_symlink() or not target.is_file() or target.read_bytes() != source.read_bytes():
        folder.mkdir(parents=True, exist_ok=True)
        copy_atomically(source, target)
    return target
