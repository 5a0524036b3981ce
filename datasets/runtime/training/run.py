"""What the small trainings share (pose network, VAE, image encoder): randomness, states, log, progress.

Every random choice of a step comes from the run's seed and the step's number, so a resumed run draws what an
uninterrupted one would have drawn.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.runtime.atomic import write_text_atomically
from datasets.runtime.errors import DivergedError
from datasets.runtime.manifests import LOGS, SCRATCH
from datasets.runtime.progress import Progress
from datasets.runtime.training.checkpoints import Checkpoints, Part

logger = logging.getLogger(__name__)

LOG = f"{LOGS}/train.jsonl"
"""Below the artifact's logs, which do not count in its content: the lines hold times."""


def step_generator(seed: int, step: int) -> torch.Generator:
    """The source of everything random in one step."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set one learning rate for all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate


class TrainingRun:
    """A training's working folder: the state to resume from, logs/train.jsonl and progress lines.

    Attributes:
        step: steps that are done.
        seconds: time spent on them, over all interruptions.
    """

    def __init__(self, directory: Path, label: str, steps: int, parts: Mapping[str, Part]) -> None:
        """Begin, or resume from the newest state in `directory`.

        Args:
            directory: the artifact's working folder.
            label: what the progress lines call it.
            steps: steps in all.
            parts: what a state consists of, by name; put back in place when the run is resumed.
        """
        self.directory, self.steps, self.parts = directory, steps, parts
        self.checkpoints = Checkpoints(directory / SCRATCH)
        facts = self.checkpoints.restore(parts)
        self.step, self.seconds = int(facts["step"]), facts.get("seconds", 0.0)
        self._keep_log_until(self.step)
        self.progress = Progress(logger, label, steps, "steps", done=self.step)
        self._mark = time.monotonic()

    def finished_step(self, losses: dict[str, Tensor], rate: float, *, log_every: int, checkpoint_every: int) -> None:
        """Count a step; log and save when it is time.

        Args:
            losses: by name, scalars; 'loss' is what was minimized.
            rate: the step's learning rate.
            log_every: steps between lines of the log.
            checkpoint_every: steps between states.

        Raises:
            DivergedError: a loss is not finite.
        """
        self.step += 1
        now = time.monotonic()
        self.seconds, self._mark = self.seconds + now - self._mark, now
        note = ""
        if self.step % log_every == 0 or self.step == self.steps:
            values = {name: round(loss.detach().item(), 6) for name, loss in losses.items()}
            if not all(math.isfinite(value) for value in values.values()):
                raise DivergedError(
                    f"the loss is not finite at step {self.step} ({values}); try --learning-rate below {rate:g}"
                )
            note = f"loss {values['loss']:.4f}"
            self.write({"step": self.step, **values, "learning_rate": rate, "seconds": round(self.seconds, 2)})
        self.progress.update(1, note)
        if self.step % checkpoint_every == 0 and self.step < self.steps:
            self.checkpoints.save(self.step, self.parts, seconds=self.seconds)

    def write(self, row: dict[str, object]) -> None:
        """Append a line to logs/train.jsonl."""
        (self.directory / LOGS).mkdir(exist_ok=True)
        with (self.directory / LOG).open("a") as file:
            file.write(json.dumps(row) + "\n")

    def _keep_log_until(self, step: int) -> None:
        path = self.directory / LOG
        if path.is_file():
            rows = [line for line in path.read_text().splitlines() if json.loads(line).get("step", 0) <= step]
            write_text_atomically(path, "".join(f"{row}\n" for row in rows))
