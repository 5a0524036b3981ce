"""Pictures made alike, so that nothing but what they show tells real from generated ones.

All are brought to one size and encoded again as baseline JPEG of one quality without metadata (a generated image's mark
would answer the question), and filled up with zeros behind their end to one number of bytes: a generator's smoother
pictures would make shorter files. What earlier encodings left in the pixels stays in them.
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from datasets.runtime.errors import InputError
from datasets.shards.samples import sample_picture
from datasets.sources.pictures import PictureError, decode_picture
from imagpose.study.generated_sets import GeneratedSet
from imagpose.study.plan import StudyPlan
from imagpose.study.real_images import RealImages

Size = tuple[int, int]
"""Height and width in pixels."""
REAL = ""
"""The set that real images are of; no generator is called so."""
NOTICED = 1.05
"""A side that is so many times longer beside the other is seen."""
PictureName = tuple[str, str]
"""Set and key."""


@dataclass(frozen=True, kw_only=True)
class Originals:
    """The pictures of a study as they were found."""

    pictures: dict[PictureName, Image.Image]
    content: list[bytes]
    """Their files' bytes, in the order of their names."""

    def smallest(self) -> Size:
        """The least height and the least width of any."""
        sizes = [(picture.height, picture.width) for picture in self.pictures.values()]
        return min(height for height, _ in sizes), min(width for _, width in sizes)

    def stretched(self, size: Size) -> dict[str, int]:
        """By set, how many pictures change their proportions by more than `NOTICED` when they are brought to a size."""
        height, width = size
        change = {
            name: abs(math.log(picture.width * height / (picture.height * width)))
            for name, picture in self.pictures.items()
        }
        return dict(Counter(name for (name, _), value in change.items() if value > math.log(NOTICED)))


def read_originals(plan: StudyPlan, sets: Sequence[GeneratedSet], real: RealImages) -> Originals:
    """Every picture that a plan names.

    Raises:
        InputError: one cannot be read or decoded.
    """
    pictures: dict[PictureName, Image.Image] = {}
    content: list[bytes] = []
    for one in sets:
        parts = [key for part in plan.parts if part.generator == one.name for key in part.generated]
        files = one.read({*parts, *(choice.pictures[one.name] for choice in plan.choices)})
        for key in sorted(files):
            content.append(files[key])
            pictures[one.name, key] = _decoded(one.name, key, files[key])
    keys = {key for part in plan.parts for key in part.real} | {
        key for choice in plan.choices for key in choice.sources
    }
    for key, (tar, members) in sorted(real.members(keys).items()):
        pictures[REAL, key] = sample_picture(tar, key, members, real.facts[key])
        content.append(pictures[REAL, key].tobytes())
    return Originals(pictures=pictures, content=content)


def _decoded(name: str, key: str, content: bytes) -> Image.Image:
    try:
        return decode_picture(content)
    except PictureError as error:
        raise InputError(f"'{name}': picture {key} cannot be opened: {error}") from None


def encoder(size: Size, quality: int) -> Callable[[Image.Image], bytes]:
    """What makes a picture's JPEG bytes: `size`, 4:4:4, baseline, the standard tables, nothing but the picture."""

    def encode(picture: Image.Image) -> bytes:
        plain = picture.convert("RGB")
        if (plain.height, plain.width) != size:
            plain = plain.resize(size[::-1], Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        Image.frombytes("RGB", plain.size, plain.tobytes()).save(buffer, "JPEG", quality=quality, subsampling=0)
        return buffer.getvalue()

    return encode


def filled_up(encoded: dict[PictureName, bytes]) -> dict[PictureName, bytes]:
    """All of one length; decoders stop at a JPEG's end mark."""
    length = max(map(len, encoded.values()))
    return {name: content.ljust(length, b"\0") for name, content in encoded.items()}
