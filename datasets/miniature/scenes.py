"""Where people are drawn: six cameras, their backgrounds, what stands in front of people, what lens and sensor do.

A camera's surroundings are one wide panorama, painted once per process from a fixed seed; every image shows another
window of it. Pictures here are float32 sRGB in [0, 1], (H, W, 3).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import cv2
import numpy as np

PANORAMA_SCALE = 100
"""Pixels per metre of the panoramas."""
PANORAMA_WIDTH, PANORAMA_ABOVE, PANORAMA_BELOW = 14.0, 2.8, 0.9
"""Metres: length, and height above and below the line on which people stand."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Camera:
    """A fixed camera: what it sees and how it distorts it."""

    camid: int
    scene: str
    """A key of SCENES."""
    elevation: float
    """Degrees that it looks down."""
    yaws: tuple[float, ...]
    """Directions (degrees, as Motion.yaw) in which people usually walk here."""
    gains: tuple[float, float, float]
    """White balance: factors on red, green and blue."""
    exposure: float
    contrast: float
    blur: tuple[float, float]
    """Range of the Gaussian's sigma in pixels of a 128-pixel-high picture."""
    noise: tuple[float, float]
    """Range of the sensor noise's standard deviation, of 1."""
    resolution: tuple[float, float]
    """Range of the recorded size over the stored size: below 1 the picture is up-sampled."""
    light: tuple[float, float, float]
    """Direction to the light in view coordinates, any length."""
    ambient: float
    """Share of the light that comes from everywhere."""


CAMERAS: tuple[Camera, ...] = (
    Camera(
        camid=1,
        scene="plaza",
        elevation=11,
        yaws=(15, 195),
        gains=(1.00, 1.00, 0.98),
        exposure=1.04,
        contrast=1.02,
        blur=(0.2, 0.7),
        noise=(0.008, 0.018),
        resolution=(0.75, 1.0),
        light=(0.45, 0.75, 0.50),
        ambient=0.58,
    ),
    Camera(
        camid=2,
        scene="bricks",
        elevation=15,
        yaws=(80, 265, 300),
        gains=(1.06, 1.00, 0.92),
        exposure=1.02,
        contrast=0.96,
        blur=(0.3, 0.9),
        noise=(0.010, 0.022),
        resolution=(0.65, 1.0),
        light=(-0.55, 0.65, 0.50),
        ambient=0.62,
    ),
    Camera(
        camid=3,
        scene="shopfront",
        elevation=8,
        yaws=(340, 165),
        gains=(0.96, 0.99, 1.08),
        exposure=0.94,
        contrast=1.06,
        blur=(0.2, 0.7),
        noise=(0.010, 0.024),
        resolution=(0.75, 1.0),
        light=(0.20, 0.90, 0.45),
        ambient=0.66,
    ),
    Camera(
        camid=4,
        scene="road",
        elevation=13,
        yaws=(120, 240, 60),
        gains=(0.99, 1.02, 0.97),
        exposure=1.08,
        contrast=1.05,
        blur=(0.3, 0.8),
        noise=(0.008, 0.018),
        resolution=(0.65, 0.95),
        light=(0.70, 0.60, 0.30),
        ambient=0.52,
    ),
    Camera(
        camid=5,
        scene="park",
        elevation=10,
        yaws=(40, 320, 180),
        gains=(1.02, 1.03, 0.92),
        exposure=1.00,
        contrast=1.00,
        blur=(0.2, 0.6),
        noise=(0.006, 0.016),
        resolution=(0.8, 1.0),
        light=(-0.40, 0.80, 0.45),
        ambient=0.60,
    ),
    Camera(
        camid=6,
        scene="wall",
        elevation=17,
        yaws=(215, 30, 275),
        gains=(0.97, 0.98, 1.05),
        exposure=0.84,
        contrast=0.88,
        blur=(0.6, 1.3),
        noise=(0.014, 0.030),
        resolution=(0.45, 0.8),
        light=(-0.15, 0.90, 0.40),
        ambient=0.70,
    ),
)
"""Six cameras as Market-1501's: the sixth is the poor one."""

STUDIO = Camera(
    camid=1,
    scene="studio",
    elevation=3,
    yaws=(0,),
    gains=(1.0, 1.0, 1.0),
    exposure=1.06,
    contrast=1.0,
    blur=(0.0, 0.0),
    noise=(0.002, 0.004),
    resolution=(1.0, 1.0),
    light=(0.25, 0.60, 0.76),
    ambient=0.62,
)
"""DeepFashion's: plain light ground, soft light from the front."""


def _canvas() -> tuple[np.ndarray, int]:
    height = round((PANORAMA_ABOVE + PANORAMA_BELOW) * PANORAMA_SCALE)
    return np.zeros((height, round(PANORAMA_WIDTH * PANORAMA_SCALE), 3), np.float32), round(
        PANORAMA_ABOVE * PANORAMA_SCALE
    )


def _clouds(rng: np.random.Generator, shape: tuple[int, int], cell: int) -> np.ndarray:
    """Smooth noise with standard deviation near 1 and features of `cell` pixels."""
    coarse = rng.standard_normal((shape[0] // cell + 3, shape[1] // cell + 3)).astype(np.float32)
    return cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)


def _ground(
    image: np.ndarray, top: int, color, rng, *, tile: float = 0.0, joint: float = -0.08, speckle: float = 0.02
) -> None:
    """Fill below row `top` with a floor seen from above, its tiles `tile` metres wide (0: none)."""
    area = image[top:]
    height, width = area.shape[:2]
    shade = 0.03 * _clouds(rng, (height, width), 60) + 0.02 * _clouds(rng, (height, width), 14)
    shade = shade + speckle * rng.standard_normal((height, width)).astype(np.float32)
    area[:] = np.asarray(color, np.float32) + shade[..., None]
    if not tile:
        return
    # Perspective: rows of tiles grow towards the camera, joints across run to a vanishing point far above.
    y = 4.0
    rows = [0]
    while y < height:
        rows.append(int(y))
        y += 9 + 60 * tile * (0.35 + y / height)
    for index, row_top in enumerate(rows):
        cv2.line(area, (0, row_top), (width, row_top), _shift(color, joint), 1, cv2.LINE_AA)
        bottom = rows[index + 1] if index + 1 < len(rows) else height
        step = max(int(tile * PANORAMA_SCALE), 6)
        for k, x in enumerate(range(-width, 2 * width, step)):
            lean0, lean1 = (
                (x - width / 2) * (0.75 + 0.5 * row_top / height),
                (x - width / 2) * (0.75 + 0.5 * bottom / height),
            )
            corners = [int(lean0 + width / 2), int(lean1 + width / 2)]
            cv2.line(area, (corners[0], row_top), (corners[1], bottom), _shift(color, joint), 1, cv2.LINE_AA)
            if (k * 7 + index * 13) % 5 == 0:  # a few tiles are of another tone
                right = [int(c + step * (0.75 + 0.5 * row_top / height)) for c in corners]
                tint = _shift(color, float(rng.uniform(-0.06, 0.05)))
                quad = np.array([(corners[0], row_top), (right[0], row_top), (right[1], bottom), (corners[1], bottom)])
                cv2.fillConvexPoly(area, quad, tint, cv2.LINE_AA)


def _shift(color, by: float) -> tuple[float, float, float]:
    return tuple(float(np.clip(c + by, 0, 1)) for c in color)


def _fill(image: np.ndarray, rows: slice, color, rng, rough: float = 0.03, cell: int = 40) -> None:
    area = image[rows]
    area[:] = np.asarray(color, np.float32) + (rough * _clouds(rng, area.shape[:2], cell))[..., None]


def _brickwork(image: np.ndarray, bottom: int, color, rng) -> None:
    _fill(image, slice(0, bottom), _shift(color, -0.1), rng)
    width = image.shape[1]
    for row, y in enumerate(range(bottom, -12, -11)):
        for x in range(-30 + 15 * (row % 2), width, 30):
            tint = _shift(color, float(rng.normal(0, 0.035)))
            cv2.rectangle(image, (x + 1, max(y - 10, 0)), (x + 28, max(y - 1, 0)), tint, -1)


def _bushes(image: np.ndarray, bottom: int, top: int, color, rng, count: int = 260) -> None:
    for _ in range(count):
        centre = (int(rng.integers(0, image.shape[1])), int(rng.integers(top, max(bottom, top + 1))))
        axes = (int(rng.integers(8, 34)), int(rng.integers(6, 24)))
        tint = np.asarray(color) * rng.uniform(0.55, 1.35) + rng.normal(0, 0.012, 3)
        cv2.ellipse(image, centre, axes, float(rng.uniform(0, 180)), 0, 360, _shift(tint, 0), -1, cv2.LINE_AA)


def _bicycle(image: np.ndarray, x: int, ground: int, rng, size: float = 1.0) -> None:
    r = int(33 * size)
    dark = (0.13, 0.13, 0.15)
    frame = tuple(
        float(c) for c in rng.choice([(0.55, 0.15, 0.15), (0.2, 0.3, 0.5), (0.3, 0.3, 0.3), (0.6, 0.6, 0.58)])
    )
    a, b, seat = (x, ground - r), (x + int(100 * size), ground - r), (x + int(35 * size), ground - int(78 * size))
    bar, pedal = (x + int(84 * size), ground - int(88 * size)), (x + int(45 * size), ground - r)
    for hub in (a, b):
        cv2.circle(image, hub, r, dark, 3, cv2.LINE_AA)
        for angle in range(0, 180, 45):
            dx, dy = int(r * math.cos(math.radians(angle))), int(r * math.sin(math.radians(angle)))
            cv2.line(image, (hub[0] - dx, hub[1] - dy), (hub[0] + dx, hub[1] + dy), (0.5, 0.5, 0.5), 1, cv2.LINE_AA)
    for p, q in ((a, seat), (seat, pedal), (pedal, a), (pedal, bar), (seat, bar), (bar, b)):
        cv2.line(image, p, q, frame, 3, cv2.LINE_AA)
    cv2.ellipse(image, (seat[0], seat[1] - 4), (12, 4), 0, 0, 360, dark, -1, cv2.LINE_AA)


def _plaza(rng: np.random.Generator) -> np.ndarray:
    image, base = _canvas()
    line = base - 95
    _fill(image, slice(0, line), (0.42, 0.52, 0.33), rng, 0.05)
    _bushes(image, line - 40, 0, (0.24, 0.34, 0.20), rng)
    cv2.rectangle(image, (0, line - 34), (image.shape[1], line), (0.62, 0.46, 0.42), -1)
    _ground(image, line, (0.60, 0.60, 0.59), rng, tile=0.42)
    for x in range(40, image.shape[1], 330):
        _bicycle(image, x + int(rng.integers(0, 120)), line + int(rng.integers(2, 22)), rng, 0.8)
    return image


def _bricks(rng: np.random.Generator) -> np.ndarray:
    image, base = _canvas()
    line = base - 60
    _fill(image, slice(0, line), (0.66, 0.64, 0.60), rng, 0.03)
    for x in range(0, image.shape[1], 190):
        cv2.rectangle(image, (x + 20, 10), (x + 130, line - 90), (0.28, 0.31, 0.35), -1)
        cv2.rectangle(image, (x + 20, 10), (x + 130, line - 90), (0.80, 0.79, 0.76), 4)
    cv2.rectangle(image, (0, line - 26), (image.shape[1], line), (0.45, 0.43, 0.42), -1)
    _ground(image, line, (0.62, 0.50, 0.45), rng, tile=0.22, joint=-0.10)
    return image


def _shopfront(rng: np.random.Generator) -> np.ndarray:
    image, base = _canvas()
    line = base - 28
    _fill(image, slice(0, line), (0.13, 0.15, 0.19), rng, 0.03, 70)
    for x in range(0, image.shape[1], 155):
        glow = (0.25 + 0.2 * rng.random(), 0.27 + 0.15 * rng.random(), 0.30)
        cv2.rectangle(
            image, (x + 26, int(rng.integers(20, 130))), (x + int(rng.integers(60, 130)), line - 50), glow, -1
        )
        cv2.rectangle(image, (x, 0), (x + 9, line), (0.42, 0.43, 0.46), -1)
    image[:line] = cv2.GaussianBlur(image[:line], (0, 0), 3)
    cv2.rectangle(image, (0, line - 16), (image.shape[1], line), (0.30, 0.30, 0.31), -1)
    _ground(image, line, (0.50, 0.50, 0.51), rng, tile=0.6)
    return image


def _road(rng: np.random.Generator) -> np.ndarray:
    image, base = _canvas()
    line = base - 120
    _fill(image, slice(0, line), (0.63, 0.68, 0.74), rng, 0.02, 120)
    _bushes(image, line, line - 90, (0.27, 0.38, 0.22), rng, 420)
    _ground(image, line, (0.43, 0.43, 0.44), rng, speckle=0.025)
    cv2.rectangle(image, (0, line), (image.shape[1], line + 9), (0.70, 0.69, 0.66), -1)
    for x in range(0, image.shape[1], 260):
        cv2.fillConvexPoly(
            image,
            np.array([(x, base - 52), (x + 120, base - 52), (x + 130, base - 42), (x + 4, base - 42)]),
            (0.85, 0.85, 0.82),
            cv2.LINE_AA,
        )
    for x in range(150, image.shape[1], 520):
        color = tuple(float(c) for c in rng.uniform(0.25, 0.8) + rng.uniform(-0.06, 0.06, 3))
        cabin = np.array([(x + 60, line - 70), (x + 105, line - 122), (x + 250, line - 122), (x + 300, line - 70)])
        cv2.fillConvexPoly(image, cabin, (0.20, 0.23, 0.27), cv2.LINE_AA)
        cv2.rectangle(image, (x, line - 74), (x + 350, line - 8), color, -1)
        for hub in (x + 70, x + 280):
            cv2.circle(image, (hub, line - 8), 25, (0.1, 0.1, 0.1), -1, cv2.LINE_AA)
            cv2.circle(image, (hub, line - 8), 12, (0.6, 0.6, 0.62), -1, cv2.LINE_AA)
    return image


def _park(rng: np.random.Generator) -> np.ndarray:
    image, base = _canvas()
    line = base - 105
    _fill(image, slice(0, line), (0.55, 0.62, 0.50), rng, 0.05, 90)
    _bushes(image, line - 60, 0, (0.33, 0.44, 0.25), rng, 330)
    for x in range(60, image.shape[1], 230):
        cv2.line(
            image,
            (x, 0),
            (x + int(rng.integers(-14, 14)), line + 6),
            (0.30, 0.24, 0.19),
            int(rng.integers(10, 20)),
            cv2.LINE_AA,
        )
    image[:line] = cv2.GaussianBlur(image[:line], (0, 0), 2.2)
    _ground(image, line, (0.44, 0.53, 0.30), rng, speckle=0.05)
    path = base - 55
    _ground(image, path, (0.70, 0.67, 0.60), rng, tile=0.9, joint=-0.04)
    return image


def _wall(rng: np.random.Generator) -> np.ndarray:
    image, base = _canvas()
    line = base - 42
    _brickwork(image, line, (0.50, 0.36, 0.31), rng)
    _ground(image, line, (0.40, 0.40, 0.42), rng, tile=0.3)
    for x in range(90, image.shape[1], 410):
        _bicycle(image, x, line + 14, rng, 0.95)
        cv2.rectangle(image, (x + 170, 0), (x + 190, line + 8), (0.27, 0.28, 0.30), -1)
    return image


def _studio(rng: np.random.Generator) -> np.ndarray:
    image, _ = _canvas()
    rows = np.linspace(0.925, 0.885, image.shape[0], dtype=np.float32)
    image[:] = rows[:, None, None] * np.array([1.0, 0.996, 0.99], np.float32)
    return image


SCENES: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "plaza": _plaza,
    "bricks": _bricks,
    "shopfront": _shopfront,
    "road": _road,
    "park": _park,
    "wall": _wall,
    "studio": _studio,
}


@functools.lru_cache(maxsize=8)
def panorama(scene: str) -> np.ndarray:
    """The whole surroundings of a camera, (H, W, 3) float32; the same in every process. Do not write to it."""
    if scene not in SCENES:
        raise ValueError(f"unknown scene {scene!r}; use one of {', '.join(SCENES)}")
    image = SCENES[scene](np.random.default_rng([3217, list(SCENES).index(scene)]))
    image = np.clip(cv2.GaussianBlur(image, (0, 0), 0.8), 0, 1)
    image.flags.writeable = False
    return image


def background(
    camera: Camera, place: float, zoom: float, width: int, height: int, span: float, feet: float
) -> np.ndarray:
    """Cut one picture's background out of the camera's panorama.

    Args:    place: 0 to 1, where along the panorama; zoom: size of the surroundings over that of the person;
             span: metres that the picture shows from top to bottom; feet: metres from its top to the standing line.
    Returns: (height, width, 3) float32.
    """
    full = panorama(camera.scene)
    window = span / zoom * PANORAMA_SCALE
    wide = window * width / height
    left = place * max(full.shape[1] - wide, 1.0)
    top = (PANORAMA_ABOVE - feet / zoom) * PANORAMA_SCALE
    step = window / height
    matrix = np.array([[step, 0, left + 0.5 * step - 0.5], [0, step, top + 0.5 * step - 0.5]], np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(full, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT_101)


OCCLUDERS = ("pole", "bench", "bicycle", "foliage", "person")


def draw_occluder(kind: str, rng: np.random.Generator, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Something in front of the person ('person' is drawn by `figures`).

    Returns: colour (height, width, 3) and cover (height, width) in [0, 1], both float32.
    """
    size = (256, 512)  # drawn large, then shrunk: smooth edges at any output size
    color, cover = np.zeros((size[1], size[0], 3), np.float32), np.zeros((size[1], size[0]), np.float32)

    def both(draw: Callable, tint) -> None:
        draw(color, _shift(tint, 0))
        draw(cover, 1.0)

    if kind == "pole":
        x, thick = int(rng.uniform(0.1, 0.9) * size[0]), int(rng.uniform(20, 44))
        tint = np.asarray(rng.choice([(0.35, 0.36, 0.38), (0.55, 0.55, 0.52), (0.25, 0.33, 0.28)]))
        for k in range(thick):
            shade = 0.75 + 0.45 * math.sin(math.pi * (k + 4) / (thick + 8))
            both(lambda m, t, k=k: cv2.line(m, (x + k, 0), (x + k, size[1]), t, 1), tint * shade)
    elif kind == "bench":
        y, left = int(rng.uniform(0.66, 0.8) * size[1]), int(rng.choice([-90, 60]))
        for k in range(4):
            top = y + 24 * k
            both(
                lambda m, t, top=top: cv2.rectangle(m, (left, top), (left + 290, top + 15), t, -1),
                np.array([0.45, 0.33, 0.22]) * (1 - 0.06 * k),
            )
        both(lambda m, t: cv2.rectangle(m, (left + 30, y - 6), (left + 46, size[1]), t, -1), (0.2, 0.2, 0.22))
        both(lambda m, t: cv2.rectangle(m, (left + 240, y - 6), (left + 256, size[1]), t, -1), (0.2, 0.2, 0.22))
    elif kind == "bicycle":
        layer = np.full((size[1], size[0], 3), -1, np.float32)
        _bicycle(layer, int(rng.uniform(-90, 90)), int(rng.uniform(470, 520)), rng, float(rng.uniform(1.5, 1.9)))
        cover = (layer[..., 0] >= 0).astype(np.float32)
        color = np.clip(layer, 0, 1)
    elif kind == "foliage":
        centre = (rng.choice([0.0, 1.0]) * size[0], rng.uniform(0.70, 1.0) * size[1])
        for _ in range(90):
            place = (int(rng.normal(centre[0], 46)), int(rng.normal(centre[1], 66)))
            axes = (int(rng.integers(8, 22)), int(rng.integers(5, 13)))
            angle, tint = float(rng.uniform(0, 180)), np.array([0.26, 0.38, 0.19]) * rng.uniform(0.6, 1.4)
            both(lambda m, t, p=place, a=axes, g=angle: cv2.ellipse(m, p, a, g, 0, 360, t, -1), tint)
    else:
        raise ValueError(f"unknown occluder {kind!r}; use one of {', '.join(OCCLUDERS[:-1])}")
    shrunk = cv2.resize(np.dstack([color * cover[..., None], cover]), (width, height), interpolation=cv2.INTER_AREA)
    cover = shrunk[..., 3]
    return shrunk[..., :3] / np.maximum(cover, 1e-3)[..., None], cover


def expose(
    image: np.ndarray, camera: Camera, *, blur: float, resolution: float, brightness: float, noise: np.ndarray
) -> np.ndarray:
    """Turn light into a recorded picture: white balance, exposure, contrast, blur, coarse sampling, sensor noise.

    Args:    noise: (H, W, 3) float32, already scaled; brightness: this picture's factor.
    Returns: (H, W, 3) uint8.
    """
    height, width = image.shape[:2]
    gains = np.asarray(camera.gains, np.float32) * np.float32(camera.exposure * brightness * camera.contrast)
    image = image * gains + np.float32(0.45 * (1 - camera.contrast))
    sigma = blur * height / 128
    if sigma > 0.15:
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    if resolution < 0.98:
        small = (max(round(width * resolution), 8), max(round(height * resolution), 16))
        image = cv2.resize(
            cv2.resize(image, small, interpolation=cv2.INTER_AREA), (width, height), interpolation=cv2.INTER_CUBIC
        )
    return (np.clip(image + noise, 0, 1) * 255 + 0.5).astype(np.uint8)
