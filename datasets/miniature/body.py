"""How a person is built and moves: proportions, gait, gestures, and the skeleton and joints that they give.

Body coordinates are meters: x to the person's left, y up from the ground, z to the front. Yaw 0 faces the camera, 90
faces the right edge of the picture (the camera sees the person's right side), 180 turns the back. Angles are degrees.
Knows nothing of clothes (`dress`) and cameras (`scenes`).
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from datasets.miniature.appearance import Appearance
from datasets.miniature.raycasting import Frame

JOINTS = (
    "nose",
    "neck",
    "right_shoulder",
    "right_elbow",
    "right_wrist",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
    "right_hip",
    "right_knee",
    "right_ankle",
    "left_hip",
    "left_knee",
    "left_ankle",
    "right_eye",
    "left_eye",
    "right_ear",
    "left_ear",
)
"""OpenPose's COCO-18 order; right and left are the person's own."""

Arm = tuple[float, float, float, float]
"""Upper arm forward, upper arm out, elbow bend, forearm in: degrees."""
GESTURES: dict[str, Arm] = {
    "swing": (0, 9, 14, 4),
    "down": (3, 8, 8, 2),
    "hold": (18, 11, 88, 38),
    "phone": (38, 22, 128, 8),
    "strap": (22, 10, 128, 12),
    "pocket": (-16, 15, 38, 10),
    "carry": (2, 11, 6, 0),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Motion:
    """A pose as few numbers, in degrees; draws the same pose on any person."""

    yaw: float
    """0 faces the camera, 90 the right edge of the picture, 180 away; any real number."""
    phase: float
    """Of the gait, 0 to 360: at 0 the person's right leg is foremost."""
    stride: float
    """0 stands, 1 walks with legs +-25 degrees."""
    lean: float
    head_yaw: float
    """Relative to the chest, positive to the person's left."""
    head_pitch: float
    """Positive looks down."""
    right_arm: Arm
    left_arm: Arm
    """As in GESTURES."""
    right_swing: float
    left_swing: float
    """Share of the gait's arm swing, 0 to 1.3."""


def _rx(degrees: float) -> np.ndarray:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def turn_about_y(degrees: float) -> np.ndarray:
    """Rotation (3, 3) that turns z towards x."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def _direction(forward: float, out: float) -> np.ndarray:
    """Unit vector of a hanging limb turned `forward` (+z) and `out` (+x) degrees."""
    f, o = math.radians(forward), math.radians(out)
    return np.array([math.sin(o), -math.cos(o) * math.cos(f), math.cos(o) * math.sin(f)])


def aim_bone(origin: np.ndarray, direction: np.ndarray) -> Frame:
    """Place a limb's frame at its upper joint: -y runs along the limb, x stays as near to the body's left as it can."""
    y = -direction
    x = np.array([1.0, 0.0, 0.0]) - y[0] * y
    x /= math.sqrt(x @ x)
    z = np.array([x[1] * y[2] - x[2] * y[1], x[2] * y[0] - x[0] * y[2], x[0] * y[1] - x[1] * y[0]])
    return Frame(np.stack([x, y, z], axis=1), origin)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Lengths and radii of one body in meters."""

    hip_height: float
    thigh: float
    shin: float
    ankle: float
    torso: float
    upper_arm: float
    forearm: float
    head: float
    shoulder_half: float
    hip_half: float
    chest: float
    waist: float
    pelvis: float
    limb: float


def body_sizes(who: Appearance) -> Sizes:
    """Proportions of an adult (near Drillis and Contini's fractions of height), varied by the person's factors."""
    h, build = who.height, who.build
    hip = who.leg_ratio * h
    ankle = 0.042 * h
    soft = 0.94 if who.feminine else 1.0
    return Sizes(
        hip_height=hip,
        thigh=(hip - ankle) * 0.505,
        shin=(hip - ankle) * 0.495,
        ankle=ankle,
        torso=0.822 * h - hip,
        upper_arm=0.172 * h,
        forearm=0.152 * h,
        head=0.066 * h + 0.004,
        shoulder_half=0.104 * h * who.shoulders * (0.6 + 0.4 * build),
        hip_half=0.053 * h * who.hips,
        chest=0.158 * build * (0.93 if who.feminine else 1.03),
        waist=0.134 * build * soft,
        pelvis=0.162 * build * who.hips,
        limb=build * soft,
    )


def suit_motion(motion: Motion, who: Appearance) -> Motion:
    """Adapt the motion to the clothes: a hand with a bag hangs and hardly swings, narrow skirts shorten the step.

    Separate from posing, which must give the same pose on everybody.
    """
    outfit, changes = who.outfit, {}
    for side in ("right", "left"):
        if outfit.bag == f"hand-{side}":
            changes |= {f"{side}_arm": GESTURES["carry"], f"{side}_swing": 0.3}
    if outfit.lower_style == "skirt":
        changes["stride"] = round(motion.stride * (0.75 if outfit.lower_length > 0.35 else 0.9), 3)
    return dataclasses.replace(motion, **changes)


def _gait(motion: Motion, offset: float) -> tuple[float, float, float]:
    """Hip flexion, knee bend and shoulder swing (degrees) of the side whose cycle is shifted by `offset`."""
    p = math.radians(motion.phase + offset)
    hip = 25 * motion.stride * math.cos(p) + 3 * motion.stride
    swing_phase = max(0.0, math.sin(p - math.pi + 0.2))  # from toe-off until the leg is in front again
    knee = 5 + 50 * motion.stride * swing_phase**1.3
    return hip, knee, -24 * motion.stride * math.cos(p)


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """Bones in body coordinates, hips at the origin; `lift`: meters by which standing on the ground raises them."""

    frames: dict[str, Frame]
    sizes: Sizes
    lift: float


def _leg(side: str, sign: int, motion: Motion, sizes: Sizes, pelvis: Frame) -> dict[str, Frame]:
    hip, knee, _ = _gait(motion, 0 if side == "right" else 180)
    joint = pelvis.point(sign * sizes.hip_half, 0, 0)
    thigh = aim_bone(joint, _direction(hip, sign * (1.5 + 2.5 * (1 - min(motion.stride, 1)))))
    shin = aim_bone(thigh.point(0, -sizes.thigh, 0), _direction(hip - knee, sign * 0.5))
    ankle = shin.point(0, -sizes.shin, 0)
    tilt = max(-65.0, min(20.0, (hip - knee) * 0.75 + (6 * motion.stride if hip > 15 else 0)))
    foot = aim_bone(ankle, _direction(90 + tilt, sign * 7))
    return {f"{side}_thigh": thigh, f"{side}_shin": shin, f"{side}_foot": foot}


def _arm(side: str, sign: int, motion: Motion, sizes: Sizes, chest: Frame) -> dict[str, Frame]:
    forward, out, elbow, inward = motion.right_arm if side == "right" else motion.left_arm
    share = motion.right_swing if side == "right" else motion.left_swing
    swing = _gait(motion, 0 if side == "right" else 180)[2] * share
    elbow += max(0.0, swing) * 0.9
    shoulder = chest.point(sign * sizes.shoulder_half, sizes.torso, 0)
    upper = aim_bone(shoulder, chest.rotation @ _direction(forward + swing, sign * out))
    fore = aim_bone(
        upper.point(0, -sizes.upper_arm, 0),
        chest.rotation @ _direction(forward + swing + elbow, sign * (out * 0.7 - inward)),
    )
    return {f"{side}_upper_arm": upper, f"{side}_forearm": fore}


def pose_skeleton(who: Appearance, motion: Motion) -> Skeleton:
    """Pose a person's bones; keys of `frames`: pelvis, chest, neck, head and, with a side, the limbs'."""
    sizes = body_sizes(who)
    cosine = math.cos(math.radians(motion.phase))
    twist = 6 * motion.stride * cosine  # the hip of the leading leg goes forward, the chest turns against it
    pelvis = Frame(turn_about_y(twist), np.zeros(3))
    frames = {"pelvis": pelvis}
    for side, sign in (("right", -1), ("left", 1)):
        frames |= _leg(side, sign, motion, sizes, pelvis)
    chest = Frame(turn_about_y(-twist) @ _rx(motion.lean), np.zeros(3))
    for side, sign in (("right", -1), ("left", 1)):
        frames |= _arm(side, sign, motion, sizes, chest)
    neck = chest.point(0, sizes.torso, 0)
    turned = turn_about_y(motion.head_yaw - 0.5 * twist) @ _rx(motion.lean * 0.4 + motion.head_pitch)
    head_center = neck + turned @ np.array([0, 0.100 * who.height - 0.012, 0.018])
    frames |= {"chest": chest, "head": Frame(turned, head_center), "neck": Frame(chest.rotation, neck)}
    # The lower foot stands on the ground: the sole is `ankle` below the ankle, the toe may be lower still.
    lows = [
        min(frames[f"{s}_foot"].origin[1], frames[f"{s}_foot"].point(0, -0.17, 0)[1] + 0.015) for s in ("right", "left")
    ]
    return Skeleton(frames, sizes, sizes.ankle - min(lows))


def skeleton_joints(skeleton: Skeleton) -> np.ndarray:
    """The joints of JOINTS, (18, 3) meters, before the lift."""
    f, s = skeleton.frames, skeleton.sizes
    r = s.head
    points = {"neck": f["neck"].origin, "nose": f["head"].point(0, -0.15 * r, 0.9 * r)}
    for side, sign in (("right", -1), ("left", 1)):
        points[f"{side}_shoulder"] = f[f"{side}_upper_arm"].origin
        points[f"{side}_elbow"] = f[f"{side}_forearm"].origin
        points[f"{side}_wrist"] = f[f"{side}_forearm"].point(0, -s.forearm, 0)
        points[f"{side}_hip"] = f[f"{side}_thigh"].origin
        points[f"{side}_knee"] = f[f"{side}_shin"].origin
        points[f"{side}_ankle"] = f[f"{side}_foot"].origin
        points[f"{side}_eye"] = f["head"].point(sign * 0.30 * r, 0.14 * r, 0.78 * r)
        points[f"{side}_ear"] = f["head"].point(sign * 0.70 * r, 0.0, -0.05 * r)
    return np.stack([points[name] for name in JOINTS])
