"""From an image as it is stored to a view as the models see it: one crop box and one resize, for pixels and keypoints.

Shards hold the source's own bytes: EXIF orientation is applied wherever they are decoded, and width, height, crop and
keypoints are those of the upright image. The crop travels beside the bytes: a sample's JSON has ``"crop": [left, top,
right, bottom]`` (pixels of the upright image; right and bottom excluded) where not the whole image is the picture.
Whoever decodes a sample's image does it with `open_picture`, whoever uses its keypoints with `keypoints_in_view`.

DeepFashion In-shop comes in three forms, all of the same shots: the low-resolution originals (256x256) have margins,
and columns 40 to 215 are the picture proper (PATN's ``crop((40, 0, 216, 256))``,
https://github.com/tengteng95/Pose-Transfer); PATN's own crops (176x256) and the high-resolution release (750 wide, 1101
high) are nothing but the picture proper. A view of 256x176 or 512x352 is the picture proper, resized; so is one of
256x192 or 512x384, stretched by 9 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from datasets.poses.skeleton import missing_keypoints, present_joints, scale_keypoints
from datasets.sources.deepfashion import MARGIN, PROPER_WIDTH, SQUARE, picture_box
from datasets.sources.files import Box
from datasets.sources.pictures import decode_picture

CLEARLY = 5
"""How many times more joints must speak for one frame of a keypoint file than for the other."""


def crop_of(facts: Mapping[str, Any]) -> Box | None:
    """The crop box of a sample's JSON, None where the whole image is the picture.

    Raises:
        ValueError: a box that is none, or that reaches out of the image.
    """
    box = facts.get("crop")
    if box is None:
        return None
    if isinstance(box, Sequence) and len(box) == 4 and all(type(side) is int for side in box):
        left, top, right, bottom = box
        if 0 <= left < right <= facts["width"] and 0 <= top < bottom <= facts["height"]:
            return left, top, right, bottom
    raise ValueError(f"crop {box} is no box inside a {facts['width']}x{facts['height']} image")


def open_picture(content: bytes, facts: Mapping[str, Any]) -> Image.Image:
    """A sample's picture: decoded, upright, RGB, cropped to the picture proper, not yet resized.

    Args:
        content: the image file's bytes.
        facts: the sample's JSON.

    Raises:
        ValueError: it cannot be decoded (`datasets.sources.pictures.PictureError`), or the crop is no box in it.
    """
    image = decode_picture(content)
    box = crop_of(facts)
    return image if box is None else image.crop(box)


def keypoints_in_view(keypoints: np.ndarray, facts: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    """A sample's keypoints in pixels of its view: the same crop and resize as the picture's.

    Args:
        keypoints: (18, 3) x, y, score in pixels of the stored image.
        facts: the sample's JSON.
        size: (height, width) of the view in pixels.

    Returns:
        A new (18, 3) array; joints in the part that the crop takes away are missing.
    """
    box = crop_of(facts)
    if box is None:
        return scale_keypoints(keypoints, (facts["height"], facts["width"]), size)
    left, top, right, bottom = box
    moved = np.array(keypoints)
    moved[:, :2] -= (left, top)
    return without_joints_outside(scale_keypoints(moved, (bottom - top, right - left), size), size[1], size[0])


def without_joints_outside(keypoints: np.ndarray, width: float, height: float) -> np.ndarray:
    """A copy in which joints outside a width x height image are missing; a pixel's center is a whole number."""
    kept = np.array(keypoints)
    x, y = kept[:, 0], kept[:, 1]
    with np.errstate(invalid="ignore"):
        inside = present_joints(kept) & (x >= -0.5) & (y >= -0.5) & (x <= width - 0.5) & (y <= height - 0.5)
    kept[~inside] = missing_keypoints()[0]
    return kept


def from_deepfashion(keypoints: np.ndarray, frame: str, width: int, height: int) -> np.ndarray:
    """Keypoints of a published DeepFashion file in pixels of a stored image of the same shot.

    Args:
        keypoints: (18, 3) in the file's own frame.
        frame: 'deepfashion-256', the square originals; 'deepfashion-176', the picture proper at 176x256.
        width, height: of the stored image in pixels, in whichever of the three forms it is.

    Returns:
        A new (18, 3) array; joints outside the image are missing.
    """
    left, top, right, bottom = picture_box(width, height) or (0, 0, width, height)
    moved = np.array(keypoints)
    if frame == "deepfashion-256":
        moved[:, 0] -= MARGIN
    moved = scale_keypoints(moved, (SQUARE, PROPER_WIDTH), (bottom - top, right - left))
    moved[:, :2] += (left, top)
    return without_joints_outside(moved, width, height).astype(np.float32)


def frame_of(x: np.ndarray) -> str | None:
    """Which frame a published DeepFashion file's coordinates are in, by its joints' x; None if they do not tell.

    Of the 47,000 joints of the published test file in the square frame, 3.8 % lie at 176 or beyond and 0.02 % left of
    40; the same joints in the 176-wide frame lie at 176 or beyond to 0.02 %, and left of 40 to 4 %.
    """
    if (x >= SQUARE).any():
        return None
    right, left = int((x >= PROPER_WIDTH).sum()), int((x < MARGIN).sum())
    if right > CLEARLY * left:
        return "deepfashion-256"
    return "deepfashion-176" if left > CLEARLY * right else None


def is_of_another_frame(joints: np.ndarray, detected: str | None, width: int, height: int) -> bool:
    """Whether a DeepFashion file's joints cannot be pixels of images of this size, although they lie inside them.

    Args:
        joints: (N, 3) present joints of the whole file.
        detected: what `frame_of` says of them.
        width, height: of most of the images.
    """
    if width == height:
        return detected == "deepfashion-176"
    return len(joints) > 0 and height >= 2 * SQUARE and bool((joints[:, :2] < SQUARE).all())
