"""The report's words: captions, the protocol, the papers' figures. The headline has a file of its own."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import pandas as pd

from reid.arms import arm_of
from reid.benchmark.tables import PAPER_FRACTIONS, PAPER_NOTE, PAPER_TABLE_4
from reid.report.data import Arms, enumeration
from reid.report.gains import SCOPES, Comparison, Gain


def result_lead(results: pd.DataFrame) -> str:
    """What was trained on what, and tested how."""
    fractions = sorted(results["fraction"].unique())
    shares = enumeration([f"{fraction} %" for fraction in fractions])
    row = results.iloc[0]
    return (
        f"The same re-identification network, trained on {shares} of the real training images and tested on "
        f"{row['queries']:,} queries against {row['gallery']:,} gallery images: {len(results)} "
        f"run{'s' if len(results) != 1 else ''} in {results['arm'].nunique()} "
        f"arm{'s' if results['arm'].nunique() != 1 else ''}."
    )


def arm_list(arms: Arms, comparison: Comparison) -> list[dict[str, Any]]:
    """Name, color, meaning and optimization steps of each arm."""
    entries = []
    for item in arms.legend():
        steps = comparison.steps(item["name"])
        entries.append(item | {"text": arm_of(item["name"]).text} | _steps(steps))
    return entries


def _steps(steps: dict[int, tuple[int, int]]) -> dict[str, str]:
    own, before = sorted({own for own, _ in steps.values()}), sorted({before for _, before in steps.values()} - {0})
    if not own:
        return {"steps": ""}
    text = f"{own[0]:,}" if len(own) == 1 else f"{own[0]:,} to {own[-1]:,}"
    after = f" after {before[-1]:,} of the run that it is initialized from" if before else ""
    return {"steps": f"{text} steps{after}"}


WORDS = (
    ("mAP", "mean average precision: 100 % where every right image comes before every wrong one."),
    ("Rank-1", "share of queries whose first answer is the right person."),
    ("Gain", "the difference of two such figures, in percentage points."),
    (
        "Interval",
        "a range made so that it holds the true difference in the stated share of studies, if what it is “over” were "
        "drawn anew; one that includes zero shows neither gain nor loss.",
    ),
    ("Draw", "which real images are in the 20 % (40 %, ...) subset."),
    ("Seed", "the random start of a training."),
)
"""The head's terms, for a newcomer."""


def result_caption(statistics: pd.DataFrame, confidence: float) -> str:
    """What to look at in the charts."""
    units, level = set(statistics["unit"]), f"{100 * confidence:g} % intervals"
    text = "Dots and squares are means; a gain is colored only where its interval excludes zero. "
    if "draw" in units:
        text += (
            f"Pale bars on the left: {level} over the draws of the subset, for these test identities; small dots: the "
            "single draws. On the right: over new draws and new test identities together, the thin line for all "
            "comparisons at once. Arms share draws and people, so overlapping bars on the left can go with a certain "
            "gain on the right."
        )
        if units != {"draw"}:
            text += " At a share with one draw, bars speak of these images only."
    elif "seed" in units:
        text += (
            f"Pale bars on the left: {level} over the seeds of one draw; small dots: the single seeds. On the right: "
            "over new trainings and new test identities, for these images."
        )
    else:
        text += (
            f"Pale bars on the right: {level} over new test identities, for these images and these trained networks."
        )
    return text


def identity_caption(comparison: Comparison) -> str:
    """What the chart of identities shows, and how not to read it."""
    return (
        f"One bar a test identity: the change of their queries’ mean AP (average precision of one query) from "
        f"“{comparison.reference}” to “{comparison.arm}”, averaged over the runs that both have, sorted. None of these "
        "people was in the training set. A mean gain that comes from a few tall bars is worth less than many small "
        "ones; some bars would point either way between two trainings of one arm, too."
    )


def papers(results: pd.DataFrame) -> dict[str, Any]:
    """The papers' table as the report shows it, and what differs here."""
    row = results.iloc[0]
    differences = []
    if (row["queries"], row["gallery"]) != MARKET_TEST:
        differences.append(f"the test here has {row['queries']:,} queries and {row['gallery']:,} gallery images")
    if row["backbone"] != "resnet50.tv_in1k":
        differences.append(f"the network is {row['backbone']} at {row['height']} × {row['width']} pixels")
    if "ImageNet" not in str(row["weights"]):
        differences.append("it starts without ImageNet weights")
    text = f": {enumeration(differences)}" if differences else ""
    return {
        "fractions": PAPER_FRACTIONS,
        "rows": PAPER_TABLE_4.items(),
        "difference": text,
        "caveat": PAPER_NOTE.replace("*", ""),
    }


MARKET_TEST = (3368, 15913)
"""Queries and gallery images (junk left out) of the whole of Market-1501."""


def set_up(results: pd.DataFrame) -> str:
    """The network and where it starts from, in words."""
    networks = results[["backbone", "weights", "height", "width"]].drop_duplicates()
    entries = [
        f"{row.backbone} at {row.height} × {row.width} pixels, {STARTS.get(str(row.weights), str(row.weights))}"
        for row in networks.itertuples()
    ]
    text = f"Network: {'; '.join(entries)}."
    if "from scratch" in set(results["weights"]):
        text += " So absolute figures cannot be compared with published ones; differences between arms are what counts."
    return text


STARTS = {
    "from scratch": "trained from scratch without ImageNet weights",
    "another run": "started from another run",
    "ImageNet (timm)": "started from ImageNet weights",
    "ImageNet (package)": "started from ImageNet weights",
}


def spoken_scopes(gains: Sequence[Gain]) -> str:
    """What intervals are over; where fractions have unequally many draws and seeds, which is over what."""
    fractions: dict[str, list[int]] = {}
    for gain in gains:
        found = fractions.setdefault(gain.scope, [])
        found += [gain.fraction] * (gain.fraction not in found)
    if len(fractions) < 2:
        return next(iter(fractions), SCOPES["none"])
    return "; ".join(f"{scope} (at {enumeration([f'{f} %' for f in sorted(at)])})" for scope, at in fractions.items())


def gain_caption(confidence: float, gains: Sequence[Gain]) -> str:
    """How to read the table of gains."""
    return (
        f"mAP in percent, gains in points, {100 * confidence:g} % intervals: over {spoken_scopes(gains)}. All at once: "
        "the band that holds for all comparisons together. Stands: whether the gain or loss excludes zero alone, or "
        "both alone and in the band. Over test identities alone: for these trained networks."
    )


def plan_caption(designs: Sequence[str], units: Collection[str], gain: float, power: float) -> str:
    """How to read the table of where the uncertainty comes from."""
    text = (
        f"From {' / '.join(designs)}. ± is half the interval, in points of mAP: a smaller true gain could not have "
        "been distinguished from zero. Percentages say where its variance comes from: another draw of the "
        "images, another seed of the training, other test identities, and the interplay (one training’s luck with one "
        "person, which more of either shrinks); df are its degrees of freedom. To halve it: so many draws, seeds a "
        "draw or test identities, the rest unchanged; — means not by these alone, or not known. The last column: how "
        f"many draws find a true gain of {gain:g} point in {100 * power:g} % of such studies. The variances are "
        "themselves estimates from few runs, so take the numbers for their size. python -m reid plan-runs tells the "
        "same of any earlier table."
    )
    if set(units) != {"draw"}:
        text += " With one draw nothing is known of other images: run at least two to plan them."
    return text


def table_caption(results: pd.DataFrame, comparison: Comparison, confidence: float) -> str:
    """How to read the table of all arms."""
    text = "Figures in percent, gains in points; the best mAP of each share in bold."
    if len(results.groupby(["protocol", "fraction", "arm"])) < len(results):
        text += " ± is the standard deviation over the runs of an arm (draws and seeds)."
    over = spoken_scopes(comparison.headline)
    return text + (
        f" In brackets: {100 * confidence:g} % interval over {over}. Real, Synthetic: images in the training set. "
        "Steps: optimization steps, with those of a run that an arm is initialized from."
    )
