"""The one vocabulary for a model's arithmetic, that of accelerate: fp32 and bf16."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator

FORMER_NAMES = {"no": "fp32", "float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def _former_name_refused(value: object) -> object:
    if isinstance(value, str) and value in FORMER_NAMES:
        raise ValueError(f"'{value}' is now called '{FORMER_NAMES[value]}'")
    return value


Precision = Annotated[Literal["fp32", "bf16"], BeforeValidator(_former_name_refused)]
"""A config's precision: 'fp32', or 'bf16' (mixed: activations in bfloat16, weights in float32)."""
