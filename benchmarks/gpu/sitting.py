"""A regeneration that goes on elsewhere: its settings and what cannot be found there again travel in its store.

Artifacts are named by the content of their inputs, so whatever is complete in the store that arrives is found there.
Only the stages that read the data set itself (`FROM_DATA`) would need it for their names; the data set stays here, and
where their artifacts lie is written down in `SITTING` instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasets.runtime.atomic import write_text_atomically
from datasets.runtime.config import StageConfig
from datasets.runtime.errors import InputError
from datasets.runtime.keys import artifact_directory
from datasets.runtime.manifests import is_complete
from flows.config import RegenerateConfig
from flows.pipeline import Regeneration
from flows.process.commands import PROJECT
from flows.reid_arms import Unit, train_arms

SITTING = "sitting.json"
"""In the store: the regeneration's settings, and the artifacts of `FROM_DATA`."""
FROM_DATA = ("miniature", "index", "import-poses")
"""Stages whose names depend on files outside the store."""
ORDER = (20, 100, 40, 60, 80)
"""Which subsets' runs come first, as long as there is time: the few images are the question, 100 % is a single run."""

Make = Callable[[Sequence[StageConfig]], list[Path]]


HERE = "<project>"
"""Stands for this project's folder, which lies elsewhere on another machine: the built-in models are in it."""


def _replaced(value: Any, old: str, new: str) -> Any:
    """A JSON value whose paths below `old` lie below `new`."""
    if isinstance(value, dict):
        return {name: _replaced(item, old, new) for name, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, old, new) for item in value]
    inside = isinstance(value, str) and (value == old or value.startswith(f"{old}/"))
    return new + value[len(old) :] if inside else value


class NotReadyError(Exception):
    """A step's artifacts are not all there; carries what is missing."""

    def __init__(self, missing: Sequence[StageConfig]) -> None:
        super().__init__(f"{len(missing)} artifacts of stage {missing[0].stage} are missing")
        self.missing = list(missing)


class Sitting:
    """The regeneration in a store, here or there.

    Args:
        store: its root.
        config: the settings; read from the store if not given.
        make: makes what is missing; not given: nothing is made, and `NotReadyError` raised.
    """

    def __init__(self, store: Path, config: RegenerateConfig | None = None, make: Make | None = None) -> None:
        self.store, self._make = store.absolute(), make
        self.noted: dict[str, list[str]] = {}
        if config is None:
            config = self._read()
        self.config = config.model_copy(update={"store": self.store})
        self.regeneration = Regeneration(self.config, self.make)
        self.complete: list[Path] = []
        """Every complete artifact that a step asked for, in order."""
        self.missing: list[StageConfig] = []
        """What the first step that is not ready lacks."""

    def _read(self) -> RegenerateConfig:
        path = self.store / SITTING
        if not path.is_file():
            raise InputError(f"{self.store} holds no {SITTING}; pack a regeneration first (benchmarks/gpu/pack.sh)")
        content = json.loads(path.read_text())
        self.noted = content["from_data"]
        return RegenerateConfig.model_validate(_replaced(content["settings"], HERE, str(PROJECT)))

    def write(self) -> None:
        """Write down what another machine needs to know."""
        settings = _replaced(self.config.model_dump(mode="json"), str(PROJECT), HERE)
        content = {"settings": settings, "from_data": self.noted}
        write_text_atomically(self.store / SITTING, json.dumps(content, indent=1) + "\n")

    def make(self, configs: Sequence[StageConfig]) -> list[Path]:
        """The artifacts of a step, as `Regeneration` asks for them."""
        if not configs:
            return []
        note = f"{configs[0].stage}/{self.regeneration.purpose}"
        if note in self.noted:
            folders = [self.store / name for name in self.noted[note]]
        elif self._make is not None:
            folders = self._make(configs)
        else:
            folders = [artifact_directory(config, self.store) for config in configs]
            if missing := [config for config, f in zip(configs, folders, strict=True) if not is_complete(f)]:
                self.complete += [folder for folder in folders if is_complete(folder)]
                self.missing = self.missing or missing
                raise NotReadyError(missing)
        if configs[0].stage in FROM_DATA:
            self.noted[note] = [str(folder.relative_to(self.store)) for folder in folders]
        self.complete += folders
        return folders

    def cells(self) -> list[tuple[Unit, int]]:
        """(subset, seed) in the order of their runs: all subsets of a draw by `ORDER`, then the next draw and seed."""
        places = {fraction: place for place, fraction in enumerate(ORDER)}
        units = sorted(self.regeneration.units(), key=lambda unit: (unit[1], places.get(unit[0], len(ORDER)), unit[0]))
        return [(unit, seed) for seed in self.config.seeds for unit in units]

    def train(self, inputs: Any, cell: tuple[Unit, int], make: Make | None = None) -> list[Path]:
        """The re-ID runs of one subset and seed, the pretraining they start from included."""
        unit, seed = cell
        config = self.config.model_copy(update={"seeds": [seed]})
        return list(train_arms(config, inputs, [unit], make or self.make).values())
