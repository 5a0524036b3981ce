"""What to synthesize, decided before any image is made: identity, sources, target poses and seed of every picture.

The plan is a pure function of the subset's records and a seed, so it can be read, compared and resumed. Identities,
sources *and* target poses all come from the subset (a leak-free pose bank by construction: a fraction that may use
20 % of the images may use 20 % of the poses), unless a bank of another data set's skeletons lends the poses. Nothing
here looks at a picture.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from datasets.runtime.errors import InputError
from imagpose.canvas.layout import canvas_seed
from imagpose.synthesis.viewpoints import FACINGS, facing, rarity, viewpoint, visible_keypoints

MIN_KEYPOINTS = 6
"""A pose with fewer visible joints asks for nothing in particular, so it is never a target."""

Policy = Literal["top-up", "paper"]
PosePolicy = Literal["random", "rare", "rare-in-camera", "rare-viewpoint", "reconstruction"]
COLUMNS = ("key", "canvas", "slot", "pid", "camid", "source_keys", "target_pose_key", "seed")


@dataclass(frozen=True, kw_only=True)
class Person:
    """One identity's images in the subset."""

    pid: int
    rows: np.ndarray
    """Their row numbers in the records."""
    cameras: int
    """How many cameras have seen this person."""


def synthetic_key(pid: int, camid: int, canvas: int, slot: int) -> str:
    """A synthetic image's name, read by every Market-1501 reader: ``0002_c1s0_000017_01`` = canvas 17, view 1.

    Sequences of real images count from 1, so sequence 0 marks a picture as synthetic and cannot meet a real key.
    """
    return f"{pid:04d}_c{camid}s0_{canvas:06d}_{slot:02d}"


def make_plan(
    records: pd.DataFrame,
    *,
    images: int,
    sources: int = 1,
    poses: int = 3,
    policy: Policy = "top-up",
    pose_policy: PosePolicy = "random",
    seed: int = 0,
    lent: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Plan `images` synthetic images of the people in `records`.

    Args:
        records: the subset: columns key, pid, camid, keypoints (18, 3); any order.
        images: how many pictures.
        sources: most source images per canvas shows (1-3); people with fewer show what they have.
        poses: target poses on a canvas (1-3), with `sources` at most 4 views together.
        policy: 'top-up': the person with the fewest images is next, each source in its turn. 'paper': any image.
        pose_policy: 'random': any pose of the subset (the papers' choice). 'rare': rather a side of the body that
            this person's images lack. 'rare-in-camera': rather one that the source's camera seldom shows (the picture
            takes over its background). 'rare-viewpoint': rather one whose direction and stride few poses of all show
            (`imagpose.synthesis.viewpoints.rarity`). 'reconstruction': the first source's own pose, a control.
        seed: decides everything random.
        lent: target poses of another data set in place of the subset's: columns key, keypoints (18, 3); any order.

    Returns:
        One row for each picture, columns `COLUMNS`; sorted by person and canvas.

    Raises:
        InputError: nobody or no pose to plan with.
    """
    if sources + poses > 4:
        raise InputError(f"{sources} sources and {poses} poses do not fit a canvas of 4 views; lower one of them")
    records = records.sort_values("key", ignore_index=True)
    keys, keypoints, bank = _pose_bank(records, lent)
    if images > 0:
        _check_material(records, bank)
    choose = _PoseChooser(bank, keypoints, records.camid.to_numpy(), pose_policy)
    turns = (_fewest_first if policy == "top-up" else _at_random)(records, -(-images // poses), poses, sources, seed)
    rows: list[tuple[object, ...]] = []
    for canvas, (person, shown) in enumerate(turns):
        targets = choose(np.random.default_rng([seed, canvas]), shown, person, min(poses, images - len(rows)))
        shared = (person.pid, int(records.camid[shown[0]]), [str(keys[i]) for i in shown])
        for slot, target in enumerate(targets):
            name = synthetic_key(shared[0], shared[1], canvas, slot)
            rows.append((name, canvas, slot, *shared, str(keys[target]), canvas_seed(seed, canvas)))
    plan = pd.DataFrame(rows, columns=list(COLUMNS)).sort_values(["pid", "canvas", "slot"], ignore_index=True)
    check_leak_free(plan, set(records.key), set(keys[len(records) :]))
    return plan


def _pose_bank(records: pd.DataFrame, lent: pd.DataFrame | None) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Keys and (N, 18, 3) keypoints of the subset's images, then of the lent poses; positions of possible targets."""
    lending = pd.DataFrame(columns=["key", "keypoints"]) if lent is None else lent.sort_values("key")
    keypoints = np.concatenate([_stacked(records), _stacked(lending)])
    bank = np.flatnonzero(visible_keypoints(keypoints) >= MIN_KEYPOINTS)
    return [*records.key, *lending.key], keypoints, bank if lent is None else bank[bank >= len(records)]


def _check_material(records: pd.DataFrame, bank: np.ndarray) -> None:
    if records.empty:
        raise InputError("the subset holds no images, so there is nobody to synthesize; choose a larger fraction")
    if len(bank) == 0:
        raise InputError(f"no image has a pose of {MIN_KEYPOINTS} or more joints to lend; extract poses first")


def check_leak_free(plan: pd.DataFrame, subset: set[str], lent: Set[str] = frozenset()) -> None:
    """Refuse a plan that shows more than the subset allows.

    Args:
        lent: keys of another data set's poses that it may use.

    Raises:
        InputError: an image outside the subset is used, or a picture would get a real image's key.
    """
    used = {key for keys in plan.source_keys for key in keys} | (set(plan.target_pose_key) - lent)
    if outside := sorted(used - subset):
        raise InputError(f"the plan uses {len(outside)} images outside its subset, for example {outside[0]}")
    if clash := sorted(set(plan.key) & subset):
        raise InputError(f"{len(clash)} synthetic keys are keys of real images, for example {clash[0]}")


def _stacked(records: pd.DataFrame) -> np.ndarray:
    if records.empty:
        return np.zeros((0, 18, 3))
    return np.stack([np.asarray(k, dtype=np.float64).reshape(18, 3) for k in records.keypoints])


def _people(records: pd.DataFrame) -> list[Person]:
    return [
        Person(pid=int(pid), rows=group.index.to_numpy(), cameras=group.camid.nunique())
        for pid, group in records.groupby("pid", sort=True)
    ]


def _fewest_first(
    records: pd.DataFrame, canvases: int, per_canvas: int, sources: int, seed: int
) -> Iterator[tuple[Person, list[int]]]:
    """Whose canvas is next, with its sources: the person with the fewest images so far, one camera before several.

    This levels the subset from below, so a top-up helps first where a re-ID model has least to learn from. Each image
    of a person has its turn as source before any comes again.
    """
    rng = np.random.default_rng(seed)
    people = _people(records)
    orders = [rng.permutation(person.rows) for person in people]
    lots = rng.permutation(len(people))
    queue = [
        (len(p.rows), p.cameras > 1, int(lot), number) for number, (p, lot) in enumerate(zip(people, lots, strict=True))
    ]
    heapq.heapify(queue)
    turns = [0] * len(people)
    for _ in range(canvases):
        count, several, lot, number = heapq.heappop(queue)
        order, start = orders[number], turns[number]
        yield people[number], [int(order[(start + i) % len(order)]) for i in range(min(sources, len(order)))]
        turns[number] += 1
        heapq.heappush(queue, (count + per_canvas, several, lot, number))


def _at_random(
    records: pd.DataFrame, canvases: int, per_canvas: int, sources: int, seed: int
) -> Iterator[tuple[Person, list[int]]]:
    """The papers' choice: any image of the subset is the source, whoever it shows."""
    rng = np.random.default_rng(seed)
    people = {person.pid: person for person in _people(records)}
    pids = records.pid.to_numpy()
    for first in rng.integers(len(records), size=canvases).tolist():
        person = people[int(pids[first])]
        others = rng.permutation(person.rows[person.rows != first])[: sources - 1]
        yield person, [first, *(int(i) for i in others)]


class _PoseChooser:
    """Draws the target poses of a canvas from a bank.

    Args:
        bank: positions of the poses that may be drawn.
        keypoints: (N, 18, 3) of the subset's images, then of those that are lent.
        cameras: of the subset's images.
        policy: as `make_plan` explains them.
    """

    def __init__(self, bank: np.ndarray, keypoints: np.ndarray, cameras: np.ndarray, policy: PosePolicy) -> None:
        self.bank, self.cameras, self.policy = bank, cameras, policy
        self.sides = facing(keypoints)
        self.bank_by_side = [bank[self.sides[bank] == side] for side in range(len(FACINGS))]
        self.rarity = rarity(viewpoint(keypoints[bank])) if policy == "rare-viewpoint" else None

    def __call__(self, rng: np.random.Generator, shown: Sequence[int], person: Person, count: int) -> list[int]:
        if self.policy == "reconstruction":
            return [shown[0]] * count
        if self.rarity is not None:
            return self._rare(rng, shown, count)
        chosen: list[int] = []
        for _ in range(count):
            candidates = self._candidates(rng, person, shown[0])
            free = candidates if len(candidates) > 64 else candidates[~np.isin(candidates, [*shown, *chosen])]
            pose = int(rng.choice(free)) if len(free) else None
            while pose is not None and (pose in shown or pose in chosen):
                pose = int(rng.choice(free))
            chosen.append(self._again(rng, shown) if pose is None else pose)
        return chosen

    def _rare(self, rng: np.random.Generator, shown: Sequence[int], count: int) -> list[int]:
        """Different poses, as long as there are any, by how rare each is."""
        assert self.rarity is not None
        chosen: list[int] = []
        for _ in range(count):
            weights = np.where(np.isin(self.bank, [*shown, *chosen]), 0.0, self.rarity)
            total = weights.sum()
            chosen.append(int(rng.choice(self.bank, p=weights / total)) if total > 0 else self._again(rng, shown))
        return chosen

    def _again(self, rng: np.random.Generator, shown: Sequence[int]) -> int:
        """A subset of a handful of images: a pose comes twice rather than a canvas not at all."""
        others = self.bank[~np.isin(self.bank, shown)]
        return int(rng.choice(others if len(others) else self.bank))

    def _candidates(self, rng: np.random.Generator, person: Person, source: int) -> np.ndarray:
        if self.policy == "random":
            return self.bank
        there = np.array([len(bank) > 0 for bank in self.bank_by_side])
        if self.policy == "rare":
            seen = np.bincount(self.sides[person.rows], minlength=len(FACINGS))
            weights = there / (1.0 + seen) ** 2
        else:  # by shares, not counts: cameras have seen thousands
            seen = np.bincount(self.sides[self.cameras == self.cameras[source]], minlength=len(FACINGS))
            weights = there / (0.01 + seen / seen.sum())
        return self.bank_by_side[int(rng.choice(len(FACINGS), p=weights / weights.sum()))]


def cut_shards(plan: pd.DataFrame, images_per_shard: int) -> list[pd.DataFrame]:
    """Cut a plan after each person with whom a shard reaches `images_per_shard`: nobody spans two shards."""
    pids = plan.pid.to_numpy()
    ends = np.append(np.flatnonzero(pids[1:] != pids[:-1]) + 1, len(pids))
    parts, start = [], 0
    for end in ends.tolist():
        if end - start >= images_per_shard or (end == len(pids) and end > start):
            parts.append(plan.iloc[start:end])
            start = end
    return parts
