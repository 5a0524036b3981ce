"""What every small training of this project shares: seeds, learning rate, checkpoints, log.

Every random choice of a step comes from the run's seed and the step's number, so a resumed run draws what an
uninterrupted one would have drawn.
"""

from __future__ import annotations

import json
import logging
import math
import time
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from datasets.runtime.atomic import write_text_atomically
from datasets.runtime.manifests import LOGS, SCRATCH
from datasets.runtime.progress import Progress

logger = logging.getLogger(__name__)

CHECKPOINT = f"{SCRATCH}/checkpoint.safetensors"
"""Below the scratch folder, which goes when the artifact is complete, not before."""
LOG = f"{LOGS}/train.jsonl"
"""Below the artifact's logs, which do not count in its content: the lines hold times."""


def step_generator(seed: int, step: int) -> torch.Generator:
    """The source of everything random in one step."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1))


def cosine_rate(step: int, steps: int, peak: float, *, warmup: int, floor: float) -> float:
    """Learning rate of a step: linear warm-up, then a cosine from `peak` to `floor` x `peak`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set one learning rate for all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate


class Run:
    """A training's working folder: the checkpoint to go on from, logs/train.jsonl and progress lines."""

    def __init__(self, directory: Path, label: str, steps: int, model: nn.Module, optimizer: torch.optim.Optimizer):
        self.directory, self.steps = directory, steps
        self.model, self.optimizer = model, optimizer
        self.step, self.seconds = 0, 0.0
        if (directory / CHECKPOINT).is_file():
            self._resume()
        self._keep_log_until(self.step)
        self.progress = Progress(logger, label, steps, "steps", done=self.step)
        self._mark = time.monotonic()

    def finished_step(self, losses: dict[str, Tensor], rate: float, *, log_every: int, checkpoint_every: int) -> None:
        """Count a step; log and save when it is time.

        Raises: FloatingPointError: a loss is not finite.
        """
        self.step += 1
        now = time.monotonic()
        self.seconds, self._mark = self.seconds + now - self._mark, now
        note = ""
        if self.step % log_every == 0 or self.step == self.steps:
            values = {name: round(loss.detach().item(), 6) for name, loss in losses.items()}
            if not all(math.isfinite(value) for value in values.values()):
                raise FloatingPointError(f"step {self.step}: loss is not finite ({values}); lower the learning rate")
            note = f"loss {values['loss']:.4f}"
            self.write({"step": self.step, **values, "learning_rate": rate, "seconds": round(self.seconds, 2)})
        self.progress.update(1, note)
        if self.step % checkpoint_every == 0 and self.step < self.steps:
            self.save()

    def write(self, row: dict[str, object]) -> None:
        """Append a line to logs/train.jsonl."""
        (self.directory / LOGS).mkdir(exist_ok=True)
        with (self.directory / LOG).open("a") as file:
            file.write(json.dumps(row) + "\n")

    def save(self) -> None:
        """Write the checkpoint: weights, optimiser state and step, in one safetensors file."""
        tensors = {f"model.{name}": value.contiguous() for name, value in self.model.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": value.contiguous() for name, value in state.items()}
        (self.directory / SCRATCH).mkdir(exist_ok=True)
        temporary = self.directory / f"{CHECKPOINT}.tmp"
        save_file(tensors, temporary, metadata={"step": str(self.step), "seconds": str(self.seconds)})
        temporary.replace(self.directory / CHECKPOINT)

    def _resume(self) -> None:
        path = self.directory / CHECKPOINT
        state: dict[int, dict[str, Tensor]] = {}
        weights = {}
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                kind, _, rest = name.partition(".")
                if kind == "model":
                    weights[rest] = file.get_tensor(name)
                else:
                    number, _, field = rest.partition(".")
                    state.setdefault(int(number), {})[field] = file.get_tensor(name)
            facts = file.metadata()
        self.model.load_state_dict(weights, strict=True)
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for number, fields in state.items():
            for name, value in fields.items():
                if value.shape == parameters[number].shape:  # a fused optimiser wants its moments in the same layout
                    fields[name] = torch.empty_like(parameters[number], dtype=value.dtype).copy_(value)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.step, self.seconds = int(facts["step"]), float(facts["seconds"])
        logger.info("going on from step %d of %d", self.step, self.steps)

    def _keep_log_until(self, step: int) -> None:
        path = self.directory / LOG
        if path.is_file():
            rows = [line for line in path.read_text().splitlines() if json.loads(line).get("step", 0) <= step]
            write_text_atomically(path, "".join(f"{row}\n" for row in rows))
