"""Training states on disk: everything that a run needs to continue as if it had never stopped.

A state is one safetensors file, ``state-00001200.safetensors``, that appears whole or not at all. What goes into it is
given by name: modules (weights and buffers), optimizers (moments), EMA weights, in any number. Learning rates
and random numbers are functions of the step's number in every training of this project, so no scheduler and no
generator is saved.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from datasets.runtime.errors import WeightsError

logger = logging.getLogger(__name__)

STATE = "state-{step:08d}.safetensors"
PATTERN = "state-[0-9]*.safetensors"


@runtime_checkable
class HasState(Protocol):
    """An object of ours that gives its state as tensors by name and takes it back."""

    def state(self) -> Mapping[str, Tensor]:
        """The state, by name."""

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave."""


Part = nn.Module | torch.optim.Optimizer | Mapping[str, Tensor] | HasState
"""What a state is made of. The tensors of a mapping are written to in place when they are put back."""


class Checkpoints:
    """The states of one training, in a folder of their own."""

    def __init__(self, folder: Path, keep: int = 1) -> None:
        """Look after the states in a folder.

        Args:
            folder: where the states lie, for example an unfinished artifact's `SCRATCH`; made when it is needed.
            keep: how many of the newest states to keep; more than one is a reserve against corruption.
        """
        self.folder, self.keep = folder, keep

    def states(self) -> list[Path]:
        """The states that are there, newest first."""
        return sorted(self.folder.glob(PATTERN), reverse=True)

    def save(self, step: int, parts: Mapping[str, Part], **facts: float) -> None:
        """Write the state after `step` steps, and delete all but the newest ones.

        Args:
            step: steps that are done.
            parts: what to save, by a name without dots.
            facts: further numbers, for example the seconds spent so far.
        """
        tensors = {
            f"{part}.{name}": tensor.detach().cpu().contiguous()
            for part, content in parts.items()
            for name, tensor in _tensors_of(content).items()
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / STATE.format(step=step)
        temporary = path.with_name(f".{path.name}.tmp")
        save_file(tensors, temporary, {"step": str(step)} | {name: repr(value) for name, value in facts.items()})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        for old in self.states()[self.keep :]:
            old.unlink()

    def restore(self, parts: Mapping[str, Part]) -> dict[str, float]:
        """Put back the newest state that can be read.

        Args:
            parts: as for `save`; they are filled in place.

        Returns:
            The facts of that state, 'step' among them; without any state, 'step' alone, 0.

        Raises:
            WeightsError: there are states, but none can be used.
        """
        reasons = []
        for path in self.states():
            try:
                facts, tensors = _read(path)
                for part, content in parts.items():
                    _put_back(content, tensors.get(part, {}))
            except (SafetensorError, OSError, KeyError, RuntimeError, ValueError) as error:
                reasons.append(f"{path}: {' '.join(str(error).split())[:200]}")
                logger.warning("training state passed over: %s", reasons[-1])
            else:
                logger.info("resuming from step %d", facts["step"])
                return facts
        if reasons:
            raise WeightsError(
                f"no training state can be read ({'; '.join(reasons)}); delete {self.folder.parent} to start anew"
            )
        return {"step": 0}


def _tensors_of(part: Part) -> Mapping[str, Tensor]:
    if isinstance(part, nn.Module):
        return part.state_dict()
    if isinstance(part, torch.optim.Optimizer):
        states = part.state_dict()["state"]
        return {f"{number}.{kind}": value for number, kinds in states.items() for kind, value in kinds.items()}
    return part.state() if isinstance(part, HasState) else part


def _read(path: Path) -> tuple[dict[str, float], dict[str, dict[str, Tensor]]]:
    """A state's facts, and its tensors by part and name."""
    tensors: dict[str, dict[str, Tensor]] = {}
    with safe_open(path, "pt") as file:
        for key in file.keys():  # noqa: SIM118 - not a mapping
            part, _, name = key.partition(".")
            tensors.setdefault(part, {})[name] = file.get_tensor(key)
        facts = {name: float(value) for name, value in file.metadata().items()}
    return facts | {"step": int(facts["step"])}, tensors


def _put_back(part: Part, tensors: Mapping[str, Tensor]) -> None:
    if isinstance(part, nn.Module):
        part.load_state_dict(dict(tensors), strict=True)
    elif isinstance(part, torch.optim.Optimizer):
        _put_back_moments(part, tensors)
    elif isinstance(part, HasState):
        part.load_state(tensors)
    else:
        with torch.no_grad():
            for name, target in part.items():
                target.copy_(tensors[name])


def _put_back_moments(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, _, kind = name.partition(".")
        parameter = parameters[int(number)]
        if value.shape == parameter.shape:  # a fused optimizer wants its moments in the parameter's memory layout
            value = torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)
        state.setdefault(int(number), {})[kind] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
