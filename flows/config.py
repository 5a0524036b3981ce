"""The settings of a regeneration as a command line, a file or Prefect gives them: a preset's, and what overrides them.

``RegenerateConfig(preset="demo", fractions=[20])`` is the demo with one fraction. Every stage declares its settings
beside its config (`datasets.sources.config` and its like, `imagpose.config`, `reid.config`): what a person chooses,
without the inputs that only the pipeline knows. `complete` adds those.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, model_validator

from datasets.runtime.config import Config, Role, StageConfig
from datasets.runtime.hashing import json_sha256
from flows.presets import PRESETS
from flows.process.commands import PROJECT
from flows.settings import RegenerateSettings
from reid.arms import ARMS

Stage = TypeVar("Stage", bound=StageConfig)


class RegenerateConfig(RegenerateSettings):
    """From a data set to the table that says what synthesis gains, with every stage's settings."""

    preset: Annotated[str, PRESETS] = "none"
    """Whose values the fields take that are not given."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_preset(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given  # the class itself refuses it
        name = given.get("preset", "none")
        if not isinstance(name, str) or name not in PRESETS:
            return given  # the field itself refuses it
        return merged(PRESETS[name].build().model_dump(exclude={"preset"}), given)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
        """The schema that Prefect checks a submission against and makes its form of, without default values.

        The form would submit them, as if they had been given, and so undo the preset.
        """
        schema = handler.resolve_ref_schema(handler(core_schema))
        _drop_defaults(schema, handler, [])
        return schema | _rules_between_fields()

    def output_folder(self) -> Path:
        """Where the results of each run are kept (`flows.runs.results`)."""
        return self.output or Path("runs") / (
            self.preset if self.preset != "none" else json_sha256(self.resolved())[:8]
        )

    def set_lock(self) -> Path:
        """The file that a run locks so that no other makes the same set: same store, same place of the results."""
        digest = json_sha256(str(self.output_folder().absolute()))[:8]  # presets that share an output share the lock
        return self.store.absolute() / "locks" / f"results-{digest}.lock"

    def resolved(self) -> dict[str, Any]:
        """Every setting that can change a result, as JSON; paths of this machine are left out."""
        values = self.model_dump(mode="json", exclude=_runtime_fields(self))
        for name in ("vae", "image_encoder", "generator"):
            path = getattr(self, name)
            if path is not None and path.is_relative_to(PROJECT):
                values[name] = str(path.relative_to(PROJECT))
        return values


def _rules_between_fields() -> dict[str, Any]:
    """Rules over several fields, as far as JSON Schema can say them of what is given without the preset.

    Prefect checks a submission against them and then makes no run. `if` and `then`, because its form reads `allOf` as
    a choice of sub-forms. All rules, these too, are checked again when the run begins.
    """
    needing = [arm.name for arm in ARMS.values() if arm.needs_real]
    asked = {"properties": {"arms": {"contains": {"enum": needing}}}, "required": ["arms"]}
    return {"if": asked, "then": {"properties": {"arms": {"contains": {"const": "real"}}}}}


def _drop_defaults(schema: Any, handler: Any, above: list[Any]) -> None:
    """Remove ``default`` from the properties of a JSON schema and of those it refers to."""
    if isinstance(schema, list):
        for item in schema:
            _drop_defaults(item, handler, above)
    elif isinstance(schema, dict):
        if "$ref" in schema and (found := handler.resolve_ref_schema(schema)) not in above:
            _drop_defaults(found, handler, [*above, found])
        for name, item in schema.items():
            if name == "properties":
                for field in item.values():
                    field.pop("default", None)
                    if field.get("type") == "boolean":  # a switch without a default is submitted as 'off'
                        del field["type"]
                        field["enum"] = [True, False]  # a choice of two is not
            _drop_defaults(item, handler, above)


def _runtime_fields(config: BaseModel) -> dict[str, Any]:
    """The fields that cannot change a result, at any depth, as `model_dump` wants them excluded."""
    found: dict[str, Any] = {}
    for name, info in type(config).model_fields.items():
        if Role.RUNTIME in info.metadata:
            found[name] = True
        elif isinstance(value := getattr(config, name), BaseModel) and (inner := _runtime_fields(value)):
            found[name] = inner
    return found


def merged(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` over `defaults`, nested settings field by field."""
    both = dict(defaults)
    for name, value in given.items():
        if isinstance(value, BaseModel):
            value = value.model_dump()
        nested = isinstance(value, Mapping) and isinstance(both.get(name), Mapping)
        both[name] = merged(both[name], value) if nested else value
    return both


def complete(stage: type[Stage], settings: Config, **inputs: Any) -> Stage:
    """A stage's config from its settings and the inputs that the pipeline has found.

    Args:
        stage: the stage's config class, which extends the class of `settings`.
        settings: what a person has chosen.
        inputs: the fields that `stage` adds: artifacts, folders, device, workers.

    Returns:
        The config, checked as a whole.
    """
    return stage(**{name: getattr(settings, name) for name in type(settings).model_fields}, **inputs)
