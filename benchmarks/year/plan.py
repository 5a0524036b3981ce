"""What happens to the data set in each week of a year, decided beforehand from a seed.

A week's data are a mapping of file names to versions; a version above 0 is another picture under the same name. The
plan is made as a whole, so a year that was interrupted goes on as if it had not been.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np

NAME, FRACTION = "year", 60
"""The preset, and the share of the real images that its networks see, in percent."""
TRAIN, GALLERY = "bounding_box_train", "bounding_box_test"
START = datetime(2027, 1, 4, 5, tzinfo=UTC)
"""A Monday, five in the morning."""
FIRST = ("start", "add", "nothing", "shrink", "withdraw", "replace", "person", "gallery", "remove")
"""The events of the first weeks, so that also a short year has many kinds."""
LATER = {"add": 0.3, "replace": 0.15, "remove": 0.15, "person": 0.15, "gallery": 0.1, "nothing": 0.15}
"""Probabilities of the others, ..."""
FIXED = {17: "withdraw", 22: "shrink", 30: "withdraw", 37: "shrink", 43: "withdraw"}
"""... and the weeks of what is rare."""
FEWEST_PEOPLE, FEWEST_IMAGES = 4, 3
"""Training people, and images of each, that no event goes below."""
SHRINKS_BY = 0.15


@dataclass(frozen=True)
class Week:
    """A week's data set."""

    number: int
    event: str
    files: Mapping[str, int]
    """Path below the root -> version."""
    withdrawn: frozenset[int] = field(default_factory=frozenset)
    """Whoever has withdrawn consent by now."""
    leaving: int | None = None
    """Who does so in this week."""

    @property
    def date(self) -> datetime:
        """When it is regenerated."""
        return START + timedelta(weeks=self.number)


def pid_of(name: str) -> int:
    """The identity that a file's name says."""
    return int(name.rpartition("/")[2].partition("_")[0])


def training_images(files: Mapping[str, int]) -> list[str]:
    """The training images of people, sorted."""
    return sorted(name for name in files if name.startswith(TRAIN))


def plan_year(pool: Sequence[str], weeks: int, seed: int) -> list[Week]:
    """The weeks of a year.

    Args:
        pool: all files that there may be, in Market-1501's folders.
        weeks: how many.
        seed: of everything that happens.
    """
    rng = np.random.default_rng(seed)
    people = sorted({pid_of(name) for name in training_images(dict.fromkeys(pool, 0))})
    first = set(people[: len(people) // 2])
    start = {
        name: 0
        for number, name in enumerate(sorted(pool))
        if (name.startswith(TRAIN) and pid_of(name) in first and number % 3)
        or (not name.startswith(TRAIN) and (not name.startswith(GALLERY) or number % 4))
    }
    plan = [Week(0, FIRST[0], start)]
    for number in range(1, weeks):
        plan.append(_Change(pool, plan[-1], rng).week(number, _event(number, rng)))
    return plan


def _event(number: int, rng: np.random.Generator) -> str:
    drawn = str(rng.choice(list(LATER), p=list(LATER.values())))  # drawn in any case: the later weeks stay as they are
    return FIRST[number] if number < len(FIRST) else FIXED.get(number, drawn)


class _Change:
    """One week's event, from the week before.

    Args:
        pool: all files that there may be.
        before: the week before.
        rng: what decides.
    """

    def __init__(self, pool: Sequence[str], before: Week, rng: np.random.Generator) -> None:
        self.before, self.rng = before, rng
        self.files, self.withdrawn = dict(before.files), set(before.withdrawn)
        self.absent = sorted(name for name in pool if name not in self.files and pid_of(name) not in self.withdrawn)
        self.leaving: int | None = None

    def week(self, number: int, event: str) -> Week:
        """The data set after it; an event for which there is nothing left becomes 'nothing'."""
        if event != "nothing":
            getattr(self, f"_{event}")()
        unchanged = self.files == self.before.files
        return Week(number, "nothing" if unchanged else event, self.files, frozenset(self.withdrawn), self.leaving)

    def _take(self, names: Sequence[str], count: int) -> list[str]:
        return [names[i] for i in sorted(self.rng.permutation(len(names))[:count])]

    def _people(self) -> dict[int, list[str]]:
        people: dict[int, list[str]] = {}
        for name in training_images(self.files):
            people.setdefault(pid_of(name), []).append(name)
        return people

    def _add(self) -> None:
        known = self._people()
        names = [name for name in self.absent if name.startswith(TRAIN) and pid_of(name) in known]
        self.files |= dict.fromkeys(self._take(names, int(self.rng.integers(1, 4))), 0)

    def _person(self) -> None:
        known = self._people()
        names = [name for name in self.absent if name.startswith(TRAIN) and pid_of(name) not in known]
        if names:
            pid = pid_of(names[int(self.rng.integers(len(names)))])
            self.files |= {name: 0 for name in names if pid_of(name) == pid}

    def _gallery(self) -> None:
        names = [name for name in self.absent if name.startswith(GALLERY)]
        self.files |= dict.fromkeys(self._take(names, 2), 0)

    def _replace(self) -> None:
        images = training_images(self.files)
        for name in self._take(images, max(2, len(images) // 4)):
            self.files[name] += 1

    def _remove(self, count: int | None = None) -> None:
        count = int(self.rng.integers(1, 3)) if count is None else count
        for _ in range(count):
            spare = [name for names in self._people().values() if len(names) > FEWEST_IMAGES for name in names]
            for name in self._take(sorted(spare), 1):
                del self.files[name]

    def _shrink(self) -> None:
        self._remove(int(np.ceil(SHRINKS_BY * len(training_images(self.files)))))

    def _withdraw(self) -> None:
        people = sorted(self._people())
        if len(people) > FEWEST_PEOPLE:
            self.leaving = people[int(self.rng.integers(len(people)))]
            self.withdrawn.add(self.leaving)
            self.files = {name: version for name, version in self.files.items() if pid_of(name) != self.leaving}
