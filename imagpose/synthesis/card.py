"""The card of a set of synthetic images: what is in it, whom its generator had seen, how its pictures are marked."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from datasets.runtime.cards.card import Column, DataSetCard, Table, Tar
from datasets.runtime.cards.markdown import markdown_table
from datasets.runtime.cards.write import made_by, write_cards
from datasets.runtime.errors import InputError
from datasets.runtime.hashing import file_sha256
from datasets.runtime.keys import artifact_key
from datasets.runtime.manifests import is_complete, local_path, manifest_of, model_sha256
from datasets.shards.card import RENDERED, RENDERED_TERMS, is_rendered
from datasets.shards.encoded import EncodedImages
from datasets.sources.layouts import layout_of
from imagpose.config import BUILT_IN, DrawPosesConfig, SynthesizeConfig
from imagpose.pictures.synthetic_jpeg import DESCRIPTION as IN_EXIF
from imagpose.pictures.synthetic_jpeg import SOURCE_TYPE
from imagpose.synthesis.seen import data_set_of, index_of, trained_images, trainings_of
from imagpose.synthesis.tables import TABLE_FILE

SPLIT = "synthetic"
UNKNOWN = "cannot be told"
UNKNOWN_PROTOCOL = f"Protocol: {UNKNOWN}; what the generator was trained on is gone."
UNKNOWN_BASE = f"Base: {UNKNOWN}; it is gone."
CITATION = "Shen and Tang, IMAGPose: A Unified Conditional Framework for Pose-Guided Person Generation, NeurIPS 2024"
DESCRIPTION = (
    "Synthetic images of persons, drawn by IMAGPose from photographs of them and skeletons of others, for training "
    "person re-identification. None of them is a photograph. Pictures whose status is not 'ok' are there but not meant "
    "for training."
)
PEOPLE = "Synthetic pictures of real people, who were not asked; those of another pose never took place."
MARKS = f"""Every JPEG says in its metadata that it is synthetic:

- XMP: IPTC's digital source type `{SOURCE_TYPE}`
- EXIF: description "{IN_EXIF}", and as the user comment the generator's SHA-256

`imagpose.pictures.synthetic_jpeg.is_marked_synthetic` reads the mark. Do not strip it when you pass pictures on. In the
names, sequence 0 marks a synthetic image (`0002_c1s0_000017_01`); real ones count from 1. The contact sheets and the
showcase mix real and generated pictures and carry no mark."""
MEANINGS = {
    "key": "name of the sample, unique in the set",
    "canvas": "number of the canvas that it was drawn on",
    "slot": "place in the canvas",
    "pid": "identity that it is to show",
    "camid": "camera of the first source, whose background it follows",
    "source_keys": "the images that it was drawn from",
    "target_pose_key": "the image whose skeleton it was drawn with",
    "seed": "of the canvas",
    "mode": "how sources and poses share a canvas",
    "sampler": "solver",
    "steps": "sampler steps",
    "guidance": "classifier-free guidance scale",
    "unconditional": "what the unconditional half of guidance sees",
    "generator_sha256": "the generator's content",
    "pose_score": "share of the skeleton's joints that are found again (PCK@0.1); empty where nobody looked",
    "contrast": "standard deviation of its luma, in gray levels",
    "saturated": "share of its pixels that are black or white",
    "source_difference": "mean absolute difference from the nearest source as the VAE shows it",
    "status": "ok, flat, saturated or copy",
}
WHOLE = frozenset({"canvas", "slot", "pid", "camid", "seed", "steps"})
REAL = frozenset({"guidance", "pose_score", "contrast", "saturated", "source_difference"})


def write_card(
    config: SynthesizeConfig | DrawPosesConfig,
    table: pd.DataFrame,
    shards: Mapping[str, int],
    images: EncodedImages,
    directory: Path,
    protocol: str | None = None,
) -> None:
    """Write ``croissant.json`` and ``README.md``.

    Args:
        config: what the set was made from.
        table: its rows (`imagpose.synthesis.tables.TABLE_SCHEMA`).
        shards: its tars, and how many samples each has.
        images: the real images that it was drawn from.
        directory: where it lies.
        protocol: which protocol it keeps, as a sentence; not given: told from what the generator was trained on.
    """
    source, terms, rendered = _source(config.encoded)
    card = DataSetCard(
        name=f"{config.stage}-{artifact_key(config)}",
        title="Synthetic images of rendered people" if rendered else "Synthetic images of persons",
        description=DESCRIPTION,
        version=config.stage_version,
        terms=f"{terms} The same holds for what was made from it, these pictures included.",
        citation=CITATION,
        tars=[
            Tar(name, SPLIT, samples, (directory / name).stat().st_size, file_sha256(directory / name))
            for name, samples in shards.items()
        ],
        table=Table(TABLE_FILE, file_sha256(directory / TABLE_FILE), _columns(table)),
        counts=_counts(table, images),
        identities={SPLIT: int(table.pid.nunique())},
        provenance={
            "source": source,
            "encoded images (SHA-256 of their content)": manifest_of(config.encoded)["content_sha256"],
            "subset": _subset(config),
            "generator (SHA-256 of its content)": model_sha256(config.generator),
            "key": artifact_key(config),
            "made by": made_by(config),
            "commit, library versions, date": "in manifest.json",
        },
        people=RENDERED if rendered else PEOPLE,
        notes={
            "What the generator had seen": seen_by(config.generator, config.encoded, images.keys, protocol),
            "How the pictures are marked": MARKS,
        },
        synthetic=True,
    )
    write_cards(card, directory)


def _source(encoded: Path) -> tuple[str, str, bool]:
    """The data set that encoded images are of, its terms, and whether it was rendered by this project."""
    index = index_of(encoded)
    if index is not None and is_rendered(manifest_of(index)):
        return "rendered by this project", RENDERED_TERMS, True
    try:
        layout = None if index is None else layout_of(manifest_of(index))
    except InputError:  # of an extension that is not loaded
        layout = None
    if layout is None:
        return f"{UNKNOWN}: its index is gone", "The terms of the pictures that it was drawn from hold.", False
    return layout.title, layout.terms, False


def _columns(table: pd.DataFrame) -> list[Column]:
    return [Column(name, _type(name), MEANINGS[name], name == "source_keys") for name in table.columns]


def _type(name: str) -> str:
    if name in WHOLE:
        return "sc:Integer"
    return "sc:Float" if name in REAL else "sc:Text"


def _counts(table: pd.DataFrame, images: EncodedImages) -> dict[str, int]:
    statuses = {f"of status {status}": int(count) for status, count in sorted(table.status.value_counts().items())}
    return {
        "images": len(table),
        **statuses,
        "people": int(table.pid.nunique()),
        "cameras": int(table.camid.nunique()),
        "real images that they may be drawn from": len(images),
    }


def _subset(config: SynthesizeConfig | DrawPosesConfig) -> str:
    if config.subset is None or config.fraction is None:
        return "all images"
    return f"{config.fraction} percent of the training images, draw {config.draw}"


def seen_by(generator: Path, encoded: Path, keys: Collection[str], protocol: str | None = None) -> str:
    """What a generator was trained on, with all that it was initialized from, as Markdown.

    Args:
        generator: its folder.
        encoded: the images that it draws from, ...
        keys: ... and which of them.
        protocol: see `write_card`.
    """
    trainings, base = list(_trainings(generator, encoded, keys)), _base(generator)
    if protocol is None:
        protocol = UNKNOWN_PROTOCOL if base == UNKNOWN_BASE else _protocol([row[-1] for row in trainings])
    head = ("training", "data set", "split", "images", "people", "of them not among the images drawn from")
    return "\n\n".join([protocol, *([markdown_table(head, trainings)] if trainings else []), base])


def _trainings(generator: Path, encoded: Path, keys: Collection[str]) -> Iterator[Sequence[object]]:
    """A row for each training, the last one first; the last cell is a number where the data set is the same."""
    own = data_set_of(encoded)
    for manifest, trained_on in trainings_of(generator):
        fraction, other = manifest["config"].get("fraction"), data_set_of(trained_on)
        part = "train" if fraction is None else f"train, {fraction} percent"
        counts = (manifest["summary"].get("images", ""), manifest["summary"].get("identities", ""))
        subset = manifest["config"].get("subset")
        if own is None or other is None or (subset and not is_complete(local_path(subset))):
            yield (manifest["key"], UNKNOWN, part, *counts, UNKNOWN)
        elif not other.same_as(own):
            yield (manifest["key"], "another one", part, *counts, "all")
        else:
            outside = set(trained_images(trained_on, manifest["config"]).keys) - set(keys)
            yield (manifest["key"], "this one", part, *counts, len(outside))


def _protocol(outside: Sequence[object]) -> str:
    """What the trainings mean for a benchmark.

    Args:
        outside: of each training, how many images of this data set that are not in the set's subset it saw.
    """
    if UNKNOWN in outside:
        return UNKNOWN_PROTOCOL
    if more := sum(count for count in outside if isinstance(count, int)):
        return (
            f"Protocol: the papers'. The generator was trained on {more:,} images of this data set that are not in "
            "this set's subset, so what a network gains from these pictures comes partly from those images."
        )
    return (
        "Protocol: leak-free. Of this data set the generator has seen at most images of this set's own subset: no "
        "other training image, and no test image."
    )


def _base(generator: Path) -> str:
    """What the first training began with; of a generator that no training here made, the generator itself."""
    path, fingerprint = generator, None if is_complete(generator) else model_sha256(generator)
    for manifest, _ in trainings_of(generator):
        base = manifest["inputs"].get("init_from") or manifest["inputs"].get("teacher")
        if base is None:
            return "Base: none; the first training began with random weights."
        path, fingerprint = local_path(base["path"]), base["sha256"]
    if fingerprint == model_sha256(BUILT_IN):
        return "Base: the built-in generator, which has seen rendered people alone."
    if not path.is_dir():
        return UNKNOWN_BASE
    return f"Base: weights of another origin (SHA-256 `{fingerprint}`); what they have seen is not recorded here."
