"""The pose backend `openpose`: OpenPose's COCO-18 network over batches of images, decoded at the size of a small map.

controlnet-aux's detector brings its 57 maps to 1024x512 for a 128x64 crop, one image at a time, and does its work on
them with loops in Python: five sixths of its time. Here the maps are brought to `map_height` rows by one matrix product
per axis (the same interpolation), and decoded for the whole batch (pose_decoding.py). Several scales average heatmaps
*and* fields; PATN's script averages the heatmaps only, controlnet-aux's adds them up wrongly.

B images, h, w cells of the network's output (pixels of its input / 8).
"""

from __future__ import annotations

import functools
import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch

from datasets.poses.openpose.decoding import Decoding, decode_people, smoothing_matrix
from datasets.poses.openpose.weights import load_network
from datasets.poses.skeleton import JOINT_COUNT, scale_keypoints
from datasets.runtime import devices

logger = logging.getLogger(__name__)

BOX = 368
"""Rows of the network's input at scale 1, as in training."""
STRIDE = 8
_PAD_VALUE = 128

AnyPrecision = Literal["auto", "fp32", "bf16"]
Size = tuple[int, int]  # height, width


class OpenPose:
    """OpenPose as a `PoseEstimator`."""

    name = "openpose"

    def __init__(
        self,
        network: torch.nn.Module,
        weights_sha256: str,
        *,
        scales: Sequence[float] = (0.5,),
        map_height: int = 128,
        batch_size: int = 16,
        device: str | torch.device = "cpu",
        precision: AnyPrecision = "auto",
        decoding: Decoding | None = None,
    ) -> None:
        """Wrap a loaded network.

        Args:
            scales: heights of the network's input as shares of 368 rows; each costs its square.
            map_height: rows to which the maps are brought; OpenPose's smoothing (sigma 3) is in these rows. 128 is the
                height of a Market-1501 crop, so it is what the published keypoints were decoded at.
            precision: 'auto' is 'bf16' where the device computes in it, 'fp32' elsewhere.
        """
        self.weights_sha256 = weights_sha256
        self.scales, self.map_height, self.batch_size = tuple(scales), map_height, batch_size
        self.device = torch.device(device)
        self.dtype = _dtype(precision, self.device)
        self.decoding = decoding or Decoding()
        self.network = network.to(self.device, self.dtype).to(memory_format=torch.channels_last).eval()

    def estimate(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """People of each image; see `PoseEstimator`. Images of one size share batches."""
        by_size: dict[Size, list[int]] = defaultdict(list)
        for number, image in enumerate(images):
            by_size[image.shape[:2]].append(number)
        people: list[np.ndarray] = [np.empty((0, JOINT_COUNT, 3), np.float32)] * len(images)
        for size, numbers in by_size.items():
            for first in range(0, len(numbers), self.batch_size):
                batch = numbers[first : first + self.batch_size]
                heatmaps, smoothed, pafs = self.maps([images[number] for number in batch])
                rows, columns = heatmaps.shape[2:]
                found = decode_people(heatmaps, pafs, self.decoding, smoothed=smoothed)
                for number, persons in zip(batch, found, strict=True):
                    people[number] = scale_keypoints(persons, (rows, columns), size).astype(np.float32)
        return people

    @torch.inference_mode()
    def maps(self, images: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Maps of images of one size, averaged over the scales.

        Returns:
            Heatmaps (B, 18, map_height, width), the same smoothed, and fields (B, 38, map_height, width).
        """
        size = images[0].shape[:2]
        grid = (self.map_height, max(1, round(size[1] * self.map_height / size[0])))
        sigma, share = self.decoding.smoothing_sigma, 1 / len(self.scales)
        heatmaps = smoothed = pafs = torch.zeros(())
        for scale in self.scales:
            inner, pixels = network_input(images, scale)
            field, heat = self.network(pixels.to(self.device, self.dtype, memory_format=torch.channels_last))
            heat = heat[:, :JOINT_COUNT]
            heatmaps = heatmaps + enlarge(heat, inner, grid) * share
            smoothed = smoothed + enlarge(heat, inner, grid, sigma) * share
            pafs = pafs + enlarge(field, inner, grid) * share
        return heatmaps, smoothed, pafs


def load_openpose(weights: Path | None = None, weights_sha256: str | None = None, **options: Any) -> OpenPose:
    """The backend with the published weights (or others of the same network); `options` as of `OpenPose`.

    Raises:
        WeightsError: see `openpose_weights.load_network`.
    """
    network, sha256 = load_network(weights, weights_sha256)
    return OpenPose(network, sha256, **options)


def _dtype(precision: AnyPrecision, device: torch.device) -> torch.dtype:
    if precision == "auto":
        # Measured on a CPU with AVX512-BF16: 82 ms an image against 188; without it bfloat16 is emulated and slower.
        on_gpu = device.type == "cuda"
        fast = devices.multiplies_bfloat16() if on_gpu else torch.cpu._is_avx512_bf16_supported()
        precision = "bf16" if fast else "fp32"
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def network_input(images: Sequence[np.ndarray], scale: float) -> tuple[Size, torch.Tensor]:
    """Images of one size as the network wants them.

    Args:
        images: uint8 RGB (H, W, 3).
        scale: height as a share of 368 rows.

    Returns:
        (height, width) of the images proper, and float32 BGR (B, 3, height, width) in [-0.5, 0.5) with gray below and
        right of them up to multiples of 8.
    """
    height, width = images[0].shape[:2]
    factor = scale * BOX / height
    inner = (max(1, int(height * factor)), max(1, int(width * factor)))
    outer = tuple(-(-side // STRIDE) * STRIDE for side in inner)
    pixels = np.full((len(images), *outer, 3), _PAD_VALUE, np.uint8)
    method = _method(inner, (height, width))
    for place, image in zip(pixels, images, strict=True):
        place[: inner[0], : inner[1]] = cv2.resize(image[..., ::-1], inner[::-1], interpolation=method)
    return inner, torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 256 - 0.5


def enlarge(maps: torch.Tensor, inner: Size, grid: Size, sigma: float = 0.0) -> torch.Tensor:
    """Network outputs (B, C, h, w) at the cells of `grid`, padding cut away; (B, C, *grid) float32.

    Args:
        inner: (height, width) of the image proper in the network's input.
        sigma: of a Gaussian filter that follows, in cells of the grid; 0 for none.
    """
    method = _method(grid, inner)
    rows, columns = (
        enlarging_matrix(maps.shape[2 + axis], inner[axis], grid[axis], method, sigma).to(maps.device)
        for axis in (0, 1)
    )
    return rows @ (maps.float() @ columns.T)


@functools.lru_cache(maxsize=64)
def enlarging_matrix(cells: int, inner: int, target: int, method: int, sigma: float) -> torch.Tensor:
    """(target, cells): enlarging by 8, cutting at `inner`, resizing to `target` and smoothing, along one axis.

    All steps of the usual decoder are linear and separable, so a picture of the identity shows them.
    """
    enlarged = cv2.resize(np.eye(cells, dtype=np.float64), (cells, cells * STRIDE), interpolation=cv2.INTER_LANCZOS4)
    resized = cv2.resize(enlarged[:inner], (cells, target), interpolation=method).reshape(target, cells)
    matrix = torch.from_numpy(resized.astype(np.float32))
    return smoothing_matrix(target, sigma) @ matrix if sigma > 0 else matrix


def _method(target: Size, source: Size) -> int:
    return cv2.INTER_AREA if sum(target) < sum(source) else cv2.INTER_LANCZOS4
