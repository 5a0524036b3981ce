"""The published test pairs as canvases of each scenario: its sources, its target poses, the image that counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from datasets.poses.pairs import Pair
from imagpose.canvas.layout import canvas_seed
from imagpose.config.fields import Mode

PER_CANVAS = 3


@dataclass(frozen=True, kw_only=True)
class PairCanvas:
    """One canvas of an evaluation."""

    sources: tuple[str, ...]
    """Keys of what is shown; the first one feeds the cross-attention."""
    poses: tuple[str, ...]
    """Keys of the images whose poses are requested."""
    kept: tuple[tuple[int, int], ...]
    """(generated view, number of the pair it is the picture of)."""
    seed: int
    mode: Mode


def draw_pairs(pairs: Sequence[Pair], limit: int | None, seed: int) -> list[Pair]:
    """`limit` of the pairs at random, in their order; all where there are no more."""
    if limit is None or limit >= len(pairs):
        return list(pairs)
    chosen = np.random.default_rng([seed, 1]).choice(len(pairs), limit, replace=False)
    return [pairs[i] for i in np.sort(chosen)]


def canvases_of(mode: Mode, pairs: Sequence[Pair], members: Mapping[str, Sequence[str]], seed: int) -> list[PairCanvas]:
    """Every pair on a canvas of one scenario, all counted.

    T1: the pose three times, one of the three pictures drawn by the seed. T2: the source three times. T3: further
    images of the person as second and third source, never the target; who has none is shown once. IMAGPose*: up to
    three pairs of one source together; a place left over asks for another image's pose, of the person or of a pair.

    Args:
        members: for each image, the usable images of the same person (and outfit), itself included.
        seed: of the noise and of everything drawn.
    """
    if mode == "IMAGPose*":
        return _three_poses(pairs, members, seed)
    canvases = []
    for number, (source, target) in enumerate(pairs):
        rng = np.random.default_rng([seed, 2, number])
        kept, sources, named = 0, (source,), mode
        if mode == "T1":
            kept = int(rng.integers(PER_CANVAS))
        elif mode == "T3":
            others = [key for key in members[source] if key not in (source, target)]
            sources = (source, *(others[i] for i in rng.permutation(len(others))[: PER_CANVAS - 1]))
            named = "T3" if len(sources) > 1 else "free"
        canvases.append(
            PairCanvas(
                sources=sources, poses=(target,), kept=((kept, number),), seed=canvas_seed(seed, number), mode=named
            )
        )
    return canvases


def _three_poses(pairs: Sequence[Pair], members: Mapping[str, Sequence[str]], seed: int) -> list[PairCanvas]:
    by_source: dict[str, list[int]] = {}
    for number, (source, _) in enumerate(pairs):
        by_source.setdefault(source, []).append(number)
    canvases = []
    for source, numbers in by_source.items():
        for start in range(0, len(numbers), PER_CANVAS):
            part = numbers[start : start + PER_CANVAS]
            rng = np.random.default_rng([seed, 3, part[0]])
            poses = _filled_up([pairs[i][1] for i in part], source, pairs, members, rng)
            canvases.append(
                PairCanvas(
                    sources=(source,),
                    poses=poses,
                    kept=tuple(enumerate(part)),
                    seed=canvas_seed(seed, part[0]),
                    mode="IMAGPose*",
                )
            )
    return canvases


def _filled_up(
    poses: list[str],
    source: str,
    pairs: Sequence[Pair],
    members: Mapping[str, Sequence[str]],
    rng: np.random.Generator,
) -> tuple[str, ...]:
    others = [key for key in members[source] if key != source and key not in poses]
    others = [others[i] for i in rng.permutation(len(others))]
    while len(poses) < PER_CANVAS:
        poses = [*poses, others.pop(0) if others else pairs[int(rng.integers(len(pairs)))][1]]
    return tuple(poses)
