"""Checks one image file from its bytes: is it a whole, sane RGB JPEG or PNG?

Each file ends with a status: ``ok``, or one word for what is wrong and a sentence that says it. Nothing here raises for
bad content.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass

from PIL import ExifTags, Image

MAX_PIXELS = 64_000_000
"""Larger images are taken for decompression bombs; DeepFashion's largest have under one million pixels."""
FORMATS = ("JPEG", "MPO", "PNG")
"""MPO: a JPEG with further pictures behind it, as some phones write."""
TURNED = range(2, 9)
"""EXIF orientations other than upright (1)."""


@dataclass(frozen=True, slots=True)
class ImageCheck:
    """What the check found."""

    status: str
    """'ok', 'empty', 'unreadable', 'truncated', 'not-jpeg', 'not-rgb', 'rotated', 'bomb' (or a source's own)."""
    error: str
    """One sentence, empty if ok."""
    width: int = 0
    height: int = 0
    sha256: str = ""


def check_image(content: bytes) -> ImageCheck:
    """Check a file's bytes by decoding them fully."""
    if not content:
        return ImageCheck("empty", "the file has no bytes")
    sha256 = hashlib.sha256(content).hexdigest()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return ImageCheck("bomb", str(error), sha256=sha256)
    except Exception as error:
        return ImageCheck("unreadable", f"not an image: {type(error).__name__}", sha256=sha256)
    status, reason = _check_opened(image)
    return ImageCheck(status, reason, image.width, image.height, sha256)


def _check_opened(image: Image.Image) -> tuple[str, str]:
    if image.width * image.height > MAX_PIXELS:
        return "bomb", f"claims {image.width}x{image.height} pixels"
    if image.format not in FORMATS:
        return "not-jpeg", f"is {image.format}, expected JPEG or PNG; convert it"
    if image.mode != "RGB":
        return "not-rgb", f"has mode {image.mode}, expected RGB; convert it"
    try:
        image.load()
    except Exception as error:
        return "truncated", f"cannot be decoded to its end: {error}"
    orientation = _orientation(image)
    if orientation in TURNED:
        # Some readers turn it and some do not, so nobody could say which picture a keypoint belongs to.
        return "rotated", f"its EXIF orientation {orientation} asks readers to turn it; save it upright"
    return "ok", ""


def _orientation(image: Image.Image) -> object:
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # broken metadata of a whole picture; what it holds is no matter
        return None
