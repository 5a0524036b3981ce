"""Analytic, orthographic ray casting of body parts: tapered elliptical capsules, ellipsoids and boxes, in numpy.

View coordinates are meters: x to the right of the picture, y up, z towards the camera. Every ray runs along -z, so a
part's surface is a closed formula per pixel of its bounding box: no meshes, no loops over pixels. A part carries its
bone's orthonormal frame; its texture is a function of *bone* coordinates, so patterns turn with the body.
Knows nothing of people.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

Shader = Callable[[np.ndarray], np.ndarray]
"""(3, N) bone coordinates in meters -> (N, 3) or (3,) sRGB in [0, 1]."""


@dataclasses.dataclass(frozen=True)
class Frame:
    """A bone: `rotation` (3, 3), its columns the bone's x (left), y (up) and z (front) axes; `origin` (3,) meters."""

    rotation: np.ndarray
    origin: np.ndarray

    def point(self, *xyz: float) -> np.ndarray:
        """Parent coordinates (3,) of a point given in the bone's."""
        return self.rotation @ np.array(xyz) + self.origin


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """One solid on a bone.

    kind 'cone': from `offset` along the bone's +y over `length`, radius `bottom` to `top` (x), times `depth` (z),
    closed by half ellipsoids of height `caps` x radius (0: open). Kinds 'ellipsoid' and 'box': half sizes `size` about
    `offset`.
    """

    frame: Frame
    shader: Shader
    kind: str = "cone"
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    length: float = 0.0
    bottom: float = 0.0
    top: float = 0.0
    depth: float = 1.0
    caps: tuple[float, float] = (1.0, 1.0)
    size: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclasses.dataclass(frozen=True)
class Grid:
    """Pixel centers lie at x = left + (column + 0.5) / scale_x and y = top - (row + 0.5) / scale_y, in meters."""

    left: float
    top: float
    scale_x: float
    scale_y: float
    width: int
    height: int

    def to_pixels(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) view coordinates -> (N, 2) continuous pixel coordinates (0, 0 = center of the first pixel)."""
        x = (points[:, 0] - self.left) * self.scale_x - 0.5
        y = (self.top - points[:, 1]) * self.scale_y - 0.5
        return np.stack([x, y], axis=1)


@dataclasses.dataclass
class Layers:
    """What the rays met: `depth` (H, W) view z, -inf where nothing; `albedo` and unit `normals` (H, W, 3)."""

    depth: np.ndarray
    albedo: np.ndarray
    normals: np.ndarray


def extent(part: Part) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest view coordinates (3,) of a part."""
    rotation = part.frame.rotation
    if part.kind == "cone":
        ends = []
        for y, radius, cap in ((0.0, part.bottom, part.caps[0]), (part.length, part.top, part.caps[1])):
            x0, y0, z0 = part.offset
            reach = np.sqrt((rotation**2) @ np.array([radius, cap * radius, radius * part.depth]) ** 2)
            center = part.frame.point(x0, y0 + y, z0)
            ends.append((center - reach, center + reach))
        return np.minimum(ends[0][0], ends[1][0]), np.maximum(ends[0][1], ends[1][1])
    size = np.array(part.size)
    reach = np.abs(rotation) @ size if part.kind == "box" else np.sqrt((rotation**2) @ size**2)
    center = part.frame.point(*part.offset)
    return center - reach, center + reach


def cast(parts: Sequence[Part], grid: Grid) -> Layers:
    """Draw the parts, nearest first, into depth, color and normal layers of `grid`'s size."""
    shape = (grid.height, grid.width)
    layers = Layers(
        np.full(shape, -np.inf, np.float32), np.zeros((*shape, 3), np.float32), np.zeros((*shape, 3), np.float32)
    )
    boxes = [(part, *extent(part)) for part in parts]
    # Nearest parts first: what they hide is never textured.
    for part, low, high in sorted(boxes, key=lambda box: -float(box[2][2])):
        _draw(part, low, high, grid, layers)
    return layers


def _draw(part: Part, low: np.ndarray, high: np.ndarray, grid: Grid, layers: Layers) -> None:
    c0 = max(int((low[0] - grid.left) * grid.scale_x - 0.5), 0)
    c1 = min(int((high[0] - grid.left) * grid.scale_x + 1.5), grid.width)
    r0 = max(int((grid.top - high[1]) * grid.scale_y - 0.5), 0)
    r1 = min(int((grid.top - low[1]) * grid.scale_y + 1.5), grid.height)
    if c0 >= c1 or r0 >= r1:
        return
    x = ((np.arange(c0, c1, dtype=np.float32) + 0.5) / grid.scale_x + grid.left).astype(np.float32)[None, :]
    y = (grid.top - (np.arange(r0, r1, dtype=np.float32) + 0.5) / grid.scale_y).astype(np.float32)[:, None]
    with np.errstate(invalid="ignore"):  # rays that miss have no root: NaN, which no comparison accepts
        z = _SOLVERS[part.kind](part, x, y)
        rows, columns = np.nonzero(z > layers.depth[r0:r1, c0:c1])
    if not len(rows):
        return
    hit_z = z[rows, columns]
    points = np.stack([x[0, columns], y[rows, 0], hit_z])
    rotation = part.frame.rotation.astype(np.float32)
    local = rotation.T @ (points - part.frame.origin.astype(np.float32)[:, None])
    normals = rotation @ _gradient(part, local - np.array(part.offset, np.float32)[:, None])
    normals *= 1 / np.sqrt((normals * normals).sum(axis=0) + 1e-12)
    rows, columns = rows + r0, columns + c0
    layers.depth[rows, columns] = hit_z
    layers.normals[rows, columns] = normals.T
    layers.albedo[rows, columns] = part.shader(local)


def _local_rays(part: Part, x: np.ndarray, y: np.ndarray, scale: tuple[float, float, float]):
    """Ray q = o + z d in the part's own axes, each divided by `scale`: o as three (h, w) arrays, d as three floats."""
    inverse = part.frame.rotation.T / np.array(scale)[:, None]
    start = -(inverse @ part.frame.origin) - np.array(part.offset) / np.array(scale)
    inverse32 = inverse.astype(np.float32)
    origins = [x * inverse32[i, 0] + (y * inverse32[i, 1] + np.float32(start[i])) for i in range(3)]
    return origins, [float(value) for value in inverse[:, 2]]


def _near_root(a: float, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Larger root of a z^2 + 2 b z + c = 0 for a > 0; NaN where there is none."""
    return (np.sqrt(b * b - a * c) - b) * np.float32(1 / a)


def _solve_ellipsoid(part: Part, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    (ox, oy, oz), (dx, dy, dz) = _local_rays(part, x, y, part.size)
    return _near_root(dx * dx + dy * dy + dz * dz, ox * dx + oy * dy + oz * dz, ox * ox + oy * oy + oz * oz - 1)


def _solve_box(part: Part, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    origins, directions = _local_rays(part, x, y, part.size)
    enter, leave = np.float32(np.inf), np.float32(-np.inf)
    for o, d in zip(origins, directions, strict=True):
        d = d if abs(d) > 1e-5 else 1e-5
        enter = np.minimum(enter, (1 - np.sign(d) * o) / abs(d) if d > 0 else (1 + o) / -d)
        leave = np.maximum(leave, (-1 - o) / d if d > 0 else (1 - o) / d)
    return np.where(enter >= leave, enter, np.float32(-np.inf))


def _solve_cone(part: Part, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    (ox, oy, oz), (dx, dy, dz) = _local_rays(part, x, y, (1.0, 1.0, part.depth))
    k = (part.top - part.bottom) / part.length
    a = dx * dx + dz * dz - (k * dy) ** 2
    radial = ox * ox + oz * oz
    slant = ox * dx + oz * dz
    result = np.full(radial.shape, -np.inf, np.float32)
    if a > 1e-6:  # else the camera looks along the bone and only an end shows
        radius = part.bottom + k * oy
        z = _near_root(a, slant - (k * dy) * radius, radial - radius * radius)
        height = oy + z * dy
        inside = (height >= 0) & (height <= part.length)
        np.copyto(result, z, where=inside)
    for cap, at, radius, sign in ((part.caps[0], 0.0, part.bottom, -1), (part.caps[1], part.length, part.top, 1)):
        if cap <= 0 or radius <= 0:
            continue
        up, slope = (oy - np.float32(at)) * np.float32(1 / cap), dy / cap
        z = _near_root(dx * dx + dz * dz + slope * slope, slant + up * slope, radial + up * up - radius * radius)
        outside = (oy + z * dy - at) * sign >= 0
        np.copyto(result, z, where=outside & (z > result))
    return result


def _gradient(part: Part, q: np.ndarray) -> np.ndarray:
    """Outward direction (3, N) of any length at surface points q (3, N): bone axes, q from the part's offset."""
    if part.kind == "ellipsoid":
        return q / (np.array(part.size, np.float32) ** 2)[:, None]
    if part.kind == "box":
        scaled = q / np.array(part.size, np.float32)[:, None]
        return np.sign(scaled) * np.abs(scaled) ** 9  # high power: flat faces with slightly rounded edges
    k = (part.top - part.bottom) / part.length
    height = q[1]
    body = -k * (part.bottom + k * height)
    low = height / max(part.caps[0], 0.05) ** 2
    high = (height - part.length) / max(part.caps[1], 0.05) ** 2
    along = np.where(height < 0, low, np.where(height > part.length, high, body))
    return np.stack([q[0], along, q[2] / np.float32(part.depth**2)])


_SOLVERS = {"cone": _solve_cone, "ellipsoid": _solve_ellipsoid, "box": _solve_box}
