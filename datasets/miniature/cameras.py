"""The cameras: what each sees, and what its lens and sensor do to the light.

Pictures are float32 sRGB in [0, 1], (H, W, 3).
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np


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


def expose(
    image: np.ndarray, camera: Camera, *, blur: float, resolution: float, brightness: float, noise: np.ndarray
) -> np.ndarray:
    """Turn light into a recorded picture: white balance, exposure, contrast, blur, coarse sampling, sensor noise.

    Args:
        noise: (H, W, 3) float32, already scaled.
        brightness: this picture's factor.

    Returns:
        (H, W, 3) uint8.
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
