"""Write a rendered data set of walking people in exactly the layout of Market-1501, or of DeepFashion In-shop.

Every picture is planned first, from the seed alone, as a `PlannedImage` row; then the rows are drawn, by any number of
processes, with the same bytes as a result. The rows are kept in `truth.parquet`, from which `render_truth`
draws any person in the pose, place and light of any other picture: the true answer a generator can be compared with.
"""

from __future__ import annotations

import concurrent.futures
import csv
import dataclasses
import io
import itertools
import json
import logging
import multiprocessing
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from datasets.miniature.figures import (
    CAMERAS,
    STUDIO,
    Motion,
    RenderedPerson,
    Shot,
    render_person,
    sample_shot,
    studio_shot,
)
from datasets.miniature.layouts import RENDERED_LAYOUTS, RenderedLayout
from datasets.miniature.plan import (
    MiniatureLike,
    PlannedImage,
    check_config,
    person_of,
)
from datasets.runtime.processes import end_with_parent
from datasets.runtime.registry import load_name

logger = logging.getLogger(__name__)

TRUTH_FILE = "truth.parquet"
_CHUNK = 64


def make_miniature(config: MiniatureLike, directory: Path) -> dict[str, int]:
    """The stage: `write_miniature` in an artifact's working folder, cleared of what an interrupted run left there."""
    for name in _picture_folders():
        if (directory / name).exists():
            shutil.rmtree(directory / name)
    return write_miniature(config, directory)


def write_miniature(config: MiniatureLike, directory: Path) -> dict[str, int]:
    """Render the data set under `directory`, with keypoint CSV files and truth.parquet beside the pictures.

    Returns:
        Number of pictures per split and role, and of identities.

    Raises:
        ValueError: for a bad config, or a directory that already holds a data set.
    """
    check_config(config)
    layout = RENDERED_LAYOUTS[RENDERED_LAYOUTS.known(config.layout)]
    directory = Path(directory)
    occupied = [name for name in _picture_folders() if (directory / name).exists()]
    if occupied:
        raise ValueError(f"{directory} already holds {occupied[0]!r}; name a new or empty directory")
    pictures = load_name(layout.planner)(config)
    for folder in {*(directory / name for name in layout.folders), *((directory / p.file).parent for p in pictures)}:
        folder.mkdir(parents=True, exist_ok=True)
    keypoints = _draw_all(pictures, directory, config.workers)
    _write_annotations(layout, pictures, keypoints, directory)
    _write_truth(pictures, keypoints, directory / TRUTH_FILE)
    return _count(pictures)


def _picture_folders() -> list[str]:
    return [folder for layout in RENDERED_LAYOUTS.values() for folder in layout.folders]


def _motion(row: PlannedImage) -> Motion:
    fields: dict[str, Any] = json.loads(row.motion)
    for arm in ("right_arm", "left_arm"):
        fields[arm] = tuple(fields[arm])
    return Motion(**fields)


def _shot(row: PlannedImage) -> Shot:
    rng = np.random.default_rng(row.image_seed)
    if not row.view:
        return sample_shot(rng, CAMERAS[row.camid - 1], place=row.place, sloppy=row.sloppy)
    shot = studio_shot(rng)
    # Catalog views come closer than the full one: half the fronts show three quarters, 'additional' the upper body.
    closer = {"4_full": 1.0, "7_additional": 0.60}.get(row.view, 0.78 if row.image_seed % 2 else 1.0)
    scale = shot.crop_scale * closer
    return dataclasses.replace(shot, crop_scale=scale, crop_y=0.0 if closer == 1 else (0.52 - scale / 2) / scale)


def _as_planned(row: PlannedImage | Mapping[str, Any]) -> PlannedImage:
    if isinstance(row, PlannedImage):
        return row
    return PlannedImage(**{field.name: row[field.name] for field in dataclasses.fields(PlannedImage)})


def render_truth(
    person: PlannedImage | Mapping[str, Any], picture: PlannedImage | Mapping[str, Any], *, occluder: bool = False
) -> RenderedPerson:
    """Draw `person` (who, in which clothes) in the pose, camera, place and light of `picture`.

    With one row for both and the occluder, the picture's own pixels come back, before JPEG.

    Args:
        person: a row of truth.parquet: a mapping, such as a pandas row, or a PlannedImage.
        picture: another row, or the same.
        occluder: also draw what stood in front.
    """
    who, target = _as_planned(person), _as_planned(picture)
    camera = STUDIO if target.view else CAMERAS[target.camid - 1]
    return render_person(
        person_of(int(who.identity_seed), int(who.outfit)),
        _motion(target),
        camera,
        width=int(target.width),
        height=int(target.height),
        shot=_shot(target),
        occluder=occluder,
    )


def encode_jpeg(image: np.ndarray, image_seed: int) -> bytes:
    """JPEG at the quality (85 to 92) that belongs to the picture's seed."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=85 + image_seed // 7 % 8)
    return buffer.getvalue()


def _draw_chunk(pictures: Sequence[PlannedImage], directory: Path) -> np.ndarray:
    """Render and write some pictures; their keypoints (N, 18, 3)."""
    keypoints = []
    for picture in pictures:
        rendered = render_truth(picture, picture, occluder=True)
        (directory / picture.file).write_bytes(encode_jpeg(rendered.image, picture.image_seed))
        keypoints.append(rendered.keypoints)
    return np.stack(keypoints)


def _start_worker() -> None:
    end_with_parent()
    cv2.setNumThreads(1)  # processes share the cores already


def _draw_all(pictures: Sequence[PlannedImage], directory: Path, workers: int) -> np.ndarray:
    chunks = [pictures[start : start + _CHUNK] for start in range(0, len(pictures), _CHUNK)]
    if workers == 1:
        return _gather((_draw_chunk(chunk, directory) for chunk in chunks), len(pictures))
    # spawn: a forked child of a process with threads (Prefect, torch) can hang.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        return _gather(pool.map(_draw_chunk, chunks, itertools.repeat(directory)), len(pictures))


def _gather(results: Iterable[np.ndarray], total: int) -> np.ndarray:
    """Collect keypoints in order; say every ten seconds how far it is."""
    start = reported = time.monotonic()
    gathered, done = [], 0
    for result in results:
        gathered.append(result)
        done += len(result)
        now = time.monotonic()
        if now - reported > 10:
            rate = done / (now - start)
            logger.info(
                "rendered %d of %d pictures, %.0f images/s, %.0f s left", done, total, rate, (total - done) / rate
            )
            reported = now
    logger.info("rendered %d pictures, %.0f images/s", done, done / max(time.monotonic() - start, 1e-9))
    return np.concatenate(gathered)


# What lies beside the pictures.


def _write_annotations(
    layout: RenderedLayout, pictures: Sequence[PlannedImage], keypoints: np.ndarray, directory: Path
) -> None:
    for split in ("train", "test"):
        chosen = [k for k, picture in enumerate(pictures) if (picture.split == "train") == (split == "train")]
        lines = ["name:keypoints_y:keypoints_x"]
        lines += [annotation_line(pictures[k].name, keypoints[k]) for k in chosen]
        (directory / f"{layout.pose_files}-annotation-{split}.csv").write_text("\n".join(lines) + "\n")
        if layout.lists:
            (directory / f"{split}.lst").write_text("".join(f"{pictures[k].name}\n" for k in chosen))
            _write_pairs([pictures[k] for k in chosen], directory / f"fashion-pairs-{split}.csv")


def annotation_line(name: str, keypoints: np.ndarray) -> str:
    """`name: [18 y]: [18 x]` in whole pixels, -1 where missing, as published with PATN."""
    whole = np.where(np.isfinite(keypoints[:, :2]), np.rint(keypoints[:, :2]), -1).astype(int)
    return f"{name}: {whole[:, 1].tolist()}: {whole[:, 0].tolist()}"


def _write_pairs(pictures: Sequence[PlannedImage], path: Path) -> None:
    """All ordered pairs of pictures of one outfit."""
    outfits: dict[tuple[int, int], list[str]] = {}
    for picture in pictures:
        outfits.setdefault((picture.pid, picture.outfit), []).append(picture.name)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["from", "to"])
        for names in outfits.values():
            writer.writerows(itertools.permutations(names, 2))


def _write_truth(pictures: Sequence[PlannedImage], keypoints: np.ndarray, path: Path) -> None:
    table = pd.DataFrame([dataclasses.asdict(picture) for picture in pictures])
    table["keypoints"] = [row.ravel().tolist() for row in keypoints]
    table.to_parquet(path, index=False)


def _count(pictures: Sequence[PlannedImage]) -> dict[str, int]:
    counts = {"images": len(pictures)}
    for picture in pictures:
        for key in (picture.split, picture.role):
            counts[key] = counts.get(key, 0) + 1
    people = {(p.pid, p.split == "train") for p in pictures if p.role == "person"}
    counts["train_identities"] = sum(train for _, train in people)
    counts["test_identities"] = len(people) - counts["train_identities"]
    return counts
