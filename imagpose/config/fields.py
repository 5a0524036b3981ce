"""Kinds of fields that several configs share."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from datasets.runtime.artifacts import Role

Device = Annotated[str, Role.RUNTIME]
Probability = Annotated[float, Field(ge=0, le=1)]
