"""Remembers each regeneration beside its reports: ``history.parquet``, and the page that shows the trend."""

from __future__ import annotations

from pathlib import Path

from datasets.runtime.manifests import code_version
from datasets.store.records import now
from flows.config import RegenerateConfig
from flows.material import RegenerationResult
from flows.runs.overrides import variant
from reid.config import HistoryEntry
from reid.history.entry import entry_of
from reid.history.table import HISTORY, append, read_history


def remember(config: RegenerateConfig, result: RegenerationResult, run: str, pages: Path) -> list[HistoryEntry]:
    """Add a regeneration to its preset's history, unless the last one of its settings had the same result.

    Args:
        config: its settings.
        result: its artifacts.
        run: the flow run's id.
        pages: the folder that keeps its report.

    Returns:
        All entries of the same settings, oldest first.
    """
    folder, of_settings = config.output_folder().absolute(), variant(config)
    entry = entry_of(
        result.benchmark,
        result.images,
        list(dict.fromkeys(result.generators.values())),
        list(result.synthetic.values()),
        finished=now().isoformat(timespec="seconds"),
        run=run,
        preset=config.preset,
        variant=of_settings,
        pages=pages.name,
        code=code_version(),
        config=config.resolved(),
    )
    entries = of_series(read_history(folder / HISTORY), config)
    if not entries or entries[-1].benchmark != entry.benchmark:
        entries = of_series(append(folder / HISTORY, entry), config)
        from reid.history.show import write_page  # matplotlib: a second that a run with nothing new need not wait

        write_page(entries, folder / (f"history-{of_settings}.html" if of_settings else "history.html"))
    return entries


def of_series(entries: list[HistoryEntry], config: RegenerateConfig) -> list[HistoryEntry]:
    """The entries that a regeneration is compared with: of its preset, as several may share an `output`."""
    series = (config.preset, variant(config))
    return [entry for entry in entries if (entry.preset, entry.variant) == series]
