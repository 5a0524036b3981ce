"""Which pictures a study asks about.

'Real or generated?' has a part for each generator: its pictures among as many real ones of the people it drew, so that
R2G, which counts what happens to the *real* ones, belongs to one generator as in the papers. No real image is shown in
two parts. 'Which is best?' takes pairs of source and pose that every generator drew.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from datasets.runtime.errors import InputError
from imagpose.study.generated_sets import GeneratedPicture, GeneratedSet
from imagpose.study.real_images import RealImages

Task = tuple[tuple[str, ...], str]
"""Keys of the sources and of the image that lends the pose."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Pictures of one generator among real ones."""

    generator: str
    generated: Sequence[str]
    real: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One source and pose as each generator drew it."""

    sources: tuple[str, ...]
    pose: str
    pictures: Mapping[str, str]
    """Key of each generator's picture."""


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """Everything that is asked, in no order."""

    parts: Sequence[Part]
    choices: Sequence[Choice]


def make_plan(sets: Sequence[GeneratedSet], real: RealImages, per_generator: int, best: int, seed: int) -> StudyPlan:
    """Draw what is asked.

    Pictures that 'which is best?' shows are asked about in 'real or generated?' only where there are no others.

    Raises:
        InputError: a generator has too few pictures, there are too few real ones of its people, or too few pairs that
            all generators drew.
    """
    rng = np.random.default_rng(seed)
    choices = _choices(sets, real, best if len(sets) > 1 else 0, rng)
    seen = {key for choice in choices for key in (*choice.sources, choice.pose)}
    people = real.people()
    able = {one.name: _images_of({picture.pid for picture in one.pictures}, people) for one in sets}
    parts: dict[str, Part] = {}
    used: set[str] = set()
    for one in sorted(sets, key=lambda one: len(able[one.name])):  # who has fewest to choose from comes first
        shown = {choice.pictures[one.name] for choice in choices}
        generated = _drawn([picture.key for picture in one.pictures], per_generator, shown, rng)
        if len(generated) < per_generator:
            raise InputError(
                f"'{one.name}' has {len(generated)} usable pictures, {per_generator} are asked about; lower "
                "--per-generator"
            )
        candidates = able[one.name] - used
        real_keys = _drawn(candidates, per_generator, seen, rng)
        if len(real_keys) < per_generator:
            raise InputError(
                f"{len(candidates)} real images of the people that '{one.name}' drew are left, {per_generator} are "
                "needed; lower --per-generator, or give --real shards with more images of these people"
            )
        used.update(real_keys)
        parts[one.name] = Part(generator=one.name, generated=generated, real=real_keys)
    return StudyPlan(parts=[parts[one.name] for one in sets], choices=choices)


def _images_of(pids: Collection[int], people: Mapping[str, int]) -> set[str]:
    return {key for key, pid in people.items() if pid in pids}


def _drawn(keys: Collection[str], count: int, rather_not: Collection[str], rng: np.random.Generator) -> list[str]:
    """`count` of the keys at random, those of `rather_not` only if there are too few others."""
    shuffled = [sorted(set(keys))[i] for i in rng.permutation(len(set(keys)))]
    return sorted(shuffled, key=lambda key: key in rather_not)[:count]


def _choices(sets: Sequence[GeneratedSet], real: RealImages, count: int, rng: np.random.Generator) -> list[Choice]:
    if not count:
        return []
    drawn = [_by_task(one.pictures) for one in sets]
    common = sorted(set.intersection(*(set(one) for one in drawn)))
    usable = [
        (sources, pose)
        for sources, pose in common
        if real.has_skeleton(pose) and all(key in real.facts for key in sources)
    ]
    if len(usable) < count:
        names = ", ".join(f"'{one.name}'" for one in sets)
        raise InputError(
            f"{len(common)} pairs of source and pose were drawn by all of {names}, {len(usable)} of them with source "
            f"and skeleton in --real; {count} are asked about: lower --best (0 asks none), or make the sets from the "
            "same pairs"
        )
    return [
        Choice(
            sources=usable[i][0],
            pose=usable[i][1],
            pictures={one.name: tasks[usable[i]] for one, tasks in zip(sets, drawn, strict=True)},
        )
        for i in rng.permutation(len(usable))[:count]
    ]


def _by_task(pictures: Sequence[GeneratedPicture]) -> dict[Task, str]:
    """The picture of each source and pose; of several the first by key."""
    found: dict[Task, str] = {}
    for picture in sorted(pictures, key=lambda picture: picture.key):
        if picture.sources and picture.pose is not None:
            found.setdefault((picture.sources, picture.pose), picture.key)
    return found
