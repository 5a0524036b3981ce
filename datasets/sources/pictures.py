"""The one way to open an image file: everywhere, from a path or from bytes, with the same formats, limits and colors.

A picture is what a person sees in a viewer, as 8-bit RGB. `upright_rgb` gives it:

- turned as its EXIF (PNG: also XMP) orientation says, all eight values;
- gray, bilevel, palette, YCbCr: the same in RGB; 16-bit gray: its upper 8 bits; CMYK: by Pillow's formula, color
  profiles are not applied;
- transparent (alpha channel, palette entry or color): laid over white;
- of several pictures in one file (GIF, MPO, TIFF): the first.

Refused by name: other formats (EPS would start Ghostscript, PSD, HEIC ...), and modes whose black and white no rule
tells (32-bit integers, floats, LAB). Limits hold before pixels are decoded, see the constants.
"""

from __future__ import annotations

import io
import re
import time
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from datasets.runtime.errors import InputError
from datasets.runtime.regular_files import read_regular

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""Formats of Pillow that are opened; JPEG includes MPO, a JPEG with further pictures behind it, as phones write."""
MAX_PIXELS = 64_000_000
"""Larger images are taken for decompression bombs; DeepFashion's largest have under one million pixels."""
MAX_SCANS = 100
"""Scans of a progressive JPEG; encoders write about ten. It is what libjpeg-turbo's own ``djpeg -maxscans`` is for."""
MAX_SCAN_PIXELS = 1_000_000_000
"""Scans times pixels: each scan of a progressive JPEG costs a pass over all of it, also one of a few bytes."""
MAX_SECONDS = 10.0
"""Processor time for one file. 64 million pixels take about one second."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes the picture upright."""
_SEEN_BY_CONVERSION = ("RGB", "RGBX", "L", "1", "P", "CMYK", "YCbCr", "HSV")
_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
"""A JPEG marker: no stuffed byte (00) of the coded data and no restart (D0 to D7)."""
_START_OF_IMAGE, _END_OF_IMAGE, _START_OF_SCAN = 0xD8, 0xD9, 0xDA
_HEIF_BRANDS = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif")


class PictureError(InputError):
    """An image file that is not opened, with its reason in one word (`status`) and in a sentence."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        """'unreadable', 'not-an-image-format', 'bomb', 'too-slow', 'truncated' or 'mode'."""


def read_picture(path: Path) -> Image.Image:
    """The picture in a regular file, upright, 8-bit RGB.

    Raises:
        InputError: it is not there, no regular file, or no picture (see `upright_rgb`).
    """
    try:
        content = read_regular(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    try:
        return decode_picture(content)
    except PictureError as error:
        raise InputError(f"{path} cannot be opened as an image: {error}") from None


def decode_picture(content: bytes) -> Image.Image:
    """The picture in an image file's bytes, upright, 8-bit RGB.

    Raises:
        PictureError: see `open_picture_file` and `upright_rgb`.
    """
    return upright_rgb(open_header(content))


def decode_pixels(content: bytes) -> np.ndarray:
    """`decode_picture` as an array, (H, W, 3) uint8."""
    return np.asarray(decode_picture(content))


def open_header(content: bytes) -> Image.Image:
    """An image file's format, mode, size and metadata; pixels are not decoded yet.

    Raises:
        PictureError: another format ('not-an-image-format', 'unreadable'), or beyond the limits ('bomb').
    """
    try:
        image = Image.open(_TimedBytes(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError("bomb", str(error)) from None
    except PictureError:
        raise
    except Exception as error:  # a broken header makes Pillow's readers raise nearly anything
        if (name := _format_of(content)) is not None:
            known = ", ".join(FORMATS)
            raise PictureError("not-an-image-format", f"is {name}, not one of {known}; convert it") from None
        raise PictureError("unreadable", f"not an image: {_why_unreadable(content, error)}") from None
    _check_limits(image, content)
    return image


def upright_rgb(image: Image.Image) -> Image.Image:
    """Decode an opened image to its end and give it as a person sees it: upright, 8-bit RGB, without metadata.

    Raises:
        PictureError: cut off or corrupt ('truncated'), over `MAX_SECONDS` ('too-slow'), or a mode that is refused
            ('mode').
    """
    try:
        image.load()
    except PictureError:
        raise
    except Exception as error:
        raise PictureError("truncated", f"cannot be decoded to its end: {error}") from None
    turn = _TURNS.get(orientation_of(image))  # read after decoding: Pillow turns TIFFs itself while it decodes them
    seen = _as_rgb(image)
    seen = seen.copy() if turn is None else seen.transpose(turn)
    seen.info = {}  # else the orientation would travel on with pixels that are upright already
    return seen


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none or the metadata is broken."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # broken metadata of a whole picture; what it holds does not matter
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):  # PPM: scaled to 16 bits
        return Image.fromarray((np.asarray(image, np.int32) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), layer).convert("RGB")
    if image.mode not in _SEEN_BY_CONVERSION:
        raise PictureError(
            "mode", f"has mode {image.mode}, for which no rule says what is black and white; save it as 8-bit RGB"
        )
    return image if image.mode == "RGB" else image.convert("RGB")


def _check_limits(image: Image.Image, content: bytes) -> None:
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise PictureError("bomb", f"claims {image.width}x{image.height} pixels, more than {MAX_PIXELS:,}")
    if image.format in ("JPEG", "MPO"):
        scans = count_scans(content)
        if scans > MAX_SCANS or scans * pixels > MAX_SCAN_PIXELS:
            raise PictureError(
                "bomb",
                f"has {scans} scans of {image.width}x{image.height} pixels, more than {MAX_SCANS} scans or "
                f"{MAX_SCAN_PIXELS:,} pixels over all scans; save it again",
            )


def count_scans(jpeg: bytes) -> int:
    """Scans of a JPEG's first image, found by its markers, without decoding; segments are skipped by their lengths."""
    scans, position = 0, 0
    while (match := _MARKER.search(jpeg, position)) is not None:
        marker, position = jpeg[match.end() - 1], match.end()
        if marker == _END_OF_IMAGE:
            break
        if marker != _START_OF_IMAGE:
            scans += marker == _START_OF_SCAN
            position += int.from_bytes(jpeg[position : position + 2], "big")
    return scans


def _format_of(content: bytes) -> str | None:
    """What a file of a format that is not opened calls itself in its first bytes; None if nobody knows it."""
    Image.init()
    prefix = content[:16]
    if len(prefix) < 16:  # Pillow's own tests take it for granted that there are so many
        return None
    for name, (_, accept) in Image.OPEN.items():
        if name not in FORMATS and accept is not None and accept(prefix) is True:
            return name
    return "HEIF" if prefix[4:12] in _HEIF_BRANDS else None


def _why_unreadable(content: bytes, error: Exception) -> str:
    if not content:
        return "the file has no bytes"
    if isinstance(error, UnidentifiedImageError):
        return f"it begins like no file of a known format ({', '.join(FORMATS)})"
    return f"its header is broken ({type(error).__name__})"


class _TimedBytes(io.BytesIO):
    """Bytes whose reading ends in an error when the reader has used too much processor time.

    Pillow's decoders are fed 64 KiB at a time, so this looks at the clock between pieces. It is the thread's own
    processor time: a busy machine refuses nothing that an idle one reads.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.until = time.thread_time() + MAX_SECONDS

    def read(self, size: int | None = -1, /) -> bytes:
        if time.thread_time() > self.until:
            raise PictureError("too-slow", f"takes more than {MAX_SECONDS:g} seconds to decode; save it again")
        return super().read(size)
