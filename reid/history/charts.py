"""The trend of one figure over the regenerations, drawn like the report's charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib import rc_context
from matplotlib.ticker import MaxNLocator

from reid.report.figures import BAD, MUTED, SERIES, STYLE, Chart, finished_chart, panel

MOST_LABELS = 4


@dataclass(frozen=True)
class TrendPoint:
    """A figure of one regeneration."""

    place: int
    """Which one, from 0."""
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """A figure over all regenerations that have it."""

    title: str
    points: Sequence[TrendPoint]
    zero: bool = False
    """Draw the zero line."""


def trend_chart(series: Series, days: Sequence[str], marks: Sequence[int]) -> Chart:
    """A line with intervals; a vertical line before each regeneration in `marks`.

    Args:
        series: the figure.
        days: date of each regeneration.
        marks: places of regenerations where settings, versions or code changed.
    """
    name = f"trend {series.title}"
    with rc_context(STYLE | {"svg.hashsalt": name}):
        figure, axes = panel()
        if series.zero:
            axes.axhline(0, color=MUTED, linewidth=1.0)
        for place in marks:
            axes.axvline(place - 0.5, color=BAD, linewidth=1.0, linestyle=(0, (3, 3)))
        for point in series.points:
            if point.low is not None and point.high is not None:
                axes.plot([point.place] * 2, [point.low, point.high], color=SERIES[1], linewidth=3, alpha=0.25)
        places = [point.place for point in series.points]
        axes.plot(places, [p.value for p in series.points], color=SERIES[1], marker="o", markersize=3.5, linewidth=1.4)
        step = max(1, -(-len(days) // MOST_LABELS))
        shown = list(range(0, len(days), step))
        axes.set_xticks(shown, [days[place][2:] for place in shown])
        axes.set_xlim(-0.6, len(days) - 0.4)
        counts = all(float(point.value).is_integer() for point in series.points)
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=counts))
        spoken = ", ".join(f"{days[point.place]}: {point.value:.4g}" for point in series.points)
        return finished_chart(figure, name, series.title, f"{series.title}: {spoken}")
