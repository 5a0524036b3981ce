"""Objects by name, imported when they are needed: how settings and command tables name what needs torch."""

from __future__ import annotations

import importlib
from typing import Any


def load_name(name: str) -> Any:
    """The object that ``module:name`` stands for."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
