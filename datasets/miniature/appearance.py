"""Who is drawn: build, skin, hair, clothes and bags of one rendered person, and their fabrics as procedural textures.

Equal `Appearance` values render equal people. Colors are sRGB triples in [0, 1], lengths are in meters.
Garment colors follow street frequencies (black, white, gray and blue first), so that many people share colors and
differ only in cut, pattern, the print on one side, or a bag: a stand-in for re-ID that color alone does not solve.
Nothing here knows how a body moves (`body`) or how it is drawn (`figures`).
"""

from __future__ import annotations

import dataclasses

import numpy as np

RGB = tuple[float, float, float]

_CLOTH = {  # name: (sRGB in 0..255, weight for upper garments, weight for lower garments)
    "black": ((32, 32, 36), 20, 28),
    "white": ((232, 232, 230), 19, 4),
    "gray": ((136, 138, 142), 10, 8),
    "charcoal": ((74, 76, 82), 7, 10),
    "navy": ((38, 48, 84), 7, 10),
    "denim": ((72, 98, 140), 3, 20),
    "blue": ((58, 104, 184), 6, 3),
    "sky": ((146, 186, 220), 5, 3),
    "red": ((188, 46, 50), 6, 1.5),
    "maroon": ((110, 36, 50), 3, 1),
    "pink": ((228, 152, 172), 4, 1.5),
    "beige": ((204, 184, 150), 4, 8),
    "brown": ((112, 82, 60), 2, 4),
    "olive": ((98, 104, 70), 2, 4),
    "green": ((62, 132, 86), 3, 1),
    "yellow": ((230, 198, 78), 3, 0.6),
    "orange": ((222, 126, 56), 1.5, 0.4),
    "purple": ((116, 78, 148), 2, 0.8),
}
_COLORS = np.array([row[0] for row in _CLOTH.values()]) / 255.0
_UPPER_WEIGHTS = np.array([row[1] for row in _CLOTH.values()], float)
_LOWER_WEIGHTS = np.array([row[2] for row in _CLOTH.values()], float)
_SKIN = (
    np.array([(240, 206, 180), (230, 188, 156), (214, 168, 132), (186, 136, 100), (140, 96, 68), (96, 66, 50)]) / 255
)
_HAIR = np.array(
    [(26, 22, 22), (44, 32, 28), (78, 54, 38), (128, 92, 56), (186, 156, 104), (150, 148, 146), (120, 54, 34)]
)
_SHOES = np.array(
    [(34, 34, 36), (232, 232, 228), (120, 120, 124), (110, 76, 52), (60, 70, 110), (176, 52, 50), (196, 176, 140)]
)
_UNIFORMS = 6
"""Outfits that unrelated people share (school and work clothes); one person in twelve wears one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fabric:
    """One cloth: color, second color (`accent`), pattern (of PATTERNS), period `scale` (m), phase (radians)."""

    color: RGB
    accent: RGB
    pattern: str = "plain"
    scale: float = 0.08
    phase: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outfit:
    """What somebody wears on one day; styles are members of UPPER_STYLES and LOWER_STYLES."""

    upper_style: str
    upper: Fabric
    inner: Fabric
    front: str
    """On the chest only: none, buttons, zip, logo, graphic or open (jacket open over `inner`)."""
    back: str
    """On the back only: none, number, block or yoke."""
    mark: RGB
    """Color of what is printed on front and back."""
    hem: float
    """Height in meters above the hip joints at which the upper garment ends; negative: it hangs lower."""
    lower_style: str
    lower: Fabric
    lower_length: float
    """Fraction of the leg (0 hip, 0.5 knee, 1 ankle) that shorts and skirts cover."""
    shoes: RGB
    socks: RGB
    bag: str
    """none, backpack, shoulder-left, shoulder-right, hand-left or hand-right (the person's own left and right)."""
    bag_color: RGB
    hat: RGB | None
    """Color of a cap, or None."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Appearance:
    """One person: a body that stays, and an `outfit` that may change (DeepFashion has several per person)."""

    feminine: bool
    height: float
    """Metres, 1.50 to 1.95."""
    build: float
    """Factor on all widths, 0.85 (slim) to 1.3 (stout)."""
    leg_ratio: float
    """Height of the hip joints over body height, 0.49 to 0.54."""
    shoulders: float
    hips: float
    """Factors on the width of shoulders and of hips, 0.9 to 1.12."""
    skin: RGB
    hair_color: RGB
    hair: str
    """bald, short, bob, long, ponytail or bun."""
    beard: bool
    glasses: bool
    outfit: Outfit


PATTERNS = ("plain", "hstripes", "vstripes", "checks", "dots", "blocks", "floral", "heather")
UPPER_STYLES = ("tank", "tshirt", "longsleeve", "jacket", "coat", "dress")
LOWER_STYLES = ("trousers", "leggings", "shorts", "skirt")


def _choice(rng: np.random.Generator, options: dict[str, float]) -> str:
    weights = np.fromiter(options.values(), float)
    return list(options)[int(rng.choice(len(options), p=weights / weights.sum()))]


def _rgb(rng: np.random.Generator, color: np.ndarray, jitter: float = 0.02) -> RGB:
    noisy = np.clip(np.asarray(color) + rng.normal(0, jitter) + rng.normal(0, jitter / 2, 3), 0.03, 0.97)
    red, green, blue = (round(float(value), 4) for value in noisy)
    return red, green, blue


def _cloth(rng: np.random.Generator, weights: np.ndarray) -> RGB:
    return _rgb(rng, _COLORS[rng.choice(len(_COLORS), p=weights / weights.sum())])


def _fabric(rng: np.random.Generator, weights: np.ndarray, patterned: float) -> Fabric:
    pattern = "plain"
    if rng.random() < patterned:
        pattern = _choice(rng, dict.fromkeys(PATTERNS[1:], 1.0) | {"hstripes": 1.8, "blocks": 1.5, "checks": 1.4})
    color, accent = _cloth(rng, weights), _cloth(rng, _UPPER_WEIGHTS)
    if np.abs(np.subtract(color, accent)).max() < 0.25:  # a pattern must show
        accent = (0.9, 0.9, 0.88) if np.mean(color) < 0.5 else (0.16, 0.17, 0.24)
    scale = {"vstripes": 0.075, "dots": 0.085, "floral": 0.10, "checks": 0.11}.get(pattern, 0.10)
    return Fabric(
        color=color,
        accent=accent,
        pattern=pattern,
        scale=round(scale * float(rng.uniform(0.8, 1.5)), 4),
        phase=round(float(rng.uniform(0, 6.28)), 4),
    )


def sample_outfit(rng: np.random.Generator, *, feminine: bool) -> Outfit:
    """Draw what one person wears; one in twelve wears one of a few uniforms that others wear too."""
    if rng.random() < 1 / 12:
        uniform = np.random.default_rng([20260, int(rng.integers(_UNIFORMS))])
        worn = _draw_outfit(uniform, feminine=feminine)
        own = _draw_outfit(rng, feminine=feminine)
        return dataclasses.replace(worn, shoes=own.shoes, bag=own.bag, bag_color=own.bag_color, hat=own.hat)
    return _draw_outfit(rng, feminine=feminine)


def _draw_outfit(rng: np.random.Generator, *, feminine: bool) -> Outfit:
    f = float(feminine)
    style = _choice(rng, _upper_styles(f))
    lower_style = _choice(rng, {"trousers": 4.0, "leggings": 1.5 * f, "shorts": 2.6 - 1.0 * f, "skirt": 1.8 * f})
    upper = _fabric(rng, _UPPER_WEIGHTS, 0.38)
    lower = _fabric(rng, _LOWER_WEIGHTS, 0.28 if lower_style in ("shorts", "skirt") else 0.07)
    front = _choice(rng, {"none": 3, "buttons": 1.6, "zip": 0.6, "logo": 2, "graphic": 1.6})
    if style in ("jacket", "coat"):
        front = _choice(rng, {"open": 3, "zip": 1, "buttons": 1})
    mark = _cloth(rng, _UPPER_WEIGHTS)
    if np.abs(np.subtract(mark, upper.color)).max() < 0.3:
        mark = (0.92, 0.92, 0.9) if np.mean(upper.color) < 0.5 else (0.14, 0.14, 0.2)
    hem = {"coat": -0.34, "dress": -0.2, "jacket": -0.06}.get(style, float(rng.choice([-0.09, -0.04, 0.03, 0.1])))
    length = {"shorts": float(rng.uniform(0.24, 0.5)), "skirt": float(rng.choice([0.26, 0.4, 0.52, 0.78]))}.get(
        lower_style, 1.0
    )
    if style == "dress":
        lower_style, lower, length = "skirt", upper, float(rng.choice([0.3, 0.42, 0.55, 0.75]))
    bag = _choice(rng, _bags(f))
    return Outfit(
        upper_style=style,
        upper=upper,
        inner=_fabric(rng, _UPPER_WEIGHTS, 0.25),
        front=front,
        back=_choice(rng, {"none": 5, "number": 1.4, "block": 1.4, "yoke": 1.2}),
        mark=mark,
        hem=round(hem + float(rng.uniform(-0.02, 0.02)), 4),
        lower_style=lower_style,
        lower=lower,
        lower_length=round(length, 4),
        shoes=_rgb(rng, _SHOES[rng.integers(len(_SHOES))] / 255, 0.03),
        socks=_rgb(rng, np.array([0.86, 0.86, 0.85]) if rng.random() < 0.5 else np.array([0.2, 0.2, 0.22])),
        bag=bag,
        bag_color=_cloth(rng, _LOWER_WEIGHTS + 0.5 * _UPPER_WEIGHTS[::-1]),
        hat=_cloth(rng, _UPPER_WEIGHTS) if rng.random() < 0.08 else None,
    )


def _upper_styles(f: float) -> dict[str, float]:
    """How often each is worn; `f` is 1 for women, 0 for men."""
    return {
        "tank": 0.3 + 0.7 * f,
        "tshirt": 5,
        "longsleeve": 2.2,
        "jacket": 2.2,
        "coat": 0.5 + 0.7 * f,
        "dress": 2.0 * f,
    }


def _bags(f: float) -> dict[str, float]:
    shoulder = 0.8 + 0.4 * f
    return {
        "none": 5,
        "backpack": 2.4,
        "shoulder-left": shoulder,
        "shoulder-right": shoulder,
        "hand-left": 0.6,
        "hand-right": 0.6,
    }


def sample_appearance(rng: np.random.Generator) -> Appearance:
    """Draw one person; the same generator state gives the same person."""
    feminine = bool(rng.random() < 0.48)
    hair = (
        _choice(rng, {"short": 1, "bob": 2, "long": 4, "ponytail": 3, "bun": 1})
        if feminine
        else _choice(rng, {"short": 12, "bald": 1, "bob": 0.6, "ponytail": 0.4})
    )
    tone = int(np.clip(rng.normal(1.6, 1.3), 0, 5))
    return Appearance(
        feminine=feminine,
        height=round(float(np.clip(rng.normal(1.64 if feminine else 1.75, 0.065), 1.5, 1.95)), 4),
        build=round(float(np.clip(rng.normal(0.98 if feminine else 1.03, 0.10), 0.85, 1.3)), 4),
        leg_ratio=round(float(np.clip(rng.normal(0.515, 0.011), 0.49, 0.54)), 4),
        shoulders=round(float(np.clip(rng.normal(0.96 if feminine else 1.04, 0.04), 0.9, 1.12)), 4),
        hips=round(float(np.clip(rng.normal(1.04 if feminine else 0.98, 0.04), 0.9, 1.12)), 4),
        skin=_rgb(rng, _SKIN[tone]),
        hair_color=_rgb(rng, _HAIR[0 if rng.random() < 0.5 else rng.integers(len(_HAIR))] / 255, 0.015),
        hair=hair,
        beard=bool(not feminine and rng.random() < 0.15),
        glasses=bool(rng.random() < 0.15),
        outfit=sample_outfit(rng, feminine=feminine),
    )


def _band(t: np.ndarray, sharpness: float = 3.0) -> np.ndarray:
    """A soft square wave of period 1 in [0, 1]."""
    return np.clip(0.5 + sharpness * np.sin(np.float32(2 * np.pi) * t), 0, 1)


def _accent_share(fabric: Fabric, around: np.ndarray, height: np.ndarray) -> np.ndarray | None:
    k = np.float32(1 / fabric.scale)
    match fabric.pattern:
        case "plain":
            return None
        case "hstripes":
            return _band(height * k + fabric.phase)
        case "vstripes":
            return _band(around * k)
        case "checks":
            return 0.5 * (_band(around * k) + _band(height * k + fabric.phase))
        case "dots":
            waves = np.cos(np.float32(6.2832) * k * around) * np.cos(np.float32(6.2832) * k * height)
            return np.clip((waves - 0.35) * 4, 0, 1)
        case "blocks":
            return np.clip((height - np.float32(0.22 + 0.02 * fabric.phase)) * 60, 0, 1)
        case "floral":
            a, b = around * k * 5 + fabric.phase, height * k * 5
            return np.clip(2.2 * (np.sin(a + 1.3 * np.sin(b)) * np.sin(b + 1.7 * np.sin(0.7 * a))) - 0.4, 0, 1)
        case "heather":
            return 0.35 * (np.sin(around * 190 + 3 * np.sin(height * 130)) > 0)
    raise ValueError(f"unknown pattern {fabric.pattern!r}; use one of {', '.join(PATTERNS)}")


def paint_fabric(fabric: Fabric, around: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Color a fabric shows at points of a garment.

    Args:
        around, height: (N,) meters round the limb and along it.

    Returns:
        (N, 3) float32 sRGB in about [0, 1].
    """
    folds = 1 + np.float32(0.05) * np.sin(around * 38 + 2.5 * np.sin(height * 17 + fabric.phase))
    share = _accent_share(fabric, around, height)
    color = np.asarray(fabric.color, np.float32)
    if share is None:
        return folds[:, None] * color
    difference = np.asarray(fabric.accent, np.float32) - color
    return (color + share.astype(np.float32)[:, None] * difference) * folds[:, None]
