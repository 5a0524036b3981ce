"""Render one walking person as a surveillance camera would record it, with exact OpenPose COCO-18 keypoints.

    who, move = sample_appearance(rng), sample_motion(rng, CAMERAS[0])
    rendered = render_person(who, move, CAMERAS[0], rng=np.random.default_rng(7))

A picture is a function of four values: `Appearance` (who), `Motion` (which pose), `Camera`, and `Shot` (everything
else: place, crop, occluder, noise). Rendering person A with the motion, camera and shot of a picture of B therefore
gives the ground truth for "A in the pose of B", against which a generator can be measured.

H, W: pixels of the stored picture. Bodies are ray-cast at twice that size and averaged down (`raycasting`).
"""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np

from datasets.miniature.appearance import Appearance, sample_appearance
from datasets.miniature.body import GESTURES, JOINTS, Motion, suit_motion
from datasets.miniature.cameras import CAMERAS, STUDIO, Camera, expose
from datasets.miniature.dress import Body, build_body
from datasets.miniature.raycasting import Frame, Grid, Layers, cast, extent
from datasets.miniature.scenes import OCCLUDERS, background, draw_occluder

__all__ = [
    "CAMERAS",
    "JOINTS",
    "STUDIO",
    "Appearance",
    "Camera",
    "Motion",
    "RenderedPerson",
    "Shot",
    "advance_motion",
    "render_person",
    "sample_appearance",
    "sample_motion",
    "sample_shot",
]

_SUPERSAMPLING = 2
_BURIED = 0.15
"""Metres behind the visible surface at which OpenPose no longer finds an elbow or a wrist."""
_OCCLUDED_SHARE = 0.15
_COMPANION_SHARE = 0.10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shot:
    """All that is random about one picture apart from person, pose and camera."""

    place: float
    """0 to 1 along the camera's surroundings."""
    zoom: float
    brightness: float
    blur: float
    resolution: float
    noise: float
    crop_scale: float
    """Height of the detector's box over the person's; below 1 cuts."""
    crop_x: float
    crop_y: float
    """Shift of the box, as a share of its width and height."""
    aspect: float
    """Horizontal factor by which the box was squeezed when it was resized to the stored shape."""
    occluder: str | None
    """A member of OCCLUDERS, or None."""
    companion: bool
    """Somebody else walks behind."""
    seed: int
    """Of noise, occluder and other people in the picture."""


@dataclasses.dataclass(frozen=True)
class RenderedPerson:
    """`image` (H, W, 3) uint8 RGB; `keypoints` (18, 3) float32: x, y in pixels (pixel centers are integers), score.

    Score 1: seen; 0.5: behind the own body but inferred, as OpenPose does; missing: NaN, NaN, 0.
    `cover` (H, W) float32 in [0, 1]: the share of each pixel that shows the person, occluders taken off.
    """

    image: np.ndarray
    keypoints: np.ndarray
    cover: np.ndarray


def sample_motion(rng: np.random.Generator, camera: Camera, appearance: Appearance | None = None) -> Motion:
    """Draw a pose as it is typical of this camera: most people walk, one in six stands, some hold something.

    `appearance`: who moves; their bag and skirt then shape the pose (`suit_motion`).
    """
    walks = rng.random() > 0.17
    yaw = rng.choice(camera.yaws) + rng.normal(0, 22) if rng.random() < 0.85 else rng.uniform(0, 360)
    arms, swings = [], []
    for _ in range(2):
        gesture = "swing" if walks else "down"
        if rng.random() < 0.22:
            gesture = str(rng.choice(["hold", "phone", "strap", "pocket", "hold"]))
        arms.append(tuple(round(float(a + rng.normal(0, 4)), 2) for a in GESTURES[gesture]))
        swings.append(round(float(rng.uniform(0.6, 1.2)) if gesture == "swing" else 0.1, 3))
    motion = Motion(
        yaw=round(float(yaw % 360), 2),
        phase=round(float(rng.uniform(0, 360)), 2),
        stride=round(float(rng.uniform(0.55, 1.1)) if walks else float(rng.uniform(0, 0.18)), 3),
        lean=round(float(rng.normal(4 if walks else 1, 2.5)), 2),
        head_yaw=round(float(rng.normal(0, 14)), 2),
        head_pitch=round(float(rng.normal(4, 7)), 2),
        right_arm=arms[0],
        left_arm=arms[1],
        right_swing=swings[0],
        left_swing=swings[1],
    )
    return motion if appearance is None else suit_motion(motion, appearance)


def advance_motion(motion: Motion, rng: np.random.Generator, *, frames: int) -> Motion:
    """The same walk `frames` video frames (25 a second) later: the gait runs on, direction and head drift a little."""
    steps = min(frames, 50)
    turned = motion.yaw + float(rng.normal(0, 1.2 * math.sqrt(steps)))
    return dataclasses.replace(
        motion,
        phase=round((motion.phase + 14.0 * frames + float(rng.normal(0, 2.5 * math.sqrt(frames)))) % 360, 2),
        yaw=round(turned % 360, 2),
        head_yaw=round(float(np.clip(0.7 * motion.head_yaw + rng.normal(0, 8), -45, 45)), 2),
        head_pitch=round(float(np.clip(motion.head_pitch + rng.normal(0, 3), -15, 30)), 2),
    )


def sample_shot(rng: np.random.Generator, camera: Camera, *, place: float | None = None, sloppy: bool = False) -> Shot:
    """Draw a picture's circumstances; `place` fixes where it is taken, `sloppy` crops as a failed detector does."""
    spread = 3.5 if sloppy else 1.0
    drawn_place, occluded, kind = rng.random(), rng.random(), rng.choice(OCCLUDERS)
    scale = 1.10 + 0.05 * rng.standard_normal()
    sloppy_scale = float(rng.choice([0.45, 0.6, 1.7, 2.1]))
    return Shot(
        place=round(float(drawn_place if place is None else place), 5),
        zoom=round(float(rng.uniform(0.8, 1.25)), 4),
        brightness=round(float(rng.normal(1, 0.06)), 4),
        blur=round(float(rng.uniform(*camera.blur)), 4),
        resolution=round(float(rng.uniform(*camera.resolution)), 4),
        noise=round(float(rng.uniform(*camera.noise)), 5),
        crop_scale=round(sloppy_scale if sloppy else float(np.clip(scale, 0.97, 1.3)), 4),
        crop_x=round(float(np.clip(rng.normal(0, 0.04), -0.1, 0.1)) * spread, 4),
        crop_y=round(float(np.clip(rng.normal(0, 0.02), -0.05, 0.05)) * spread, 4),
        aspect=round(float(np.clip(rng.normal(1.0, 0.06), 0.85, 1.15)), 4),
        occluder=str(kind) if occluded < _OCCLUDED_SHARE else None,
        companion=bool(rng.random() < (0.5 if sloppy else _COMPANION_SHARE)),
        seed=int(rng.integers(2**31)),
    )


def studio_shot(rng: np.random.Generator) -> Shot:
    """Circumstances of a catalog picture: nothing in the way, nearly the same crop each time."""
    shot = sample_shot(rng, STUDIO)
    return dataclasses.replace(
        shot,
        occluder=None,
        companion=False,
        crop_scale=round(1.07 + 0.02 * (shot.aspect - 1), 4),
        crop_y=0.0,
        crop_x=round(0.3 * shot.crop_x, 4),
        brightness=round(1 + 0.3 * (shot.brightness - 1), 4),
        aspect=1.0,
    )


def render_person(
    appearance: Appearance,
    motion: Motion,
    camera: Camera,
    *,
    width: int = 64,
    height: int = 128,
    rng: np.random.Generator | None = None,
    shot: Shot | None = None,
    occluder: bool = True,
) -> RenderedPerson:
    """Draw one picture.

    Args:
        width, height: of the picture, at least 8 and 16 pixels.
        rng: draws the shot, unless a `shot` is given.
        occluder: False leaves out what would stand in front of the person, and changes nothing else.

    Raises:
        ValueError: for a picture too small, or when neither `rng` nor `shot` is given.
    """
    if width < 8 or height < 16:
        raise ValueError(f"a picture of {width} x {height} pixels is too small for a person; use at least 8 x 16")
    if shot is None:
        if rng is None:
            raise ValueError("render_person needs an rng or a shot: a picture's background and crop are drawn from it")
        shot = sample_shot(rng, camera)
    body = build_body(appearance, motion, _view(camera))
    grid = _frame_person(body, shot, width, height)
    layers = cast(body.parts, grid)
    color, cover = _shrink(_light(layers, camera), layers, width, height)
    # One random stream per use: leaving the occluder out must not change the noise.
    noise_rng, front_rng, behind_rng = (np.random.default_rng([shot.seed, stream]) for stream in range(3))
    image = _backdrop(body, shot, camera, grid, width, height)
    if shot.companion:
        image = _over(image, *_bystander(behind_rng, camera, grid, width, height, behind=True))
    image = _over(image, color, cover)
    hidden = np.zeros((height, width), np.float32)
    if occluder and shot.occluder is not None:
        front, hidden = _in_front(shot.occluder, front_rng, camera, grid, width, height)
        image = _over(image, front, hidden)
    noise = np.float32(shot.noise) * noise_rng.standard_normal(image.shape, np.float32)
    image_u8 = expose(
        image, camera, blur=shot.blur, resolution=shot.resolution, brightness=shot.brightness, noise=noise
    )
    return RenderedPerson(image_u8, _keypoints(body, layers, grid, hidden), cover * (1 - hidden))


def _view(camera: Camera) -> np.ndarray:
    c, s = math.cos(math.radians(camera.elevation)), math.sin(math.radians(camera.elevation))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def _frame_person(body: Body, shot: Shot, width: int, height: int) -> Grid:
    """The detector's box: round the person, a little too large, a little off, squeezed to the stored shape."""
    extents = [extent(part) for part in body.parts]
    low, high = np.min([e[0] for e in extents], axis=0), np.max([e[1] for e in extents], axis=0)
    span_y = max((high[1] - low[1]) * shot.crop_scale, 0.86 * shot.crop_scale * (high[0] - low[0]) * height / width)
    span_x = span_y * width / height * shot.aspect
    center_x = 0.5 * (low[0] + high[0]) + shot.crop_x * span_x
    center_y = 0.5 * (low[1] + high[1]) + shot.crop_y * span_y
    columns, rows = width * _SUPERSAMPLING, height * _SUPERSAMPLING
    return Grid(center_x - 0.5 * span_x, center_y + 0.5 * span_y, columns / span_x, rows / span_y, columns, rows)


def _light(layers: Layers, camera: Camera) -> np.ndarray:
    """Shade: Lambert with a soft terminator, darker rims, and darker where nearer parts stand around."""
    light = np.array(camera.light, np.float32)
    light /= np.sqrt(light @ light)
    facing = np.clip((layers.normals @ light + np.float32(0.3)) * np.float32(1 / 1.3), 0, 1)
    facing = facing * facing * (3 - 2 * facing)
    rim = np.float32(0.80) + np.float32(0.20) * layers.normals[..., 2]
    shade = (camera.ambient + np.float32(1.18 - camera.ambient) * facing) * rim
    depth = np.maximum(layers.depth, np.float32(-0.6))
    size = max(3, layers.depth.shape[0] // 16) | 1
    shade *= 1 - np.clip((cv2.blur(depth, (size, size)) - depth) * np.float32(1.6), 0, 0.35)
    return layers.albedo * shade[..., None]


def _shrink(color: np.ndarray, layers: Layers, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    mask = (layers.depth > -np.inf).astype(np.float32)
    small = cv2.resize(np.dstack([color, mask]), (width, height), interpolation=cv2.INTER_AREA)
    cover = small[..., 3]
    return small[..., :3] / np.maximum(cover, 1e-3)[..., None], cover


def _over(image: np.ndarray, color: np.ndarray, cover: np.ndarray) -> np.ndarray:
    return image + cover[..., None] * (color - image)


def _backdrop(body: Body, shot: Shot, camera: Camera, grid: Grid, width: int, height: int) -> np.ndarray:
    """Surroundings with the person's shadow on the ground."""
    span = grid.height / grid.scale_y
    image = background(camera, shot.place, shot.zoom, width, height, span, grid.top)
    y = (grid.top - (np.arange(height, dtype=np.float32) + 0.5) * (span / height))[:, None]
    x = ((np.arange(width, dtype=np.float32) + 0.5) * (grid.width / grid.scale_x / width) + grid.left)[None, :]
    flat = max(math.sin(math.radians(camera.elevation)), 0.12)  # the ground's foreshortening
    shadow = np.float32(0.0)
    for foot in body.feet:
        shadow = shadow + 0.30 * np.exp(
            -(((x - foot[0]) / 0.13) ** 2) - ((y - foot[1] + 0.05) / (0.20 * flat + 0.02)) ** 2
        )
    away = -0.35 * camera.light[0]
    center = body.feet.mean(axis=0)
    shadow += 0.26 * np.exp(-(((x - center[0] - away) / 0.42) ** 2) - ((y - center[1]) / (0.55 * flat)) ** 2)
    return image * (1 - np.minimum(shadow, 0.55))[..., None]


def _in_front(
    kind: str, rng: np.random.Generator, camera: Camera, grid: Grid, width: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
    if kind == "person":
        return _bystander(rng, camera, grid, width, height, behind=False)
    return draw_occluder(kind, rng, width, height)


def _bystander(
    rng: np.random.Generator, camera: Camera, grid: Grid, width: int, height: int, *, behind: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Somebody else, partly in the picture: color (H, W, 3) and cover (H, W)."""
    who = sample_appearance(rng)
    body = build_body(who, sample_motion(rng, camera, who), _view(camera))
    aside = float(rng.uniform(0.45, 0.75) if behind else rng.uniform(0.40, 0.56)) * float(rng.choice([-1, 1]))
    nearer = float(rng.uniform(-2.2, -0.8) if behind else rng.uniform(0.3, 0.8))
    offset = np.array([aside, -nearer * math.sin(math.radians(camera.elevation)), 0.0])
    parts = [dataclasses.replace(p, frame=Frame(p.frame.rotation, p.frame.origin + offset)) for p in body.parts]
    layers = cast(parts, grid)
    return _shrink(_light(layers, camera), layers, width, height)


def _keypoints(body: Body, layers: Layers, grid: Grid, hidden: np.ndarray) -> np.ndarray:
    """Project the joints and drop what OpenPose would not find.

    Missing are: joints outside the picture or behind an occluder; elbows and wrists that lie more than 15 cm behind the
    visible surface (a far arm in side view, hands in front of somebody seen from behind); nose, eyes and ears that are
    turned away. Shoulders, hips, knees and ankles behind the own body stay, with score 0.5: OpenPose infers them.
    """
    fine = grid.to_pixels(body.joints)
    pixels = (fine + 0.5) / _SUPERSAMPLING - 0.5
    height, width = hidden.shape
    result = np.full((len(JOINTS), 3), (np.nan, np.nan, 0.0), np.float32)
    for k, name in enumerate(JOINTS):
        x, y = pixels[k]
        column, row = round(float(x)), round(float(y))
        if not (0 <= column < width and 0 <= row < height) or hidden[row, column] > 0.5:
            continue
        surface = layers.depth[
            min(round(float(fine[k, 1])), grid.height - 1), min(round(float(fine[k, 0])), grid.width - 1)
        ]
        score = _score(name, float(surface - body.joints[k, 2]), body.head.rotation)
        if score:
            result[k] = x, y, score
    return result


def _score(name: str, buried: float, head: np.ndarray) -> float:
    """1 seen, 0.5 inferred, 0 not found; `buried`: meters of body in front of the joint."""
    side, _, kind = name.rpartition("_")
    left_z, front_z = float(head[2, 0]), float(head[2, 2])
    sign = 1 if side == "left" else -1
    match kind:
        case "nose":
            return float(front_z > -0.05)
        case "eye":
            return float(0.87 * front_z + 0.5 * sign * left_z > 0.05)
        case "ear":
            return float(sign * left_z > -0.3)
        case "elbow" | "wrist":
            return float(buried < _BURIED)
        case _:
            return 0.5 if buried > 0.2 else 1.0
