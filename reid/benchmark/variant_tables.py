"""What was done at test time, as aligned text and Markdown: one row per network's arm and variant."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from reid.benchmark.at_test_time import PLAIN, SECONDS, AtTestTime, spoken_variant
from reid.benchmark.tables import aligned, bracketed, markdown_table, percent, signed_points

CELL = ("protocol", "fraction", "arm")
HEAD = ["fraction", "arm", "at test time", "Rank-1", "mAP", "gain in mAP", "interval", "ID2", "s / 1,000 images"]
NOTE = (
    "Gain: over the plain features of the same networks, paired by query, with its 95 % interval (as in the tables "
    "above). ID2: mean squared distance of unit features from their person's mean; smaller is denser. Seconds: for a "
    "thousand test images on the machine at hand, drawing (with encoding for the generator), embedding and what "
    "follows together; nothing where a part was not measured. These figures use more than the query and the gallery "
    "image at hand, so they compare with nothing in the tables above."
)


def variant_rows(found: AtTestTime) -> list[dict[str, Any]]:
    """Figures and the gain in mAP over the same networks' plain features, in the order of the evaluation."""
    gained = found.gains
    own = gained[(gained.metric == "map") & (gained.over_arm == gained.arm) & (gained.over_variant == PLAIN)]
    by_cell = {(row.protocol, row.fraction, row.arm, row.variant): row for row in own.itertuples()}
    rows = found.figures.to_dict("records")
    return [row | {"gain": by_cell.get(tuple(row[name] for name in (*CELL, "variant")))} for row in rows]


def seconds_together(row: dict[str, Any]) -> float:
    """All seconds for a thousand test images; NaN where a part was not measured."""
    return sum(float(row[name]) for name in SECONDS)


def _share(protocol: str, fraction: int) -> str:
    """'20 %', with the protocol where it is not the default one."""
    return f"{fraction} %" + ("" if protocol == "leak-free" else f", {protocol}")


def _cells(row: dict[str, Any]) -> list[str]:
    gain, seconds = row["gain"], seconds_together(row)
    return [
        *(_share(row["protocol"], row["fraction"]), row["arm"], spoken_variant(row["variant"])),
        *(percent(row["rank1"]), percent(row["map"])),
        "" if gain is None else signed_points(gain.value),
        "" if gain is None else bracketed(gain.low, gain.high),
        *(f"{row['id2']:.3f}", "" if math.isnan(seconds) else f"{seconds:,.1f}"),
    ]


def plain_variants(found: AtTestTime) -> str:
    """The table as aligned text."""
    return aligned(HEAD, [_cells(row) for row in variant_rows(found)], left={"arm", "at test time"})


def markdown_variants(found: AtTestTime) -> str:
    """The table, what training and test time bring together, and what a generator brings beyond the controls."""
    table = markdown_table(HEAD, [_cells(row) for row in variant_rows(found)])
    parts = ["## At test time", table, NOTE]
    other = found.gains[(found.gains.metric == "map") & (found.gains.over_variant == PLAIN)]
    if len(other := other[other.arm != other.over_arm]):
        parts += ["### Training and test time together", _gain_table(other)]
    beyond = found.gains[(found.gains.metric == "map") & (found.gains.over_variant != PLAIN)]
    if len(beyond):
        parts += ["### Pictures by a generator, over what costs none or keeps the pose", _gain_table(beyond)]
    return "\n\n".join(parts)


def _gain_table(gained: pd.DataFrame) -> str:
    head = ["fraction", "arm", "at test time", "over arm", "with", "gain in mAP", "interval", "band"]
    rows = [
        [
            *(_share(row.protocol, row.fraction), row.arm, spoken_variant(row.variant)),
            *(row.over_arm, spoken_variant(row.over_variant)),
            *(signed_points(row.value), bracketed(row.low, row.high), bracketed(row.band_low, row.band_high)),
        ]
        for row in gained.itertuples()
    ]
    return markdown_table(head, rows)
