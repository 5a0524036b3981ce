"""The report's sections of curves: ranking and training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reid.report.data import ReidRun, per_query, read_log
from reid.report.figures import Chart, cmc_chart, loss_chart
from reid.report.material import Material

MOST_RANK = 20

# --- ranking ---------------------------------------------------------------------------------------------------------


def ranking_section(material: Material) -> dict[str, Any]:
    """CMC curves by fraction, from the runs' per-query results."""
    curves: dict[int, dict[str, tuple[np.ndarray, int]]] = {}
    for fraction, runs in material.runs_by_fraction.items():
        for arm in material.arms.names:
            found = [curve for curve in (cmc_curve(run) for run in runs if run.arm == arm) if curve is not None]
            if found:
                curves.setdefault(fraction, {})[arm] = (np.mean(found, axis=0), material.arms.color(arm))
    return {"cmc_charts": _cmc_charts(curves)}


def _cmc_charts(curves: dict[int, dict[str, tuple[np.ndarray, int]]]) -> list[Chart]:
    """One a fraction, all on one scale."""
    least = min((float(values.min()) for found in curves.values() for values, _ in found.values()), default=0.0)
    span = (max(0.0, np.floor(10 * least - 0.2) * 10), 101.0)
    return [
        cmc_chart(f"{fraction} % of the real images", found, f"cmc-{fraction}", span)
        for fraction, found in curves.items()
    ]


def cmc_curve(run: ReidRun, longest: int = MOST_RANK) -> np.ndarray | None:
    """Share of the matched queries with a right answer among the first 1 ... `longest`."""
    first = per_query(run)["first_rank"].to_numpy()
    return (first[None, :] <= np.arange(1, longest + 1)[:, None]).mean(1) if len(first) else None


# --- training ---------------------------------------------------------------------------------------------------------


def training_section(material: Material) -> dict[str, Any]:
    """Losses of the generators (one chart, a line a fraction) and of the re-ID runs (a chart a fraction)."""
    folders: dict[int, list[Path]] = {}
    for folder in material.config.generators:
        folders.setdefault(int(material.manifest(folder)["config"].get("fraction") or 100), []).append(folder)
    curves, legend = {}, []
    for place, fraction in enumerate(sorted(folders)):
        log, color = mean_log([read_log(folder) for folder in folders[fraction]]), _GENERATOR_COLORS[place % 8]
        if len(log):
            curves[f"{fraction} %"] = (log["step"], log["loss"], color)
            legend.append({"name": _generator_name(fraction, len(folders[fraction])), "color": color})
    generator_charts = [loss_chart("Loss of the generators", curves, "generators")] if curves else []
    reid_charts = []
    for fraction, runs in material.runs_by_fraction.items():
        losses = {}
        for arm in material.arms.names:
            log = mean_log([read_log(run.directory, ("log.jsonl",)) for run in runs if run.arm == arm])
            if len(log):
                losses[arm] = (log["step"], log["loss"], material.arms.color(arm))
        if losses:
            reid_charts.append(loss_chart(f"Loss at {fraction} %", losses, f"reid-loss-{fraction}", small=True))
    return {"generator_charts": generator_charts, "generator_legend": legend, "reid_charts": reid_charts}


def mean_log(logs: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Mean loss at each step of several trainings that were logged at the same steps."""
    logs = [log for log in logs if len(log)]
    return pd.concat(logs).groupby("step", as_index=False)["loss"].mean() if logs else pd.DataFrame()


_GENERATOR_COLORS = (5, 1, 2, 4, 3, 6, 7, 0)


def _generator_name(fraction: int, count: int) -> str:
    return f"{fraction} %" + (f", mean of {count}" if count > 1 else "")
