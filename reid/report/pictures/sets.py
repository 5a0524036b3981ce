"""The generated sets that a report shows: finished `imagpose synthesize` artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from reid.report.pictures.cases import read_set


@dataclass(frozen=True, kw_only=True)
class GeneratedSet:
    """A finished `imagpose synthesize` artifact."""

    directory: Path
    manifest: dict[str, Any]

    @property
    def fraction(self) -> int:
        """Percent of the real images it was made from."""
        return int(self.manifest["config"].get("fraction") or 100)

    @property
    def draw(self) -> int:
        """Which draw of the subset."""
        return int(self.manifest["config"].get("draw") or 0)

    @property
    def title(self) -> str:
        """For headings."""
        return f"{self.fraction} % of the real images"

    @property
    def note(self) -> str:
        """What the generator has seen of these people."""
        seen = self.manifest.get("summary", {}).get("generator_fraction", self.fraction)
        if seen == self.fraction:
            return "generator trained on this subset"
        return f"generator trained on {'the full training split' if seen in (None, 100) else f'{seen} %'}"

    @cached_property
    def table(self) -> pd.DataFrame:
        """Its images."""
        return read_set(self.directory)


def first_draws(sets: Sequence[GeneratedSet]) -> list[GeneratedSet]:
    """The first set of each fraction: a report with the pictures of every draw would be read by nobody."""
    found: dict[int, GeneratedSet] = {}
    for item in sets:
        found.setdefault(item.fraction, item)
    return list(found.values())
