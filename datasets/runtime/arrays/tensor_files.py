"""Weights files as tables of tensors: safetensors, and PyTorch's pickles read as plain tensors. Nothing is executed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from datasets.runtime.errors import WeightsError

WRAPPERS = ("state_dict", "model", "model_state_dict", "net")
"""Keys under which training scripts save a state dict beside other things."""


def read_state(file: Path, *, unwrap: bool = False) -> dict[str, torch.Tensor]:
    """The tensors of a ``.safetensors`` or ``.pth`` file by name; nothing in it is executed.

    Args:
        file: where they lie.
        unwrap: whether the table may also be a checkpoint's part under one of `WRAPPERS`.

    Raises:
        WeightsError: corrupt, or more than tensors inside.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)  # noqa: TID251 - tensors only
    except UnpicklingError:
        raise WeightsError(
            f"{file} cannot be loaded as plain tensors: it is corrupt, or holds pickled code, which is never run; "
            "give the published file, or one with tensors only"
        ) from None
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError, AssertionError) as error:
        raise WeightsError(f"{file} is corrupt ({_first_line(error)}); download it again") from None
    inner = [state[key] for key in WRAPPERS if key in state] if unwrap and isinstance(state, Mapping) else []
    for candidate in (state, *inner):
        if _is_table(candidate):
            return dict(candidate)
    raise WeightsError(f"{file} holds no table of tensors; give weights saved as a state_dict")


def _is_table(state: Any) -> bool:
    return isinstance(state, Mapping) and all(isinstance(value, torch.Tensor) for value in state.values())


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
