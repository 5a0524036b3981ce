"""What a training writes down besides weights: JSON lines, TensorBoard, progress and memory.

Everything lies in the artifact's `logs` folder, which does not count in its content hash: the lines hold times, and how
often they are written must not make the same weights look like others.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.runtime.atomic import write_text_atomically
from datasets.runtime.manifests import LOGS
from datasets.runtime.progress import Progress
from imagpose.canvas.view_grid import VIEWS

logger = logging.getLogger(__name__)

TRAIN, VALIDATION = "train", "validation"
"""Names of the logs: ``logs/train.jsonl`` and ``logs/validation.jsonl``."""


def peak_memory_mib(device: torch.device) -> float:
    """Most memory this process has held so far: allocated on the GPU, or resident in RAM."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


class JsonLines:
    """A log of rows with a `step`; rows after the resumed step are dropped, they are written again."""

    def __init__(self, path: Path, step: int) -> None:
        """Read what an interrupted run wrote up to `step`."""
        lines = path.read_text().splitlines() if path.is_file() else []
        self.path = path
        self.rows: list[dict[str, Any]] = [row for row in map(json.loads, lines) if row["step"] <= step]

    def write(self) -> None:
        """Write the file anew, whole."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(self.path, "".join(json.dumps(row) + "\n" for row in self.rows))


class TrainingLog:
    """The logs of one training; only the first process of several writes, the others' calls do nothing."""

    def __init__(self, directory: Path, step: int, *, first: bool, tensorboard: bool, device: torch.device) -> None:
        """Continue with the logs below `directory` after `step` finished steps."""
        self.folder, self.first, self.device = directory / LOGS, first, device
        self.train = JsonLines(self.folder / f"{TRAIN}.jsonl", step)
        self.validation = JsonLines(self.folder / f"{VALIDATION}.jsonl", step)
        self.seconds_before = self.train.rows[-1]["seconds"] if self.train.rows else 0.0
        self.started = time.monotonic()
        self.board = self._open_board(step) if first and tensorboard else None

    def _open_board(self, step: int) -> Any:
        from torch.utils.tensorboard import SummaryWriter  # half a second

        return SummaryWriter(str(self.folder / "tensorboard"), purge_step=step + 1 if step else None)

    def seconds(self) -> float:
        """Seconds of training, those of interrupted runs included."""
        return round(self.seconds_before + time.monotonic() - self.started, 2)

    def add_step(self, step: int, values: dict[str, float]) -> None:
        """A row of the training log, with its time and memory."""
        memory = {"seconds": self.seconds(), "peak_memory_mib": round(peak_memory_mib(self.device), 1)}
        self.train.rows.append({"step": step, **values, **memory})
        self._add_scalars(step, "train", values | memory)

    def add_validation(self, step: int, values: dict[str, float]) -> None:
        """A row of the validation log."""
        self.validation.rows.append({"step": step, **values})
        self._add_scalars(step, "validation", values)
        self.write()

    def add_picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """Show an (H, W, 3) uint8 picture in TensorBoard."""
        if self.board:
            self.board.add_image(name, picture, step, dataformats="HWC")

    def _add_scalars(self, step: int, group: str, values: dict[str, float]) -> None:
        if self.board:
            for name, value in values.items():
                self.board.add_scalar(f"{group}/{name}", value, step)

    def write(self) -> None:
        """Bring all logs to disk."""
        if self.first:
            for log in (self.train, self.validation):
                if log.rows:
                    log.write()
        if self.board:
            self.board.flush()

    def close(self) -> None:
        """Write everything and close TensorBoard's file."""
        self.write()
        if self.board:
            self.board.close()

    def recent_loss(self, rows: int = 10) -> float:
        """Mean of the newest entries' losses."""
        values = [row["loss"] for row in self.train.rows[-rows:]]
        return round(sum(values) / max(1, len(values)), 6)


class TrainingProgress:
    """The log's progress lines.

    ``progress train: 320/1280 images, 48.0 images/s, ETA 0:20, step 10/40, 1.5 steps/s, loss 0.31, peak 700 MiB``
    """

    def __init__(self, steps: int, batch_size: int, done: int, device: torch.device) -> None:
        """Count images (views) of `steps` steps, of which `done` are finished."""
        self.steps, self.done, self.images, self.device = steps, done, batch_size * VIEWS, device
        self.first, self.started = done, time.monotonic()
        self.lines = Progress(logger, "train", steps * self.images, "images", done=done * self.images)

    def finished_step(self, loss: float | None) -> None:
        """Count a step and say so every few seconds."""
        self.done += 1
        rate = (self.done - self.first) / max(time.monotonic() - self.started, 1e-9)
        note = f"step {self.done}/{self.steps}, {rate:.2f} steps/s"
        note += "" if loss is None else f", loss {loss:.4f}"
        self.lines.update(self.images, f"{note}, peak {peak_memory_mib(self.device):.0f} MiB")
