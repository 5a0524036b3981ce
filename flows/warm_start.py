"""Which generator a training continues from when the data have changed (`continue_training: warm-start`).

From the newest generator in the store that was trained with equal settings, on the same features of the same frozen
models, from the same first model. Under the leak-free protocol it, and whatever it was continued from, must have seen
nothing but images that the new subset holds as well, under the same name and with the same content; else the training
starts where the first one did, and says so.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from datasets.runtime.config import Role
from datasets.runtime.errors import InputError
from datasets.runtime.keys import describe_config
from datasets.runtime.manifests import MANIFEST, local_path, manifest_of
from imagpose.config import TrainGeneratorConfig

logger = logging.getLogger(__name__)

INPUTS = ("encoded", "subset", "init_from")
FROZEN = ("vae", "image_encoder", "view_height", "view_width", "token_height", "token_width", "flipped")
"""Of an encoding: what features are made with."""


def starting_point(wanted: TrainGeneratorConfig, store: Path) -> TrainGeneratorConfig:
    """`wanted`, or the same continued from an earlier generator; that one's own config if it saw the very same data.

    Args:
        wanted: the training as it would be from scratch.
        store: where earlier generators are looked for.
    """
    described = describe_config(wanted)
    earlier = [(folder, manifest) for folder, manifest in _generators(store) if _is_compatible(manifest, wanted, store)]
    for folder, manifest in earlier:  # newest first
        before = manifest["inputs"]
        if all(described[name] == before.get(name, {}).get("sha256") for name in ("encoded", "subset")):
            origin = before.get("init_from")
            logger.info("%s was trained on the same data", folder)
            return wanted.model_copy(update={"init_from": origin and local_path(origin["path"])})
    for folder, manifest in earlier:
        if (outside := _images_outside(manifest, wanted, store)) == 0:
            logger.info("training continues from %s", folder)
            return wanted.model_copy(update={"init_from": folder})
        logger.info("not continued from %s: it has seen %d images that the new subset lacks", folder, outside)
    return wanted


def _generators(store: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Finished generators with their manifests, newest first."""
    folders = [path.parent for path in (store / TrainGeneratorConfig.stage).glob(f"*/{MANIFEST}")]
    found = [(folder, manifest_of(folder, TrainGeneratorConfig.stage)) for folder in folders]
    return sorted(found, key=lambda pair: pair[1]["started"], reverse=True)


def _is_compatible(manifest: dict[str, Any], wanted: TrainGeneratorConfig, store: Path) -> bool:
    """Whether a generator differs from the wanted one only in the images and in its own starting point."""
    settings = [
        name
        for name, field in TrainGeneratorConfig.model_fields.items()
        if name not in INPUTS and Role.RUNTIME not in field.metadata
    ]
    try:  # with the defaults of settings that are younger than the generator
        theirs = TrainGeneratorConfig.model_validate(manifest["config"])
    except ValidationError:
        return False
    if manifest["stage_version"] != wanted.stage_version or any(
        getattr(theirs, name) != getattr(wanted, name) for name in settings
    ):
        return False
    first = describe_config(wanted)["init_from"]
    return first in _origins(manifest, store) and _features(local_path(manifest["config"]["encoded"])) == _features(
        wanted.encoded
    )


def _origins(manifest: dict[str, Any], store: Path) -> list[str | None]:
    """Fingerprints of what a generator was initialized from, of what that was initialized from, and so on."""
    origins = (item["inputs"].get("init_from") for item in _lineage(manifest, store))
    return [origin and origin["sha256"] for origin in origins]


def _lineage(manifest: dict[str, Any], store: Path) -> Iterator[dict[str, Any]]:
    """Manifests of a generator, of the one in the store that it was initialized from, and so on."""
    while True:
        yield manifest
        origin = manifest["inputs"].get("init_from")
        folder = local_path(origin["path"]) if origin else None
        if (
            folder is None
            or folder.parent != store.absolute() / TrainGeneratorConfig.stage
            or not (folder / MANIFEST).is_file()
        ):
            return
        manifest = manifest_of(folder)


def _features(encoded: Path) -> list[Any]:
    """By what an encoding was made; if it is gone, something that equals nothing."""
    try:
        manifest = manifest_of(encoded, "encode")
    except InputError:
        return [object()]
    hashes = {name: item["sha256"] for name, item in manifest["inputs"].items()}
    return [hashes.get(name, manifest["config"].get(name)) for name in FROZEN]


def _images_outside(manifest: dict[str, Any], wanted: TrainGeneratorConfig, store: Path) -> int:
    """How many images the earlier generator has seen that the new subset does not hold; none without subsets.

    Those of all trainings since the first model count; -1 where one of them is not known.
    """
    if wanted.subset is None or wanted.fraction is None:
        return 0
    first, seen = describe_config(wanted)["init_from"], set()
    try:
        for item in _lineage(manifest, store):
            config = item["config"]
            if config["subset"] is None:
                raise InputError(f"it rests on a generator of all training images, {item['key']}")
            seen |= _pictures(local_path(str(config["subset"])), config["fraction"], config["draw"])
            origin = item["inputs"].get("init_from")
            if (origin and origin["sha256"]) == first:
                break
    except InputError as error:
        logger.info("what the earlier generator has seen is not known: %s", error)
        return -1
    return len(seen - _pictures(wanted.subset, wanted.fraction, wanted.draw))


def _pictures(subsets: Path, fraction: int, draw: int) -> set[tuple[str, str]]:
    """Name and SHA-256 of a subset's images: another data set's, or a replaced one, may have the same name."""
    from datasets.sources.index import read_index
    from datasets.sources.subsets import read_subset

    index = read_index(local_path(str(manifest_of(subsets)["config"]["images"])))
    training = index[index["split"] == "train"]
    hashes = dict(zip(training["key"], training["sha256"], strict=True))
    return {(key, str(hashes.get(key))) for key in read_subset(subsets, fraction, draw)}
