"""Fields that were renamed: an old name is answered in one line with the present one.

A config class declares its own in `Config.renamed`. Flags, ``--config`` files, Prefect's parameters and Python callers
are all checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pydantic import BaseModel
from pydantic_core import PydanticCustomError

from datasets.runtime.errors import InputError

RENAMED = "renamed_field"
"""Type of the validation error for an old name; its context holds `old` and `new`."""


def renamed_fields(model: type[BaseModel]) -> dict[str, str]:
    """Old name -> present name, of a config class and of the classes that it extends."""
    tables = [vars(base).get("renamed", {}) for base in reversed(model.__mro__)]
    return {old: new for table in tables for old, new in table.items()}


def refuse_old_names(model: type[BaseModel], given: object) -> None:
    """Refuse the values of a config that use an old field name.

    Args:
        model: the config class.
        given: what the class is built from; anything but a mapping is left to pydantic.

    Raises:
        PydanticCustomError: of type `RENAMED`, for the first old name; pydantic makes a `ValidationError` of it.
    """
    if not isinstance(given, Mapping):
        return
    for old, new in renamed_fields(model).items():
        if old in given:
            raise PydanticCustomError(RENAMED, "'{old}' was renamed to '{new}'", {"old": old, "new": new})


def refuse_old_flags(model: type[BaseModel], arguments: Sequence[str]) -> None:
    """Refuse flags that use an old field name, at any depth (``--outer.old-name``, ``--no-old-name``).

    Raises:
        InputError: names the flag and its present spelling.
    """
    for argument in arguments:
        flag = argument.partition("=")[0]
        if flag.startswith("--") and (present := _present_flag(model, flag[2:])) is not None:
            raise InputError(f"{flag} was renamed; use {present}")


def _present_flag(model: type[BaseModel], flag: str) -> str | None:
    """How a flag (without its dashes) is spelled now; None if it uses no old name."""
    negated = "no-" if flag.startswith("no-") else ""
    parts = flag.removeprefix("no-").replace("-", "_").split(".")
    models = [model]
    for place, part in enumerate(parts):
        new = next((table[part] for table in map(renamed_fields, models) if part in table), None)
        if new is not None:
            return "--" + negated + ".".join([*parts[:place], new, *parts[place + 1 :]]).replace("_", "-")
        fields = (owner.model_fields[part] for owner in models if part in owner.model_fields)
        models = [inner for field in fields for inner in models_in(field.annotation)]
    return None


def models_in(annotation: object) -> Iterator[type[BaseModel]]:
    """The models of a field's type: itself, or those inside ``X | None``, ``list[X]`` and the like."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from models_in(argument)
