"""The benchmark's tables for people: aligned text and Markdown, with the papers' figures beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from reid.benchmark.gains import not_run
from reid.benchmark.intervals import FEW_PEOPLE, FEWEST_PEOPLE
from reid.benchmark.statistics import METRICS
from reid.config import BenchmarkConfig

PAPER_FRACTIONS = (20, 40, 60, 80)
PAPER_TABLE_4 = {
    "Standard": (33.4, 56.6, 64.9, 69.2),
    "PTN (PATN)": (55.6, 57.3, 67.1, 72.5),
    "GFLA": (57.3, 59.7, 67.6, 73.2),
    "DPTN": (58.1, 62.6, 69.0, 74.2),
    "PIDM": (61.3, 64.8, 71.6, 75.3),
    "PCDMs": (63.8, 67.1, 73.3, 76.4),
    "IMAGPose": (66.4, 69.2, 75.1, 77.6),
}
"""Table 4 of IMAGPose (NeurIPS 2024): Market-1501, ResNet-50, in percent."""
PAPER_NOTE = (
    "Table 4 of the IMAGPose paper heads this column Rank-1, but its 'Standard' row is a smooth continuation of the "
    "76.7 % *mAP* that PCDMs and PIDM name for 100 % of the data, while BoT's weakest set-up has a Rank-1 of 87.7 % "
    "there; read it as mAP. Its generators were trained on the full training split, its augmented networks were "
    "trained longer than 'Standard', and no spread is given. Another network and another data set than a small run's: "
    "the rows are here for orientation, not for comparison."
)


def percent(share: float) -> str:
    """0.4567 -> '45.7'; nothing for an unknown value."""
    return "" if share is None or math.isnan(share) else f"{100 * share:.1f}"


def signed_points(share: float) -> str:
    """0.0123 -> '+1.2'."""
    return "" if math.isnan(share) else f"{100 * share:+.1f}"


def cells(results: pd.DataFrame, table: pd.DataFrame) -> list[dict[str, Any]]:
    """One entry per protocol, fraction and arm: counts (averaged over the draws) and the metrics' statistics."""
    found = []
    for keys, group in results.groupby(["protocol", "fraction", "arm"], sort=False):
        chosen = table[(table[["protocol", "fraction", "arm"]] == list(keys)).all(axis=1)].set_index("metric")
        counts = {name: round(group[name].mean()) for name in ("images", "synthetic_images", "steps")}
        found.append(
            dict(zip(("protocol", "fraction", "arm"), keys, strict=True))
            | counts
            | {"runs": len(group), "statistics": chosen}
        )
    return found


def with_interval(row: pd.Series) -> str:
    """'45.7' or '45.7 [44.1, 47.2]'."""
    text = percent(row["mean"])
    return text if math.isnan(row["low"]) else f"{text} [{percent(row['low'])}, {percent(row['high'])}]"


def plain_table(results: pd.DataFrame, table: pd.DataFrame) -> str:
    """The headline as aligned text: fraction, arm, images, synthetic, steps, Rank-1, mAP (percent)."""
    protocols = results.protocol.nunique() > 1
    head = [*(["protocol"] if protocols else []), "fraction", "arm", "images", "synthetic", "steps", "Rank-1", "mAP"]
    rows = []
    for cell in cells(results, table):
        chosen = cell["statistics"]
        rows.append(
            [
                *([cell["protocol"]] if protocols else []),
                *(f"{cell['fraction']} %", cell["arm"], f"{cell['images']:,}"),
                *(f"{cell['synthetic_images']:,}", f"{cell['steps']:,}"),
                *(with_interval(chosen.loc[metric]) for metric in ("rank1", "map")),
            ]
        )
    return aligned(head, rows, left={"protocol", "arm"})


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]], left: set[str]) -> str:
    """A table in columns; those in `left` to the left, numbers to the right."""
    widths = [max(len(str(row[i])) for row in [head, *rows]) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        return "  ".join(
            str(value).ljust(width) if name in left else str(value).rjust(width)
            for name, value, width in zip(head, row, widths, strict=True)
        ).rstrip()

    return "\n".join([line(head), line(["-" * width for width in widths]), *map(line, rows)])


def markdown(results: pd.DataFrame, table: pd.DataFrame, gained: pd.DataFrame, config: BenchmarkConfig) -> str:
    """The tables for people: results, gains, the papers."""
    parts = ["# Results", set_up(results), result_table(results, table), *notes(results)]
    for baseline in dict.fromkeys([config.baseline, *config.controls]):
        rows = gained[gained.baseline == baseline] if len(gained) else gained
        if len(rows) or baseline == config.baseline:
            parts += [f"## Gain over `{baseline}`", *unequal_steps(results, baseline), gain_table(rows, baseline)]
    parts += [gain_note(config, gained)]
    if absent := not_run(gained, config.comparisons):
        parts += [f"Declared, but not run and not counted: {'; '.join(absent)}."]
    parts += ["## The papers' table", paper_table(), PAPER_NOTE]
    return "\n\n".join(parts) + "\n"


def notes(results: pd.DataFrame) -> list[str]:
    """What the table cannot say in a cell: unknown origins, earlier steps, re-ranked figures."""
    found = []
    if unknown := sorted(set(results.arm[results.provenance == "unknown"])):
        found.append(
            f"Unknown provenance: {', '.join(f'`{arm}`' for arm in unknown)}. These images do not say what they were "
            "made from, so nothing here vouches for the protocol's name."
        )
    before = results[results.steps_before > 0].groupby("arm").steps_before.max()
    if len(before):
        entries = ", ".join(f"`{arm}` up to {steps:,}" for arm, steps in before.items())
        found.append(f"Steps include those of the run that an arm is initialized from: {entries}.")
    variants = [name.removesuffix("_map") for name in results if name.endswith("_map") and results[name].notna().any()]
    if variants:
        found.append(
            "With what is done to features and distances at test time (not comparable with the table above; `nfc`: "
            "mutual neighbors' features added, `reranked`: k-reciprocal re-ranking):\n\n"
            + _at_test_time(results, variants)
        )
    return found


def _at_test_time(results: pd.DataFrame, variants: list[str]) -> str:
    rows = []
    for key, group in results.groupby(["protocol", "fraction", "arm"], sort=False):
        for name in variants:
            means = group[[f"{name}_rank1", f"{name}_map"]].mean()
            rows.append([key[0], f"{key[1]} %", key[2], name, *map(percent, means)])
    return markdown_table(["protocol", "fraction", "arm", "test time", "Rank-1", "mAP"], rows)


def unequal_steps(results: pd.DataFrame, baseline: str) -> list[str]:
    """A caution where arms took more or fewer steps than the one they are compared with."""
    steps = results.groupby(["protocol", "fraction", "arm"]).steps.mean().unstack()
    if baseline not in steps:
        return []
    others = [arm for arm in steps if (steps[arm] - steps[baseline]).abs().max() > 0.5]
    if not others:
        return []
    names = ", ".join(f"`{arm}`" for arm in others)
    return [f"Not at equal steps: {names} took another number than `{baseline}`, so part of a gain may be only that."]


def set_up(results: pd.DataFrame) -> str:
    """What all runs have in common, in words."""
    first = results.iloc[0]
    weights = {"from scratch": "trained from scratch (no ImageNet weights)"}
    networks = results[["backbone", "weights", "height", "width"]].drop_duplicates()
    names = "; ".join(
        f"{row.backbone}, {row.height}x{row.width}, {weights.get(row.weights, row.weights)}"
        for row in networks.itertuples()
    )
    unmatched = int(results.unmatched_queries.max())
    return (
        f"Market-1501 protocol, single query, no re-ranking, last step: {first.queries:,} queries with a match "
        f"({unmatched} without), {first.gallery:,} gallery images ({first.distractors:,} distractors; {first.junk:,} "
        f"junk images left out). Network: {names}. Values in percent."
    )


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; pipes in cells are escaped."""
    lines = [list(head), ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def result_table(results: pd.DataFrame, table: pd.DataFrame) -> str:
    """All metrics of all arms: mean, and sd and interval where there is more than one run."""
    head = ["protocol", "fraction", "arm", "images", "synthetic", "steps", "runs"]
    head += ["Rank-1", "Rank-5", "Rank-10", "mAP", "mAP (trapezoid)", "mINP"]
    rows = []
    for cell in cells(results, table):
        values = [_mean_sd_interval(cell["statistics"].loc[metric]) for metric in METRICS]
        counts = [f"{cell[name]:,}" for name in ("images", "synthetic_images", "steps")]
        rows.append([cell["protocol"], f"{cell['fraction']} %", cell["arm"], *counts, cell["runs"], *values])
    return markdown_table(head, rows) + "\n\n" + _interval_note(table)


def _mean_sd_interval(row: pd.Series) -> str:
    if math.isnan(row["sd"]):
        return percent(row["mean"])
    return f"{percent(row['mean'])} ± {percent(row['sd'])} [{percent(row['low'])}, {percent(row['high'])}]"


def _interval_note(table: pd.DataFrame) -> str:
    units = set(table.unit)
    notes = {
        "draw": "± is the standard deviation over draws (seeds of a draw averaged first), brackets Student's interval.",
        "seed": "± and brackets come from the seeds of one draw: they say nothing about another draw of the subset.",
        "none": "One run per cell: no spread is known. A difference below a few points may be chance.",
    }
    return " ".join(notes[unit] for unit in ("draw", "seed", "none") if unit in units)


def gain_table(gained: pd.DataFrame, baseline: str) -> str:
    """Gains with their intervals, Rank-1 and mAP."""
    if gained.empty:
        return f"No arm shares a draw and seed with `{baseline}`."
    names = {"rank1": "Rank-1", "map": "mAP"}
    rows = [
        [
            *(row.protocol, f"{row.fraction} %", row.arm, names[row.metric], percent(row.before), percent(row.after)),
            *(signed_points(row.value), bracketed(row.low, row.high), bracketed(row.band_low, row.band_high)),
            *(bracketed(row.people_low, row.people_high), _runs_interval(row.runs_low, row.runs_high, row.unit)),
            *(origin(row), f"{row.freedom:.1f}", row.pairs, percent(row.smallest_visible)),
        ]
        for row in gained[gained.metric.isin(names)].itertuples()
    ]
    head = ["protocol", "fraction", "arm", "metric", baseline, "arm's", "gain", "interval", "band"]
    head += ["over people alone", "over runs alone", "variance from", "df", "pairs of runs", "smallest visible gain"]
    return markdown_table(head, rows)


def gain_note(config: BenchmarkConfig, gained: pd.DataFrame) -> str:
    """How to read the gains."""
    units, people = (set(gained[name]) if len(gained) else set() for name in ("unit", "people"))
    entries = [
        f"Points, {100 * config.confidence:.0f} %. Interval: over new draws of the images, new trainings and new test "
        "people together (variances over draws and over people, their interplay counted once; Welch-Satterthwaite "
        "degrees of freedom, df).",
    ]
    if units - {"draw"}:
        entries.append("With one draw it speaks of these images only; what other images would give is not known.")
    if people and min(people) < FEW_PEOPLE:
        entries.append(
            f"Only {min(people)} test identities: fewer than {FEWEST_PEOPLE}, so no interval."
            if min(people) < FEWEST_PEOPLE
            else f"Only {min(people)} test identities: intervals over them are Student's, not a bootstrap's."
        )
    return " ".join(entries) + (
        f" Band: holds for all {int(gained.family.max()) if len(gained) else 0} declared comparisons of a metric at "
        "once (max-t); none for a comparison that was not declared. Over people alone: paired bootstrap, "
        f"{config.resamples} resamples of the test identities, for these trained networks. Over runs alone: Student's "
        "over draws, or over seeds where there is one draw, for these people. Smallest visible gain: half the "
        "interval; a smaller true gain could not have been distinguished from zero."
    )


def bracketed(low: float, high: float) -> str:
    """'[-1.2, +3.4]', or nothing for an unknown interval."""
    return "" if math.isnan(low) else f"[{signed_points(low)}, {signed_points(high)}]"


ORIGINS = ("draws", "seeds", "people", "interplay")
"""Where a gain's variance comes from: columns ``variance_*`` of ``gains.parquet``."""


def shares_of_variance(row: Any) -> dict[str, float]:
    """Shares in [0, 1] of a gain's variance by origin; origins that the runs cannot tell are left out."""
    parts = {name: float(getattr(row, f"variance_{name}")) for name in ORIGINS}
    known = {name: value for name, value in parts.items() if not math.isnan(value)}
    total = sum(known.values())
    return {name: value / total for name, value in known.items()} if total > 0 else {}


def origin(row: Any) -> str:
    """'draws 12 %, people 88 %'."""
    return ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares_of_variance(row).items())


def _runs_interval(low: float, high: float, unit: str) -> str:
    return "" if math.isnan(low) else f"{bracketed(low, high)} over {unit}s"


def paper_table() -> str:
    """Table 4 of IMAGPose."""
    head = ["method", *(f"{fraction} %" for fraction in PAPER_FRACTIONS)]
    return markdown_table(head, [[name, *values] for name, values in PAPER_TABLE_4.items()])
