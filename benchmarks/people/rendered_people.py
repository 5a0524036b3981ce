"""People whom no generator has seen, rendered for a measurement: pictures, skeletons, and where the person is.

Each picture is drawn by itself, with its own pose, camera, place and light: two pictures of a person have nothing in
common but the person, so that whoever recognizes them recognizes clothes and body, not a wall.
"""

from __future__ import annotations

import dataclasses
import logging

import numpy as np

from datasets.miniature.appearance import Appearance
from datasets.miniature.cameras import Camera
from datasets.miniature.figures import CAMERAS, render_person, sample_appearance, sample_motion, sample_shot
from datasets.miniature.render import encode_jpeg
from datasets.runtime.progress import Progress
from datasets.sources.pictures import decode_pixels

logger = logging.getLogger(__name__)

ROLES = ("judge", "source", "target")
"""What a picture is for; part of its seed, so that a longer training of the judge leaves sources and targets alone."""


@dataclasses.dataclass(frozen=True)
class People:
    """Pictures of P people, K of each."""

    pictures: np.ndarray
    """(P, K, H, W, 3) uint8 RGB."""
    keypoints: np.ndarray
    """(P, K, 18, 3): x, y in pixels, score; missing ones are NaN."""
    covers: np.ndarray
    """(P, K, H, W) uint8: share of a pixel that the person fills, of 255."""
    yaws: np.ndarray
    """(P, K) degrees that the person is turned away from the camera."""


def render_people(seed: int, identities: int, images: int, role: str, size: tuple[int, int]) -> People:
    """Draw `images` pictures of each of `identities` people, cameras in turn, as a rendered data set holds them (JPEG).

    Targets show the person alone: what would stand in front of or behind them, nobody could know from a source.

    Args:
        role: a member of ROLES.
        size: (height, width).
    """
    progress = Progress(logger, f"render {role} pictures", identities * images, "images")
    rows = []
    for person in range(identities):
        who = sample_appearance(np.random.default_rng([seed, person]))
        for number in range(images):
            rng = np.random.default_rng([seed, person, ROLES.index(role), number])
            rows.append(_picture(who, rng, CAMERAS[(person + number) % len(CAMERAS)], role == "target", size))
            progress.update()
    return People(
        *(np.stack(column).reshape(identities, images, *np.shape(column[0])) for column in zip(*rows, strict=True))
    )


def _picture(
    who: Appearance, rng: np.random.Generator, camera: Camera, alone: bool, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    motion, shot = sample_motion(rng, camera, who), sample_shot(rng, camera)
    if alone:
        shot = dataclasses.replace(shot, occluder=None, companion=False)
    drawn = render_person(who, motion, camera, height=size[0], width=size[1], shot=shot)
    jpeg = encode_jpeg(drawn.image, shot.seed)
    picture = decode_pixels(jpeg)
    return picture, drawn.keypoints, (drawn.cover * 255).round().astype(np.uint8), motion.yaw
