"""``python -m imagpose user-study pack``: one page that people answer, and the key to their answers."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path

from PIL import Image

from datasets.runtime.atomic import write_text_atomically
from datasets.runtime.errors import InputError, printable
from datasets.runtime.reading.json_values import read_object
from imagpose.config import PackStudyConfig
from imagpose.config.study import LEAST_SIDE, MOST_GENERATORS
from imagpose.study.arrangement import POSE, Arrangement
from imagpose.study.equal_pictures import REAL, Originals, PictureName, Size, encoder, filled_up, read_originals
from imagpose.study.generated_sets import GeneratedSet, read_sets
from imagpose.study.page import render
from imagpose.study.plan import StudyPlan, make_plan
from imagpose.study.real_images import RealImages

logger = logging.getLogger(__name__)

PAGE, KEY = "user-study.html", "key.json"
MOST_BYTES = 400 << 20
"""Of a page; Chromium's longest text has 512 MiB, so a larger page would stay empty."""


def run_pack(config: PackStudyConfig) -> int:
    """Write ``user-study.html`` and ``key.json``; returns the exit code.

    Raises:
        InputError: sets or shards that cannot be read or are too small, a page that is too large, or a folder that
            holds another study's key.
    """
    real, sets = RealImages(config.real), _sets(config)
    plan = make_plan(sets, real, config.per_generator, config.best, config.seed)
    if len(sets) == 1 and config.best:
        logger.info("one generator: nobody is asked which is best")
    originals = read_originals(plan, sets, real)
    size = _size(config, originals)
    files = _files(plan, originals, real, size, config.jpeg_quality)
    arrangement = Arrangement(plan, files, size, config.seed, originals.content)
    page = _page(arrangement)
    _write(config.out, arrangement, page)
    logger.info(
        "%d questions about %d generators, pictures of %dx%d, %.1f MB: hand out %s, keep %s",
        len(arrangement.key["items"]),
        len(sets),
        *size,
        len(page) / 1e6,
        config.out / PAGE,
        config.out / KEY,
    )
    return 0


def _sets(config: PackStudyConfig) -> list[GeneratedSet]:
    """All generators; an evaluation of several scenarios is as many."""
    sets = [one for name, folder in config.synthetic.items() for one in read_sets(name, folder)]
    twice = [name for name, count in Counter(one.name for one in sets).items() if count > 1]
    if twice:
        raise InputError(f"two generators are called '{twice[0]}'; give one another name")
    if len(sets) > MOST_GENERATORS:
        raise InputError(f"{len(sets)} generators, counting scenarios; a study takes at most {MOST_GENERATORS}")
    return sets


def _size(config: PackStudyConfig, originals: Originals) -> Size:
    """Height and width of all pictures; warns of sets that they stretch.

    Raises:
        InputError: no size is given, and the smallest picture is too small to show anybody.
    """
    size = (config.height, config.width) if config.height and config.width else originals.smallest()
    if min(size) < LEAST_SIDE:
        raise InputError(
            f"the smallest picture would make all of them {size[0]}x{size[1]} (height x width), too small to show "
            "anybody; give --height and --width, or leave its set out"
        )
    for name, count in originals.stretched(size).items():
        shown = f"'{name}'" if name != REAL else "--real"
        logger.warning(
            "%s: %d pictures have other proportions than %dx%d (height x width) and are stretched; people may see it",
            printable(shown),
            count,
            *size,
        )
    return size


def _files(
    plan: StudyPlan, originals: Originals, real: RealImages, size: Size, quality: int
) -> dict[PictureName, bytes]:
    """Every picture and skeleton, made alike."""
    sizes = Counter((picture.height, picture.width) for picture in originals.pictures.values())
    if len(sizes) > 1:
        logger.info("pictures of %d sizes are brought to %dx%d (height x width)", len(sizes), *size)
    encode = encoder(size, quality)
    encoded = {name: encode(picture) for name, picture in originals.pictures.items()}
    for choice in plan.choices:
        encoded[POSE, choice.pose] = encode(Image.fromarray(real.skeleton(choice.pose, size)))
    return filled_up(encoded)


def _page(arrangement: Arrangement) -> str:
    page = render(arrangement.page)
    if len(page) > MOST_BYTES:
        raise InputError(
            f"the page would have {len(page) >> 20} MiB, more than browsers open; lower --per-generator, --best, "
            "--jpeg-quality, or --height and --width"
        )
    return page


def _write(out: Path, arrangement: Arrangement, page: str) -> None:
    """Page and key into a folder.

    Raises:
        InputError: another study's key lies there, without which its answers would be worth nothing.
    """
    path = out / KEY
    if path.exists() and _pack_of(path) != arrangement.pack:
        raise InputError(f"{path} is the key of another study, whose answers need it; name another folder by --out")
    out.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, json.dumps(arrangement.key, indent=1) + "\n")
    write_text_atomically(out / PAGE, page)


def _pack_of(path: Path) -> object:
    try:
        return read_object(path).get("pack")
    except (OSError, ValueError):
        return None
