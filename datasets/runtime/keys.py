"""The key of an artifact, and where the artifact therefore lies.

The key covers the stage's name and version, every setting that can change the result, and the *content* of the inputs
(not their paths, not their dates), so an input that is rebuilt to the same bytes re-does nothing downstream.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from datasets.runtime.config import AddedLater, Role, StageConfig
from datasets.runtime.errors import InputError
from datasets.runtime.hashing import file_sha256, json_sha256, tree_sha256
from datasets.runtime.manifests import is_complete, manifest_of, model_sha256
from datasets.runtime.remote.addresses import is_remote, spelled
from datasets.runtime.remote.folders import is_there
from datasets.runtime.remote.listings import listed_sha256

KEY_LENGTH = 16


def artifact_key(config: StageConfig) -> str:
    """The name of the artifact that `config` makes: 16 hex digits over stage, version, settings and inputs."""
    return artifact_key_and_inputs(config)[0]


def artifact_key_and_inputs(config: StageConfig) -> tuple[str, dict[str, Any]]:
    """The key and, by the field that names it, the path and fingerprint of every input that was read for it."""
    inputs: dict[str, Any] = {}
    described = [config.stage, config.stage_version, describe_config(config, inputs=inputs)]
    return json_sha256(described)[:KEY_LENGTH], inputs


def artifact_directory(config: StageConfig, store: Path) -> Path:
    """Where `config`'s artifact lies, or will lie, in a store."""
    return Path(store) / config.stage / artifact_key(config)


def partial_directory(directory: Path) -> Path:
    """The working folder of an unfinished artifact: kept after an interruption, so that the stage can resume."""
    return directory.with_name(directory.name + ".partial")


def describe_config(config: BaseModel, prefix: str = "", inputs: dict[str, Any] | None = None) -> dict[str, object]:
    """A config as it counts in a key: paths of inputs replaced by their content, runtime fields left out."""
    inputs = {} if inputs is None else inputs
    described = {}
    for name, field in type(config).model_fields.items():
        role = _role_in(field.annotation, tuple(field.metadata))
        if AddedLater in field.metadata and getattr(config, name) == field.get_default():
            continue
        if role is not Role.RUNTIME:
            path = f"{prefix}.{name}" if prefix else name
            described[name] = _describe(getattr(config, name), role, path, inputs)
    if isinstance(config, StageConfig):
        described.update(config.further_inputs())
    return described


def _describe(value: object, role: Role | None, prefix: str, inputs: dict[str, Any]) -> object:
    """A field's value as it counts in the key; `inputs` collects what was read from disk."""
    if isinstance(value, BaseModel):
        return describe_config(value, prefix, inputs)
    if isinstance(value, (list, tuple)):
        return [_describe(item, role, f"{prefix}[{i}]", inputs) for i, item in enumerate(value)]
    if isinstance(value, dict):
        return {str(k): _describe(v, role, f"{prefix}[{k}]", inputs) for k, v in sorted(value.items())}
    if isinstance(value, Path):
        if role in (Role.ARTIFACT, Role.FILE, Role.TREE, Role.MODEL):
            fingerprint = _fingerprint(role, value)
            inputs[prefix] = {"path": spelled(value), "sha256": fingerprint}
            return fingerprint
        return spelled(value)
    return value.value if isinstance(value, Enum) else value


def _role_in(annotation: object, metadata: tuple[object, ...] = ()) -> Role | None:
    """The role marked on a field, also inside ``X | None`` and ``list[X]``."""
    for item in (*metadata, *getattr(annotation, "__metadata__", ())):
        if isinstance(item, Role):
            return item
    for inner in getattr(annotation, "__args__", ()):
        if (role := _role_in(inner)) is not None:
            return role
    return None


def _fingerprint(role: Role, path: Path) -> str:
    if role is Role.ARTIFACT or (role is Role.TREE and is_complete(path)):  # a rendered data set, made by a stage
        return manifest_of(path)["content_sha256"]
    kind = is_there(path)
    if role is Role.FILE and not (kind == "file" and path.is_file()):
        raise InputError(f"{path} is not a file; give the path of one")
    if role is Role.MODEL:
        return model_sha256(path)
    if is_remote(path) and kind == "folder":
        return listed_sha256(path)
    return file_sha256(path) if role is Role.FILE else tree_sha256(path)
