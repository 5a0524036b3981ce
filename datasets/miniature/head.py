"""The head: skull, neck, nose, ears, hair and hat as solids."""

from __future__ import annotations

import numpy as np

from datasets.miniature.appearance import Appearance
from datasets.miniature.body import Sizes
from datasets.miniature.raycasting import Frame, Part, Shader
from datasets.miniature.textures import face, flat

Triple = tuple[float, float, float]


def head_parts(who: Appearance, s: Sizes, frames: dict[str, Frame]) -> list[Part]:
    """All solids of the head, neck and hat included."""
    head, r = frames["head"], s.head
    skull = Part(frame=head, shader=face(who, r), kind="ellipsoid", size=(0.72 * r, 1.0 * r, 0.86 * r))
    neck = Part(
        frame=frames["neck"],
        shader=flat(who.skin, 0.9),
        offset=(0, -0.02, 0.0),
        length=0.11,
        bottom=0.058 * s.limb,
        top=0.046 * s.limb,
        caps=(0, 0),
    )
    nose = Part(
        frame=head,
        shader=flat(who.skin),
        kind="ellipsoid",
        offset=(0, -0.16 * r, 0.84 * r),
        size=(0.1 * r, 0.17 * r, 0.14 * r),
    )
    ears = [
        Part(
            frame=head,
            shader=flat(who.skin, 0.93),
            kind="ellipsoid",
            offset=(sign * 0.72 * r, -0.02 * r, -0.04 * r),
            size=(0.07 * r, 0.2 * r, 0.13 * r),
        )
        for sign in (-1, 1)
    ]
    return [skull, neck, nose, *ears, *_hair(who, head, r)]


def _scaled(values: Triple, r: float) -> Triple:
    x, y, z = values
    return r * x, r * y, r * z


def _hair(who: Appearance, head: Frame, r: float) -> list[Part]:
    color = np.asarray(who.hair_color, np.float32)
    strands = lambda q: color * (1 + np.float32(0.22) * np.sin(q[0] * 260 + q[1] * 40))[:, None]  # noqa: E731

    def lump(offset: Triple, size: Triple, shader: Shader = strands) -> Part:
        return Part(frame=head, shader=shader, kind="ellipsoid", offset=_scaled(offset, r), size=_scaled(size, r))

    parts = []
    if who.hair != "bald":
        parts.append(lump((0, 0.30, -0.16), (0.80, 0.82, 0.86)))
    if who.hair in ("bob", "long"):
        parts.append(lump((0, -0.25, -0.34), (0.84, 0.85, 0.60)))
    if who.hair == "long":
        parts.append(lump((0, -1.25, -0.62), (0.74, 1.25, 0.36)))
    if who.hair == "ponytail":
        parts += [lump((0, 0.1, -1.05), (0.28, 0.28, 0.26)), lump((0, -0.75, -1.12), (0.26, 0.9, 0.22))]
    if who.hair == "bun":
        parts.append(lump((0, 0.62, -0.86), (0.36, 0.36, 0.34)))
    if who.outfit.hat is not None:
        felt = flat(who.outfit.hat)
        parts.append(lump((0, 0.52, -0.06), (0.86, 0.66, 0.98), shader=felt))
        parts.append(lump((0, 0.52, 0.95), (0.62, 0.08, 0.55), shader=flat(who.outfit.hat, 0.85)))
    return parts
