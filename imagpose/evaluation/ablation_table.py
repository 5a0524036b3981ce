"""The table of an ablation: every row's scores, its difference to the full model, and whether the paper's order holds.

Rule of the order, for each metric: the paper claims that a variant with more parts is better than one whose parts are
among its own (Table 2), and that three sources are better than one (T3 than T1, section 4.1). A claim *holds* where the
paired difference has the claimed sign and its interval leaves zero out, is *reversed* where it has the other sign and
leaves zero out, and is *open* else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd

from imagpose.config import ABLATIONS
from imagpose.config.ablation import FULL, M1
from imagpose.evaluation.comparison import Estimate, estimate, spread_over_seeds

TITLES = {
    "ssim": "SSIM",
    "psnr": "PSNR",
    "lpips": "LPIPS",
    "pose": "pose (PCK)",
    "identity": "identity",
    "ssim_person": "SSIM person",
}
SMALLER_IS_BETTER = ("lpips",)
VERDICTS = {1: "better", -1: "worse", 0: "open"}


@dataclass(frozen=True, kw_only=True)
class ScoredRow:
    """One row of the table."""

    table: str
    """Which of the paper's it belongs to: 'Table 2', 'Fig. 7' or 'Table 3'."""
    variant: str
    mode: str
    scores: Sequence[pd.DataFrame]
    """Of each seed: a line for each pair, in the same order everywhere, with `pid` and the metrics."""
    facts: Mapping[str, Any]
    """Further columns."""

    def values(self, metric: str) -> np.ndarray:
        """(S, n)."""
        return np.stack([scores[metric].to_numpy(dtype=float) for scores in self.scores])


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All rows of an ablation, and how differences between them are judged."""

    rows: Sequence[ScoredRow]
    reference: ScoredRow | None
    """The full model in the scenario of the table; None where it is not among the rows."""
    bootstrap: int
    seed: int

    @property
    def metrics(self) -> list[str]:
        """Those that every row has."""
        return [name for name in TITLES if all(name in scores for row in self.rows for scores in row.scores)]

    def difference(self, row: ScoredRow, other: ScoredRow, metric: str) -> Estimate:
        """Pair by pair and seed by seed, `row` less `other`."""
        values, people = row.values(metric) - other.values(metric), row.scores[0].pid.to_numpy()
        return estimate(values, people, self.bootstrap, self.seed, *self._between_seeds(row, other, metric))

    def _between_seeds(self, row: ScoredRow, other: ScoredRow, metric: str) -> tuple[float, int]:
        """Of variants in one scenario: they were trained apart. Scenarios of one variant share its trainings."""
        if row.variant == other.variant:
            alike = [known for known in self.rows if known.variant == row.variant]
        else:
            alike = [known for known in self.rows if known.mode == row.mode]
        return spread_over_seeds([known.values(metric) for known in alike])

    def table(self) -> pd.DataFrame:
        """A line for each row: of a metric M `M`, `M_low`, `M_high`, the same of `M_difference`, `M_verdict`."""
        return pd.DataFrame([self._line(row) for row in self.rows])

    def _line(self, row: ScoredRow) -> dict[str, Any]:
        line: dict[str, Any] = {"table": row.table, "variant": row.variant, "mode": row.mode, **row.facts}
        for metric in self.metrics:
            own = estimate(row.values(metric), row.scores[0].pid.to_numpy(), self.bootstrap, self.seed)
            line |= {metric: own.mean, f"{metric}_low": own.low, f"{metric}_high": own.high}
            if self.reference is not None and row is not self.reference:
                found = self.difference(row, self.reference, metric)
                name = f"{metric}_difference"
                line |= {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}
                line[f"{metric}_verdict"] = VERDICTS[found.sign * better_sign(metric)]
        return line

    def order(self) -> pd.DataFrame:
        """A line for each claim of the paper and metric: who is better than whom, the difference, the verdict."""
        lines = []
        for better, worse in self._claims():
            for metric in self.metrics:
                found = self.difference(better, worse, metric)
                verdict = {1: "holds", -1: "reversed", 0: "open"}[found.sign * better_sign(metric)]
                ends = {"difference": found.mean, "low": found.low, "high": found.high}
                lines.append(
                    {"better": name(better), "worse": name(worse), "metric": metric, **ends, "verdict": verdict}
                )
        return pd.DataFrame(lines, columns=["better", "worse", "metric", "difference", "low", "high", "verdict"])

    def _claims(self) -> Iterable[tuple[ScoredRow, ScoredRow]]:
        for row, other in permutations(self.rows, 2):
            if row.table == other.table == "Table 2" and _has_more_parts(row.variant, other.variant):
                yield row, other
            if (row.variant, row.mode, other.variant) == (FULL, other.mode, M1):
                yield row, other
            if row.mode == "T3" and other.mode == "T1" and row.variant == other.variant:
                yield row, other


def name(row: ScoredRow) -> str:
    """A row in a sentence."""
    return row.variant if row.table != "Fig. 7" else f"{row.variant} in {row.mode}"


def better_sign(metric: str) -> int:
    """1 where more is better, else -1."""
    return -1 if metric in SMALLER_IS_BETTER else 1


def _has_more_parts(variant: str, other: str) -> bool:
    parts, fewer = ({part for part, on in ABLATIONS[name].items() if on} for name in (variant, other))
    return fewer < parts


def tables_as_markdown(comparison: Comparison, bounds: Sequence[Mapping[str, Any]] = ()) -> list[str]:
    """Scores, differences to the full model, and the order, as lines of a page.

    Args:
        bounds: further lines of the first table: `variant` and means by metric.
    """
    table, metrics = comparison.table(), comparison.metrics
    further = ["fid"] if "fid" in table and table.fid.notna().any() else []  # of all pictures together: no interval
    heads = ["", "variant", "scenario", *(TITLES[metric] for metric in metrics), *(name.upper() for name in further)]
    lines = ["## Scores", "", "Mean over seeds and pairs; in brackets: 95 %, bootstrap over people.", "", *_head(heads)]
    for row in table.to_dict("records"):
        cells = [_cell(metric, *(row[f"{metric}{end}"] for end in ("", "_low", "_high"))) for metric in metrics]
        cells += [_cell(metric, row[metric]) for metric in further]
        lines.append(_line([row["table"], row["variant"], row["mode"], *cells]))
    for bound in bounds:
        lines.append(_line(["bound", bound["variant"], "", *(_cell(m, bound.get(m)) for m in [*metrics, *further])]))
    if comparison.reference is not None:
        lines += ["", *_difference_lines(table, metrics, name(comparison.reference)), "", *_order_lines(comparison)]
    return lines


def _difference_lines(table: pd.DataFrame, metrics: Sequence[str], reference: str) -> list[str]:
    lines = [
        f"## Difference to {reference}",
        "",
        "Pair by pair and seed by seed; in brackets: 95 %, over people and over trainings together. Bold: more than "
        "its interval.",
        "",
        *_head(["", "variant", "scenario", *(TITLES[metric] for metric in metrics)]),
    ]
    for row in table.to_dict("records"):
        if f"{metrics[0]}_verdict" not in row or pd.isna(row[f"{metrics[0]}_verdict"]):
            continue
        cells = []
        for metric in metrics:
            ends = (row[f"{metric}_difference{end}"] for end in ("", "_low", "_high"))
            text, verdict = _cell(metric, *ends, sign="+"), row[f"{metric}_verdict"]
            cells.append(text if verdict == "open" else f"**{text}** {verdict}")
        lines.append(_line([row["table"], row["variant"], row["mode"], *cells]))
    return lines


def _order_lines(comparison: Comparison) -> list[str]:
    order = comparison.order()
    lines = [
        "## Does the paper's order hold?",
        "",
        "A variant with more parts is better than one whose parts are among its own, the full model is better than "
        "M1, and three sources are better than one. A claim holds, or is reversed, where the interval of the paired "
        "difference leaves zero out; else it is open.",
        "",
        *_head(["metric", "holds", "reversed", "open", "order"]),
    ]
    for metric, part in order.groupby("metric", sort=False):
        counts = part.verdict.value_counts()
        held, reversed_, left = (int(counts.get(verdict, 0)) for verdict in ("holds", "reversed", "open"))
        says = "not as in the paper" if reversed_ else "as in the paper" if not left else "not contradicted"
        lines.append(_line([TITLES[str(metric)], str(held), str(reversed_), str(left), says]))
    for verdict in ("reversed", "open"):
        claims = [
            f"{row.better} over {row.worse} ({TITLES[row.metric]})"
            for row in order.itertuples()
            if row.verdict == verdict
        ]
        if claims:
            lines += ["", f"{verdict.capitalize()}: {', '.join(claims)}."]
    return lines


def _head(cells: Sequence[str]) -> list[str]:
    return [_line(cells), "|" + "---|" * len(cells)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(metric: str, mean: float | None, low: float | None = None, high: float | None = None, sign: str = "") -> str:
    digits = 2 if metric in ("psnr", "fid") else 4

    def text(value: float) -> str:
        return f"{value:{sign}.{digits}f}"

    if mean is None or pd.isna(mean):
        return "—"
    return text(mean) if low is None or high is None or pd.isna(low) else f"{text(mean)} ({text(low)} to {text(high)})"
