"""The card of a set of image shards, and ``samples.parquet``: what every sample's JSON says, as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from datasets.poses.skeleton import JOINT_COUNT
from datasets.runtime.cards.card import Column, DataSetCard, Table, Tar
from datasets.runtime.cards.write import made_by, write_cards
from datasets.runtime.errors import ArtifactError
from datasets.runtime.hashing import file_sha256
from datasets.runtime.keys import artifact_key
from datasets.runtime.manifests import SAMPLES_FILE, RecordedForm, is_complete, manifest_of, recorded_path, summary_of
from datasets.shards.config import WriteShardsConfig
from datasets.sources.layouts import layout_of

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("pid", pa.int32()),
        ("camid", pa.int32()),
        ("split", pa.string()),
        ("role", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("crop", pa.list_(pa.int32())),
        ("keypoints", pa.list_(pa.float64(), JOINT_COUNT * 3)),
    ]
)
COLUMNS = (
    Column("key", "sc:Text", "name of the sample, unique in the set"),
    Column("pid", "sc:Integer", "identity; 0 is a distractor, -1 junk"),
    Column("camid", "sc:Integer", "camera, from 1"),
    Column("split", "sc:Text", "train, query or gallery"),
    Column("role", "sc:Text", "person, distractor or junk"),
    Column("width", "sc:Integer", "pixels of the upright picture"),
    Column("height", "sc:Integer", "pixels of the upright picture"),
    Column("crop", "sc:Integer", "left, top, right, bottom of the part that is the picture; empty: all of it", True),
    Column(
        "keypoints",
        "sc:Float",
        "18 x (x, y, score) in pixels, OpenPose/COCO-18 order; a missing joint is NaN, NaN, 0 (null, null, 0 in JSON)",
        True,
    ),
)
DESCRIPTION = (
    "Photographs for person re-identification with the skeleton of each, as WebDataset tars sorted by identity. The "
    "pictures are the source's own bytes, never re-encoded. No identity spans two tars."
)
TURNED = """{count:,} images of the data set are gray, or stored turned with an EXIF orientation. Width, height, crop
and keypoints are those of the upright picture: `ImageOps.exif_transpose(image).convert("RGB")` gives it, plain decoders
do not."""
PHOTOGRAPHED = "Real people, who were not asked."
RENDERED = "Rendered figures, who exist nowhere."
RENDERED_TERMS = "Rendered by this project: no terms of another data set apply."


class _Index(RecordedForm):
    turned_or_gray: int = 0


def write_card(
    config: WriteShardsConfig, images: pd.DataFrame, shards: Sequence[Mapping[str, Any]], directory: Path
) -> None:
    """Write ``samples.parquet``, ``croissant.json`` and ``README.md``.

    Args:
        config: what the shards were made from.
        images: all their samples in order; columns of the index, ``crop`` and ``keypoints``.
        shards: the tars, as ``index.json`` lists them.
        directory: where they lie.
    """
    index = manifest_of(config.images, "index")
    layout, rendered = layout_of(index), is_rendered(index, config.root)
    _write_samples(images, directory / SAMPLES_FILE)
    turned = summary_of(index, _Index).turned_or_gray
    card = DataSetCard(
        name=f"{config.stage}-{artifact_key(config)}",
        title=f"Image shards ({layout.title} layout)",
        description=DESCRIPTION,
        version=config.stage_version,
        terms=RENDERED_TERMS if rendered else layout.terms,
        citation="" if rendered else layout.citation,
        tars=[Tar(*(shard[name] for name in ("name", "split", "samples", "bytes", "sha256"))) for shard in shards],
        table=Table(SAMPLES_FILE, file_sha256(directory / SAMPLES_FILE), COLUMNS),
        counts={
            "images": len(images),
            "people": int(images.loc[images["pid"] > 0, "pid"].nunique()),
            "cameras": int(images.loc[images["camid"] > 0, "camid"].nunique()),
            "images without a skeleton": int(sum(not (joints[:, 2] > 0).any() for joints in images["keypoints"])),
        },
        identities={str(split): int(pids.nunique()) for split, pids in images.groupby("split")["pid"]},
        provenance={
            "source": "rendered by this project" if rendered else layout.title,
            "layout": layout.name,
            "index (SHA-256 of its content)": index["content_sha256"],
            "skeletons": _origin_of_poses(config.poses),
            "skeletons (SHA-256 of their content)": manifest_of(config.poses)["content_sha256"],
            "key": artifact_key(config),
            "made by": made_by(config),
            "commit, library versions, date": "in manifest.json",
        },
        people=RENDERED if rendered else PHOTOGRAPHED,
        notes={"Turned and gray pictures": TURNED.format(count=turned)} if turned else {},
    )
    write_cards(card, directory)


def is_rendered(index: Mapping[str, Any], root: Path | None = None) -> bool:
    """Whether the images of an index were rendered by this project, as far as the data set still says so.

    Args:
        index: the index's manifest.
        root: where the data set lies now, if it has moved since.
    """
    try:
        root = root or recorded_path(dict(index), "root")
        return is_complete(root) and manifest_of(root)["stage"] == "miniature"
    except ArtifactError:
        return False


def _origin_of_poses(poses: Path) -> str:
    manifest = manifest_of(poses)
    if manifest["stage"] == "import-poses":
        return "published keypoint files"
    network = f"found by the network {manifest['config'].get('backend', '')}"
    if manifest["config"].get("published") is None:
        return network
    return f"published keypoint files; what they lack, {network}"


def _write_samples(images: pd.DataFrame, path: Path) -> None:
    rows = images.assign(
        keypoints=[joints.astype(np.float64).round(3).reshape(-1) for joints in images["keypoints"]],  # as in the JSON
        crop=[None if box is None else list(box) for box in images["crop"]],
    )
    table = pa.Table.from_pandas(rows[SCHEMA.names], schema=SCHEMA, preserve_index=False)
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(table.replace_schema_metadata(), temporary, compression="zstd")
    temporary.replace(path)
