"""``index.json`` of the artifacts of write-shards and encode, as they are read: every name and number checked.

It repeats what the manifest says of the tars, so the two are compared: where they differ, one of them was changed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError

from datasets.runtime.errors import ArtifactError
from datasets.runtime.manifests import manifest_of
from datasets.runtime.reading.contents import AGAIN, read_json

INDEX_FILE = "index.json"

ShardName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,100}\.tar$")]
Count = Annotated[int, Field(ge=0, lt=2**31)]
Length = Annotated[int, Field(ge=1, le=100_000)]


class _Form(BaseModel):
    model_config = ConfigDict(strict=True)


class _Shard(_Form):
    name: ShardName
    split: str
    samples: Count
    sha256: str
    fingerprint: str


class _ShardIndex(_Form):
    """Of write-shards."""

    shards: Annotated[list[_Shard], FailFast()]


class _EncodedFile(_Form):
    name: ShardName
    split: str
    samples: Count


class _EncodedIndex(_Form):
    """Of encode."""

    files: Annotated[list[_EncodedFile], FailFast()]
    samples: Count
    view_size: Annotated[list[Length], Field(min_length=2, max_length=2)]
    latent_shape: Annotated[list[Length], Field(min_length=3, max_length=3)]
    token_shape: Annotated[list[Length], Field(min_length=2, max_length=2)]
    flipped: bool | None = None
    """Absent from what an earlier version encoded."""


FORMS: dict[str, tuple[type[_Form], str]] = {
    "write-shards": (_ShardIndex, "shards"),
    "encode": (_EncodedIndex, "files"),
}
"""By stage: what the file holds, and the field that lists the tars."""


def read_index_file(directory: Path, stage: str) -> dict[str, Any]:
    """The ``index.json`` of an artifact of write-shards or encode.

    Raises:
        ArtifactError: it is no such artifact, corrupt, or contradicts the artifact's manifest.
    """
    index, path = read_json(directory, INDEX_FILE, stage), Path(directory) / INDEX_FILE
    form, field = FORMS[stage]
    try:
        form.model_validate(index)
        _compare(index[field], {file["name"]: file for file in manifest_of(directory)["files"]})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ArtifactError(f"{path} cannot be read ({where}: {first['msg']}); {AGAIN}") from None
    except ValueError as error:
        raise ArtifactError(f"{path} contradicts the manifest ({error}); {AGAIN}") from None
    return index


def _compare(tars: list[dict[str, Any]], listed: dict[str, dict[str, Any]]) -> None:
    """Refuse tars that the manifest does not list, or lists with other bytes, and a name that occurs twice."""
    names = [tar["name"] for tar in tars]
    if len(set(names)) < len(names):
        raise ValueError(f"'{max(names, key=names.count)}' occurs twice")
    for tar in tars:
        if tar["name"] not in listed:
            raise ValueError(f"'{tar['name']}' is not in the manifest")
        if tar.get("sha256", listed[tar["name"]]["sha256"]) != listed[tar["name"]]["sha256"]:
            raise ValueError(f"'{tar['name']}' has another SHA-256 than in the manifest")
