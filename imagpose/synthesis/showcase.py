"""Pictures of a synthetic set for people: contact sheets of its canvases, and rows with the truth beside them.

``contact_sheet.png`` shows canvases of the set as they were written; with pose scores, ``-best-poses`` and
``-worst-poses`` show the extremes, each picture once more with the skeleton that was found in it. ``showcase.json`` and
``showcase/*.png`` are made apart and are no part of the set: each asks for poses that the same person really took in
other images of the subset, so the real image can stand beside the generated one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datasets.poses.skeleton import overlay_skeleton
from datasets.runtime.atomic import write_text_atomically
from datasets.runtime.manifests import is_complete, manifest_of, recorded_path
from datasets.runtime.reading.contents import each_artifact_file
from datasets.shards.encoded import EncodedImages
from datasets.shards.samples import keypoints_from_json, sample_facts, sample_picture
from datasets.shards.tars import read_chosen
from datasets.sources.pictures import decode_pixels
from imagpose.canvas.layout import CanvasRequest, canvas_seed
from imagpose.config import SynthesizeConfig
from imagpose.pictures.contact_sheet import SheetRow, save_contact_sheet, skeleton_picture
from imagpose.synthesis.plan import MIN_KEYPOINTS
from imagpose.synthesis.synthesizer import Synthesizer
from imagpose.synthesis.viewpoints import visible_keypoints

logger = logging.getLogger(__name__)

SHEET_ROWS = 12
SHOWCASE_SEED = 1_000_000_007
"""Added to the config's seed: showcase canvases have their own noise."""

Sample = tuple[str, dict[str, bytes]]


def write_pictures(
    config: SynthesizeConfig,
    images: EncodedImages,
    synthesizer: Synthesizer,
    samples: Sequence[Sample],
    directory: Path,
) -> None:
    """Write the contact sheets and the showcase of a finished set."""
    canvases = _spread(_by_canvas(samples), SHEET_ROWS)
    worst, best = _extremes(samples)
    people = _people_for_showcase(config, images)
    wanted = {key for rows in [*canvases, *worst, *best] for key in _facts(rows[0])["source_keys"]}
    wanted |= {images.keys[i] for rows in people for i in rows}
    real = RealPictures(images, synthesizer, wanted)
    for name, chosen in (("", canvases), ("-worst-poses", worst), ("-best-poses", best)):
        if chosen:
            rows = [_sheet_row(rows, synthesizer, real) for rows in chosen]
            save_contact_sheet(rows, directory / f"contact_sheet{name}.png")
    _write_showcase(config, [[images.keys[i] for i in rows] for rows in people], synthesizer, real, directory)


class RealPictures:
    """Real images at view size: from the image shards that were encoded, or as the VAE shows them if those are gone."""

    def __init__(self, images: EncodedImages, synthesizer: Synthesizer, keys: Collection[str]) -> None:
        self.synthesizer = synthesizer
        self.size = images.view_size
        self._pictures: dict[str, np.ndarray] = {}
        shards = recorded_path(manifest_of(images.directory), "shards")
        is_there = is_complete(shards)
        if not is_there:
            logger.info("%s holds no image shard any more: sources are shown as the VAE decodes them", shards)
        for tar in each_artifact_file(shards, "train-*.tar") if is_there else ():
            for key, members in read_chosen(tar, keys):
                self._pictures[key] = self._fit(sample_picture(tar, key, members, sample_facts(tar, key, members)))

    def _fit(self, picture: Image.Image) -> np.ndarray:
        height, width = self.size
        return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))

    def __getitem__(self, key: str) -> np.ndarray:
        if key not in self._pictures:
            self._pictures[key] = self.synthesizer.decoded([key])[0]
        return self._pictures[key]


def _by_canvas(samples: Sequence[Sample]) -> list[list[Sample]]:
    canvases: dict[int, list[Sample]] = {}
    for sample in samples:
        canvases.setdefault(_facts(sample)["canvas"], []).append(sample)
    return list(canvases.values())


def _extremes(samples: Sequence[Sample]) -> tuple[list[list[Sample]], list[list[Sample]]]:
    """The pictures of the lowest and of the highest pose scores, each alone; none where nothing was scored."""
    scored = [(_facts(sample)["pose_score"], number) for number, sample in enumerate(samples)]
    order = [number for score, number in sorted(item for item in scored if item[0] is not None)]
    return [[samples[i]] for i in order[:SHEET_ROWS]], [[samples[i]] for i in order[::-1][:SHEET_ROWS]]


def _facts(sample: Sample) -> dict[str, Any]:
    return json.loads(sample[1]["json"])


def _spread(items: list[Any], count: int) -> list[Any]:
    """`count` items, evenly over the list."""
    if len(items) <= count:
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]


def _sheet_row(rows: list[Sample], synthesizer: Synthesizer, real: RealPictures) -> SheetRow:
    facts = [_facts(row) for row in rows]
    generated = [decode_pixels(members["jpg"]) for _, members in rows]
    found = [keypoints_from_json(f["found_keypoints"]) for f in facts if "found_keypoints" in f]
    return SheetRow(
        sources=[real[key] for key in facts[0]["source_keys"]],
        skeletons=[skeleton_picture(synthesizer.keypoints(f["target_pose_key"]), real.size) for f in facts],
        generated=generated,
        truth=[overlay_skeleton(picture, keypoints) for picture, keypoints in zip(generated, found, strict=False)],
    )


def _people_for_showcase(config: SynthesizeConfig, images: EncodedImages) -> list[list[int]]:
    """Rows (source first, then one to three others) of people who have at least two images with a good skeleton."""
    people = []
    for pid, rows in sorted(images.by_pid.items()):
        good = [i for i in rows if visible_keypoints(images.keypoints(i)[None])[0] >= MIN_KEYPOINTS]
        if pid > 0 and len(good) > 1:
            order = np.random.default_rng([config.seed, pid, SHOWCASE_SEED]).permutation(good)
            people.append([int(i) for i in order[:4]])
    most = max((len(rows) for rows in people), default=0)
    return _spread([rows for rows in people if len(rows) == most], config.showcase)


def _write_showcase(
    config: SynthesizeConfig, people: list[list[str]], synthesizer: Synthesizer, real: RealPictures, directory: Path
) -> None:
    folder = directory / "showcase"
    folder.mkdir(exist_ok=True)
    requests = [
        CanvasRequest(
            sources=[synthesizer.source(source)],
            poses=[synthesizer.keypoints(key) for key in targets],
            seed=canvas_seed(config.seed + SHOWCASE_SEED, number),
            keep=range(len(targets)),
        )
        for number, (source, *targets) in enumerate(people)
    ]
    rows = []
    for start in range(0, len(requests), config.batch_size):
        chunk = slice(start, start + config.batch_size)
        for number, generated in enumerate(synthesizer.generate(requests[chunk]), start=start):
            rows.append(_showcase_row(number, people[number], generated, synthesizer, real, folder))
    write_text_atomically(directory / "showcase.json", json.dumps({"rows": rows}, indent=1) + "\n")


def _showcase_row(
    number: int, keys: list[str], generated: np.ndarray, synthesizer: Synthesizer, real: RealPictures, folder: Path
) -> dict[str, Any]:
    """Write one row's PNGs; returns their names, relative to the set's folder, poses and truth beside each picture."""
    source, *targets = keys
    pictures = {
        "sources": [real[source]],
        "poses": [skeleton_picture(synthesizer.keypoints(key), real.size) for key in targets],
        "generated": list(generated),
        "truth": [real[key] for key in targets],
    }
    row: dict[str, Any] = {"pid": synthesizer.pid(source)}
    for kind, items in pictures.items():
        row[kind] = []
        for place, picture in enumerate(items):
            name = f"{number:02d}-{kind}-{place}.png"
            Image.fromarray(picture).save(folder / name, format="PNG")
            row[kind].append(f"{folder.name}/{name}")
    return row | {"source_keys": [source], "target_pose_keys": targets}
