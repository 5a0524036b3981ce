"""Which generator ``imagpose generate`` takes when none is named: the best of those that were measured.

Measured means by ``imagpose evaluate``, whose artifacts lie in the same store. Figures compare only on the same pairs
of the same images at the same size, so the evaluations are grouped by these, and the group with most pairs decides.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.runtime.manifests import RecordedForm, is_complete, manifest_of, recorded_path, summary_of
from imagpose.config import BUILT_IN
from imagpose.config.samplers import STUDENTS_SAMPLER

SAME_TEST = ("pairs", "limit", "seed", "height", "width")
"""Fields of an evaluation (beside its images) that must be equal for two to compare."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One generator on one set of test pairs, in scenario T1.

    Attributes:
        generator: its folder.
        test: what the figures were measured on; evaluations with the same compare.
        pairs: number of pairs.
        ssim: 0 to 1, higher is better.
        lpips: on AlexNet, lower is better; None where its weights were not at hand.
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
    best = _best(max(groups.values(), key=lambda group: (group[0].pairs, len(group), group[0].test)))
    return best.generator, f"the best of {len(found)} evaluated in {store}: {best}"


def _best(group: Sequence[Measured]) -> Measured:
    if any(one.lpips is None for one in group):
        return max(group, key=lambda one: one.ssim)
    return min(group, key=lambda one: one.lpips or 0.0)


def _measured(store: Path) -> Iterator[Measured]:
    """Evaluations of a store whose generator is still there, in order of their keys.

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
        if "T1" in rows and (recorded_path(manifest, "generator") / "model_index.json").is_file():
            yield _read(manifest, found.pairs, rows["T1"])


class _Row(RecordedForm):
    row: str
    ssim: float
    lpips: float | None = None


class _Evaluation(RecordedForm):
    pairs: int
    rows: list[_Row]


def _read(manifest: dict[str, Any], pairs: int, row: _Row) -> Measured:
    config, inputs = manifest["config"], manifest["inputs"]
    return Measured(
        generator=recorded_path(manifest, "generator"),
        test=(inputs["shards"]["sha256"], *(str(config.get(field)) for field in SAME_TEST)),
        pairs=pairs,
        ssim=row.ssim,
        lpips=row.lpips,
    )
