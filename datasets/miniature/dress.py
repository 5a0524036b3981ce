"""Dress a posed skeleton: the solids of body, clothes, shoes and bags."""

from __future__ import annotations

import dataclasses

import numpy as np

from datasets.miniature.appearance import Appearance
from datasets.miniature.body import Motion, Sizes, Skeleton, aim_bone, pose_skeleton, skeleton_joints, turn_about_y
from datasets.miniature.head import head_parts
from datasets.miniature.raycasting import Frame, Part, Shader
from datasets.miniature.textures import (
    bag_leather,
    calf_skin,
    flat,
    is_sleeveless,
    limb_cloth,
    mix,
    seen_from,
    thigh_cloth,
    torso_shader,
)


@dataclasses.dataclass(frozen=True)
class Body:
    """A posed, dressed person in view coordinates: solids, joints (18, 3), the head's frame, both feet (2, 3)."""

    parts: list[Part]
    joints: np.ndarray
    head: Frame
    feet: np.ndarray


def build_body(who: Appearance, motion: Motion, view: np.ndarray) -> Body:
    """Pose and dress a person.

    Args:
        view: (3, 3) rotation from world axes (x right, y up, z to the viewer) to view coordinates.

    Returns:
        Everything in view coordinates; the point on the ground below the hips is the origin.
    """
    skeleton = pose_skeleton(who, motion)
    turn = view @ turn_about_y(motion.yaw)
    lift = np.array([0, skeleton.lift, 0])
    frames = {name: Frame(turn @ f.rotation, turn @ (f.origin + lift)) for name, f in skeleton.frames.items()}
    joints = (skeleton_joints(skeleton) + lift) @ turn.T
    parts = _legs(who, skeleton.sizes, frames) + _torso(who, skeleton, frames)
    for dressed in (_arms, head_parts, _bag):
        parts += dressed(who, skeleton.sizes, frames)
    feet = np.stack([frames[f"{side}_foot"].point(0, -0.07, 0) for side in ("right", "left")])
    return Body(parts, joints, frames["head"], feet)


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
    width, skin = s.limb, flat(who.skin)
    long_cloth = outfit.lower_style in ("trousers", "leggings")
    loose = {"trousers": 0.012, "leggings": 0.002, "shorts": 0.016}.get(outfit.lower_style, 0.0)
    thigh_r, knee_r, calf_r, ankle_r = 0.082 * width + loose * 0.5, 0.054 * width, 0.056 * width, 0.036 * width
    for side in ("right", "left"):
        thigh, shin, foot = (frames[f"{side}_{name}"] for name in ("thigh", "shin", "foot"))
        cloth = limb_cloth(outfit.lower, 0.07)
        below = limb_cloth(outfit.lower, 0.07, -s.thigh)
        covered = min(outfit.lower_length * (s.thigh + s.shin), s.thigh) * 0.75
        upper = cloth if long_cloth else thigh_cloth(who, cloth, covered)
        parts.append(_limb(thigh, s.thigh, thigh_r, knee_r + (loose if long_cloth else 0), upper))
        if long_cloth:
            parts.append(_limb(shin, s.shin * 0.95, knee_r + loose, ankle_r + 1.3 * loose, below))
        else:
            parts.append(_limb(shin, s.shin, knee_r, ankle_r, calf_skin(who, s)))
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


def _foot(who: Appearance, foot: Frame, s: Sizes) -> list[Part]:
    shoe, sole = who.outfit.shoes, (0.85, 0.85, 0.83) if who.outfit.shoes[0] > 0.4 else (0.2, 0.2, 0.2)
    color = np.asarray(shoe, np.float32)
    # In the foot's frame -y runs to the toes and z points up.
    paint = lambda q: mix(np.broadcast_to(color, (q.shape[1], 3)), sole, (-q[2] - 0.052) * 160)  # noqa: E731
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
    shader = torso_shader(who, s)
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
    parts += _shoulders(s, chest, loose, shader)
    if who.feminine:
        size = (0.80 * s.chest, 0.10, 0.64 * s.chest)
        parts.append(Part(frame=chest, shader=shader, kind="ellipsoid", offset=(0, 0.66 * s.torso, 0.036), size=size))
    elif who.build > 1.12:
        size = (0.85 * s.waist, 0.16, 0.80 * s.waist)
        parts.append(Part(frame=chest, shader=shader, kind="ellipsoid", offset=(0, 0.28 * s.torso, 0.045), size=size))
    return parts + _skirts(who, skeleton, frames, shader)


def _shoulders(s: Sizes, chest: Frame, loose: float, shader: Shader) -> list[Part]:
    """Slopes from beside the neck down to the arms."""
    parts = []
    end, ridge = 0.047 * s.limb + 0.6 * loose, 0.058 * s.limb + 0.4 * loose
    for sign in (-1, 1):
        start = np.array([sign * 0.025, s.torso - 0.012, -0.008])
        stop = np.array([sign * s.shoulder_half, s.torso - 0.008, 0.0])
        length = float(np.sqrt(((stop - start) ** 2).sum()))
        slope = aim_bone(start, (stop - start) / length)
        frame = Frame(chest.rotation @ slope.rotation, chest.point(*start))
        parts.append(_limb(frame, length, ridge, end, seen_from(slope, shader), depth=1.05))
    return parts


def _skirts(who: Appearance, skeleton: Skeleton, frames: dict[str, Frame], torso: Shader) -> list[Part]:
    """Skirts, and what hangs below the waist of a dress, coat or shirt: open cones round the legs inside."""
    s, outfit, parts = skeleton.sizes, who.outfit, []
    leg = s.thigh + s.shin
    if outfit.lower_style == "skirt":
        cloth, top = limb_cloth(outfit.lower, 0.15), 0.4 * s.torso if outfit.upper_style == "dress" else 0.13
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


def _arms(who: Appearance, s: Sizes, frames: dict[str, Frame]) -> list[Part]:
    outfit, parts = who.outfit, []
    long = outfit.upper_style in ("longsleeve", "jacket", "coat")
    bare = is_sleeveless(who)
    loose = {"jacket": 0.010, "coat": 0.014}.get(outfit.upper_style, 0.004) if long else 0.0
    upper_r, elbow_r, wrist_r = 0.047 * s.limb, 0.036 * s.limb, 0.026 * s.limb
    skin = flat(who.skin)
    cloth, cuff = limb_cloth(outfit.upper, 0.045, s.torso), limb_cloth(outfit.upper, 0.045, s.torso - s.upper_arm)
    for side in ("right", "left"):
        upper, fore = frames[f"{side}_upper_arm"], frames[f"{side}_forearm"]
        parts.append(_limb(upper, s.upper_arm, upper_r + loose, elbow_r + loose, cloth if long else skin))
        parts.append(_limb(fore, s.forearm, elbow_r + loose, wrist_r + 1.2 * loose, cuff if long else skin))
        if not long and not bare:
            parts.append(_sleeve(upper, 0.58 * s.upper_arm, upper_r + 0.005, upper_r + 0.013, cloth))
        hand = (0.021, 0.05, 0.032)
        parts.append(Part(frame=fore, shader=skin, kind="ellipsoid", offset=(0, -s.forearm - 0.055, 0), size=hand))
    return parts


def _bag(who: Appearance, s: Sizes, frames: dict[str, Frame]) -> list[Part]:
    bag, chest = who.outfit.bag, frames["chest"]
    leather = bag_leather(who.outfit.bag_color)
    if bag == "backpack":
        return _backpack(chest, s, leather, flat(who.outfit.bag_color, 0.82))
    sign = 1 if bag.endswith("left") else -1
    if bag.startswith("shoulder"):
        place, size = (sign * (s.pelvis + 0.055), 0.0, -0.02), (0.045, 0.09, 0.12)
        return [Part(frame=chest, shader=leather, kind="box", offset=place, size=size)]
    if bag.startswith("hand"):
        fore = frames[f"{'left' if sign > 0 else 'right'}_forearm"]
        # Hangs straight down from the hand whatever the arm does.
        return _handbag(Frame(frames["pelvis"].rotation, fore.point(0, -s.forearm - 0.09, 0)), leather)
    return []


def _backpack(chest: Frame, s: Sizes, leather: Shader, pocket: Shader) -> list[Part]:
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
            shader=pocket,
            length=0.2 * s.torso,
            offset=(0, 0.32 * s.torso, -0.7 * s.chest - 0.13),
            bottom=0.1,
            top=0.09,
            depth=0.5,
            caps=(0.35, 0.35),
        ),
    ]


def _handbag(hang: Frame, leather: Shader) -> list[Part]:
    body = Part(frame=hang, shader=leather, kind="box", offset=(0, -0.19, 0), size=(0.045, 0.12, 0.14))
    grip = Part(
        frame=hang, shader=leather, offset=(0, -0.09, 0), length=0.1, bottom=0.02, top=0.008, depth=3.0, caps=(0, 0)
    )
    return [body, grip]
