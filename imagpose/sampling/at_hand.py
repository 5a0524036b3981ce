"""Which generator ``imagpose generate`` takes when none is named: the best of those that were measured.

Measured means by ``imagpose evaluate``, whose artifacts lie in the same store. Figures compare only on the same pairs
of the same images at the same size and by the same version of the measurement, so the evaluations are grouped by these,
and the group with most pairs decides.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.runtime.manifests import (
    RecordedForm,
    is_complete,
    manifest_of,
    model_sha256,
    recorded_path,
    summary_of,
)
from imagpose.config import BUILT_IN
from imagpose.config.samplers import STUDENTS_SAMPLER

SAME_INPUTS = ("shards", "pairs")
"""Inputs of an evaluation whose content must be equal for two to compare."""
SAME_SETTINGS = ("limit", "seed")
"""Its fields that must be equal as well: they draw the pairs."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One generator on one set of test pairs, in scenario T1.

    Attributes:
        generator: its folder.
        test: what the figures were measured on; evaluations with the same compare.
        pairs: number of pairs.
        ssim: 0 to 1, higher is better.
        lpips: on AlexNet's published weights, lower is better; None where they were not at hand.
    """

    generator: Path
    test: tuple[str, ...]
    pairs: int
    ssim: float
    lpips: float | None

    def __str__(self) -> str:
        figure = f"SSIM {self.ssim:.3f}" if self.lpips is None else f"LPIPS {self.lpips:.3f}"
        return f"{figure} on {self.pairs:,} pairs"


def generator_at_hand(store: Path) -> tuple[Path, str]:
    """The best measured generator of a store, or the built-in one.

    The best has the lowest LPIPS of those that were measured on the same pairs; the highest SSIM where one of them
    has no LPIPS.

    Returns:
        Its folder, and why it was chosen, in words.
    """
    found = list(_measured(store))
    if not found:
        return BUILT_IN, f"the built-in one, which has seen rendered people alone; {store} holds no evaluated generator"
    groups: dict[tuple[str, ...], list[Measured]] = defaultdict(list)
    for one in found:
        groups[one.test].append(one)
    group = max(groups.values(), key=lambda group: (group[0].pairs, len(group), group[0].test))
    best, generators = _best(group), len({one.generator for one in group})
    of = f"the best of {generators}" if generators > 1 else "the only one"
    return best.generator, f"{of} evaluated on these pairs in {store}: {best}"


def _best(group: Sequence[Measured]) -> Measured:
    if any(one.lpips is None for one in group):
        return max(group, key=lambda one: one.ssim)
    return min(group, key=lambda one: one.lpips or 0.0)


def _measured(store: Path) -> Iterator[Measured]:
    """Evaluations of a store whose generator is still there as it was measured, in order of their keys.

    Few-step students are left out: they take another sampler than `generate`'s own.
    """
    for folder in sorted((store / "evaluate-imagpose").glob("*")):
        if not is_complete(folder):
            continue
        manifest = manifest_of(folder, "evaluate-imagpose")
        if manifest["config"].get("sampler") == STUDENTS_SAMPLER:
            continue
        found = summary_of(manifest, _Evaluation)
        rows = {row.row: row for row in found.rows}
        if "T1" in rows and _is_there(manifest):
            yield _read(manifest, found, rows["T1"])


def _is_there(manifest: dict[str, Any]) -> bool:
    folder = recorded_path(manifest, "generator")
    is_generator = (folder / "model_index.json").is_file()
    return is_generator and model_sha256(folder) == manifest["inputs"]["generator"]["sha256"]


class _Row(RecordedForm):
    row: str
    ssim: float
    lpips: float | None = None


class _Evaluation(RecordedForm):
    pairs: int
    size: list[int]
    rows: list[_Row]
    unknown_weights: dict[str, str] = {}


def _read(manifest: dict[str, Any], found: _Evaluation, row: _Row) -> Measured:
    config, inputs = manifest["config"], manifest["inputs"]
    contents = (inputs[name]["sha256"] if name in inputs else "" for name in SAME_INPUTS)
    settings = (str(config.get(field)) for field in SAME_SETTINGS)
    return Measured(
        generator=recorded_path(manifest, "generator"),
        test=(str(manifest["stage_version"]), str(found.size), *contents, *settings),
        pairs=found.pairs,
        ssim=row.ssim,
        lpips=None if "lpips" in found.unknown_weights else row.lpips,
    )
