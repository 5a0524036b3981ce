"""Elements of the surroundings: ground, walls, bushes, bicycles, on a wide canvas.

Pictures are float32 sRGB in [0, 1], (H, W, 3); everything is drawn in place.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from datasets.miniature.appearance import RGB

PANORAMA_SCALE = 100
"""Pixels per meter of the panoramas."""
PANORAMA_WIDTH, PANORAMA_ABOVE, PANORAMA_BELOW = 14.0, 2.8, 0.9
"""Metres: length, and height above and below the line on which people stand."""


def canvas() -> tuple[np.ndarray, int]:
    """A black panorama, (H, W, 3) float32, and the row on which people stand."""
    height = round((PANORAMA_ABOVE + PANORAMA_BELOW) * PANORAMA_SCALE)
    image = np.zeros((height, round(PANORAMA_WIDTH * PANORAMA_SCALE), 3), np.float32)
    return image, round(PANORAMA_ABOVE * PANORAMA_SCALE)


def _clouds(rng: np.random.Generator, shape: tuple[int, int], cell: int) -> np.ndarray:
    """Smooth noise with standard deviation near 1 and features of `cell` pixels."""
    coarse = rng.standard_normal((shape[0] // cell + 3, shape[1] // cell + 3)).astype(np.float32)
    return cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)


def ground(
    image: np.ndarray,
    top: int,
    color: RGB,
    rng: np.random.Generator,
    *,
    tile: float = 0.0,
    joint: float = -0.08,
    speckle: float = 0.02,
) -> None:
    """Fill below row `top` with a floor seen from above, its tiles `tile` meters wide (0: none)."""
    area = image[top:]
    height, width = area.shape[:2]
    shade = 0.03 * _clouds(rng, (height, width), 60) + 0.02 * _clouds(rng, (height, width), 14)
    shade = shade + speckle * rng.standard_normal((height, width)).astype(np.float32)
    area[:] = np.asarray(color, np.float32) + shade[..., None]
    if tile:
        _tiles(area, color, rng, tile, joint)


def _tiles(area: np.ndarray, color: RGB, rng: np.random.Generator, tile: float, joint: float) -> None:
    """Perspective: rows of tiles grow towards the camera, joints across run to a vanishing point far above."""
    height, width = area.shape[:2]
    y = 4.0
    rows = [0]
    while y < height:
        rows.append(int(y))
        y += 9 + 60 * tile * (0.35 + y / height)
    for index, row_top in enumerate(rows):
        cv2.line(area, (0, row_top), (width, row_top), shift(color, joint), 1, cv2.LINE_AA)
        bottom = rows[index + 1] if index + 1 < len(rows) else height
        step = max(int(tile * PANORAMA_SCALE), 6)
        for k, x in enumerate(range(-width, 2 * width, step)):
            leans = ((x - width / 2) * (0.75 + 0.5 * edge / height) for edge in (row_top, bottom))
            corners = [int(lean + width / 2) for lean in leans]
            cv2.line(area, (corners[0], row_top), (corners[1], bottom), shift(color, joint), 1, cv2.LINE_AA)
            if (k * 7 + index * 13) % 5 == 0:  # a few tiles are of another tone
                right = [int(c + step * (0.75 + 0.5 * row_top / height)) for c in corners]
                tint = shift(color, float(rng.uniform(-0.06, 0.05)))
                quad = np.array([(corners[0], row_top), (right[0], row_top), (right[1], bottom), (corners[1], bottom)])
                cv2.fillConvexPoly(area, quad, tint, cv2.LINE_AA)


def shift(color: RGB | np.ndarray, by: float) -> RGB:
    """A color made lighter or darker by a difference, in [0, 1]."""
    red, green, blue = (float(np.clip(c + by, 0, 1)) for c in color)
    return red, green, blue


def fill(
    image: np.ndarray, rows: slice, color: RGB, rng: np.random.Generator, rough: float = 0.03, cell: int = 40
) -> None:
    """Fill rows with one color, clouded."""
    area = image[rows]
    area[:] = np.asarray(color, np.float32) + (rough * _clouds(rng, area.shape[:2], cell))[..., None]


def brickwork(image: np.ndarray, bottom: int, color: RGB, rng: np.random.Generator) -> None:
    """Fill above row `bottom` with bricks."""
    fill(image, slice(0, bottom), shift(color, -0.1), rng)
    width = image.shape[1]
    for row, y in enumerate(range(bottom, -12, -11)):
        for x in range(-30 + 15 * (row % 2), width, 30):
            tint = shift(color, float(rng.normal(0, 0.035)))
            cv2.rectangle(image, (x + 1, max(y - 10, 0)), (x + 28, max(y - 1, 0)), tint, -1)


def bushes(image: np.ndarray, bottom: int, top: int, color: RGB, rng: np.random.Generator, count: int = 260) -> None:
    """Scatter `count` clumps of leaves between two rows."""
    for _ in range(count):
        center = (int(rng.integers(0, image.shape[1])), int(rng.integers(top, max(bottom, top + 1))))
        axes = (int(rng.integers(8, 34)), int(rng.integers(6, 24)))
        tint = np.asarray(color) * rng.uniform(0.55, 1.35) + rng.normal(0, 0.012, 3)
        cv2.ellipse(image, center, axes, float(rng.uniform(0, 180)), 0, 360, shift(tint, 0), -1, cv2.LINE_AA)


def bicycle(image: np.ndarray, x: int, ground: int, rng: np.random.Generator, size: float = 1.0) -> None:
    """Draw a parked bicycle, its rear wheel at column `x`, standing on row `ground`."""
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
