"""The first words of the report: what came out, against what, how certain, and what must be said beside it.

The sentences follow from the figures: a gain is called a gain only where its interval excludes zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from reid.arms import REAL, REAL_LONG, REAL_PRETRAINED, arm_of
from reid.benchmark.intervals import FEW_PEOPLE, FEWEST_PEOPLE
from reid.report.data import enumeration, points
from reid.report.gains import Comparison, Gain, excludes_zero, spoken_interval

SPACE = "\N{NO-BREAK SPACE}"


def headline(comparison: Comparison, confidence: float, *, rendered: bool = False) -> dict[str, Any]:
    """The first sentence of the report, the answer to the next objection, and cautions.

    Args:
        rendered: whether the data set is a rendered one.
    """
    maps = [gain for gain in comparison.headline if gain.metric == "map"]
    if not maps:
        sentence = (
            f"There is no gain to report: no fraction has both the arm “{comparison.baseline}” and an arm with "
            "synthetic images."
        )
        return {"sentence": sentence, "further": "", "remarks": []}
    share = f"{SPACE}of the real training images"
    sentence = f"Adding generated images changes mAP by {_listed(maps)}{share}, compared with {_opponent(comparison)}. "
    return {
        "sentence": sentence + certainty(maps, confidence),
        "further": other_people(comparison, confidence),
        "remarks": remarks(comparison, rendered=rendered),
    }


def _listed(gains: Sequence[Gain]) -> str:
    """+3.0 points at 20 % and −0.4 at 40 %."""
    parts = [f"{points(gain.value)} at{SPACE}{gain.fraction}{SPACE}%" for gain in gains]
    one = len(gains) == 1 and abs(round(gains[0].value, 1)) == 1
    return enumeration([parts[0].replace(" at", f" point{'' if one else 's'} at"), *parts[1:]])


def _opponent(comparison: Comparison) -> str:
    """What the arm is compared with, and whether for equally many steps."""
    reference = comparison.reference
    alone = reference in (REAL.name, REAL_LONG.name)
    what = "training on the real images alone" if alone else "another arm"
    ours, theirs = (
        {fraction: own + before for fraction, (own, before) in comparison.steps(arm).items()}
        for arm in (comparison.arm or "", reference)
    )
    common = [(ours[fraction], theirs[fraction]) for fraction in ours if fraction in theirs]
    if all(mine == other for mine, other in common):
        counts = sorted({mine for mine, _ in common})
        many = f": {counts[0]:,}" if len(counts) == 1 else ""
        return f"{what} for equally many optimization steps (arm “{reference}”{many})"
    mine, other = common[0]
    return f"{what} for {other:,} optimization steps instead of {mine:,} (arm “{reference}”; steps are not equal)"


def certainty(maps: Sequence[Gain], confidence: float) -> str:
    """Where the interval excludes zero, what it is over, and where all declared comparisons hold together."""
    one_draw = [gain for gain in maps if gain.unit != "draw"]
    limit = ""
    if one_draw:
        where = "" if len(one_draw) == len(maps) else f" at {_places(one_draw)}"
        limit = f"There is one draw{where}, so this speaks of these images only{where and ' there'} and claims nothing "
        limit += "beyond them. "
    if all(gain.interval is None for gain in maps):
        return f"{limit}{no_interval(maps)}"
    return limit + " ".join(_by_scope(maps, confidence)) + _together(maps)


def _by_scope(maps: Sequence[Gain], confidence: float) -> Iterator[str]:
    """A sentence for each kind of interval: several draws at one fraction say nothing about one draw at another."""
    scopes = list(dict.fromkeys(gain.scope for gain in maps))
    for scope in scopes:
        gains = [gain for gain in maps if gain.scope == scope]
        where = "" if len(scopes) == 1 else f", at {_places(gains)},"
        if all(gain.interval is None for gain in gains):
            yield f"At {_places(gains)}: {no_interval(gains)}"
        else:
            sure = _excluded(gains, [gain.certain for gain in gains])
            yield f"The {100 * confidence:g}{SPACE}% interval over {scope}{where} {sure}."


def _places(gains: Sequence[Gain]) -> str:
    """20 % and 40 %."""
    return enumeration([f"{gain.fraction}{SPACE}%" for gain in gains])


def no_interval(maps: Sequence[Gain]) -> str:
    """Why no interval is given."""
    people = min(gain.test_people for gain in maps)
    if people < FEWEST_PEOPLE:
        return f"There is no interval: {people} test identities are too few for one."
    return "There is no interval: nothing varied between people and runs."


def _together(maps: Sequence[Gain]) -> str:
    """What is left where several comparisons were made."""
    declared = [gain for gain in maps if gain.declared]
    if not declared:
        return " The comparison is not among those that were declared before the run."
    if len(declared) < len(maps):
        others = _places([gain for gain in maps if not gain.declared])
        return f" The comparison at {others} is not among those that were declared before the run.{_together(declared)}"
    if maps[0].family < 2 or not any(gain.certain for gain in maps):
        return ""
    bands = [excludes_zero(gain.band) for gain in maps]
    if bands == [gain.certain for gain in maps] and any(bands):
        return f" That stands when all {maps[0].family} comparisons are to hold at once."
    return f" When all {maps[0].family} comparisons are to hold at once, the band {_excluded(maps, bands)}."


def _excluded(maps: Sequence[Gain], certain: Sequence[bool]) -> str:
    up, down = (
        [f"{gain.fraction}{SPACE}%" for gain, sure in zip(maps, certain, strict=True) if sure and gain.value * side > 0]
        for side in (1, -1)
    )
    if not up and not down:
        return f"does not exclude zero{'' if len(maps) == 1 else ' anywhere'}: no gain and no loss is shown"
    entries = [f"{name} at {enumeration(found)}" for name, found in (("a gain", up), ("a loss", down)) if found]
    rest = "" if len(up) + len(down) == len(maps) else "; elsewhere it includes zero"
    return f"excludes zero for {enumeration(entries)}{rest}"


def other_people(comparison: Comparison, confidence: float) -> str:
    """The gain over a network that has seen the generator's other people; empty where that was not run."""
    maps = comparison.against(REAL_PRETRAINED.name, "map")
    if not maps or comparison.reference == REAL_PRETRAINED.name:
        return ""
    parts, said = [], ""
    for place, gain in enumerate(maps):
        level = "" if gain.scope == said else f"{100 * confidence:g}{SPACE}% interval over {gain.scope}: "
        interval = f" ({level}{spoken_interval(gain.interval)})" if gain.interval else ""
        said = gain.scope if gain.interval else said
        parts.append(f"{points(gain.value)}{'' if place else ' points'} at{SPACE}{gain.fraction}{SPACE}%{interval}")
    text = (
        "The generator’s base has seen other people, so a gain might come from their pictures. Against a network that "
        f"was first trained on these people (arm “{REAL_PRETRAINED.name}”), the change is {enumeration(parts)}"
    )
    if all(gain.interval is None for gain in maps):
        return f"{text}. {no_interval(maps)}"
    text += ". "
    if all(gain.certain and gain.value > 0 for gain in maps):
        return text + "So such pictures, used in this simpler way, do not explain the gain."
    if any(gain.certain and gain.value > 0 for gain in maps):
        return text + "Where the interval includes zero or lies below it, such pictures may explain the gain."
    return text + "So it is not shown that the generator adds more than these people’s pictures would."


def remarks(comparison: Comparison, *, rendered: bool = False) -> list[str]:
    """Cautions that the figures call for: few draws or seeds, unequal steps, people seen before, rendered people."""
    results, arm, reference = comparison.results, comparison.arm or "", comparison.reference
    pair = results[results["arm"].isin([arm, reference])]
    entries = [*_spread(pair), *_few_people(comparison.headline)]
    if rendered:
        entries.append(
            "The people are rendered, not photographed. Whether the change carries over to photographs, this report "
            "cannot tell."
        )
    if arm_of(arm).generated and REAL_PRETRAINED.name not in set(results["arm"]):
        entries.append(
            "Not controlled for: other people that the generator’s base may have seen. Arm "
            f"“{REAL_PRETRAINED.name}” would tell whether their pictures alone bring as much; it was not run."
        )
    elif arm_of(arm).generated and not comparison.against(REAL_PRETRAINED.name):
        entries.append(
            f"Arm “{REAL_PRETRAINED.name}” was run, but the benchmark counts no gain over it "
            "(name it in the benchmark’s ‘controls’)."
        )
    if reference != REAL_LONG.name and REAL_LONG.name in set(results["arm"]):
        entries.append(
            f"Arm “{REAL_LONG.name}” was not run at every fraction, so the comparison is with “{reference}”."
        )
    if _unequal(comparison):
        entries.append(
            f"Training lengths differ: “{arm}” takes more or fewer steps than “{reference}” (column Steps), so a "
            "part of the difference may be the length of the training."
        )
    if set(pair.loc[pair["arm"] == arm, "protocol"]) == {"paper"}:
        entries.append(
            "Protocol of the papers: the generator was trained on the full training split, also where the "
            "re-identification network may see only a part of it."
        )
    return entries


def _spread(pair: pd.DataFrame) -> list[str]:
    draws, seeds = pair["draw"].nunique(), pair["seed"].nunique()
    if draws == 1 and seeds == 1:
        return [
            "One draw, one seed: an illustration, not evidence. The intervals cover only which people happen to be in "
            "the test set, not the luck of the subset or of the training."
        ]
    if draws == 1:
        text = (
            f"One draw of the subset, {seeds} seeds: no interval here covers which images the subset happens to hold."
        )
        return [f"{text} {_from_one_difference('trainings')}" if seeds == 2 else text]
    if draws == 2:
        return [f"Two draws of the subset: {_from_one_difference('draws')}"]
    if draws < 5:
        return [f"{draws} draws of the subset: enough to see a spread, few for a narrow interval."]
    return []


def _from_one_difference(units: str) -> str:
    text = (
        f"how much {units} differ is estimated from one difference, so the interval holds a little less often than it "
        f"says (91 % of simulated studies where the {units} decide), and it is often very wide."
    )
    return text if units == "draws" else text[0].upper() + text[1:]


def _few_people(gains: Sequence[Gain]) -> list[str]:
    people = min((gain.test_people for gain in gains), default=FEW_PEOPLE)
    if people >= FEW_PEOPLE:
        return []
    if people < FEWEST_PEOPLE:
        return [f"Only {people} test identities: too few for any interval (at least {FEWEST_PEOPLE} are needed)."]
    return [
        f"Only {people} test identities: the gain is known of these few. The intervals are Student’s with few degrees "
        "of freedom, because a bootstrap of so few people is too narrow."
    ]


def _unequal(comparison: Comparison) -> bool:
    ours, theirs = comparison.steps(comparison.arm or ""), comparison.steps(comparison.reference)
    return any(sum(ours[fraction]) != sum(theirs[fraction]) for fraction in ours if fraction in theirs)
