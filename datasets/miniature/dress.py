"""Dress a posed skeleton: the solids of body, hair, clothes, shoes and bags, with their textures.

Shaders get bone coordinates, (3, N) metres: x left, y up (in limbs 0 at the upper joint and negative along), z front.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from datasets.miniature.appearance import RGB, Appearance, Fabric, paint_fabric
from datasets.miniature.body import Motion, Sizes, Skeleton, aim_bone, pose_skeleton, skeleton_joints, turn_about_y
from datasets.miniature.raycasting import Frame, Part, Shader


@dataclasses.dataclass(frozen=True)
class Body:
    """A posed, dressed person in view coordinates: solids, joints (18, 3), the head's frame, both feet (2, 3)."""

    parts: list[Part]
    joints: np.ndarray
    head: Frame
    feet: np.ndarray


def build_body(who: Appearance, motion: Motion, view: np.ndarray) -> Body:
    """Pose and dress a person.

    Args:    view: (3, 3) rotation from world axes (x right, y up, z to the viewer) to view coordinates.
    Returns: everything in view coordinates; the point on the ground below the hips is the origin.
    """
    skeleton = pose_skeleton(who, motion)
    turn = view @ turn_about_y(motion.yaw)
    lift = np.array([0, skeleton.lift, 0])
    frames = {name: Frame(turn @ f.rotation, turn @ (f.origin + lift)) for name, f in skeleton.frames.items()}
    joints = (skeleton_joints(skeleton) + lift) @ turn.T
    parts = _legs(who, skeleton.sizes, frames) + _torso(who, skeleton, frames)
    parts += _arms(who, skeleton.sizes, frames) + _head(who, skeleton.sizes, frames) + _bag(who, skeleton.sizes, frames)
    feet = np.stack([frames[f"{side}_foot"].point(0, -0.07, 0) for side in ("right", "left")])
    return Body(parts, joints, frames["head"], feet)


def _flat(color: RGB, share: float = 1.0) -> Shader:
    value = np.asarray(color, np.float32) * np.float32(share)
    return lambda q: value


def _seen_from(frame: Frame, shader: Shader) -> Shader:
    """A shader of the parent bone for a part on `frame`, which is given in the parent's coordinates."""
    rotation, origin = frame.rotation.astype(np.float32), frame.origin.astype(np.float32)[:, None]
    return lambda q: shader(rotation @ q + origin)


def _limb_cloth(fabric: Fabric, radius: float, offset: float = 0.0) -> Shader:
    return lambda q: paint_fabric(fabric, np.arctan2(q[0], q[2]) * np.float32(radius), q[1] + np.float32(offset))


def _mix(base: np.ndarray, color: RGB, share: np.ndarray) -> np.ndarray:
    share = np.clip(share, 0, 1)[:, None].astype(np.float32)
    return base + share * (np.asarray(color, np.float32) - base)


def _limb(frame: Frame, length: float, upper: float, lower: float, shader: Shader, depth: float = 1.0) -> Part:
    return Part(
        frame=frame,
        shader=shader,
        offset=(0, -length, 0),
        length=length,
        bottom=lower,
        top=upper,
        depth=depth,
        caps=(1, 1),
    )


def _sleeve(frame: Frame, length: float, upper: float, lower: float, shader: Shader) -> Part:
    """A short sleeve or trouser leg: open below, round above."""
    return Part(frame=frame, shader=shader, offset=(0, -length, 0), length=length, bottom=lower, top=upper, caps=(0, 1))


def _legs(who: Appearance, s: Sizes, frames: dict[str, Frame]) -> list[Part]:
    outfit, parts = who.outfit, []
    width, skin = s.limb, _flat(who.skin)
    long_cloth = outfit.lower_style in ("trousers", "leggings")
    loose = {"trousers": 0.012, "leggings": 0.002, "shorts": 0.016}.get(outfit.lower_style, 0.0)
    thigh_r, knee_r, calf_r, ankle_r = 0.082 * width + loose * 0.5, 0.054 * width, 0.056 * width, 0.036 * width
    for side in ("right", "left"):
        thigh, shin, foot = (frames[f"{side}_{name}"] for name in ("thigh", "shin", "foot"))
        cloth = _limb_cloth(outfit.lower, 0.07)
        below = _limb_cloth(outfit.lower, 0.07, -s.thigh)
        upper = (
            cloth if long_cloth else _thigh(who, cloth, min(outfit.lower_length * (s.thigh + s.shin), s.thigh) * 0.75)
        )
        parts.append(_limb(thigh, s.thigh, thigh_r, knee_r + (loose if long_cloth else 0), upper))
        if long_cloth:
            parts.append(_limb(shin, s.shin * 0.95, knee_r + loose, ankle_r + 1.3 * loose, below))
        else:
            parts.append(_limb(shin, s.shin, knee_r, ankle_r, _calf(who, s)))
            calf = (0.92 * calf_r, 0.11 * who.height, calf_r)
            parts.append(Part(frame=shin, shader=skin, kind="ellipsoid", offset=(0, -0.3 * s.shin, -0.012), size=calf))
        if outfit.lower_style == "shorts":
            parts.append(_short_leg(thigh, s, outfit.lower_length * 2, thigh_r + 0.006, knee_r + loose + 0.014, cloth))
        parts += _foot(who, foot, s)
    return parts


def _short_leg(thigh: Frame, s: Sizes, covered: float, upper: float, lower: float, cloth: Shader) -> Part:
    """One leg of shorts that cover the share `covered` of the thigh."""
    share = min(covered, 1.0)
    return _sleeve(thigh, s.thigh * share, upper, upper + (lower - upper) * share, cloth)


def _thigh(who: Appearance, cloth: Shader, covered: float) -> Shader:
    """Skin with the skirt's or shorts' cloth above: what shows through a gap there must not be skin."""
    skin = np.asarray(who.skin, np.float32)
    return lambda q: np.where((q[1] > -covered)[:, None], cloth(q), skin)


def _calf(who: Appearance, s: Sizes) -> Shader:
    skin, socks = np.asarray(who.skin, np.float32), who.outfit.socks
    return lambda q: _mix(np.broadcast_to(skin, (q.shape[1], 3)), socks, (-q[1] - 0.86 * s.shin) * 90)


def _foot(who: Appearance, foot: Frame, s: Sizes) -> list[Part]:
    shoe, sole = who.outfit.shoes, (0.85, 0.85, 0.83) if who.outfit.shoes[0] > 0.4 else (0.2, 0.2, 0.2)
    color = np.asarray(shoe, np.float32)
    # In the foot's frame -y runs to the toes and z points up.
    paint = lambda q: _mix(np.broadcast_to(color, (q.shape[1], 3)), sole, (-q[2] - 0.052) * 160)  # noqa: E731
    length = 0.095 * who.height
    return [
        Part(
            frame=foot,
            shader=paint,
            offset=(0, -length, -0.035),
            length=length + 0.03,
            bottom=0.036,
            top=0.038,
            depth=0.92,
        )
    ]


def _torso(who: Appearance, skeleton: Skeleton, frames: dict[str, Frame]) -> list[Part]:
    s, chest, outfit = skeleton.sizes, frames["chest"], who.outfit
    shader = _torso_shader(who, s)
    loose = {"jacket": 0.014, "coat": 0.018, "tank": -0.004}.get(outfit.upper_style, 0.004)
    waist_y, chest_y = 0.40 * s.torso, 0.80 * s.torso
    waist, bust = s.waist + loose, s.chest + loose
    parts = [
        Part(
            frame=chest,
            shader=shader,
            offset=(0, -0.03, -0.004),
            length=waist_y + 0.03,
            bottom=s.pelvis,
            top=waist,
            depth=0.72,
            caps=(0.45, 0.2),
        ),
        Part(
            frame=chest,
            shader=shader,
            offset=(0, waist_y, 0),
            length=chest_y - waist_y,
            bottom=waist,
            top=bust,
            depth=0.70,
            caps=(0.2, 0.55),
        ),
    ]
    # Shoulders slope from beside the neck down to the arms.
    end, ridge = 0.047 * s.limb + 0.6 * loose, 0.058 * s.limb + 0.4 * loose
    for sign in (-1, 1):
        start, stop = (
            np.array([sign * 0.025, s.torso - 0.012, -0.008]),
            np.array([sign * s.shoulder_half, s.torso - 0.008, 0.0]),
        )
        length = float(np.sqrt(((stop - start) ** 2).sum()))
        slope = aim_bone(start, (stop - start) / length)
        frame = Frame(chest.rotation @ slope.rotation, chest.point(*start))
        parts.append(_limb(frame, length, ridge, end, _seen_from(slope, shader), depth=1.05))
    if who.feminine:
        size = (0.80 * s.chest, 0.10, 0.64 * s.chest)
        parts.append(Part(frame=chest, shader=shader, kind="ellipsoid", offset=(0, 0.66 * s.torso, 0.036), size=size))
    elif who.build > 1.12:
        size = (0.85 * s.waist, 0.16, 0.80 * s.waist)
        parts.append(Part(frame=chest, shader=shader, kind="ellipsoid", offset=(0, 0.28 * s.torso, 0.045), size=size))
    return parts + _skirts(who, skeleton, frames, shader)


def _skirts(who: Appearance, skeleton: Skeleton, frames: dict[str, Frame], torso: Shader) -> list[Part]:
    """Skirts, and what hangs below the waist of a dress, coat or shirt: open cones round the legs inside."""
    s, outfit, parts = skeleton.sizes, who.outfit, []
    leg = s.thigh + s.shin
    if outfit.lower_style == "skirt":
        cloth, top = _limb_cloth(outfit.lower, 0.15), 0.4 * s.torso if outfit.upper_style == "dress" else 0.13
        parts += _hanging(skeleton, frames["pelvis"], -outfit.lower_length * leg, top, cloth, 0.012)
    if outfit.upper_style == "coat":
        parts += _hanging(skeleton, frames["pelvis"], outfit.hem, 0.45 * s.torso, torso, 0.024)
    elif outfit.upper_style != "dress" and outfit.hem < 0.06:  # worn outside the trousers
        parts += _hanging(skeleton, frames["chest"], outfit.hem, 0.45 * s.torso, torso, 0.018)
    return parts


def _hanging(skeleton: Skeleton, frame: Frame, hem: float, high: float, shader: Shader, room: float) -> list[Part]:
    """Cloth from `hem` (height over the hips) past the widest place, just above the hips, to `high`."""
    s, hips = skeleton.sizes, 0.06
    hip_width = max(s.pelvis, s.hip_half + 0.088 * s.limb) + room
    hem_width = hip_width + 0.12 * max(-hem - 0.1, 0)
    depth = max(0.75, min(1.35, (_reach(skeleton, max(-hem, 0.0)) + room) / hem_width))
    waist = s.waist + 0.7 * room
    # A skirt over a long step is deeper than the hips: round off the ledge between them.
    ledge = max(depth - 0.8, 0.0)
    spans = ((hem, hips, hem_width, hip_width), (hips, high, hip_width, waist + (hip_width - waist) * 0.1))
    return [
        Part(
            frame=frame,
            shader=shader,
            offset=(0, low, 0),
            length=top - low,
            bottom=bottom,
            top=upper,
            depth=depth if low == hem else min(depth, 0.8),
            caps=(0, ledge if low == hem else 0),
        )
        for low, top, bottom, upper in spans
    ]


def _reach(skeleton: Skeleton, length: float) -> float:
    """How far to the front or back the legs reach inside a skirt of this length."""
    s, reach = skeleton.sizes, 0.0
    for side in ("right", "left"):
        thigh, shin = skeleton.frames[f"{side}_thigh"], skeleton.frames[f"{side}_shin"]
        at = thigh.point(0, -length, 0) if length <= s.thigh else shin.point(0, s.thigh - length, 0)
        knee = abs(shin.origin[2]) * min(length / s.thigh, 1.0)
        reach = max(reach, abs(at[2]) + 0.062 * s.limb, knee + 0.07 * s.limb)
    return reach


def _torso_shader(who: Appearance, s: Sizes) -> Shader:
    """Paint garments in chest coordinates (origin at the hips): cloth, front, back, waist, neckline, straps."""
    outfit = who.outfit
    low_cut = outfit.upper_style in ("tank", "dress") and who.feminine
    bare = _is_sleeveless(who)

    def shade(q: np.ndarray) -> np.ndarray:
        x, y, z = q
        around = np.arctan2(x, z) * np.float32(0.15)
        color = paint_fabric(outfit.upper, around, y)
        front, back = z > 0, z < 0
        color = _front(who, s, color, x, y, z)
        if outfit.back != "none":
            color = _mix(color, outfit.mark, _back_mark(outfit.back, s, x, y) * back)
        below = np.clip((outfit.hem - y) * 120, 0, 1)
        if outfit.upper_style not in ("dress", "coat") and below.any():
            color = color + below[:, None].astype(np.float32) * (paint_fabric(outfit.lower, around, y) - color)
        depth = (0.075 if low_cut else 0.045) * front + (0.03 if low_cut else 0.006) * back
        neckline = depth - 0.9 * np.abs(x) + 0.02 - (s.torso + 0.035 - y)
        color = _mix(color, who.skin, neckline * 140 * (np.abs(x) < 0.12))
        if bare:
            color = _mix(color, who.skin, (np.abs(x) - 0.68 * s.shoulder_half) * 140 * (y > 0.84 * s.torso))
        return _straps(who, s, color, x, y, z)

    return shade


def _is_sleeveless(who: Appearance) -> bool:
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
            return _mix(color, (0.75, 0.75, 0.72), (0.007 - np.abs(x)) * 300 * front)
        case "buttons":
            placket = _mix(
                color, tuple(0.72 * c for c in outfit.upper.color), (0.011 - np.abs(np.abs(x) - 0.002)) * 200 * front
            )
            dots = (np.abs(x) < 0.012) & (np.abs((y / 0.085) % 1 - 0.5) < 0.11)
            return _mix(placket, outfit.mark, dots * front * 0.8)
        case "logo":
            inside = (np.abs(x - 0.055) < 0.026) & (np.abs(y - 0.74 * s.torso) < 0.024)
            return _mix(color, outfit.mark, inside * front * 1.0)
        case "graphic":
            distance = np.sqrt((x / 0.085) ** 2 + ((y - 0.62 * s.torso) / 0.085) ** 2)
            ring = (distance < 1) & ~((distance > 0.45) & (distance < 0.68))
            return _mix(color, outfit.mark, ring * front * 1.0)
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
    bag, dark = who.outfit.bag, tuple(0.8 * c for c in who.outfit.bag_color)
    if bag == "backpack":
        bands = (np.abs(np.abs(x) - 0.088) < 0.017) & (z > -0.04) & (y > 0.42 * s.torso)
        return _mix(color, dark, bands * 1.0)
    if bag.startswith("shoulder"):
        side = 1 if bag.endswith("left") else -1
        # From the far shoulder across chest and back down to the bag's hip.
        line = (y - 0.55 * s.torso) / (0.95 * s.torso) + side * x / 0.27
        return _mix(color, dark, (np.abs(line) < 0.055) * 1.0)
    return color


def _arms(who: Appearance, s: Sizes, frames: dict[str, Frame]) -> list[Part]:
    outfit, parts = who.outfit, []
    long = outfit.upper_style in ("longsleeve", "jacket", "coat")
    bare = _is_sleeveless(who)
    loose = {"jacket": 0.010, "coat": 0.014}.get(outfit.upper_style, 0.004) if long else 0.0
    upper_r, elbow_r, wrist_r = 0.047 * s.limb, 0.036 * s.limb, 0.026 * s.limb
    skin = _flat(who.skin)
    cloth, cuff = _limb_cloth(outfit.upper, 0.045, s.torso), _limb_cloth(outfit.upper, 0.045, s.torso - s.upper_arm)
    for side in ("right", "left"):
        upper, fore = frames[f"{side}_upper_arm"], frames[f"{side}_forearm"]
        parts.append(_limb(upper, s.upper_arm, upper_r + loose, elbow_r + loose, cloth if long else skin))
        parts.append(_limb(fore, s.forearm, elbow_r + loose, wrist_r + 1.2 * loose, cuff if long else skin))
        if not long and not bare:
            parts.append(_sleeve(upper, 0.58 * s.upper_arm, upper_r + 0.005, upper_r + 0.013, cloth))
        hand = (0.021, 0.05, 0.032)
        parts.append(Part(frame=fore, shader=skin, kind="ellipsoid", offset=(0, -s.forearm - 0.055, 0), size=hand))
    return parts


def _head(who: Appearance, s: Sizes, frames: dict[str, Frame]) -> list[Part]:
    head, r = frames["head"], s.head
    skull = Part(frame=head, shader=_face(who, r), kind="ellipsoid", size=(0.72 * r, 1.0 * r, 0.86 * r))
    neck = Part(
        frame=frames["neck"],
        shader=_flat(who.skin, 0.9),
        offset=(0, -0.02, 0.0),
        length=0.11,
        bottom=0.058 * s.limb,
        top=0.046 * s.limb,
        caps=(0, 0),
    )
    nose = Part(
        frame=head,
        shader=_flat(who.skin),
        kind="ellipsoid",
        offset=(0, -0.16 * r, 0.84 * r),
        size=(0.1 * r, 0.17 * r, 0.14 * r),
    )
    ears = [
        Part(
            frame=head,
            shader=_flat(who.skin, 0.93),
            kind="ellipsoid",
            offset=(sign * 0.72 * r, -0.02 * r, -0.04 * r),
            size=(0.07 * r, 0.2 * r, 0.13 * r),
        )
        for sign in (-1, 1)
    ]
    return [skull, neck, nose, *ears, *_hair(who, head, frames["neck"], r)]


def _face(who: Appearance, r: float) -> Shader:
    skin, hair = np.asarray(who.skin, np.float32), np.asarray(who.hair_color, np.float32)
    cover = who.hair != "bald"

    def shade(q: np.ndarray) -> np.ndarray:
        x, y, z = q / np.float32(r)
        front = z > 0.25
        color = np.broadcast_to(skin, (q.shape[1], 3))
        color = _mix(color, (0.66, 0.32, 0.30), front * ((np.abs(x) < 0.2) & (np.abs(y + 0.52) < 0.06)) * 0.8)
        aside, above = np.abs(np.abs(x) - 0.29), np.abs(y - 0.13)
        eyes = (aside < 0.11) & (above < 0.07)
        if who.glasses:
            eyes |= (aside < 0.24) & (above < 0.17) & ~((aside < 0.17) & (above < 0.11))
        color = _mix(color, (0.12, 0.10, 0.10), front * eyes * 0.85)
        brow = (np.abs(np.abs(x) - 0.3) < 0.16) & (np.abs(y - 0.33) < 0.05)
        color = _mix(color, who.hair_color, front * brow * 0.8)
        if who.beard:
            color = _mix(color, who.hair_color, (z > -0.1) * np.clip((-0.32 - y - 0.25 * (z < 0.35)) * 8, 0, 0.85))
        if cover:
            line = np.maximum(y - 0.52, np.minimum(-z - 0.02 + 0.25 * y, y + 0.62))
            color = color + np.clip(line * 14, 0, 1)[:, None] * (hair - color)
        return color

    return shade


def _hair(who: Appearance, head: Frame, neck: Frame, r: float) -> list[Part]:
    color = np.asarray(who.hair_color, np.float32)
    strands = lambda q: color * (1 + np.float32(0.22) * np.sin(q[0] * 260 + q[1] * 40))[:, None]  # noqa: E731

    def lump(offset, size, frame=head, shader=strands):
        return Part(
            frame=frame,
            shader=shader,
            kind="ellipsoid",
            offset=tuple(r * v for v in offset),
            size=tuple(r * v for v in size),
        )

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
        felt = _flat(who.outfit.hat)
        parts.append(lump((0, 0.52, -0.06), (0.86, 0.66, 0.98), shader=felt))
        parts.append(lump((0, 0.52, 0.95), (0.62, 0.08, 0.55), shader=_flat(who.outfit.hat, 0.85)))
    return parts


def _bag(who: Appearance, s: Sizes, frames: dict[str, Frame]) -> list[Part]:
    bag, chest = who.outfit.bag, frames["chest"]
    color = np.asarray(who.outfit.bag_color, np.float32)

    def leather(q: np.ndarray) -> np.ndarray:
        flap = 1 - np.float32(0.30) * (np.abs((q[1] * 9) % 1 - 0.5) < 0.1)
        return color * flap[:, None]

    if bag == "backpack":
        return [
            Part(
                frame=chest,
                shader=leather,
                offset=(0, 0.30 * s.torso, -0.70 * s.chest - 0.06),
                length=0.52 * s.torso,
                bottom=0.145,
                top=0.125,
                depth=0.62,
                caps=(0.35, 0.45),
            ),
            Part(
                frame=chest,
                shader=_flat(who.outfit.bag_color, 0.82),
                length=0.2 * s.torso,
                offset=(0, 0.32 * s.torso, -0.7 * s.chest - 0.13),
                bottom=0.1,
                top=0.09,
                depth=0.5,
                caps=(0.35, 0.35),
            ),
        ]
    sign = 1 if bag.endswith("left") else -1
    if bag.startswith("shoulder"):
        place, size = (sign * (s.pelvis + 0.055), 0.0, -0.02), (0.045, 0.09, 0.12)
        return [Part(frame=chest, shader=leather, kind="box", offset=place, size=size)]
    if bag.startswith("hand"):
        fore = frames[f"{'left' if sign > 0 else 'right'}_forearm"]
        # Hangs straight down from the hand whatever the arm does.
        hang = Frame(frames["pelvis"].rotation, fore.point(0, -s.forearm - 0.09, 0))
        return [
            Part(frame=hang, shader=leather, kind="box", offset=(0, -0.19, 0), size=(0.045, 0.12, 0.14)),
            Part(
                frame=hang,
                shader=leather,
                offset=(0, -0.09, 0),
                length=0.1,
                bottom=0.02,
                top=0.008,
                depth=3.0,
                caps=(0, 0),
            ),
        ]
    return []
