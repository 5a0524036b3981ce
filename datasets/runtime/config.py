"""What every config of the project is built from: its base classes and the kinds of fields that stand for inputs."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    model_validator,
)
from pydantic_core import CoreSchema

from datasets.runtime.remote.addresses import local_only_problem, path_of, spelled
from datasets.runtime.renames import refuse_old_names


class Role(Enum):
    """What a config field stands for in an artifact's key."""

    ARTIFACT = "artifact"  # a finished artifact's folder: counts by its content
    FILE = "file"  # a file of the user's: counts by its SHA-256
    TREE = "tree"  # a folder of the user's: counts by the names, sizes and dates of its files
    MODEL = "model"  # a saved model's folder: counts by the content of its files
    RUNTIME = "runtime"  # how, not what: device, workers; never counts


class AddedLater:
    """Marks a setting that is younger than artifacts of its stage: at its default it leaves their keys as they were."""


Location = Annotated[Path, BeforeValidator(path_of), PlainSerializer(spelled, return_type=str, when_used="json")]
"""A path that may be given, and is recorded, as an address (s3://...); see `datasets.runtime.remote.addresses`."""
Artifact = Annotated[Location, Role.ARTIFACT]
SourceFile = Annotated[Location, Role.FILE]
SourceTree = Annotated[Location, Role.TREE]
ModelFolder = Annotated[Location, Role.MODEL]
Device = Annotated[str, Role.RUNTIME]
"""'auto', 'cpu', 'cuda' or 'cuda:1', as `datasets.runtime.devices.pick` reads it."""
Percent = Annotated[int, Field(gt=0, le=100)]
"""A share in percent, as everywhere in this project: 20, not 0.2."""
Probability = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""Of everything that is drawn; generators and tables take 63 bits."""


FORMER_NAMES = {"no": "fp32", "float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def _former_name_refused(value: object) -> object:
    if isinstance(value, str) and value in FORMER_NAMES:
        raise ValueError(f"'{value}' is now called '{FORMER_NAMES[value]}'")
    return value


Precision = Annotated[Literal["fp32", "bf16"], BeforeValidator(_former_name_refused)]
"""A config's precision: 'fp32', or 'bf16' (mixed: activations in bfloat16, weights in float32)."""


class Config(BaseModel):
    """Base of every config: frozen, typed, unknown fields refused, explained field by field."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        protected_namespaces=(),
        validate_default=True,
        allow_inf_nan=False,
    )
    positional: ClassVar[str | None] = None
    """The field, a list, that a command line's words before the first flag are values of; without, there are none."""
    renamed: ClassVar[Mapping[str, str]] = {}
    """Old name -> present name of fields that the class itself declares; old names are refused with the present one."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_old_names(cls, given: Any) -> Any:
        refuse_old_names(cls, given)
        return given

    @model_validator(mode="after")
    def _refuse_addresses(self) -> Self:
        """Refuse an address where only a local path is read: it would become a folder called 's3:'."""
        for name in type(self).model_fields:
            if (problem := local_only_problem(getattr(self, name))) is not None:
                raise ValueError(f"{name}: {problem}")
        return self


class StageConfig(Config):
    """Settings of one stage whose result is an artifact."""

    stage: ClassVar[str]
    """Folder below the store, and the command's name unless `command` says another."""
    package: ClassVar[str]
    """The package whose command makes it: ``python -m {package} {stage}``."""
    command: ClassVar[str | None] = None
    """The command's name where two packages use the same word for stages of different names."""
    stage_version: ClassVar[int] = 1
    """Raised when the stage's code starts to give another result for the same settings."""

    def further_inputs(self) -> dict[str, object]:
        """What else the result depends on, as it counts in the key; nothing for most stages."""
        return {}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The schema that Prefect makes a form of: inputs that must be given before settings with defaults."""
        schema = handler.resolve_ref_schema(handler(core_schema))
        required = schema.get("required", [])
        properties = schema.get("properties", {})
        schema["properties"] = dict(sorted(properties.items(), key=lambda field: field[0] not in required))
        return schema
