"""Generated stand-ins for Market-1501: its layout, its counts, its sizes in pixels and bytes; nothing to recognize."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 64, 128


@dataclass(frozen=True)
class Size:
    """How many images of each kind; identities in the training split, and again as many (less one) in the test splits.

    Of the real data set another size than Market-1501's own takes a slice of that many identities.
    """

    identities: int = 751
    train: int = 12_936
    query: int = 3_368
    gallery: int = 13_115
    distractors: int = 2_798
    junk: int = 3_819


MARKET = Size()


def image_names(size: Size) -> list[str]:
    """Paths in Market-1501's layout: as many of each kind as `size` says."""
    last = size.identities - 1

    def of_people(folder: str, count: int, first: int, people: int, box: int) -> list[str]:
        # The camera changes from one image of a person to the next, so that queries have matches under other cameras.
        return [
            f"{folder}/{first + i % people:04d}_c{1 + i // people % 6}s1_{i:06d}_{box:02d}.jpg" for i in range(count)
        ]

    test = "bounding_box_test"
    names = of_people("bounding_box_train", size.train, 1, size.identities, 1)
    names += of_people("query", size.query, size.identities + 1, last, 0)
    names += of_people(test, size.gallery, size.identities + 1, last, 1)
    names += [f"{test}/0000_c{1 + i % 6}s1_{i:06d}_02.jpg" for i in range(size.distractors)]
    return names + [f"{test}/-1_c{1 + i % 6}s1_{i:06d}_03.jpg" for i in range(size.junk)]


def generate_images(root: Path, size: Size) -> None:
    """Write blurred noise with grain as JPEGs: about as many bytes, and so as much to decode, as a Market-1501 crop."""
    rng = np.random.default_rng(0)
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        (root / folder).mkdir(parents=True)
    grains = rng.normal(0, 4, (32, HEIGHT, WIDTH, 1)).astype(np.float32)
    for number, name in enumerate(image_names(size)):
        coarse = Image.fromarray(rng.integers(0, 256, (16, 8, 3), np.uint8)).resize(
            (WIDTH, HEIGHT), Image.Resampling.BICUBIC
        )
        picture = (np.asarray(coarse) + grains[number % len(grains)]).clip(0, 255).astype(np.uint8)
        Image.fromarray(picture).save(root / name, "JPEG", quality=80)
