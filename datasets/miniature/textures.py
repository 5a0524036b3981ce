"""Textures of body and clothes: shaders that give each point of a solid its color.

Shaders get bone coordinates, (3, N) meters: x left, y up (in limbs 0 at the upper joint and negative along), z front.
"""

from __future__ import annotations

import numpy as np

from datasets.miniature.appearance import RGB, Appearance, Fabric, paint_fabric
from datasets.miniature.body import Sizes
from datasets.miniature.raycasting import Frame, Shader


def flat(color: RGB, share: float = 1.0) -> Shader:
    """One color, made lighter or darker by a factor."""
    value = np.asarray(color, np.float32) * np.float32(share)
    return lambda q: value


def seen_from(frame: Frame, shader: Shader) -> Shader:
    """A shader of the parent bone for a part on `frame`, which is given in the parent's coordinates."""
    rotation, origin = frame.rotation.astype(np.float32), frame.origin.astype(np.float32)[:, None]
    return lambda q: shader(rotation @ q + origin)


def limb_cloth(fabric: Fabric, radius: float, offset: float = 0.0) -> Shader:
    """A fabric round a limb of a radius in meters; `offset` continues the pattern of the bone above."""
    return lambda q: paint_fabric(fabric, np.arctan2(q[0], q[2]) * np.float32(radius), q[1] + np.float32(offset))


def mix(base: np.ndarray, color: RGB, share: np.ndarray) -> np.ndarray:
    """Colors (N, 3) moved towards one color by a share (N,), clipped to [0, 1]."""
    share = np.clip(share, 0, 1)[:, None].astype(np.float32)
    return base + share * (np.asarray(color, np.float32) - base)


def thigh_cloth(who: Appearance, cloth: Shader, covered: float) -> Shader:
    """Skin with the skirt's or shorts' cloth above: what shows through a gap there must not be skin."""
    skin = np.asarray(who.skin, np.float32)
    return lambda q: np.where((q[1] > -covered)[:, None], cloth(q), skin)


def calf_skin(who: Appearance, s: Sizes) -> Shader:
    """A bare shin with a sock at its end."""
    skin, socks = np.asarray(who.skin, np.float32), who.outfit.socks
    return lambda q: mix(np.broadcast_to(skin, (q.shape[1], 3)), socks, (-q[1] - 0.86 * s.shin) * 90)


def torso_shader(who: Appearance, s: Sizes) -> Shader:
    """Paint garments in chest coordinates (origin at the hips): cloth, front, back, waist, neckline, straps."""
    outfit = who.outfit
    low_cut = outfit.upper_style in ("tank", "dress") and who.feminine
    bare = is_sleeveless(who)

    def shade(q: np.ndarray) -> np.ndarray:
        x, y, z = q
        around = np.arctan2(x, z) * np.float32(0.15)
        color = paint_fabric(outfit.upper, around, y)
        front, back = z > 0, z < 0
        color = _front(who, s, color, x, y, z)
        if outfit.back != "none":
            color = mix(color, outfit.mark, _back_mark(outfit.back, s, x, y) * back)
        below = np.clip((outfit.hem - y) * 120, 0, 1)
        if outfit.upper_style not in ("dress", "coat") and below.any():
            color = color + below[:, None].astype(np.float32) * (paint_fabric(outfit.lower, around, y) - color)
        depth = (0.075 if low_cut else 0.045) * front + (0.03 if low_cut else 0.006) * back
        neckline = depth - 0.9 * np.abs(x) + 0.02 - (s.torso + 0.035 - y)
        color = mix(color, who.skin, neckline * 140 * (np.abs(x) < 0.12))
        if bare:
            color = mix(color, who.skin, (np.abs(x) - 0.68 * s.shoulder_half) * 140 * (y > 0.84 * s.torso))
        return _straps(who, s, color, x, y, z)

    return shade


def _darker(color: RGB, share: float) -> RGB:
    red, green, blue = color
    return share * red, share * green, share * blue


def is_sleeveless(who: Appearance) -> bool:
    """Whether the shoulders are bare."""
    return who.outfit.upper_style == "tank" or (who.outfit.upper_style == "dress" and who.outfit.hem < -0.2)


def _front(who: Appearance, s: Sizes, color: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    outfit, front = who.outfit, z > 0.02
    match outfit.front:
        case "none":
            return color
        case "open":
            inner = paint_fabric(outfit.inner, x, y)
            inside = np.clip((0.050 + 0.02 * (y < 0.1) - np.abs(x)) * 160, 0, 1) * front
            return color + inside[:, None].astype(np.float32) * (inner - color)
        case "zip":
            return mix(color, (0.75, 0.75, 0.72), (0.007 - np.abs(x)) * 300 * front)
        case "buttons":
            placket = mix(color, _darker(outfit.upper.color, 0.72), (0.011 - np.abs(np.abs(x) - 0.002)) * 200 * front)
            dots = (np.abs(x) < 0.012) & (np.abs((y / 0.085) % 1 - 0.5) < 0.11)
            return mix(placket, outfit.mark, dots * front * 0.8)
        case "logo":
            inside = (np.abs(x - 0.055) < 0.026) & (np.abs(y - 0.74 * s.torso) < 0.024)
            return mix(color, outfit.mark, inside * front * 1.0)
        case "graphic":
            distance = np.sqrt((x / 0.085) ** 2 + ((y - 0.62 * s.torso) / 0.085) ** 2)
            ring = (distance < 1) & ~((distance > 0.45) & (distance < 0.68))
            return mix(color, outfit.mark, ring * front * 1.0)
    raise ValueError(f"unknown front {outfit.front!r}; use none, buttons, zip, logo, graphic or open")


def _back_mark(kind: str, s: Sizes, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    match kind:
        case "number":
            column = np.abs(np.abs(x) - 0.048) < 0.014
            rows = (np.abs(y - 0.66 * s.torso) < 0.085) & column
            bars = (np.abs(np.abs(y - 0.66 * s.torso) - 0.07) < 0.014) & (np.abs(x) < 0.06)
            return (rows | bars) * 1.0
        case "block":
            return ((np.abs(x) < 0.10) & (np.abs(y - 0.72 * s.torso) < 0.032)) * 1.0
        case "yoke":
            return np.clip((y - 0.80 * s.torso) * 90, 0, 1)
    raise ValueError(f"unknown back {kind!r}; use none, number, block or yoke")


def _straps(who: Appearance, s: Sizes, color: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    bag, dark = who.outfit.bag, _darker(who.outfit.bag_color, 0.8)
    if bag == "backpack":
        bands = (np.abs(np.abs(x) - 0.088) < 0.017) & (z > -0.04) & (y > 0.42 * s.torso)
        return mix(color, dark, bands * 1.0)
    if bag.startswith("shoulder"):
        side = 1 if bag.endswith("left") else -1
        # From the far shoulder across chest and back down to the bag's hip.
        line = (y - 0.55 * s.torso) / (0.95 * s.torso) + side * x / 0.27
        return mix(color, dark, (np.abs(line) < 0.055) * 1.0)
    return color


def face(who: Appearance, r: float) -> Shader:
    """The skull's surface: eyes, brows, mouth, glasses, beard and hairline; `r` is the head's radius in meters."""
    skin, hair = np.asarray(who.skin, np.float32), np.asarray(who.hair_color, np.float32)
    cover = who.hair != "bald"

    def shade(q: np.ndarray) -> np.ndarray:
        x, y, z = q / np.float32(r)
        front = z > 0.25
        color = np.broadcast_to(skin, (q.shape[1], 3))
        color = mix(color, (0.66, 0.32, 0.30), front * ((np.abs(x) < 0.2) & (np.abs(y + 0.52) < 0.06)) * 0.8)
        aside, above = np.abs(np.abs(x) - 0.29), np.abs(y - 0.13)
        eyes = (aside < 0.11) & (above < 0.07)
        if who.glasses:
            eyes |= (aside < 0.24) & (above < 0.17) & ~((aside < 0.17) & (above < 0.11))
        color = mix(color, (0.12, 0.10, 0.10), front * eyes * 0.85)
        brow = (np.abs(np.abs(x) - 0.3) < 0.16) & (np.abs(y - 0.33) < 0.05)
        color = mix(color, who.hair_color, front * brow * 0.8)
        if who.beard:
            color = mix(color, who.hair_color, (z > -0.1) * np.clip((-0.32 - y - 0.25 * (z < 0.35)) * 8, 0, 0.85))
        if cover:
            line = np.maximum(y - 0.52, np.minimum(-z - 0.02 + 0.25 * y, y + 0.62))
            color = color + np.clip(line * 14, 0, 1)[:, None] * (hair - color)
        return color

    return shade


def bag_leather(color: RGB) -> Shader:
    """A bag's surface, with dark seams across."""
    leather = np.asarray(color, np.float32)

    def shade(q: np.ndarray) -> np.ndarray:
        flap = 1 - np.float32(0.30) * (np.abs((q[1] * 9) % 1 - 0.5) < 0.1)
        return leather * flap[:, None]

    return shade
