"""The report's section on test time: what averaging, neighbors and re-ranking add to networks that stay as they are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from datasets.runtime.reading.tables import read_table
from datasets.runtime.remote.copies import is_file
from reid.arms import arm_rank
from reid.benchmark.at_test_time import PLAIN, SECONDS, AtTestTime, origin_of, spoken_variant, steps_of
from reid.benchmark.variant_tables import seconds_together, variant_rows
from reid.report.data import percent, points
from reid.report.gains import spoken_interval
from reid.report.material import Material

FILES = ("test_time.parquet", "test_time_gains.parquet")


def test_time_section(material: Material) -> dict[str, Any]:
    """Tables by fraction, training and test time together, and generated pictures over their controls."""
    found = read_test_time(material)
    if found is None:
        return {"treated": [], "together": [], "beyond": [], "test_time_caption": ""}
    return {
        "treated": [_table(material, rows) for rows in _by_fraction(variant_rows(found))],
        "together": list(_together(material, found)),
        "beyond": list(_beyond(material, found)),
        "test_time_caption": _caption(material.confidence, found.figures["protocol"].iloc[0]),
    }


def read_test_time(material: Material) -> AtTestTime | None:
    """The benchmark's tables of the headline's protocol, or else of the other one; None where nothing was tried."""
    folder = material.config.benchmark
    if not is_file(folder / FILES[0]):
        return None
    figures, gained = (read_table(folder, name).to_pandas() for name in FILES)
    there = list(dict.fromkeys(figures["protocol"]))
    protocol = material.protocol if material.protocol in there else there[0]
    return AtTestTime(*(table[table["protocol"] == protocol] for table in (figures, gained)))


def _by_fraction(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    groups: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(int(row["fraction"]), []).append(row)
    return [groups[fraction] for fraction in sorted(groups)]


def _table(material: Material, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One fraction: a line for each variant, a column for each arm; lines in groups by where features come from."""
    arms = sorted({row["arm"] for row in rows}, key=arm_rank)
    by_cell = {(row["variant"], row["arm"]): row for row in rows}
    groups: dict[str, list[dict[str, Any]]] = {}
    for variant in dict.fromkeys(row["variant"] for row in rows):
        cells = [_cell(by_cell.get((variant, arm))) for arm in arms]
        line = {"name": spoken_variant(variant), "cells": cells} | _seconds(
            [r for r in rows if r["variant"] == variant]
        )
        groups.setdefault(origin_of(variant), []).append(line)
    return {
        "fraction": rows[0]["fraction"],
        "arms": [{"name": arm, "color": material.arms.color(arm)} for arm in arms],
        "groups": list(groups.values()),
    }


def _cell(row: dict[str, Any] | None) -> dict[str, str]:
    if row is None:
        return dict.fromkeys(("map", "gain", "interval", "sign", "id2"), "")
    gain = _spoken_gain(row["gain"]) if row["gain"] is not None else {"gain": "", "interval": "", "sign": ""}
    return {"map": percent(row["map"]), "id2": f"{row['id2']:.3f}", **gain}


def _spoken_gain(gain: Any) -> dict[str, str]:
    """A gain in points, its interval, and the color that it has where the interval excludes zero."""
    known = math.isfinite(gain.low) and math.isfinite(gain.high)
    interval = (100 * gain.low, 100 * gain.high) if known else None
    sign = "" if not known or gain.low <= 0 <= gain.high else "up" if gain.value > 0 else "down"
    return {"gain": points(100 * gain.value), "interval": spoken_interval(interval), "sign": sign}


def _seconds(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Seconds for a thousand images, mean over the arms: in all, and drawing alone."""
    together = [seconds_together(row) for row in rows]
    parts = {name: sum(float(row[name]) for row in rows) / len(rows) for name in SECONDS}
    return {
        "seconds": _spoken_seconds(sum(together) / len(together)),
        "parts": ", ".join(f"{name} {_spoken_seconds(value)}" for name, value in parts.items()),
    }


def _spoken_seconds(value: float) -> str:
    return "—" if math.isnan(value) else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _map_gains(found: AtTestTime) -> pd.DataFrame:
    return found.gains[found.gains["metric"] == "map"]


def _together(material: Material, found: AtTestTime) -> Iterator[list[dict[str, str]]]:
    """For each fraction: the gain over the reference's plain features by training, by test time, and by both."""
    arm, reference = material.comparison.arm, material.comparison.reference
    gained = _map_gains(found)
    over = gained[(gained["over_arm"] == reference) & (gained["over_variant"] == PLAIN)]
    variants = [name for name in dict.fromkeys(over["variant"]) if name != PLAIN]
    drawn = set(found.figures["variant"][found.figures["kind"] == "pictures"])
    chosen = [name for name in variants if name in drawn and steps_of(name) in ((), ("nfc",))] or variants[:1]
    wanted = [("training alone", arm, PLAIN)]
    for name in chosen:
        wanted += [("test time alone", reference, name), ("both", arm, name)]
    for fraction, rows in over.groupby("fraction"):
        by_cell = {(row.arm, row.variant): row for row in rows.itertuples()}
        lines = [
            {"fraction": f"{fraction} %", "what": what, "arm": str(which), "variant": spoken_variant(name)}
            | {"before": percent(by_cell[which, name].before), "after": percent(by_cell[which, name].after)}
            | _spoken_gain(by_cell[which, name])
            for what, which, name in wanted
            if (which, name) in by_cell
        ]
        if lines:
            yield lines


def _beyond(material: Material, found: AtTestTime) -> Iterator[dict[str, str]]:
    """What generated pictures gain over averaging that costs no generator, or keeps the pose."""
    gained = _map_gains(found)
    shown = {material.comparison.reference, material.comparison.arm}
    for row in gained[gained["over_variant"] != PLAIN].itertuples():
        if row.arm in shown:
            names = {"arm": row.arm, "variant": spoken_variant(row.variant), "over": spoken_variant(row.over_variant)}
            yield {"fraction": f"{row.fraction} %", **names, **_spoken_gain(row)}


def _caption(confidence: float, protocol: str) -> str:
    seen = (
        "" if protocol == "leak-free" else "Protocol of the papers: the generator may have seen the test identities. "
    )
    return seen + (
        f"mAP in percent, below it the gain in points over the same networks’ plain features (“none”) with its "
        f"{100 * confidence:g} % interval, paired by query; colored only where it excludes zero, each comparison for "
        "itself. ID2: mean squared distance of unit features from the mean of their person’s; smaller is denser, and "
        "re-ranking leaves features as they are. Seconds: for a thousand test images on the machine that did it, "
        "drawing (with encoding for the generator), embedding and what follows together; — where a part was not "
        "measured. Reconstructions are the generator’s pictures in the image’s own pose, flips and crops the image’s "
        "own: what averaging alone brings. NFC and re-ranking use the other test images as well."
    )
