"""What is behind people and what stands in front of them.

A camera's surroundings are one wide panorama, painted once per process from a fixed seed; every image shows another
window of it. Pictures here are float32 sRGB in [0, 1], (H, W, 3).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import cv2
import numpy as np

from datasets.miniature.appearance import RGB
from datasets.miniature.cameras import Camera
from datasets.miniature.painting import (
    PANORAMA_ABOVE,
    PANORAMA_SCALE,
    bicycle,
    brickwork,
    bushes,
    canvas,
    fill,
    ground,
    shift,
)


def _plaza(rng: np.random.Generator) -> np.ndarray:
    image, base = canvas()
    line = base - 95
    fill(image, slice(0, line), (0.42, 0.52, 0.33), rng, 0.05)
    bushes(image, line - 40, 0, (0.24, 0.34, 0.20), rng)
    cv2.rectangle(image, (0, line - 34), (image.shape[1], line), (0.62, 0.46, 0.42), -1)
    ground(image, line, (0.60, 0.60, 0.59), rng, tile=0.42)
    for x in range(40, image.shape[1], 330):
        bicycle(image, x + int(rng.integers(0, 120)), line + int(rng.integers(2, 22)), rng, 0.8)
    return image


def _bricks(rng: np.random.Generator) -> np.ndarray:
    image, base = canvas()
    line = base - 60
    fill(image, slice(0, line), (0.66, 0.64, 0.60), rng, 0.03)
    for x in range(0, image.shape[1], 190):
        cv2.rectangle(image, (x + 20, 10), (x + 130, line - 90), (0.28, 0.31, 0.35), -1)
        cv2.rectangle(image, (x + 20, 10), (x + 130, line - 90), (0.80, 0.79, 0.76), 4)
    cv2.rectangle(image, (0, line - 26), (image.shape[1], line), (0.45, 0.43, 0.42), -1)
    ground(image, line, (0.62, 0.50, 0.45), rng, tile=0.22, joint=-0.10)
    return image


def _shopfront(rng: np.random.Generator) -> np.ndarray:
    image, base = canvas()
    line = base - 28
    fill(image, slice(0, line), (0.13, 0.15, 0.19), rng, 0.03, 70)
    for x in range(0, image.shape[1], 155):
        glow = (0.25 + 0.2 * rng.random(), 0.27 + 0.15 * rng.random(), 0.30)
        cv2.rectangle(
            image, (x + 26, int(rng.integers(20, 130))), (x + int(rng.integers(60, 130)), line - 50), glow, -1
        )
        cv2.rectangle(image, (x, 0), (x + 9, line), (0.42, 0.43, 0.46), -1)
    image[:line] = cv2.GaussianBlur(image[:line], (0, 0), 3)
    cv2.rectangle(image, (0, line - 16), (image.shape[1], line), (0.30, 0.30, 0.31), -1)
    ground(image, line, (0.50, 0.50, 0.51), rng, tile=0.6)
    return image


def _road(rng: np.random.Generator) -> np.ndarray:
    image, base = canvas()
    line = base - 120
    fill(image, slice(0, line), (0.63, 0.68, 0.74), rng, 0.02, 120)
    bushes(image, line, line - 90, (0.27, 0.38, 0.22), rng, 420)
    ground(image, line, (0.43, 0.43, 0.44), rng, speckle=0.025)
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
    image, base = canvas()
    line = base - 105
    fill(image, slice(0, line), (0.55, 0.62, 0.50), rng, 0.05, 90)
    bushes(image, line - 60, 0, (0.33, 0.44, 0.25), rng, 330)
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
    ground(image, line, (0.44, 0.53, 0.30), rng, speckle=0.05)
    path = base - 55
    ground(image, path, (0.70, 0.67, 0.60), rng, tile=0.9, joint=-0.04)
    return image


def _wall(rng: np.random.Generator) -> np.ndarray:
    image, base = canvas()
    line = base - 42
    brickwork(image, line, (0.50, 0.36, 0.31), rng)
    ground(image, line, (0.40, 0.40, 0.42), rng, tile=0.3)
    for x in range(90, image.shape[1], 410):
        bicycle(image, x, line + 14, rng, 0.95)
        cv2.rectangle(image, (x + 170, 0), (x + 190, line + 8), (0.27, 0.28, 0.30), -1)
    return image


def _studio(rng: np.random.Generator) -> np.ndarray:
    image, _ = canvas()
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

    Args:
        place: 0 to 1, where along the panorama.
        zoom: size of the surroundings over that of the person.
        span: meters that the picture shows from top to bottom.
        feet: meters from its top to the standing line.

    Returns:
        (height, width, 3) float32.
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


LARGE = (256, 512)
"""Width and height at which occluders are drawn before they are shrunk: smooth edges at any output size."""
Stroke = Callable[[np.ndarray, float | RGB], object]


class _Layer:
    """What stands in front, large: color and cover, drawn alike."""

    def __init__(self) -> None:
        self.color = np.zeros((LARGE[1], LARGE[0], 3), np.float32)
        self.cover = np.zeros((LARGE[1], LARGE[0]), np.float32)

    def draw(self, stroke: Stroke, tint: RGB | np.ndarray) -> None:
        """Draw `stroke(image, paint)` on both."""
        stroke(self.color, shift(tint, 0))
        stroke(self.cover, 1.0)


def _pole(layer: _Layer, rng: np.random.Generator) -> None:
    x, thick = int(rng.uniform(0.1, 0.9) * LARGE[0]), int(rng.uniform(20, 44))
    tint = np.asarray(rng.choice([(0.35, 0.36, 0.38), (0.55, 0.55, 0.52), (0.25, 0.33, 0.28)]))
    for k in range(thick):
        shade = 0.75 + 0.45 * math.sin(math.pi * (k + 4) / (thick + 8))
        layer.draw(lambda m, t, k=k: cv2.line(m, (x + k, 0), (x + k, LARGE[1]), t, 1), tint * shade)


def _bench(layer: _Layer, rng: np.random.Generator) -> None:
    y, left = int(rng.uniform(0.66, 0.8) * LARGE[1]), int(rng.choice([-90, 60]))
    for k in range(4):
        wood, top = np.array([0.45, 0.33, 0.22]) * (1 - 0.06 * k), y + 24 * k
        layer.draw(lambda m, t, top=top: cv2.rectangle(m, (left, top), (left + 290, top + 15), t, -1), wood)
    for leg in (30, 240):
        column = (left + leg, left + leg + 16)
        layer.draw(lambda m, t, c=column: cv2.rectangle(m, (c[0], y - 6), (c[1], LARGE[1]), t, -1), (0.2, 0.2, 0.22))


def _parked_bicycle(layer: _Layer, rng: np.random.Generator) -> None:
    drawn = np.full((LARGE[1], LARGE[0], 3), -1, np.float32)
    bicycle(drawn, int(rng.uniform(-90, 90)), int(rng.uniform(470, 520)), rng, float(rng.uniform(1.5, 1.9)))
    layer.cover = (drawn[..., 0] >= 0).astype(np.float32)
    layer.color = np.clip(drawn, 0, 1)


def _foliage(layer: _Layer, rng: np.random.Generator) -> None:
    center = (rng.choice([0.0, 1.0]) * LARGE[0], rng.uniform(0.70, 1.0) * LARGE[1])
    for _ in range(90):
        place = (int(rng.normal(center[0], 46)), int(rng.normal(center[1], 66)))
        axes = (int(rng.integers(8, 22)), int(rng.integers(5, 13)))
        angle, tint = float(rng.uniform(0, 180)), np.array([0.26, 0.38, 0.19]) * rng.uniform(0.6, 1.4)
        layer.draw(lambda m, t, p=place, a=axes, g=angle: cv2.ellipse(m, p, a, g, 0, 360, t, -1), tint)


DRAWN_OCCLUDERS: dict[str, Callable[[_Layer, np.random.Generator], None]] = {
    "pole": _pole,
    "bench": _bench,
    "bicycle": _parked_bicycle,
    "foliage": _foliage,
}
OCCLUDERS = (*DRAWN_OCCLUDERS, "person")
"""What may stand in front of the person; 'person' is drawn by `figures`."""


def draw_occluder(kind: str, rng: np.random.Generator, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Something in front of the person.

    Args:
        kind: a key of `DRAWN_OCCLUDERS`.
        rng: draws what it looks like.
        width: of the picture in pixels.
        height: likewise.

    Returns:
        Color (height, width, 3) and cover (height, width) in [0, 1], both float32.
    """
    if kind not in DRAWN_OCCLUDERS:
        raise ValueError(f"unknown occluder {kind!r}; use one of {', '.join(DRAWN_OCCLUDERS)}")
    layer = _Layer()
    DRAWN_OCCLUDERS[kind](layer, rng)
    stack = np.dstack([layer.color * layer.cover[..., None], layer.cover])
    shrunk = cv2.resize(stack, (width, height), interpolation=cv2.INTER_AREA)
    cover = shrunk[..., 3]
    return shrunk[..., :3] / np.maximum(cover, 1e-3)[..., None], cover
