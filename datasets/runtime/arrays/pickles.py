"""Published weights that come as pickles of nested tables of NumPy arrays (Flax's older checkpoints).

A pickle can run any code. This reader builds dictionaries, lists, numbers, texts and arrays, and nothing else: every
other name that a file asks for is refused before it is looked up. Arrays are made here from their bytes: NumPy's own
``__setstate__`` trusts what it is given, and corrupt files were seen to crash the interpreter in it.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from pickle import Unpickler, UnpicklingError  # nothing but the class below uses it
from typing import Any

import numpy as np

from datasets.runtime.errors import WeightsError

_NUMERIC = re.compile(r"[fiu][1248]")


class _Dtype:
    """Stands for ``numpy.dtype``: a number's kind, size and order of bytes."""

    __slots__ = ("code", "order")

    def __init__(self, code: str, *_: object) -> None:
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def numpy(self) -> np.dtype | None:
        """None where it is not a number's."""
        known = isinstance(self.code, str) and _NUMERIC.fullmatch(self.code) and self.order in ("<", ">", "|", "=")
        return np.dtype(f"{self.order}{self.code}") if known else None


class _Array:
    """Stands for ``numpy.ndarray`` and what makes one: `values` is None where it does not hold numbers."""

    __slots__ = ("values",)

    def __init__(self, *_: object) -> None:
        self.values: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, by_columns, content = state
        kind = dtype.numpy()
        if kind is None:
            return
        if not all(type(side) is int and side >= 0 for side in shape) or not isinstance(content, bytes):
            raise UnpicklingError("an array's shape or content is none")
        if math.prod(shape) * kind.itemsize != len(content):
            raise UnpicklingError(f"an array of shape {shape} has {len(content)} bytes")
        self.values = np.frombuffer(content, kind).reshape(shape, order="F" if by_columns else "C").copy()


_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
}


class _ArraysAlone(Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise UnpicklingError(f"it asks for {module}.{name}")
        return _ADMITTED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise UnpicklingError("it refers to something outside the file")


def read_array_pickle(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a nested table by their path in it, ``outer/inner/name``.

    Raises:
        WeightsError: the file is corrupt, or asks for anything but numeric arrays.
    """
    arrays: dict[str, np.ndarray] = {}
    try:
        with path.open("rb") as file:
            table = _ArraysAlone(file).load()
        _collect(path, table, "", arrays)
    except WeightsError:
        raise
    except UnpicklingError as error:
        raise WeightsError(f"{path} is no table of arrays ({error}); nothing in it was run") from None
    except RecursionError:
        raise WeightsError(f"{path} is no table of arrays (tables inside each other without end)") from None
    except Exception as error:  # what a corrupt file builds makes the unpickler raise nearly anything
        raise WeightsError(f"{path} is corrupt ({type(error).__name__}); get it again") from None
    return arrays


def _collect(path: Path, table: object, prefix: str, arrays: dict[str, np.ndarray]) -> None:
    if not isinstance(table, dict):
        kind = "ndarray of no numbers" if isinstance(table, _Array) else type(table).__name__
        raise WeightsError(f"{path} holds a {kind} at '{prefix or 'the top'}', expected a table")
    for name, value in table.items():
        full = f"{prefix}/{name}" if prefix else str(name)
        if isinstance(value, _Array) and value.values is not None:
            arrays[full] = value.values
        else:
            _collect(path, value, full, arrays)
