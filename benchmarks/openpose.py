"""The `openpose` backend against controlnet-aux's detector: the same network, the same random weights, the same maps.

CPU seconds of one thread, best of some rounds, both sides in turn.
  whole path    a 128x64 crop to people: `OpenposeDetector` at its defaults (it makes 1024x512 of the crop, one image at
                a time) against batches of `OpenPose` (bfloat16 where the processor has it; float32 beside it)
  decoding      everything but the network, from one fixed set of maps of 1 to 3 overlapping people: at its defaults,
                and at equal scale (128x64 maps on both sides)
  people        person for person on the same maps at the same scale
  tiny          `openpose-tiny` from decoded crops, if its built-in weights are there
Where there is a GPU, first the whole path there, by the clock: the peer's one crop at a time against batches of ours.
With random weights hardly a joint is found, so the whole path holds next to no assembly of people; decoding does.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import torch
from PIL import Image

from benchmarks.machine import machine
from benchmarks.pose_maps import (
    HEIGHT,
    WIDTH,
    GivenMaps,
    Peer,
    controlnet_aux_body,
    controlnet_aux_people,
    crowd_maps,
    pair_people,
)
from datasets.poses.backends import OPENPOSE_TINY
from datasets.poses.openpose.estimator import OpenPose, load_openpose
from datasets.poses.openpose.weights import network_class
from datasets.poses.tiny.estimator import TinyPoseEstimator
from datasets.runtime.hashing import file_sha256

CROPS = 16
"""Images of our whole path: one batch."""
GPU_CROPS, GPU_BATCH = 512, 128
"""The same on a GPU."""
MAPS = 48
PEER_MAPS = 6
"""Of the fixed set, decoded by the peer at its default size, about a second each."""


def best(work: Callable[[], object], count: int, rounds: int, clock: Callable[[], float] = time.process_time) -> float:
    """Seconds per image, of the CPU if no other clock is given: the fastest of some rounds over `count` images."""
    seconds = []
    for _ in range(rounds):
        started = clock()
        work()
        seconds.append((clock() - started) / count)
    return min(seconds)


def crops(count: int) -> list[np.ndarray]:
    """Blurred noise, (128, 64, 3) uint8: the network takes as long over anything."""
    rng = np.random.default_rng(0)
    return [cv2.resize(rng.integers(0, 256, (16, 8, 3), np.uint8), (WIDTH, HEIGHT)) for _ in range(count)]


def random_weights(folder: Path) -> tuple[Path, str]:
    """A weights file as the published one is built, of seed 0, and its SHA-256."""
    torch.manual_seed(0)
    state = network_class()().state_dict()
    file = folder / "random.pth"
    torch.save({name.partition(".")[2]: value for name, value in state.items()}, file)
    return file, file_sha256(file)


def both_sides(**options: Any) -> tuple[Any, OpenPose, OpenPose]:
    """controlnet-aux's detector on the CPU, ours as it chooses and in float32; `options` as of `OpenPose`."""
    from controlnet_aux.open_pose import OpenposeDetector
    from controlnet_aux.open_pose.body import Body

    with tempfile.TemporaryDirectory(prefix="benchmark-openpose-") as folder:
        weights, sha256 = random_weights(Path(folder))
        ours = load_openpose(weights, sha256, **options)
        single = load_openpose(weights, sha256, precision="fp32", **options)
        return OpenposeDetector(Body(weights)), ours, single


def on_gpu(rounds: int, device: str = "cuda", count: int = GPU_CROPS, batch: int = GPU_BATCH) -> dict[str, Any]:
    """Milliseconds a crop by the clock, decoding and the way of pixels and people included, on both sides."""
    images = crops(count)
    detector, ours, single = both_sides(device=device, batch_size=batch)
    detector.body_estimation.to(device)
    picture = Image.fromarray(images[0])
    tiny = tiny_estimator(device)
    works = {
        "peer": (lambda: detector(picture), 1, 4 * rounds),
        "ours": (lambda: ours.estimate(images), count, rounds),
        "float32": (lambda: single.estimate(images), count, rounds),
        **({"tiny": (lambda: tiny.estimate(images), count, rounds)} if tiny else {}),
    }
    found: dict[str, Any] = {"device": torch.cuda.get_device_name(device) if device == "cuda" else device}
    for name, (work, of, turns) in works.items():
        work()  # the first finds its kernels
        found[f"{name}_ms"] = round(1000 * best(work, of, turns, time.perf_counter), 3)
    largest = single.maps(images[:1])[0].abs().max()
    difference = (ours.maps(images[:1])[0] - single.maps(images[:1])[0]).abs().max() / largest
    return {
        **found,
        "ratio": round(found["peer_ms"] / found["ours_ms"], 1),
        "map_difference": round(float(difference), 5),
    }


def whole_path(rounds: int) -> tuple[dict[str, float], dict[str, bool]]:
    """Milliseconds a crop of both sides, and whether both networks give the same maps."""
    images = crops(CROPS)
    detector, ours, single = both_sides()
    picture = Image.fromarray(images[0])
    seconds = {
        "peer": best(lambda: detector(picture), 1, 3 * rounds),
        "ours": best(lambda: ours.estimate(images), CROPS, rounds),
        "float32": best(lambda: single.estimate(images[:8]), 8, rounds),
    }
    peers = peer_maps(detector.body_estimation, images[0])
    heatmaps = single.maps(images[:1])[0][0].numpy()
    largest = float(np.abs(peers).max())
    differences = {
        "map_difference": float(np.abs(heatmaps - peers).max()) / largest,
        "map_difference_ours": float(np.abs(ours.maps(images[:1])[0][0].numpy() - peers).max()) / largest,
    }
    figures = {f"{name}_ms": round(1000 * value, 1) for name, value in seconds.items()}
    equal = {"float32_maps_equal_the_peers": differences["map_difference"] < 1e-5}
    return {**figures, **{name: round(value, 7) for name, value in differences.items()}}, equal


def peer_maps(body: Peer, image: np.ndarray) -> np.ndarray:
    """The 18 heatmaps (128, 64) that controlnet-aux decodes for a crop, taken where it smooths them."""
    from controlnet_aux.open_pose import body as module

    seen: list[np.ndarray] = []
    smooth = module.gaussian_filter

    def note_and_smooth(plane: np.ndarray, sigma: float) -> np.ndarray:
        seen.append(plane)
        return smooth(plane, sigma)

    with mock.patch.object(module, "gaussian_filter", note_and_smooth):
        body(np.ascontiguousarray(image[..., ::-1]))
    return np.stack(seen)


def decoding(rounds: int) -> tuple[dict[str, float], dict[str, bool]]:
    """Milliseconds an image of everything but the network, and people compared person for person."""
    heatmaps, pafs = crowd_maps(MAPS)
    blank, large = np.zeros((HEIGHT, WIDTH, 3), np.uint8), np.zeros((8 * HEIGHT, 8 * WIDTH, 3), np.uint8)
    peers = [controlnet_aux_body(GivenMaps(heatmaps[i : i + 1], pafs[i : i + 1])) for i in range(MAPS)]
    batches = [
        OpenPose(GivenMaps(heatmaps[i : i + 16], pafs[i : i + 16]), "", precision="fp32") for i in range(0, MAPS, 16)
    ]

    def ours() -> list[np.ndarray]:
        return [people for batch in batches for people in batch.estimate([blank] * 16)]

    seconds = {
        "decode": best(ours, MAPS, 3 * rounds),
        "peer_decode_equal_scale": best(lambda: [body(blank) for body in peers], MAPS, rounds),
        "peer_decode": best(lambda: [body(large) for body in peers[:PEER_MAPS]], PEER_MAPS, rounds),
    }
    theirs = [controlnet_aux_people(body, blank) for body in peers]
    differences = [pair_people(first, second) for first, second in zip(theirs, ours(), strict=True)]
    found = sum(map(len, theirs))
    checks = {
        "same_people_with_the_same_joints": bool(np.isfinite(differences).all()) and found > MAPS,
        "keypoints_within_half_a_pixel": max(differences) <= 0.5,
    }
    figures = {f"{name}_ms": round(1000 * value, 2) for name, value in seconds.items()}
    return {**figures, "max_keypoint_difference_px": round(max(differences), 4), "people": found}, checks


def tiny_estimator(device: str = "cpu") -> TinyPoseEstimator | None:
    """The built-in small network; None without its weights."""
    weights = OPENPOSE_TINY.weights
    return TinyPoseEstimator(weights, device=device) if weights is not None and weights.is_file() else None


def tiny_images_per_s(rounds: int) -> int | None:
    """Crops a second of the built-in small network on one core, from decoded arrays; None without its weights."""
    estimator, images = tiny_estimator(), crops(512)
    if estimator is None:
        return None
    estimator.estimate(images[:64])
    return round(1 / best(lambda: estimator.estimate(images), len(images), rounds))


def measure(rounds: int) -> dict[str, Any]:
    """All figures, as the last line prints them; those of the GPU are printed as soon as they are known, too."""
    there = on_gpu(rounds) if torch.cuda.is_available() else None
    if there:
        print(f"a 128x64 crop on {there['device']}, milliseconds: {there}", flush=True)
    whole, equal = whole_path(rounds)
    decoded, checks = decoding(rounds)
    return {
        "benchmark": "openpose",
        "ratio": round(whole["peer_ms"] / whole["ours_ms"], 2),
        "ratio_float32": round(whole["peer_ms"] / whole["float32_ms"], 2),
        "decode_ratio": round(decoded["peer_decode_ms"] / decoded["decode_ms"], 1),
        "decode_ratio_equal_scale": round(decoded["peer_decode_equal_scale_ms"] / decoded["decode_ms"], 2),
        "max_keypoint_difference_px": decoded["max_keypoint_difference_px"],
        "tiny_images_per_s": tiny_images_per_s(rounds),
        **{name: value for name, value in {**whole, **decoded}.items() if name != "max_keypoint_difference_px"},
        "gpu": there,
        "checks": {**equal, **checks},
        "machine": machine("torch", "controlnet-aux", "opencv-python-headless"),
    }


def main(rounds: int = 2) -> int:
    """Print the figures, and as the last line all of them as JSON; returns 1 if a check fails."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    result = measure(rounds)
    print("a 128x64 crop, CPU milliseconds of one thread")
    print(
        f"  whole path   controlnet-aux {result['peer_ms']:8.1f}  ours {result['ours_ms']:7.1f}"
        f"  (float32 {result['float32_ms']:.1f}): {result['ratio']:.1f}x (goal 6)"
    )
    print(
        f"  decoding     its defaults   {result['peer_decode_ms']:8.1f}  ours {result['decode_ms']:7.2f}"
        f": {result['decode_ratio']:.0f}x (goal 20)"
    )
    print(
        f"               equal scale    {result['peer_decode_equal_scale_ms']:8.1f}  ours {result['decode_ms']:7.2f}"
        f": {result['decode_ratio_equal_scale']:.1f}x (goal 3)"
    )
    print(f"  {result['people']} people on {MAPS} maps, joints at most {result['max_keypoint_difference_px']} px apart")
    tiny = result["tiny_images_per_s"]
    print(f"  openpose-tiny {f'{tiny} crops/s (goal 300)' if tiny else 'has no built-in weights yet'}")
    for name, passed in result["checks"].items():
        print(f"  {'yes' if passed else 'NO '} {name.replace('_', ' ')}")
    print(json.dumps(result))
    return 0 if all(result["checks"].values()) else 1
