"""A config's fields as command-line flags: pydantic-settings' own, with required flags first and a registry's names."""

from __future__ import annotations

import copy
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_settings import CliSettingsSource

from datasets.runtime.registry import registry_of


class FlagsSource(CliSettingsSource[Any]):
    """Reads flags; its ``--help`` lists a stage's inputs, which must be given, before its settings."""

    def _sort_arg_fields(self, model: type[BaseModel]) -> list[tuple[str, FieldInfo]]:
        fields = super()._sort_arg_fields(model)
        return sorted(fields, key=lambda field: not field[1].is_required())  # stable: else as declared

    def _help_format(self, field_name: str, field_info: FieldInfo, *others: Any, **options: Any) -> str:
        registry = registry_of(field_info.annotation, tuple(field_info.metadata))
        if registry is not None:
            field_info = copy.copy(field_info)
            field_info.description = f"{field_info.description or ''} One of: {', '.join(registry)}."
        return super()._help_format(field_name, field_info, *others, **options)
