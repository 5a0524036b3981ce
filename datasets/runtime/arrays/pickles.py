"""Published weights that come as pickles of nested tables of NumPy arrays (Flax's older checkpoints).

A pickle can run any code. This reader builds dictionaries, lists, numbers, texts and arrays, and nothing else: every
other name that a file asks for is refused before it is looked up.
"""

from __future__ import annotations

from pathlib import Path
from pickle import Unpickler, UnpicklingError  # nothing but the class below uses it
from typing import Any

import numpy as np
from numpy._core.multiarray import _reconstruct

from datasets.runtime.errors import WeightsError

_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
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
    try:
        with path.open("rb") as file:
            table = _ArraysAlone(file).load()
    except UnpicklingError as error:
        raise WeightsError(f"{path} is no table of arrays ({error}); nothing in it was run") from None
    except (EOFError, ValueError, TypeError, KeyError, AttributeError, IndexError, MemoryError, OSError) as error:
        raise WeightsError(f"{path} is corrupt ({type(error).__name__}); get it again") from None
    arrays: dict[str, np.ndarray] = {}
    _collect(path, table, "", arrays)
    return arrays


def _collect(path: Path, table: object, prefix: str, arrays: dict[str, np.ndarray]) -> None:
    if not isinstance(table, dict):
        raise WeightsError(f"{path} holds a {type(table).__name__} at '{prefix or 'the top'}', expected a table")
    for name, value in table.items():
        full = f"{prefix}/{name}" if prefix else str(name)
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
            arrays[full] = value
        else:
            _collect(path, value, full, arrays)
