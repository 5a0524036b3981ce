"""Maps as OpenPose's network would give for crowded crops: people in natural poses, overlapping, faint, noisy.

The network's real outputs would need its weights (209 MB); what a decoder has to do depends on peaks, fields, noise and
crowding, and those are here. Also: what controlnet-aux's decoder makes of given maps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from datasets.miniature.appearance import sample_appearance
from datasets.miniature.body import pose_skeleton, skeleton_joints, turn_about_y
from datasets.miniature.cameras import CAMERAS
from datasets.miniature.figures import sample_motion
from datasets.poses.openpose.decoding import PAF_CHANNELS, PAF_LIMBS
from datasets.poses.skeleton import JOINT_COUNT, missing_keypoints

HEIGHT, WIDTH = 128, 64
"""Of the crop, pixels."""
INPUT_SCALE = 184 / HEIGHT
"""Pixels of the network's input per pixel of the crop."""
CELLS = (23, 12)
"""Rows and columns of the network's output, 8 pixels of its input each."""
SIGMA, LIMB_HALF_WIDTH = 7.0, 8.0  # pixels of the network's input, as OpenPose was trained
NOISE = 0.02


def random_person(rng: np.random.Generator, *, middle: bool) -> np.ndarray:
    """(18, 3) in the crop's pixels: seen from one side, a few joints hidden; not in the middle: shifted and smaller."""
    who = sample_appearance(rng)
    motion = sample_motion(rng, CAMERAS[rng.integers(len(CAMERAS))], who)
    joints = skeleton_joints(pose_skeleton(who, motion)) @ turn_about_y(motion.yaw).T
    tall = 112 * (1 if middle else rng.uniform(0.6, 1))
    scale = tall / np.ptp(joints[:, 1])
    x = joints[:, 0] * scale + WIDTH / 2 + (0 if middle else rng.uniform(-26, 26))
    y = HEIGHT - 8 - (joints[:, 1] - joints[:, 1].min()) * scale - (0 if middle else rng.uniform(-10, 10))
    person = np.stack([x, y, rng.uniform(0.45, 1, JOINT_COUNT)], 1).astype(np.float32)
    outside = (x < 0) | (y < 0) | (x > WIDTH - 1) | (y > HEIGHT - 1)
    person[outside | (rng.random(JOINT_COUNT) < 0.1)] = missing_keypoints()[0]
    return person


def crowd_maps(images: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Heatmaps (B, 19, 23, 12) and fields (B, 38, 23, 12), float32, of one to three people each."""
    rng = np.random.default_rng(seed)
    found = [
        draw_maps([random_person(rng, middle=number == 0) for number in range(1 + image % 3)])
        for image in range(images)
    ]
    heatmaps, pafs = (np.stack(part) for part in zip(*found, strict=True))
    heatmaps += rng.normal(0, NOISE, heatmaps.shape)
    pafs += rng.normal(0, NOISE, pafs.shape)
    return heatmaps.astype(np.float32), pafs.astype(np.float32)


def draw_maps(people: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Maps (19, 23, 12) and (38, 23, 12) of people (18, 3) without noise, as OpenPose's training draws them."""
    rows, columns = (np.arange(count) * 8 + 3.5 for count in CELLS)
    x, y = np.meshgrid(columns, rows)
    heatmaps, pafs = np.zeros((19, *CELLS)), np.zeros((38, *CELLS))
    people_on_limb = np.zeros((38, *CELLS))
    for person in people:
        places = np.c_[(person[:, :2] + 0.5) * INPUT_SCALE - 0.5, person[:, 2]]
        for joint, (px, py, score) in enumerate(places):
            if score > 0:
                gaussian = score * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * SIGMA**2))
                heatmaps[joint] = np.maximum(heatmaps[joint], gaussian)
        for (start, end), channel in zip(PAF_LIMBS, PAF_CHANNELS, strict=True):
            if places[start, 2] > 0 and places[end, 2] > 0:
                vector, on_limb = _limb(places[start, :2], places[end, :2], x, y)
                pafs[channel : channel + 2] += vector[:, None, None] * on_limb
                people_on_limb[channel : channel + 2] += on_limb
    heatmaps[18] = 1 - heatmaps[:18].max(0)
    return heatmaps, pafs / np.maximum(people_on_limb, 1)


def _limb(start: np.ndarray, end: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A limb's unit vector and the cells that it covers."""
    length = max(float(np.linalg.norm(end - start)), 1e-3)
    vector = (end - start) / length
    along = (x - start[0]) * vector[0] + (y - start[1]) * vector[1]
    aside = np.abs((x - start[0]) * vector[1] - (y - start[1]) * vector[0])
    return vector, (along >= 0) & (along <= length) & (aside <= LIMB_HALF_WIDTH)


Peer = Callable[[np.ndarray], tuple[Any, Any]]
"""controlnet-aux's `Body`: a BGR image to candidates (N, 4) and people (P, 20)."""


class GivenMaps(torch.nn.Module):
    """In a network's place: answers with the maps that were laid down, whatever the picture."""

    def __init__(self, heatmaps: np.ndarray, pafs: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("heatmaps", torch.from_numpy(heatmaps))
        self.register_buffer("pafs", torch.from_numpy(pafs))

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Fields and heatmaps of the first images, as many as came."""
        return self.pafs[: len(pixels)], self.heatmaps[: len(pixels)]

    def parameters(self, recurse: bool = True) -> Iterator[torch.nn.Parameter]:
        """controlnet-aux asks the first one where the network is."""
        return (torch.nn.Parameter(buffer, requires_grad=False) for buffer in self.buffers(recurse))


def controlnet_aux_body(network: torch.nn.Module) -> Peer:
    """controlnet-aux's `Body` around a network."""
    from controlnet_aux.open_pose.body import Body

    body = Body.__new__(Body)  # its constructor reads a file
    body.model = network
    return body


def controlnet_aux_people(body: Peer, image: np.ndarray) -> np.ndarray:
    """People (P, 18, 3) that controlnet-aux finds in an image, in that image's pixels."""
    candidates, subset = body(image)
    people = np.broadcast_to(missing_keypoints(), (len(subset), JOINT_COUNT, 3)).copy()
    for person, row in zip(people, subset, strict=True):
        there = row[:JOINT_COUNT] >= 0
        person[there] = candidates[row[:JOINT_COUNT][there].astype(int), :3]
    return people


def pair_people(first: np.ndarray, second: np.ndarray) -> float:
    """Largest distance in pixels between two sets of people, person for person; infinite if they are not the same.

    Two people are the same if they have the same joints.
    """
    left = list(second)
    worst = 0.0 if len(first) == len(second) else np.inf
    for person in first:
        distances = [_distance(person, other) for other in left]
        if not distances or not np.isfinite(min(distances)):
            return np.inf
        worst = max(worst, min(distances))
        left.pop(int(np.argmin(distances)))
    return worst


def _distance(person: np.ndarray, other: np.ndarray) -> float:
    there = person[:, 2] > 0
    if not np.array_equal(there, other[:, 2] > 0):
        return np.inf
    return float(np.abs(person[there, :2] - other[there, :2]).max())
