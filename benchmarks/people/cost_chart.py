"""Cost against quality as a picture: a panel for each scenario and metric, a line for each sampler and guidance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLORS = {"unipc": "#1b6ca8", "ddim": "#7a7a7a", "dpm++": "#2a9d5c", "lcm": "#c8452d"}
OTHER_COLOR = "#8e5ea2"
MARKERS = {"unipc": "s", "ddim": "o", "dpm++": "^", "lcm": "D"}
DASHES = ("-", "--", ":", "-.")
"""Of a sampler's first, second ... guidance scale."""
STYLE = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "axes.axisbelow": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "costs",
}
PANEL = (3.1, 2.2)
"""Inches."""


def save_chart(
    rows: Sequence[Mapping[str, Any]], cost: str, metrics: Mapping[str, str], reference: str, folder: Path
) -> None:
    """Write ``costs.svg`` and ``costs.png``.

    Args:
        rows: of `benchmarks.people.sampling_costs`.
        cost: which of their columns is the cost.
        metrics: columns and titles of the panels.
        reference: whose interval is the band behind each panel's lines.
    """
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    with rc_context(STYLE):
        figure = Figure(figsize=(PANEL[0] * len(metrics), PANEL[1] * len(modes) + 0.5), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(len(modes), len(metrics), squeeze=False, sharex=True, sharey="col")
        for mode, line in zip(modes, panels, strict=True):
            for axes, (metric, title) in zip(line, metrics.items(), strict=True):
                of_mode = [row for row in rows if row["mode"] == mode]
                _panel(axes, of_mode, cost, metric, reference)
                axes.set_title(f"{mode}: {title}", loc="left", fontsize=9)
        unit = "processor seconds" if cost == "cpu_seconds" else "seconds"
        figure.supxlabel(f"{unit} a picture (logarithmic); numbers: sampler steps; band: {reference}, 95 %", fontsize=9)
        handles, names = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False)
        figure.savefig(folder / "costs.svg", metadata={"Date": None})
        figure.savefig(folder / "costs.png", dpi=150)


def _panel(axes: Axes, rows: Sequence[Mapping[str, Any]], cost: str, metric: str, reference: str) -> None:
    factor = 1 if metric == "ssim" else 100
    (band,) = [row[metric]["interval"] for row in rows if row["sampling"] == reference]
    if band is not None:
        axes.axhspan(factor * band[0], factor * band[1], color="#1b6ca8", alpha=0.1, linewidth=0)
    lines = list(dict.fromkeys((row["sampler"], row["guidance"]) for row in rows))
    samplers = [sampler for sampler, _ in lines]
    for number, (sampler, guidance) in enumerate(lines):
        of_line = [row for row in rows if (row["sampler"], row["guidance"]) == (sampler, guidance)]
        points = sorted(of_line, key=lambda row: row[cost])
        x, y = [row[cost] for row in points], [factor * row[metric]["mean"] for row in points]
        name = f"{sampler} (student)" if points[0]["student"] else sampler
        if samplers.count(sampler) > 1:  # one sampler with and without guidance is two lines
            name += f", guidance {guidance:g}"
        style = {"color": COLORS.get(sampler, OTHER_COLOR), "marker": MARKERS.get(sampler, "v")}
        style["linestyle"] = DASHES[samplers[:number].count(sampler) % len(DASHES)]
        axes.plot(x, y, markersize=4.5, linewidth=1.3, label=name, **style)
        for row, across, up in zip(points, x, y, strict=True):
            place = {"xytext": (2, -9 if number % 2 else 4), "textcoords": "offset points"}  # two lines often cross
            axes.annotate(str(row["steps"]), (across, up), fontsize=7, color=style["color"], **place)
    axes.set_xscale("log", subs=[3])
    for which in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        which(lambda value, _: f"{value:g}")
    axes.margins(x=0.1, y=0.15)
