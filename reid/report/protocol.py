"""The benchmark's rules, in the report's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from reid.arms import REAL, REAL_LONG, REAL_PRETRAINED, arm_of
from reid.report.data import enumeration
from reid.report.gains import Comparison

Rule = tuple[str, str]
"""Term and explanation."""
FRACTIONS: Rule = (
    "Fractions and draws.",
    "A fraction is a share of the real training images with at least one image of each identity. Subsets of one draw "
    "are nested: the 20 % subset lies inside the 40 % one. All draws are of the same training people.",
)
PROTOCOLS: Mapping[str, Rule] = {
    "leak-free": (
        "Leak-free.",
        "The generator, its poses and any identity check have seen only the subset itself, plus data of other people. "
        "The papers’ generators have seen the whole training split.",
    ),
    "paper": (
        "Paper.",
        "The generator was trained on the full training split, as in PIDM, PCDMs and IMAGPose; runs of this protocol "
        "are labeled and never mixed with leak-free ones.",
    ),
}
FIGURES: Rule = (
    "Figures.",
    "Rank-k is the share of queries with a right answer among the first k. mAP is the mean of the precisions at the "
    "hits (as BoT, fast-reid and torchreid count; the official MATLAB code’s trapezoid gives half a point to a point "
    "less on Market-1501). mINP is the mean, over queries, of the right answers’ number divided by the rank of the "
    "last one.",
)


def protocol(comparison: Comparison, benchmark: dict[str, Any], synthesis: Sequence[dict[str, Any]]) -> list[Rule]:
    """The benchmark's rules, in words: term and explanation.

    Args:
        comparison: what the report compares.
        benchmark: the benchmark's config.
        synthesis: configs of the generated sets.
    """
    results, level = comparison.results, f"{100 * float(benchmark.get('confidence', 0.95)):g} %"
    return [
        FRACTIONS,
        ("Synthetic images.", _synthesis(results, synthesis)),
        *(rule for name, rule in PROTOCOLS.items() if name in set(results["protocol"])),
        ("Equal steps.", _equal_steps(comparison)),
        ("Test.", _test(results)),
        FIGURES,
        ("Gains and intervals.", _intervals(comparison, level, benchmark.get("resamples", "?"))),
        (
            "Several comparisons.",
            f"{_declared(comparison, benchmark)} The band of each is wide enough that all of them hold at once in "
            f"{level} of such studies (max-t). A gain that stands under “both” excludes zero in its own interval and "
            "in the band.",
        ),
    ]


def _test(results: pd.DataFrame) -> str:
    return (
        "Every query is ranked against the gallery by cosine distance. Gallery images of the query’s person from the "
        "query’s own camera are left out, junk (−1) is dropped, distractors (0000) stay. No re-ranking, no choice of "
        "the best epoch: the last network counts. A query without a right answer in the gallery is counted "
        f"({_unmatched(results)} here) and takes no part in the means."
    )


def _intervals(comparison: Comparison, level: str, resamples: object) -> str:
    return (
        f"A gain is counted in percentage points over “{comparison.reference}” (or the arm named) of the same "
        f"fraction, draw and seed; seeds of a draw are averaged first. Its {level} interval takes the place of another "
        "laboratory, which draws other images of these training people, trains anew and tests on other people: the "
        "variances over draws and over test identities are added, with their interplay counted once (two-way random "
        "effects; jackknife over people; Welch-Satterthwaite degrees of freedom). The intervals over draws alone "
        f"(Student’s) and over test identities alone (bootstrap of people with all of their queries, {resamples} "
        "resamples) hold for these people, or for these trained networks."
    )


def _declared(comparison: Comparison, benchmark: dict[str, Any]) -> str:
    family = max((gain.family for gain in comparison.gains), default=0)
    declared = benchmark.get("comparisons", [])
    named = [f"{item['arm']} over {item['over']}" for item in declared]
    if not named:
        return f"None was declared before the run, so all {family} gains of the table count."
    counted = f"{family} comparison{'' if family == 1 else 's'}"
    entries = f"Declared before the run: {enumeration(list(dict.fromkeys(named)))}, {counted} in all."
    run = {(gain.arm, gain.baseline) for gain in comparison.gains}
    absent = [f"{item['arm']} over {item['over']}" for item in declared if (item["arm"], item["over"]) not in run]
    return f"{entries} Not run, and not counted: {enumeration(absent)}." if absent else entries


def _synthesis(results: pd.DataFrame, synthesis: Sequence[dict[str, Any]]) -> str:
    policies, poses = ({item.get(name) for item in synthesis} for name in ("policy", "pose_policy"))
    text = "Generated images show the people of the subset under their own labels; the table says how many. "
    if policies == {"top-up"}:
        text = (
            "Each subset is topped up with generated images of its own people, those with fewest images or only one "
            "camera first; the table says how many. "
        )
    if poses == {"random"}:
        text += "The target poses are those of other images of the subset, at random. "
    text += "Pictures that are flat, saturated or a copy of their source are flagged, counted above and not trained on"
    if checked := [name for name in results["arm"].unique() if arm_of(name).checked]:
        return f"{text}; arm “{checked[0]}” also leaves out those that the identity check refuses."
    return text + "; nothing else is thrown away."


def _equal_steps(comparison: Comparison) -> str:
    text = "An epoch counts as if all images of a batch were real, so synthetic images never lengthen a training. "
    arms = set(comparison.results["arm"])
    if comparison.reference == REAL_LONG.name:
        text += f"“{REAL_LONG.name}” sees only real images and takes as many optimization steps as “{comparison.arm}”. "
    if {REAL.name, REAL_LONG.name} <= arms:
        text += f"“{REAL.name}” takes fewer, so a gain over it is partly more training. "
    if REAL_PRETRAINED.name in arms:
        text += f"“{REAL_PRETRAINED.name}” takes its steps on other people on top. "
    return text + "The list of arms and the table name the numbers."


def _unmatched(results: pd.DataFrame) -> str:
    return f"{int(results['unmatched_queries'].max()):,}" if "unmatched_queries" in results else "0"
