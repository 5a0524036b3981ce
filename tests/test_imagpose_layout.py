"""Canvases for sampling: where views lie, which request fits, what each slot shows, whose noise it starts from."""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.poses.skeleton import draw_skeleton, missing_keypoints
from datasets.runtime.errors import InputError
from imagpose.canvas.layout import (
    MODES,
    Canvases,
    CanvasRequest,
    SourceFeatures,
    SourceImage,
    arrange,
    canvas_seed,
    check_request,
    generators_past_noise,
    lay_out,
)
from imagpose.canvas.view_grid import join_views, pack_views, split_views, unpack_views, view_map

SIZE = HEIGHT, WIDTH = 32, 16
LATENTS, TOKENS = (4, 8, 4), (5, 20)
CPU = torch.device("cpu")


# The grid.


def test_views_lie_on_the_canvas_in_reading_order() -> None:
    views = torch.arange(4.0)[None, :, None, None, None].expand(1, 4, 1, 2, 3)
    canvas = pack_views(views)[0, 0]
    assert canvas[:2, :3].eq(0).all() and canvas[:2, 3:].eq(1).all()
    assert canvas[2:, :3].eq(2).all() and canvas[2:, 3:].eq(3).all()
    assert torch.equal(view_map(torch.arange(4.0)[None], 2, 3)[0, 0], canvas)


def test_packing_and_unpacking_views_is_the_identity() -> None:
    views = torch.randn(3, 4, 5, 6, 2)
    assert torch.equal(unpack_views(pack_views(views)), views)
    canvas = torch.randn(3, 5, 12, 4)
    assert torch.equal(join_views(split_views(canvas)), canvas)


@pytest.mark.parametrize("shape", [(3, 3, 5, 6, 2), (3, 5, 5, 6, 2), (4, 5, 6, 2)])
def test_a_canvas_has_four_views(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"expected \(B, 4, C, h, w\), got \({shape[0]}, {shape[1]}, "):
        pack_views(torch.zeros(shape))


@pytest.mark.parametrize("sides", [(7, 4), (6, 5), (7, 5)])
def test_a_canvas_has_even_sides(sides: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"even sides, got \(1, 2, {sides[0]}, {sides[1]}\)"):
        unpack_views(torch.zeros(1, 2, *sides))


def test_a_map_of_views_is_float32_with_one_channel() -> None:
    found = view_map(torch.tensor([[True, False, False, True], [False, False, True, False]]), 2, 3)
    assert found.dtype == torch.float32 and found.shape == (2, 1, 4, 6)
    assert found[0, 0, ::2, ::3].tolist() == [[1, 0], [0, 1]] and found[1, 0, ::2, ::3].tolist() == [[0, 0], [1, 0]]


# Scenarios.

FITTING = {
    "T1": {(1, 1)},
    "T2": {(1, 1)},
    "T3": {(2, 1), (3, 1)},
    "IMAGPose*": {(1, 3)},
    "free": {(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (3, 1)},
}


@pytest.mark.parametrize("mode", MODES)
def test_a_scenario_takes_its_numbers_of_sources_and_poses_and_no_others(mode: Any) -> None:
    for sources, poses in itertools.product(range(6), range(6)):
        if (sources, poses) in FITTING[mode]:
            layout = arrange(sources, poses, mode)
            assert len(layout.sources) + len(layout.poses) == 4
            assert set(layout.sources) == {*range(sources)} and set(layout.poses) == {*range(poses)}
        else:
            with pytest.raises(InputError):
                arrange(sources, poses, mode)


@pytest.mark.parametrize(
    ("sources", "poses", "mode", "message"),
    [
        (1, 1, "T9", "mode 'T9' is unknown; known: T1, T2, T3, "),
        (0, 1, "free", "a canvas takes 1 to 3 source images, got 0"),
        (4, 1, "free", "a canvas takes 1 to 3 source images, got 4"),
        (1, 0, "free", "a canvas takes 1 to 3 target poses, got 0"),
        (1, 4, "free", "a canvas takes 1 to 3 target poses, got 4"),
        (2, 3, "free", "2 sources and 3 poses do not fit a canvas of 4 views; leave some out"),
        (2, 1, "T1", "T1 takes one source and one pose, got 2 and 1"),
        (1, 2, "T2", "T2 takes one source and one pose, got 1 and 2"),
        (1, 1, "T3", "T3 takes two or three sources and one pose, got 1 and 1"),
        (2, 2, "T3", "T3 takes two or three sources and one pose, got 2 and 2"),
        (1, 2, "IMAGPose*", r"IMAGPose\* takes one source and three poses, got 1 and 2"),
    ],
)
def test_numbers_that_do_not_fit_are_told_with_the_rule(sources: int, poses: int, mode: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        arrange(sources, poses, mode)


def test_slots_are_sources_first_then_poses_which_repeat() -> None:
    assert (arrange(1, 1).sources, arrange(1, 1).poses) == ((0,), (0, 0, 0))
    assert (arrange(1, 2).sources, arrange(1, 2).poses) == ((0,), (0, 1, 0))
    assert (arrange(2, 2).sources, arrange(2, 2).poses) == ((0, 1), (0, 1))
    assert (arrange(1, 1, "T2").sources, arrange(1, 1, "T2").poses) == ((0, 0, 0), (0,))


# Requests.


def pose(seed: int) -> np.ndarray:
    keypoints = np.random.default_rng(seed).uniform(1, 15, (18, 3)).astype(np.float32)
    keypoints[:, 2] = 1
    return keypoints


def pose_at(x: float, y: float) -> np.ndarray:
    """A skeleton of one joint."""
    keypoints = missing_keypoints()
    keypoints[3] = x, y, 1
    return keypoints


def source(seed: int, latents: tuple[int, ...] = LATENTS) -> SourceFeatures:
    draws = torch.Generator().manual_seed(seed)
    values, tokens = (torch.randn(shape, generator=draws) for shape in (latents, TOKENS))
    return SourceFeatures(latents=values, tokens=tokens, keypoints=pose(seed))


def request(source_count: int = 1, pose_count: int = 1, seed: int = 1, **fields: Any) -> CanvasRequest:
    sources = [source(10 * seed + i) for i in range(source_count)]
    poses = [pose(100 * seed + i) for i in range(pose_count)]
    return CanvasRequest(**{"sources": sources, "poses": poses, "seed": seed} | fields)


def photograph(width: int, height: int) -> SourceImage:
    return SourceImage(image=Image.new("RGB", (width, height)))


@pytest.mark.parametrize(
    "fitting",
    [
        request(2, 2),
        request(1, 3, keep=[0, 2], mode="IMAGPose*"),
        request(keep=[1, 2]),  # one pose, but three views that show it
        request(keep=[]),
        request(1, 3, keep=[2, 0, 1]),
        request(poses=[pose_at(3, 3)]),
        request(sources=[photograph(WIDTH, HEIGHT)]),
    ],
)
def test_a_request_that_fits_passes(fitting: CanvasRequest) -> None:
    check_request(fitting, SIZE)


@pytest.mark.parametrize(("x", "y"), [(-0.5, 5), (5, -0.5), (WIDTH - 0.5, 5), (5, HEIGHT - 0.5)])
def test_a_joint_on_the_very_edge_of_the_view_is_inside_and_one_beyond_is_not(x: float, y: float) -> None:
    check_request(request(poses=[pose_at(x, y)]), SIZE)
    outside = [value if value == 5 else value + np.sign(value) * 0.01 for value in (x, y)]
    with pytest.raises(InputError, match="has no joint inside the 32x16 view"):
        check_request(request(poses=[pose_at(*outside)]), SIZE)


@pytest.mark.parametrize(
    ("unfit", "message"),
    [
        (request(2, 3), "2 sources and 3 poses do not fit"),
        (request(mode="T3"), "T3 takes two or three sources"),
        (request(sources=[photograph(WIDTH, 64)]), r"a source is 64x16 pixels .* views are 32x16; resize or crop it"),
        (request(sources=[photograph(24, HEIGHT)]), r"a source is 32x24 pixels .* views are 32x16; resize or crop it"),
        (
            request(sources=[SourceImage(image=Image.new("RGB", (WIDTH, HEIGHT)), keypoints=np.zeros((17, 3)))]),
            r"^a source's keypoints: expected 18 rows of x, y, score, got shape \(17, 3\)",
        ),
        (
            request(
                sources=[
                    SourceFeatures(latents=torch.zeros(LATENTS), tokens=torch.zeros(TOKENS), keypoints=np.zeros(54))
                ]
            ),
            r"^a source's keypoints: expected 18 rows of x, y, score, got shape \(54,\)",
        ),
        (request(poses=[pose(1), np.zeros((18, 2))]), r"^a target pose: expected 18 rows .* got shape \(18, 2\)"),
        (request(poses=[pose(1), missing_keypoints()]), "^a target pose has no joint inside the 32x16 view"),
        (request(keep=[0, 3]), r"^keep names views \[0, 3\], but this canvas generates 3"),
        (request(keep=[-1]), r"^keep names views \[-1\], but this canvas generates 3"),
    ],
)
def test_a_request_that_does_not_fit_is_told_what_and_why(unfit: CanvasRequest, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_request(unfit, SIZE)


# What lies on a canvas.


def laid_out(*requests: CanvasRequest, device: torch.device = CPU, dtype: torch.dtype = torch.float32) -> Canvases:
    return lay_out(requests, [list(one.sources) for one in requests], SIZE, device, dtype)


def skeleton(keypoints: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(draw_skeleton(keypoints, *SIZE)).permute(2, 0, 1) / 255


def test_every_slot_shows_its_source_or_asks_for_its_pose() -> None:
    requests = [request(2, 2, seed=5), request(1, 3, seed=6), request(1, 1, seed=7, mode="T2")]
    canvases = laid_out(*requests)
    (a, b), (c,), (d,) = (list(one.sources) for one in requests)
    assert canvases.layouts == [arrange(2, 2), arrange(1, 3), arrange(1, 1, "T2")] and canvases.seeds == (5, 6, 7)
    assert canvases.keep_image is None and canvases.keep_texture is None
    shown = [[a, b, None, None], [c, None, None, None], [d, d, d, None]]
    asked = [[None, None, 0, 1], [None, 0, 1, 2], [None, None, None, 0]]
    known, visible, skeletons = (unpack_views(part) for part in (canvases.known, canvases.visible, canvases.skeletons))
    assert canvases.visible.dtype == torch.bool and canvases.visible.shape == (3, 1, 16, 8)
    for canvas, slot in itertools.product(range(3), range(4)):
        seen, number = shown[canvas][slot], asked[canvas][slot]
        assert torch.equal(known[canvas, slot], torch.zeros(LATENTS) if seen is None else seen.latents)
        assert visible[canvas, slot].eq(seen is not None).all()
        drawn = requests[canvas].poses[number] if seen is None else seen.keypoints
        assert torch.equal(skeletons[canvas, slot], skeleton(drawn))
    assert torch.equal(canvases.image_tokens, torch.stack([a.tokens, c.tokens, d.tokens]))
    assert torch.equal(canvases.source_latents, torch.stack([a.latents, c.latents, d.latents]))


def test_the_networks_inputs_have_its_type_and_the_samplers_stay_float32() -> None:
    half = SourceFeatures(latents=source(1).latents.half(), tokens=source(1).tokens.half(), keypoints=pose(1))
    canvases = laid_out(request(sources=[half]), dtype=torch.bfloat16)
    given = (canvases.skeletons, canvases.image_tokens, canvases.source_latents)
    assert {tensor.dtype for tensor in given} == {torch.bfloat16}
    assert canvases.known.dtype == canvases.noise.dtype == torch.float32


def test_all_of_a_canvas_is_on_the_samplers_device() -> None:
    found = vars(laid_out(request(), device=torch.device("meta"))).values()
    assert {tensor.device.type for tensor in found if isinstance(tensor, torch.Tensor)} == {"meta"}


def test_views_of_several_sizes_are_refused_in_one_batch() -> None:
    other = (4, 12, 4)
    for requests in (
        [request(), request(sources=[source(2, other)])],
        [request(sources=[source(1), source(2, other)])],
    ):
        with pytest.raises(InputError, match=r"^the canvases of a batch have views of different sizes"):
            laid_out(*requests)


def test_a_request_whose_sources_are_not_encoded_is_not_left_out() -> None:
    with pytest.raises(ValueError, match="shorter"):
        lay_out([request(), request()], [[source(1)]], SIZE, CPU, torch.float32)


# Noise.


def test_a_canvas_starts_from_the_noise_of_its_own_seed_and_its_generator_goes_on_from_there() -> None:
    canvases = laid_out(request(seed=3), request(seed=8))
    for noise, generator, seed in zip(canvases.noise, generators_past_noise(canvases), (3, 8), strict=True):
        alone = torch.Generator().manual_seed(seed)
        assert torch.equal(noise, torch.randn(4, 16, 8, generator=alone))
        assert torch.equal(torch.randn(5, generator=generator), torch.randn(5, generator=alone))


def test_the_seed_of_a_canvas_comes_from_the_runs_seed_and_its_number_alone() -> None:
    assert canvas_seed(3, 7) == int(hashlib.sha256(b"imagpose canvas 3 7").hexdigest()[:16], 16) // 2
    assert len({canvas_seed(seed, canvas) for seed in range(20) for canvas in range(20)}) == 400
    assert max(canvas_seed(0, canvas) for canvas in range(100)) < 2**63
