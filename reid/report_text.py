"""The report's words: the headline and its cautions, captions, the protocol, the papers' figures.

The sentences follow from the figures: a gain is called a gain only where its interval excludes zero, and what a table
cannot show (one draw, unequal steps, a generator that saw more) is said beside the headline.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from reid.benchmark import arm_rank
from reid.benchmark_tables import PAPER_FRACTIONS, PAPER_NOTE, PAPER_TABLE_4
from reid.report_data import Gain, points


def headline(
    gains: Sequence[Gain], results: pd.DataFrame, arm: str, baseline: str, confidence: float
) -> dict[str, Any]:
    """The first sentence of the page, and what must stand beside it."""
    maps = [gain for gain in gains if gain.metric == "map"]
    if not maps:
        sentence = (
            f"There is no gain to report: no fraction has both the arm “{baseline}” and an arm with synthetic images."
        )
        return {"sentence": sentence, "remarks": []}
    parts = [f"{points(gain.value)} at\N{NO-BREAK SPACE}{gain.fraction}\N{NO-BREAK SPACE}%" for gain in maps]
    unit = "point" if len(maps) == 1 and abs(round(maps[0].value, 1)) == 1 else "points"
    listed = enumeration([parts[0].replace(" at", f" {unit} at"), *parts[1:]])
    sentence = f"Adding generated images to the real ones changes mAP by {listed} of the real training images. "
    sentence += _certainty(maps, confidence)
    return {"sentence": sentence, "remarks": remarks(results, arm, baseline)}


def _certainty(maps: Sequence[Gain], confidence: float) -> str:
    level = f"{100 * confidence:g} % interval over {'draws' if maps[0].over == 'draws' else 'the test identities'}"
    if all(gain.low is None for gain in maps):
        return "There are too few runs for an interval."
    up = [f"{gain.fraction}\N{NO-BREAK SPACE}%" for gain in maps if gain.certain and gain.value > 0]
    down = [f"{gain.fraction}\N{NO-BREAK SPACE}%" for gain in maps if gain.certain and gain.value < 0]
    if not up and not down:
        where = "" if len(maps) == 1 else " anywhere"
        return f"The {level} does not exclude zero{where}: no gain and no loss is shown."
    told = []
    if up:
        told.append(f"a gain at {enumeration(up)}")
    if down:
        told.append(f"a loss at {enumeration(down)}")
    rest = "" if len(up) + len(down) == len(maps) else "; elsewhere it includes zero"
    return f"The {level} excludes zero for {enumeration(told)}{rest}."


def remarks(results: pd.DataFrame, arm: str, baseline: str) -> list[str]:
    """Cautions that the figures call for: few draws or seeds, unequal steps."""
    pair = results[results["arm"].isin([arm, baseline])]
    draws, seeds = pair["draw"].nunique(), pair["seed"].nunique()
    told = []
    if draws == 1 and seeds == 1:
        told.append(
            "One draw, one seed: an illustration, not evidence. The intervals cover only which people happen to be in "
            "the test set, not the luck of the subset or of the training."
        )
    elif draws == 1:
        told.append(
            f"One draw of the subset, {seeds} seeds: the intervals do not cover which images the subset happens to "
            "hold."
        )
    elif draws < 5:
        told.append(f"{draws} draws of the subset: enough to see a spread, few for a firm interval.")
    if "synthetic" in arm and "real-pretrained" not in set(results["arm"]):
        told.append(
            "Not controlled for: a generator whose base has seen other people brings something of them along. "
            "Arm “real-pretrained” would tell how much of a gain that is; it was not run."
        )
    if "steps" in pair:
        steps = pair.groupby(["fraction", "arm"])["steps"].mean().unstack()
        if {arm, baseline} <= set(steps.columns) and (abs(steps[arm] - steps[baseline]) > 0.5).any():
            told.append(
                f"Training lengths differ: “{arm}” takes more or fewer steps than “{baseline}” (column Steps), so a "
                "part of the difference may be the length of the training."
            )
    if set(pair.loc[pair["arm"] == arm, "protocol"]) == {"paper"}:
        told.append(
            "Protocol of the papers: the generator was trained on the full training split, also where the "
            "re-identification network may see only a part of it."
        )
    return told


def enumeration(parts: Sequence[str]) -> str:
    """a; a and b; a, b and c."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def result_lead(results: pd.DataFrame, baseline: str) -> str:
    """What was compared with what."""
    fractions = sorted(results["fraction"].unique())
    shares = enumeration([f"{fraction} %" for fraction in fractions])
    others = sorted(set(results["arm"]) - {baseline}, key=arm_rank)
    compared = f" beside {enumeration([f'“{name}”' for name in others])}" if others else ""
    return (
        f"The same re-identification network, trained on {shares} of the real training images: “{baseline}”{compared}"
        f", {len(results)} run{'s' if len(results) != 1 else ''} in all, tested on the complete query and gallery "
        "splits, with junk left out and same-camera matches not counted."
    )


def result_caption(statistics: pd.DataFrame, confidence: float) -> str:
    """What to look at in the charts."""
    text = "The distance between two lines is the gain; where the lines meet, more real images have made it vanish."
    units = set(statistics["unit"])
    level = f"{100 * confidence:g} % intervals"
    if "draw" in units:
        text += f" Pale bars: {level} over draws."
    elif "seed" in units:
        text += f" Pale bars left: {level} over the seeds of one draw; right: over the test identities."
    else:
        text += f" Pale bars on the right: {level} from drawing the test identities anew (paired bootstrap)."
    return text + " A gain is coloured only where its interval excludes zero."


def protocol(results: pd.DataFrame, baseline: str, benchmark: dict[str, Any]) -> list[tuple[str, str]]:
    """The benchmark's rules, in words: term and explanation."""
    level = f"{100 * float(benchmark.get('confidence', 0.95)):g} %"
    told = [
        ("Fractions and draws.", "A fraction is a share of the real training images with at least one image of each "
         "identity. Subsets of one draw are nested: the 20 % subset lies inside the 40 % one."),
        ("Synthetic images.", "Each subset is topped up with generated images of the same people, those with fewest "
         "images or only one camera first; the table says how many. Pictures that are flat, saturated or a copy of "
         "their source are flagged, counted above and not trained on; nothing else is thrown away."),
    ]  # fmt: skip
    protocols = set(results["protocol"])
    if "leak-free" in protocols:
        told.append(
            ("Leak-free.", "The generator, its poses and any identity check have seen only the subset itself, plus "
             "data of other people. The papers’ generators have seen the whole training split.")
        )  # fmt: skip
    if "paper" in protocols:
        told.append(("Paper.", "The generator was trained on the full training split, as in PIDM, PCDMs and IMAGPose; "
                     "runs of this protocol are labelled and never mixed with leak-free ones."))  # fmt: skip
    arms = set(results["arm"])
    told += [(f"Arm “{name}”.", text) for name, text in ARMS.items() if name in arms]
    told += [
        ("Test.", "Every query is ranked against the gallery by cosine distance. Gallery images of the query’s person "
         "from the query’s own camera are left out, junk (−1) is dropped, distractors (0000) stay. No re-ranking, no "
         "choice of the best epoch: the last network counts."),
        ("Figures.", "Rank-k is the share of queries with a right answer among the first k. mAP is the mean of the "
         "precisions at the hits (as BoT, fast-reid and torchreid count; the official MATLAB code’s trapezoid gives "
         "about half a point less). mINP is the share of right answers down to the last one found."),
        ("Gains and intervals.", f"A gain is counted in percentage points over “{baseline}” of the same fraction, "
         f"draw and seed. Intervals over draws are Student’s ({level}); with a single draw the interval is a paired "
         f"bootstrap over the test identities ({benchmark.get('resamples', '?')} resamples): it holds for these "
         "trained networks and other test people, not for another subset or another training."),
    ]  # fmt: skip
    return told


def papers(results: pd.DataFrame) -> dict[str, Any]:
    """The papers' table as the page shows it, and what differs here."""
    row = results.iloc[0]
    differences = []
    if (row["queries"], row["gallery"]) != MARKET_TEST:
        differences.append(f"the test here has {row['queries']:,} queries and {row['gallery']:,} gallery images")
    if row["backbone"] != "resnet50":
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
    told = [
        f"{row.backbone} at {row.height} × {row.width} pixels, {STARTS.get(str(row.weights), str(row.weights))}"
        for row in networks.itertuples()
    ]
    text = f"Network: {'; '.join(told)}."
    if "from scratch" in set(results["weights"]):
        text += " Absolute figures are therefore far below published ones; differences between arms are what counts."
    return text


STARTS = {
    "from scratch": "trained from scratch without ImageNet weights",
    "another run": "started from another run",
    "ImageNet (timm)": "started from ImageNet weights",
}


def table_caption(results: pd.DataFrame) -> str:
    """How to read the table of all arms."""
    text = "All figures in percent; the best mAP of each share in bold."
    if len(results.groupby(["protocol", "fraction", "arm"])) < len(results):
        text += " ± is the standard deviation over the runs of an arm."
    return text + " Synthetic: generated images among the training images. Steps: optimisation steps of one run."


ARMS = {
    "real": "Trained on the real images of the subset alone.",
    "real+synthetic": "Real and generated images mixed from the first step on, under the same labels.",
    "real-long": "Real images alone with more optimisation steps: what longer training gives for nothing.",
    "real-then-synthetic": "Trained on the real images, then further on both (PIDM’s schedule).",
    "reconstruction": "Generated images that keep their source’s pose: noise and style without new poses.",
    "real-pretrained": "The network is first trained on the other people that the generator’s base has seen.",
    "cheap-augmentation": "Real images, as many steps as real-long, with colour jitter, erasing and wider crops.",
    "real+checked": "As real+synthetic, with only those generated images that the identity check has kept.",
}
