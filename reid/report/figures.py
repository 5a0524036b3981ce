"""The report's charts: small inline SVGs that take their colors from the report.

Each chart is drawn at the width of a phone, so a report sets them side by side and their text is never scaled away.
matplotlib writes placeholder colors; they are replaced by the report's CSS variables, so one drawing serves light mode,
dark mode and print. The same numbers always give the same bytes: no date, no random ids.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK, MUTED, LINE, GOOD, BAD = "#000001", "#000002", "#000003", "#000004", "#000005"
SERIES = tuple(f"#0000{i:02x}" for i in range(0x10, 0x18))
"""Placeholder colors of up to eight series; the report's ``--series-0`` ... ``--series-7``."""
VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line", GOOD: "--good", BAD: "--bad"}
VARIABLES |= {color: f"--series-{i}" for i, color in enumerate(SERIES)}
MARKERS = "osD^vPX*"

STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # an arm may be called "$a$"
    "font.size": 10.0,
    "font.family": "sans-serif",
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0.0,
    "lines.solid_capstyle": "round",
}
PANEL = (3.7, 2.75)
"""Inches (72 units of the SVG each) of a panel, three of which stand side by side on a wide screen."""
SMALL_PANEL = (2.9, 2.35)
"""Of one of which four do: a chart a fraction."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A drawing and what stands around it."""

    title: str
    svg: Markup
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A measured value with its interval; `low` and `high` are None where one run is all there is."""

    x: float
    value: float
    low: float | None = None
    high: float | None = None
    band: tuple[float, float] | None = None
    """A wider interval, drawn as a thin line."""
    dots: Sequence[float] = ()
    """The single draws or seeds that `value` is the mean of."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A named series of points; `color` is its place in the report's palette."""

    name: str
    points: Sequence[Point]
    color: int = 0


def fraction_chart(title: str, lines: Sequence[Line], name: str) -> Chart:
    """A metric in percent over the share of real training images, one line an arm; bars where there are intervals.

    Arms stand a little beside each other, so that their bars and dots do not lie on top of each other.
    """
    with rc_context(STYLE | {"svg.hashsalt": name}):
        figure, axes = panel()
        shares = sorted({point.x for line in lines for point in line.points})
        step = min(np.diff(shares), default=20.0) * min(0.09, 0.4 / len(lines))
        several = any(point.low is not None or point.dots for line in lines for point in line.points)
        for place, line in enumerate(lines):
            _draw_line(axes, line, (place - (len(lines) - 1) / 2) * step if several else 0.0)
        axes.set_xticks(shares)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} %")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
        axes.set_xlabel("share of the real training images")
        axes.margins(x=0.08, y=0.15)
        return finished_chart(figure, name, title, f"{title} by share of real images: " + _spoken(lines, "%"))


def _draw_line(axes: Axes, line: Line, shift: float) -> None:
    color, marker = SERIES[line.color % len(SERIES)], MARKERS[line.color % len(MARKERS)]
    x = [point.x + shift for point in line.points]
    axes.plot(x, [point.value for point in line.points], color=color, marker=marker, markersize=5.5, linewidth=1.8)
    for place, point in zip(x, line.points, strict=True):
        if point.low is not None and point.high is not None:
            axes.plot([place, place], [point.low, point.high], color=color, linewidth=4, alpha=0.25)
        axes.plot(
            [place] * len(point.dots), point.dots, color=color, marker="o", markersize=2.2, alpha=0.6, linestyle=""
        )


def gain_chart(title: str, points: Sequence[Point], name: str, span: tuple[float, float]) -> Chart:
    """Gain in points per fraction as dots with intervals around the zero line.

    Args:
        span: least and greatest value of the axis; the same for charts that stand side by side.
    """
    with rc_context(STYLE | {"svg.hashsalt": name, "axes.grid.axis": "x"}):
        figure, axes = panel()
        rows = range(len(points))
        axes.axvline(0, color=MUTED, linewidth=1.0)
        for row, point in zip(rows, points, strict=True):
            certain = point.low is not None and point.high is not None and (point.low > 0 or point.high < 0)
            color = (GOOD if point.value > 0 else BAD) if certain else MUTED
            if point.low is not None and point.high is not None:
                axes.plot([point.low, point.high], [row, row], color=color, linewidth=5, alpha=0.28)
            if point.band is not None:
                axes.plot(point.band, [row, row], color=color, linewidth=0.9)
            axes.plot(point.dots, [row + 0.17] * len(point.dots), color=color, marker="o", markersize=2.6, linestyle="")
            axes.plot(point.value, row, color=color, marker="o", markersize=7, linestyle="none")
            axes.annotate(
                f"{point.value:+.1f}".replace("-", "\N{MINUS SIGN}"),
                (point.value, row),
                xytext=(0, 8),
                textcoords="offset points",
                ha="center",
                fontsize=10,
                fontweight="bold",
            )
        axes.set_yticks(list(rows), [f"{point.x:g} %" for point in points])
        axes.set_ylim(len(points) - 0.5, -0.7)
        axes.set_xlim(*span)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(_signed)
        axes.set_xlabel("gain in mAP, points")
        return finished_chart(
            figure, name, title, f"{title}: " + ", ".join(f"{p.x:g} %: {p.value:+.1f}" for p in points)
        )


def _signed(value: float, _: object = None) -> str:
    return f"{value:+g}".replace("-", "\N{MINUS SIGN}") if value else "0"


def cmc_chart(
    title: str, curves: Mapping[str, tuple[Sequence[float] | np.ndarray, int]], name: str, span: tuple[float, float]
) -> Chart:
    """Cumulative matching curves: share of queries (percent) with a right answer among the first k.

    Args:
        curves: arm -> (values for k = 1, 2, ... in [0, 1], color).
        span: least and greatest percentage of the axis.
    """
    with rc_context(STYLE | {"svg.hashsalt": name}):
        figure, axes = panel(SMALL_PANEL)
        longest = max(len(values) for values, _ in curves.values())
        for values, color in curves.values():
            ranks = np.arange(1, len(values) + 1)
            axes.plot(ranks, 100 * np.asarray(values), color=SERIES[color % len(SERIES)], linewidth=1.8)
        axes.set_xticks([k for k in (1, 5, 10, 15, 20, 30, 40, 50) if k <= longest])
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
        axes.set_xlabel("k")
        axes.margins(x=0.03)
        axes.set_ylim(*span)
        return finished_chart(figure, name, title, f"Cumulative matching curves, {title}: {', '.join(curves)}")


def loss_chart(
    title: str, curves: Mapping[str, tuple[Sequence[float], Sequence[float], int]], name: str, *, small: bool = False
) -> Chart:
    """Training losses: the smoothed curve over the raw one.

    Args:
        curves: label -> (steps, losses, color).
    """
    with rc_context(STYLE | {"svg.hashsalt": name}):
        figure, axes = panel(SMALL_PANEL if small else PANEL)
        for steps, losses, color in curves.values():
            shade = SERIES[color % len(SERIES)]
            steps, losses, smooth = _thinned(np.asarray(steps, float), np.asarray(losses, float))
            if len(steps) > 30:
                axes.plot(steps, losses, color=shade, linewidth=0.7, alpha=0.3)
            few = len(steps) < 4
            axes.plot(
                steps, smooth if len(steps) > 30 else losses, color=shade, linewidth=1.7, marker="o" if few else None
            )
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("optimization step")
        axes.margins(x=0.02, y=0.08)
        return finished_chart(figure, name, title, f"{title} over the optimization steps: {', '.join(curves)}")


def _thinned(
    steps: np.ndarray, losses: np.ndarray, most: int = 240, share: float = 0.06
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps, losses and losses smoothed over about 6 % of the run, at most `most` of them, without NaN."""
    finite = np.isfinite(losses)
    steps, losses = steps[finite], losses[finite]
    width = max(1, int(len(losses) * share)) | 1
    padded = np.pad(losses, width // 2, mode="edge") if len(losses) else losses
    smooth = np.convolve(padded, np.full(width, 1 / width), mode="valid") if len(losses) else losses
    chosen = np.unique(np.linspace(0, len(steps) - 1, min(most, len(steps))).astype(int)) if len(steps) else slice(0)
    return steps[chosen], losses[chosen], smooth[chosen]


def identity_chart(title: str, gains: Sequence[float], name: str, caption: str, span: tuple[float, float]) -> Chart:
    """Each test identity's gain in AP points, sorted: how many profit, how many pay.

    Args:
        span: least and greatest gain of the axis.
    """
    with rc_context(STYLE | {"svg.hashsalt": name}):
        figure, axes = panel(SMALL_PANEL)
        values = np.sort(np.asarray(gains, float))[::-1]
        if len(values) > 150:  # a bar narrower than a pixel says nothing
            values = values[np.linspace(0, len(values) - 1, 150).astype(int)]
        place = np.arange(len(values))
        for color, chosen in ((GOOD, values > 0), (BAD, values < 0)):
            axes.vlines(place[chosen], 0, values[chosen], color=color, linewidth=max(1.0, min(5.0, 170 / len(values))))
        axes.axhline(0, color=MUTED, linewidth=1.0)
        axes.set_xticks([])
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(_signed)
        axes.set_ylim(*span)
        axes.set_xlabel("test identities, best to worst", labelpad=9)
        _count_in_corner(axes, 0.98, f"{(np.asarray(gains) > 0).sum()} win", GOOD)
        _count_in_corner(axes, 0.87, f"{(np.asarray(gains) < 0).sum()} lose", BAD)
        return finished_chart(figure, name, title, f"{title}: {caption}", caption)


def _count_in_corner(axes: Axes, height: float, text: str, color: str) -> None:
    """How many, in the corner where sorted bars leave room."""
    axes.text(0.99, height, text, transform=axes.transAxes, ha="right", va="top", color=color, fontweight="bold")


def panel(size: tuple[float, float] = PANEL) -> tuple[Figure, Axes]:
    """An empty drawing of so many inches."""
    figure = Figure(figsize=size)
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def _spoken(lines: Sequence[Line], unit: str) -> str:
    """A chart's numbers in words, for who cannot see it."""
    return "; ".join(
        f"{line.name} " + ", ".join(f"{p.x:g} %: {p.value:.1f} {unit}" for p in line.points) for line in lines
    )


def finished_chart(figure: Figure, name: str, title: str, label: str, caption: str = "") -> Chart:
    """The drawing as a chart; `label` says its numbers to who cannot see it."""
    return Chart(title=title, svg=Markup(_svg(figure, name, label)), caption=caption)


def _svg(figure: Figure, name: str, label: str) -> str:
    """The drawing as an inline SVG element: no header, no metadata, ids of its own, colors by CSS variable."""
    buffer = io.StringIO()
    figure.savefig(
        buffer,
        format="svg",
        transparent=True,
        bbox_inches="tight",
        pad_inches=0.04,
        metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")),
    )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style type=\"text/css\">.*?</style>", "", svg, flags=re.DOTALL)  # would hold for the whole report
    prefix = re.sub(r"[^a-z0-9]+", "-", name.lower())
    svg = re.sub(r'(\bid="|xlink:href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    svg = re.sub(r"#0000[0-9a-f]{2}\b", lambda match: f"var({VARIABLES[match[0]]})", svg)
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert box is not None  # matplotlib writes one
    width, height = box.groups()
    opening = (
        f'<svg class="chart" role="img" aria-label="{_attribute(label)}" viewBox="0 0 {width} {height}" '
        f'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'style="max-width:{1.33 * float(width):.0f}px">'
    )
    return opening + svg[svg.index(">") + 1 :].strip()


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
