"""Named objects that a module outside this repository may add to: layouts, arms, presets, encoders, samplers, ...

A registry maps a name to the one object that declares everything about it. As metadata of a config's field
(``Annotated[str, LAYOUTS]``) it checks the value and lists the names in ``--help`` and in Prefect's form.

Modules named in the environment variable `EXTENSIONS` are imported when a registry is requested a name that it does not
have yet, or for all names. They call `Registry.register`. A variable, because every child process, torchrun worker and
Prefect worker inherits it.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, TypeVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from datasets.runtime.errors import InputError

EXTENSIONS = "IMAGPOSE_REID_EXTENSIONS"
"""Names of modules, separated by commas; each must be importable (installed, or on PYTHONPATH)."""


class Named(Protocol):
    """What a registry holds."""

    @property
    def name(self) -> str:
        """The name that commands and configs use."""


T = TypeVar("T", bound=Named)
_loaded: set[str] = set()


def load_extensions() -> None:
    """Import the modules that the environment names, each once.

    Raises:
        InputError: one of them is no module's name, or cannot be imported.
    """
    for module in os.environ.get(EXTENSIONS, "").replace(",", " ").split():
        if module in _loaded:
            continue
        if not all(part.isidentifier() for part in module.split(".")):
            raise InputError(f"{EXTENSIONS}: '{module}' is no module's name, such as 'package.module'; correct it")
        _loaded.add(module)  # before the import: the module may look into a registry itself
        try:
            importlib.import_module(module)
        except (ImportError, SyntaxError) as error:
            _loaded.remove(module)
            raise InputError(
                f"{EXTENSIONS}: cannot import '{module}' ({error}); put its folder on PYTHONPATH as an absolute path"
            ) from error


def load_name(name: str) -> Any:
    """The object that ``module:name`` stands for."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


class Registry(Mapping[str, T]):
    """Objects by name, in the order of registration.

    Args:
        kind: what one of them is called in messages, for example 'layout'.
        items: those that come with the project.
    """

    def __init__(self, kind: str, *items: T) -> None:
        self.kind = kind
        self._items: dict[str, T] = {}
        for item in items:
            self.register(item)

    def register(self, item: T) -> T:
        """Add an object under its own name.

        Raises:
            ValueError: another object has this name.
        """
        if self._items.setdefault(item.name, item) is not item:
            raise ValueError(f"there is a {self.kind} '{item.name}' already; register it under another name")
        return item

    def __getitem__(self, name: str) -> T:
        if name not in self._items:  # else nothing is imported: settings look up their defaults while they are defined
            load_extensions()
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        load_extensions()
        return iter(self._items)

    __hash__ = object.__hash__  # a Mapping has none, but ``Annotated[str, REGISTRY] | None`` wants one

    def __eq__(self, other: object) -> bool:
        return self is other

    def __len__(self) -> int:
        load_extensions()
        return len(self._items)

    def known(self, name: str) -> str:
        """`name`, if it is registered.

        Raises:
            InputError: it is not; the message lists the names that are.
        """
        if not isinstance(name, str) or name not in self:  # a manifest may record anything
            raise InputError(f"'{name}' is no {self.kind}; known: {', '.join(map(repr, self))}")
        return name

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The field's own check, then `known`."""
        return core_schema.no_info_after_validator_function(self.known, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The field's own schema with the names as choices."""
        return {**handler(schema), "enum": list(self)}


def registry_of(annotation: object, metadata: tuple[object, ...] = ()) -> Registry[Any] | None:
    """The registry that a field's values are taken from, also inside ``X | None`` and ``list[X]``; None without one."""
    for item in (*metadata, *getattr(annotation, "__metadata__", ())):
        if isinstance(item, Registry):
            return item
    for inner in getattr(annotation, "__args__", ()):
        if (registry := registry_of(inner)) is not None:
            return registry
    return None
