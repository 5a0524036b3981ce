"""One way to open an image file: as a person sees it, within limits, or refused by name."""

import io
import os
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from datasets.runtime.errors import InputError
from datasets.runtime.regular_files import read_regular
from datasets.sources import pictures
from datasets.sources.image_check import check_image
from datasets.sources.pictures import PictureError, count_scans, decode_picture, decode_pixels, read_picture


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def upright() -> Image.Image:
    """A standing picture whose four corners differ, smooth enough for JPEG."""
    y, x = np.mgrid[0:64, 0:32]
    return Image.fromarray(np.stack([x * 7, y * 3, (x + y) * 2], -1).astype(np.uint8))


def stored(orientation: int) -> Image.Image:
    """The pixels of `upright` as a camera stores them that writes this EXIF orientation beside them."""
    undo = {
        1: lambda image: image,
        2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
        4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
        6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
        7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
        8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
    }
    return undo[orientation](upright())


def exif(orientation: int) -> Image.Exif:
    value = Image.Exif()
    value[0x0112] = orientation
    return value


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_is_opened_upright(orientation, kind):
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    content = saved(stored(orientation), kind, exif=exif(orientation), **options)
    difference = decode_pixels(content).astype(int) - np.asarray(upright())
    assert np.abs(difference).max() <= (8 if kind == "JPEG" else 0)
    assert decode_picture(content).getexif().get(0x0112) is None  # or the next reader would turn it again


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_jpeg_is_indexed_at_its_upright_size(orientation):
    found = check_image(saved(stored(orientation), "JPEG", exif=exif(orientation)))
    assert (found.status, found.width, found.height) == ("ok", 32, 64)


def with_transparent(mode: str) -> Image.Image:
    """Red on the left, transparent black on the right."""
    picture = Image.new("RGBA", (4, 2), (0, 0, 0, 0))
    picture.paste((255, 0, 0, 255), (0, 0, 2, 2))
    return picture.convert(mode)


def gray16() -> Image.Image:
    return Image.fromarray(np.array([[0, 0x8000, 0xFFFF]], np.uint16))


def keyed() -> bytes:
    """An RGB PNG in which one color counts as transparent."""
    picture = Image.new("RGB", (2, 1), (255, 0, 0))
    picture.putpixel((1, 0), (1, 2, 3))
    return saved(picture, "PNG", transparency=(1, 2, 3))


RED, WHITE, BLACK = (255, 0, 0), (255, 255, 255), (0, 0, 0)
MODES = {
    "RGBA": (saved(with_transparent("RGBA"), "PNG"), [RED, WHITE]),
    "palette with alpha": (saved(with_transparent("P"), "GIF", transparency=0), None),
    "LA": (saved(with_transparent("LA"), "PNG"), [(76, 76, 76), WHITE]),
    "transparent color": (keyed(), [RED, WHITE]),
    "RGBA in WebP": (saved(with_transparent("RGBA"), "WEBP", lossless=True), [RED, WHITE]),
    "gray": (saved(Image.new("L", (2, 1), 99), "JPEG"), [(99, 99, 99)]),
    "bilevel": (saved(Image.new("1", (2, 1), 1), "PNG"), [WHITE]),
    "palette": (saved(Image.new("RGB", (2, 1), RED).convert("P"), "PNG"), [RED]),
    "CMYK": (saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF"), [RED]),
    "16-bit gray PNG": (saved(gray16(), "PNG"), [BLACK, (128, 128, 128), WHITE]),
    "16-bit gray TIFF": (saved(gray16(), "TIFF"), [BLACK, (128, 128, 128), WHITE]),
    "16-bit PGM": (b"P5 3 1 65535\n" + bytes([0, 0, 0x80, 0, 0xFF, 0xFF]), [BLACK, (128, 128, 128), WHITE]),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_becomes_the_rgb_that_a_person_sees(name):
    content, expected = MODES[name]
    picture = decode_picture(content)
    assert picture.mode == "RGB"
    if expected is not None:
        assert {tuple(map(int, color)) for color in np.asarray(picture).reshape(-1, 3)} == set(expected)


REFUSED = {
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "is EPS, not one of JPEG"),
    "PSD": (b"8BPS\0\1" + bytes(40), "is PSD, not one of JPEG"),
    "HEIC": (b"\0\0\0\x18ftypheic" + bytes(40), "is HEIF, not one of JPEG"),
    "float TIFF": (saved(Image.new("F", (2, 2), 0.5), "TIFF"), "mode F"),
    "32-bit TIFF": (saved(Image.new("I", (2, 2), 70000), "TIFF"), "mode I"),
    "LAB": (saved(Image.new("LAB", (2, 2)), "TIFF"), "mode LAB"),
    "text": (b"hello", "not an image: it begins like no file of a known format"),
    "nothing": (b"", "not an image: the file has no bytes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_rule_covers_is_refused_by_name(name):
    content, message = REFUSED[name]
    with pytest.raises(PictureError, match=message):
        decode_picture(content)


def test_no_file_starts_ghostscript(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr("subprocess.check_call", lambda *command, **_: ran.append(command))
    (tmp_path / "0002_c1s1_000451_03.jpg").write_bytes(REFUSED["EPS"][0] + b"%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(InputError, match="is EPS"):
        read_picture(tmp_path / "0002_c1s1_000451_03.jpg")
    assert check_image((tmp_path / "0002_c1s1_000451_03.jpg").read_bytes()).status == "not-jpeg" and not ran


def scan_bomb(scans: int, side: int = 256) -> bytes:
    """A progressive JPEG whose last scan is repeated: each costs a pass over the whole image, and few bytes."""
    content = saved(Image.new("RGB", (side, side), "gray"), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * scans + content[-2:]


def test_a_jpeg_of_thousands_of_scans_is_a_bomb_and_is_not_decoded(monkeypatch):
    content = scan_bomb(4000)
    assert count_scans(content) > 4000
    started = time.process_time()
    found = check_image(content)
    assert found.status == "bomb" and "scans" in found.error and time.process_time() - started < 1
    assert check_image(scan_bomb(40)).status == "ok"
    monkeypatch.setattr(pictures, "MAX_SCAN_PIXELS", 40 * 256 * 256)  # few scans of a large picture cost as much
    assert check_image(scan_bomb(40)).status == "bomb"


def test_scans_are_not_counted_in_metadata_thumbnails_or_what_follows_the_image():
    plain = saved(upright(), "JPEG")
    assert count_scans(plain) == 1
    hidden = saved(upright(), "JPEG", comment=b"\xff\xda" * 500, exif=exif(1)) + b"\xff\xda" * 500
    assert count_scans(hidden) == 1 and check_image(hidden).status == "ok"
    assert 1 < count_scans(saved(upright(), "JPEG", progressive=True)) < 20


def test_a_file_that_takes_too_long_is_given_up(monkeypatch):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8))
    content = saved(noise, "JPEG", quality=95)
    assert check_image(content).status == "ok"
    monkeypatch.setattr(pictures, "MAX_SECONDS", 0.0)
    found = check_image(content)
    assert found.status == "too-slow" and "seconds" in found.error


def png_of_size(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims a size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    return (
        PngImagePlugin._MAGIC + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [9_000, 12_000, 60_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(side):
    with pytest.raises(PictureError) as refusal:
        decode_picture(png_of_size(side, side))
    assert refusal.value.status == "bomb"


def test_only_regular_files_are_read(tmp_path):
    (tmp_path / "real.jpg").write_bytes(saved(upright(), "JPEG"))
    (tmp_path / "link.jpg").symlink_to(tmp_path / "real.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "folder.jpg").mkdir()
    assert read_regular(tmp_path / "link.jpg") == (tmp_path / "real.jpg").read_bytes()
    for name, kind in (("pipe", "a pipe"), ("device", "a device"), ("folder", "a folder")):
        with pytest.raises(InputError, match=rf"{name}\.jpg cannot be read: is no regular file but .*{kind}"):
            read_picture(tmp_path / f"{name}.jpg")
    with pytest.raises(InputError, match="more than 0 MiB"):
        read_regular(tmp_path / "real.jpg", most_bytes=10)
    with pytest.raises(InputError, match=r"absent\.jpg cannot be read: No such file"):
        read_picture(tmp_path / "absent.jpg")


SEEDS = [
    saved(upright(), "JPEG", exif=exif(6)),
    saved(upright(), "JPEG", progressive=True),
    saved(with_transparent("P"), "GIF", transparency=0),
    saved(with_transparent("RGBA"), "PNG"),
    saved(gray16(), "TIFF"),
    MODES["16-bit PGM"][0],
    saved(upright(), "BMP"),
    saved(upright(), "WEBP"),
]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.sampled_from(SEEDS),
    edits=st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=8),
    cut=st.integers(0, 2**12),
    tail=st.binary(max_size=40),
)
@pytest.mark.filterwarnings("ignore")
def test_any_bytes_are_a_picture_or_a_reason(seed, edits, cut, tail):
    content = bytearray(seed)
    for place, value in edits:
        content[place % len(content)] = value
    content = bytes(content[: len(content) - cut % 64]) + tail
    found = check_image(content)
    assert (found.status == "ok") == (found.error == "") and "\n" not in found.error
    try:
        pixels = decode_pixels(content)
    except PictureError as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert pixels.dtype == np.uint8 and pixels.shape[2] == 3


def test_images_are_opened_in_one_place_only():
    root = Path(__file__).resolve().parent.parent
    openers = ("Image.open(", "cv2.imdecode(", "cv2.imread(", "plt.imread(", "decode_jpeg(", "decode_image(")
    found = [
        f"{path.relative_to(root)}: {line.strip()}"
        for package in ("datasets", "imagpose", "reid", "flows", "benchmarks")
        for path in sorted((root / package).rglob("*.py"))
        for line in path.read_text().splitlines()
        if any(opener in line for opener in openers)
        and "formats=FORMATS" not in line
        and path.name != "card.py"  # its text shows how other programs use an exported network
    ]
    assert found == []
