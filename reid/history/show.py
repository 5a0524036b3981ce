"""``python -m reid history``: the regenerations of a preset in a table, and as a page with the trend.

The page is one self-contained file, like the report: no script, no network, the same bytes for the same history.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets.runtime.atomic import write_text_atomically
from datasets.runtime.errors import InputError
from reid.config import HistoryConfig, HistoryEntry, RememberedGain
from reid.history.charts import Series, TrendPoint, trend_chart
from reid.history.compare import SHORT, changes, shifts, verdict
from reid.history.table import read_history
from reid.report.data import points, spoken_seconds
from reid.report.figures import Chart
from reid.report.render import templates


def run_history(config: HistoryConfig) -> int:
    """Print a line for each regeneration, oldest first; write the page where one is requested.

    Raises:
        InputError: the history has no such entries.
    """
    known = read_history(config.history)
    entries = [entry for entry in known if entry.variant == config.variant]
    if not entries:
        variants = ", ".join(sorted({entry.variant or "(the preset's own)" for entry in known})) or "none"
        raise InputError(f"{config.history} holds no regeneration with settings '{config.variant}'; it has: {variants}")
    rows = history_rows(entries)
    for row in rows:
        gains = ", ".join(f"{gain['fraction']} %: {gain['text']}" for gain in row["gains"])
        sys.stdout.write(f"{row['finished']}  {row['images']:>7} images  {gains or 'no gain'}{row['mark']}\n")
        sys.stdout.writelines(f"    {line}\n" for line in row["changes"])
    if config.html is not None:
        write_page(entries, config.html)
    return 0


def write_page(entries: Sequence[HistoryEntry], path: Path) -> None:
    """The page with the trend.

    Args:
        entries: of one series, oldest first.
        path: the HTML file.
    """
    rows = history_rows(entries)
    context = {
        "title": f"History of preset {entries[-1].preset}" if entries[-1].preset else "History",
        "lead": _lead(entries),
        "charts": history_charts(entries),
        "rows": list(reversed(rows)),
    }
    html = templates("reid.history", escape=True).get_template("history.html.j2").render(context)
    write_text_atomically(path, html)


def _lead(entries: Sequence[HistoryEntry]) -> str:
    many = f"{len(entries)} regenerations" if len(entries) > 1 else "One regeneration"
    text = f"{many} that gave another result than the one before, {day(entries[0])} to {day(entries[-1])}."
    if len(entries) > 1:
        text += f" The last one against the one before: {verdict(shifts(entries[-2], entries[-1]))}"
    return text


def day(entry: HistoryEntry) -> str:
    """Its date."""
    return entry.finished[:10]


def history_rows(entries: Sequence[HistoryEntry]) -> list[dict[str, Any]]:
    """One row for each entry, oldest first, each compared with the one before it."""
    rows = []
    for before, entry in zip([None, *entries], entries, strict=False):
        moved = shifts(before, entry) if before is not None else []
        certain = {shift.fraction for shift in moved if shift.certain}
        rows.append(
            {
                "finished": day(entry),
                "pages": entry.pages,
                "images": f"{entry.counts.get('training images', 0):,}",
                "synthetic": f"{entry.counts.get('synthetic images', 0):,}",
                "quality": ", ".join(f"{name} {value:.3g}" for name, value in entry.quality.items()),
                "cost": spoken_seconds(entry.seconds),
                "code": entry.code[:SHORT],
                "gains": [_gain(gain, certain=gain.fraction in certain) for gain in entry.headline()],
                "mark": " (changed by more than the intervals)" if certain else "",
                "changes": changes(before, entry) if before is not None else [],
            }
        )
    return rows


def _gain(gain: RememberedGain, *, certain: bool) -> dict[str, Any]:
    ends = "" if gain.low is None or gain.high is None else f" ({points(gain.low)} to {points(gain.high)})"
    return {"fraction": gain.fraction, "text": points(gain.value) + ends, "certain": certain}


def history_charts(entries: Sequence[HistoryEntry]) -> list[Chart]:
    """Gains with intervals, a chart a fraction; then counts, quality and cost. Lines mark what else changed."""
    days = [day(entry) for entry in entries]
    # Data change every week; a mark for that would hide the others.
    marks = [
        place
        for place in range(1, len(entries))
        if any(not line.startswith("data:") for line in changes(entries[place - 1], entries[place]))
    ]
    found = [trend_chart(series, days, marks) for series in (*_gain_series(entries), *_other_series(entries))]
    return found


def _gain_series(entries: Sequence[HistoryEntry]) -> list[Series]:
    by_fraction: dict[int, list[TrendPoint]] = {}
    for place, entry in enumerate(entries):
        for gain in entry.headline():
            by_fraction.setdefault(gain.fraction, []).append(TrendPoint(place, gain.value, gain.low, gain.high))
    return [
        Series(f"Gain in mAP at {fraction} % of the real images, points", values, zero=True)
        for fraction, values in sorted(by_fraction.items())
    ]


def _other_series(entries: Sequence[HistoryEntry]) -> list[Series]:
    values: dict[str, list[TrendPoint]] = {}
    unit, size = _unit_of_time(max(entry.seconds for entry in entries))
    for place, entry in enumerate(entries):
        known = {"training images": entry.counts.get("training images"), **entry.quality}
        for name, value in {**known, f"cost in {unit}": entry.seconds / size}.items():
            if value is not None:
                values.setdefault(name, []).append(TrendPoint(place, float(value)))
    return [Series(name.capitalize(), found) for name, found in values.items()]


def _unit_of_time(seconds: float) -> tuple[str, int]:
    """The largest unit of which so many seconds are one at least, and how many seconds it has."""
    return next(((unit, size) for unit, size in (("hours", 3600), ("minutes", 60)) if seconds >= size), ("seconds", 1))
