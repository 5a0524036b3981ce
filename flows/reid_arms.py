"""The re-ID runs of a regeneration: which arm trains on what, for how long, and from where.

Arm `real` takes the recipe's own steps. Every other arm takes `long` times as many *in all*, so that they are compared
at equal steps, and `real-long` tells what the longer training gives by itself. An arm that is initialized from another
run counts that run's steps too: `real-then-synthetic` adds what is left. Pretraining on other people comes on top, is
as long as `pretrain.reid_steps` says, the same for both arms that are initialized from it, and is reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.config import RegenerateConfig, complete
from flows.stages import MakeArtifacts
from reid.arms import PRETRAINING, arm_of
from reid.config import CheckIdentityConfig, TrainReidConfig, TrainReidSettings

WHOLE_SET = 100
"""Fraction of the whole training split, in percent."""
Unit = tuple[int, int]
"""A subset: (fraction in percent, draw)."""


@dataclass(frozen=True)
class ReidInputs:
    """What the runs are made from."""

    shards: Path
    test_shards: Path
    subsets: Mapping[Unit, Path]
    """Which images each subset holds."""
    generated: Mapping[str, Mapping[Unit, Path]] = field(default_factory=dict)
    """By what an arm trains on (`reid.arms.Arm.trains_on`), the sets that the subsets' generators made."""
    others: Path | None = None
    """Training shards of the people whom the generator's base has seen."""


RunCell = tuple[Unit, str, int]
"""Which cell of the table a run is: (subset, arm, seed)."""


def train_arms(
    config: RegenerateConfig, inputs: ReidInputs, units: Sequence[Unit], make: MakeArtifacts
) -> dict[RunCell, Path]:
    """All runs of the table, arm by arm: first those that need no other run, then those that are initialized from one.

    Args:
        units: the subsets.
        make: makes what is missing of several artifacts of one stage; returns their folders in order.

    Returns:
        Their folders, in the table's order.
    """
    maker = _RunMaker(config, inputs)
    cells = [(unit, arm, seed) for unit in units for arm in _arms(config) for seed in config.seeds]
    cells = [cell for cell in cells if maker.possible(cell[0], cell[1])]
    first = [cell for cell in cells if not (arm_of(cell[1]).needs_real or arm_of(cell[1]).needs_others)]
    pretrainings = config.seeds if any(arm_of(arm).needs_others for _, arm, _ in cells) else []
    made = make([maker.make(*cell) for cell in first] + [maker.pretraining(seed) for seed in pretrainings])
    folders = dict(zip(first, made, strict=False))
    pretrained = dict(zip(pretrainings, made[len(first) :], strict=True))
    checks = _check_identities(config, inputs, [cell for cell in cells if arm_of(cell[1]).checked], folders, make)
    second = [cell for cell in cells if cell not in folders]
    later: list[TrainReidConfig] = []
    for unit, arm, seed in second:
        start = pretrained[seed] if arm_of(arm).needs_others else None
        start = folders[unit, "real", seed] if arm_of(arm).starts_from == "real" else start
        check = checks[unit, seed] if arm_of(arm).checked else None
        later.append(maker.make(unit, arm, seed, init_from=start, check=check))
    folders.update(zip(second, make(later), strict=True))
    return {cell: folders[cell] for cell in cells}


def _arms(config: RegenerateConfig) -> list[str]:
    return list(dict.fromkeys([*config.arms, *config.synthetic]))


def _check_identities(
    config: RegenerateConfig,
    inputs: ReidInputs,
    cells: Sequence[RunCell],
    folders: Mapping[RunCell, Path],
    make: MakeArtifacts,
) -> dict[tuple[Unit, int], Path]:
    """The check of each subset's synthetic images by the `real` run of the same seed."""
    wanted = [(unit, seed) for unit, _, seed in cells]
    checks = [
        complete(
            CheckIdentityConfig,
            config.check_identity,
            run=folders[unit, "real", seed],
            synthetic=inputs.generated["synthetic"][unit],
            shards=inputs.shards,
            subsets=inputs.subsets[unit],
            fraction=unit[0],
            draw=unit[1],
            device=config.device,
            workers=config.workers,
        )
        for unit, seed in wanted
    ]
    return dict(zip(wanted, make(checks), strict=True))


@dataclass(frozen=True)
class _RunMaker:
    """Puts the settings of single runs together."""

    config: RegenerateConfig
    inputs: ReidInputs

    def possible(self, unit: Unit, arm: str) -> bool:
        """Whether the arm is wanted here and has something to train on: nothing is synthesized for the whole set."""
        if unit[0] == WHOLE_SET and not of_whole_set(self.config, arm):
            return False
        return not arm_of(arm).needs_generator or unit in self.inputs.generated.get(arm_of(arm).trains_on, {})

    def make(
        self, unit: Unit, arm: str, seed: int, *, init_from: Path | None = None, check: Path | None = None
    ) -> TrainReidConfig:
        """The run of one cell of the table."""
        return self._complete(
            self.settings(arm),
            shards=self.inputs.shards,
            subsets=self.inputs.subsets[unit],
            fraction=unit[0],
            draw=unit[1],
            synthetic=self._synthetic(unit, arm),
            arm=arm,
            seed=seed,
            init_from=init_from,
            identity_check=[] if check is None else [check],
        )

    def pretraining(self, seed: int) -> TrainReidConfig:
        """A run on the people whom the generator's base has seen, as long as requested."""
        recipe, first = self.config.reid, self.config.pretrain
        if first is not None and first.reid_steps is not None:
            schedule = recipe.schedule.model_copy(update={"steps": first.reid_steps, "times": 1.0})
            recipe = recipe.model_copy(update={"schedule": schedule})
        return self._complete(recipe, shards=self.inputs.others, arm=PRETRAINING, seed=seed)

    def settings(self, name: str) -> TrainReidSettings:
        """The recipe with the arm's number of steps and augmentation."""
        arm, longer = arm_of(name), self.config.steps_ratio()
        recipe = arm.recipe(self.config.reid)
        share = {"recipe": 1.0, "long": longer, "rest": longer - 1}[arm.steps]
        changes: dict[str, Any] = {"times": recipe.schedule.times * share}
        if arm.needs_others and self.config.pretrain is not None:
            changes["learning_rate"] = recipe.schedule.learning_rate * self.config.pretrain.reid_rate
        return recipe.model_copy(update={"schedule": recipe.schedule.model_copy(update=changes)})

    def _synthetic(self, unit: Unit, name: str) -> list[Path]:
        match arm_of(name).trains_on:
            case "real":
                return []
            case "foreign":
                return [foreign_folder(self.config.synthetic[name], unit)]
            case kind:
                return [self.inputs.generated[kind][unit]]

    def _complete(self, settings: TrainReidSettings, **inputs: Any) -> TrainReidConfig:
        config = self.config
        return complete(
            TrainReidConfig,
            settings,
            test_shards=self.inputs.test_shards,
            protocol=config.protocol,
            device=config.device,
            workers=config.workers,
            **inputs,
        )


def of_whole_set(config: RegenerateConfig, arm: str) -> bool:
    """Whether an arm is wanted on the whole training split."""
    return config.arms_of_whole_set is None or arm in config.arms_of_whole_set


def foreign_folder(path: Path, unit: Unit) -> Path:
    """Another generator's images for a subset: ``{fraction}`` and ``{draw}`` in the path stand for its numbers."""
    text = str(path).replace("{fraction}", str(unit[0])).replace("{draw}", str(unit[1]))
    return Path(text).absolute()
