"""Checks one image file from its bytes: is it a whole, sane JPEG or PNG of the colors that are wanted?

Each file ends with a status: ``ok``, or one word for what is wrong and a sentence that says it. Nothing here raises for
bad content. Sizes are those of the picture as a person sees it, turned by its EXIF orientation, because that is how
`datasets.sources.pictures` decodes it for every later stage.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from PIL import Image

from datasets.sources.pictures import PictureError, open_header, orientation_of, upright_rgb

FORMATS = ("JPEG", "MPO", "PNG")
"""MPO: a JPEG with further pictures behind it, as some phones write."""
GRAY_MODES = ("L", "1", "I;16")
"""Gray as it is read with `gray_as_rgb`."""
STATUS_OF = {"not-an-image-format": "not-jpeg", "mode": "not-rgb"}
"""Reasons of `PictureError` that an index has its own words for."""


@dataclass(frozen=True, slots=True)
class ImageCheck:
    """What the check found."""

    status: str
    """'ok', 'empty', 'unreadable', 'truncated', 'not-jpeg', 'not-rgb', 'bomb', 'too-slow' (or a source's own)."""
    error: str
    """One sentence, empty if ok."""
    width: int = 0
    """Of the upright picture, as `height`."""
    height: int = 0
    sha256: str = ""
    plain: bool = True
    """Every reader shows it alike: in color and not turned by EXIF."""


def check_image(content: bytes, *, gray_as_rgb: bool = False) -> ImageCheck:
    """Check a file's bytes by decoding them fully.

    Args:
        content: the image file.
        gray_as_rgb: a gray image is as good as one in color.
    """
    if not content:
        return ImageCheck("empty", "the file has no bytes")
    sha256 = hashlib.sha256(content).hexdigest()
    try:
        image = open_header(content)
        plain = _is_plain(image)
    except PictureError as error:
        return ImageCheck(STATUS_OF.get(error.status, error.status), str(error), sha256=sha256)
    status, reason = _wanted(image, gray_as_rgb)
    width, height = image.size
    if status == "ok":
        try:
            width, height = upright_rgb(image).size
        except PictureError as error:
            status, reason = STATUS_OF.get(error.status, error.status), str(error)
    return ImageCheck(status, reason, width, height, sha256, plain)


def is_plain(content: bytes) -> bool:
    """`ImageCheck.plain` of a file's bytes, told from its header."""
    try:
        return _is_plain(open_header(content))
    except PictureError:
        return True


def _is_plain(image: Image.Image) -> bool:
    return image.mode == "RGB" and orientation_of(image) == 1


def _wanted(image: Image.Image, gray_as_rgb: bool) -> tuple[str, str]:
    """Status and reason from the header alone."""
    if image.format not in FORMATS:
        return "not-jpeg", f"is {image.format}, expected JPEG or PNG; convert it"
    if image.mode in GRAY_MODES:
        return ("ok", "") if gray_as_rgb else ("not-rgb", f"is gray (mode {image.mode}); read it with --gray-as-rgb")
    if image.mode != "RGB":
        return "not-rgb", f"has mode {image.mode}, expected RGB; convert it"
    return "ok", ""
