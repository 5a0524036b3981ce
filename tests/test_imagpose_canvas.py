"""Training canvases: distinct views, no copy across the mask, whole-canvas flipping."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from datasets.poses.skeleton import draw_skeleton, flip_keypoints
from imagpose.canvas.training import EMPTY, CanvasPlan, canvas_counts, make_batch, plan_batch, plan_canvas
from imagpose.canvas.view_grid import unpack_views
from imagpose.config import TrainGeneratorConfig
from imagpose.training.validation import validation_cases

CONFIG = TrainGeneratorConfig(encoded=Path("nowhere"), drop_everything=0)


CANVAS = (4, 16, 8)
"""Latents of a canvas of `RandomImages`."""


class RandomImages:
    """In the place of `EncodedImages`: people with 1, 2, 3, 4 and 9 images, each image of its own constant value."""

    view_size, latent_shape, token_shape = (32, 16), (4, 8, 4), (5, 20)

    def __init__(self, counts: tuple[int, ...] = (1, 2, 3, 4, 9)) -> None:
        self.pids = np.repeat(np.arange(len(counts)), counts)
        self.keys = [f"image{i}" for i in range(len(self.pids))]
        self.by_pid = {pid: np.flatnonzero(self.pids == pid).tolist() for pid in range(len(counts))}
        draws = np.random.default_rng(0)
        self.joints = draws.random((len(self.keys), 18, 3)).astype(np.float32) * np.array([15, 31, 1], np.float32)

    def _values(self, indices, flipped) -> Tensor:
        return torch.as_tensor(np.asarray(indices) + 1.0 + 1000 * np.asarray(flipped), dtype=torch.float32)

    def latents(self, indices, flipped) -> Tensor:
        return self._values(indices, flipped)[:, None, None, None].expand(-1, *self.latent_shape).clone()

    def tokens(self, indices, flipped) -> Tensor:
        return self._values(indices, flipped)[:, None, None].expand(-1, *self.token_shape).clone()

    def keypoints(self, index: int, flipped: bool = False) -> np.ndarray:
        return flip_keypoints(self.joints[index], 16) if flipped else self.joints[index]


def plans_of(images: list[int], count: int = 400, **fields) -> list[CanvasPlan]:
    rng = np.random.default_rng(0)
    return [plan_canvas(images, CONFIG.model_copy(update=fields), rng) for _ in range(count)]


def masked(plan: CanvasPlan) -> list[int]:
    return [slot for slot, seen in zip(plan.slots, plan.visible, strict=True) if slot != EMPTY and not seen]


def shown(plan: CanvasPlan) -> list[int]:
    return [slot for slot, seen in zip(plan.slots, plan.visible, strict=True) if seen]


def test_four_distinct_views_are_taken_where_a_person_has_them() -> None:
    for plan in plans_of(list(range(9))):
        assert len(set(plan.slots)) == 4 and EMPTY not in plan.slots


def test_one_to_four_views_are_masked_uniformly() -> None:
    counts = Counter(len(masked(plan)) for plan in plans_of(list(range(9)), 4000))
    assert sorted(counts) == [1, 2, 3, 4]
    assert all(abs(count - 1000) < 120 for count in counts.values())


@pytest.mark.parametrize(
    ("images", "bounds", "expected"),
    [
        (9, (1, 4), {1, 2, 3, 4}),
        (4, (2, 3), {2, 3}),
        (4, (4, 4), {4}),
        (3, (1, 4), {1, 2}),
        (3, (3, 4), {2}),
        (2, (1, 4), {1}),
        (2, (4, 4), {1}),
        (1, (2, 4), {1}),
    ],
)
def test_the_configured_numbers_are_masked_and_of_two_or_three_images_one_stays_visible(
    images: int, bounds: tuple[int, int], expected: set[int]
) -> None:
    plans = plans_of(list(range(images)), min_masked=bounds[0], max_masked=bounds[1])
    assert {len(masked(plan)) for plan in plans} == expected


def test_the_configured_share_of_canvases_is_flipped() -> None:
    shares = {
        share: np.mean([plan.flipped for plan in plans_of(list(range(5)), 4000, flip=share)])
        for share in (0.0, 0.3, 1.0)
    }
    assert shares == {0.0: 0, 0.3: pytest.approx(0.3, abs=0.03), 1.0: 1}


def test_the_reference_is_a_visible_view_or_a_fifth_image_or_nothing() -> None:
    for plan in plans_of(list(range(6))):
        if shown(plan):
            assert plan.reference in shown(plan)
        else:
            assert plan.reference != EMPTY and plan.reference not in plan.slots
    alone = [plan for plan in plans_of(list(range(4))) if not shown(plan)]
    assert alone and all(plan.reference == EMPTY and not plan.keep_image and not plan.keep_texture for plan in alone)


@pytest.mark.parametrize("images", [2, 3])
def test_few_images_leave_empty_slots_and_never_a_copy(images: int) -> None:
    for plan in plans_of(list(range(images))):
        filled = [slot for slot in plan.slots if slot != EMPTY]
        assert sorted(filled) == list(range(images))
        assert shown(plan) and masked(plan)
        assert not any(seen for slot, seen in zip(plan.slots, plan.visible, strict=True) if slot == EMPTY)


def test_a_person_with_one_image_trains_reconstruction() -> None:
    for plan in plans_of([7], 20):
        assert masked(plan) == [7] and shown(plan) == [] and plan.reference == 7


def test_conditions_are_dropped_in_the_configured_shares() -> None:
    plans = plans_of(list(range(9)), 4000, drop_image_tokens=0.1, drop_texture_tokens=0.2, drop_both=0.3)
    counts = Counter((plan.keep_image, plan.keep_texture) for plan in plans)
    shares = {kept: count / 4000 for kept, count in counts.items()}
    expected = {(False, True): 0.1, (True, False): 0.2, (False, False): 0.3, (True, True): 0.4}
    assert shares == pytest.approx(expected, abs=0.03)


def test_some_canvases_show_the_poses_alone_as_the_unconditional_half_of_guidance_sees_them() -> None:
    plans = plans_of(list(range(9)), 4000, drop_everything=0.3)
    blind = [plan for plan in plans if not (shown(plan) or plan.keep_image or plan.keep_texture)]
    assert len(blind) / 4000 == pytest.approx(0.3 + 0.7 * 0.25 * 0.05, abs=0.03)
    assert all(len(masked(plan)) == 4 for plan in blind)
    assert not any(plan.reference == EMPTY for plan in plans_of(list(range(9))))


def test_validation_drops_no_condition_whatever_the_training_does() -> None:
    config = CONFIG.model_copy(update={"drop_everything": 1.0, "drop_both": 1.0, "flip": 1.0})
    plans = [case.plan for case in validation_cases(RandomImages(), config)]
    assert all(plan.keep_image and plan.keep_texture for plan in plans if plan.reference != EMPTY)
    assert any(shown(plan) for plan in plans) and not any(plan.flipped for plan in plans)


def test_a_batch_shows_what_each_plan_names_and_a_flipped_canvas_is_flipped_as_a_whole() -> None:
    source = RandomImages()
    flipped = CanvasPlan(
        slots=(10, 11, EMPTY, 12),
        visible=(True, False, False, False),
        reference=10,
        flipped=True,
        keep_image=False,
    )
    plain = CanvasPlan(slots=(EMPTY, 0, 1, 2), visible=(False, False, True, True), reference=0, keep_texture=False)
    batch = make_batch(source, [flipped, plain], visible_weight=0.25)
    views, mask, weights = (unpack_views(part) for part in (batch.latents, batch.mask, batch.loss_weights))
    assert views[:, :, 0, 0, 0].tolist() == [[1011, 1012, 0, 1013], [0, 1, 2, 3]]
    assert mask[:, :, 0, 0, 0].tolist() == [[1, 0, 0, 0], [0, 0, 1, 1]]
    assert weights[:, :, 0, 0, 0].tolist() == [[0.25, 1, 0, 1], [0, 1, 0.25, 0.25]]
    for tensor in (batch.image_tokens, batch.source_latents):
        assert tensor[0].unique().tolist() == [1011] and tensor[1].unique().tolist() == [1]
    assert batch.keep_image.tolist() == [False, True] and batch.keep_texture.tolist() == [True, False]
    for canvas, plan in zip(unpack_views(batch.skeletons), (flipped, plain), strict=True):
        for drawn, image in zip(canvas, plan.slots, strict=True):
            expected = torch.zeros(3, 32, 16)
            if image != EMPTY:
                expected = (
                    torch.from_numpy(draw_skeleton(source.keypoints(image, plan.flipped), 32, 16)).permute(2, 0, 1)
                    / 255
                )
            assert torch.equal(drawn, expected)


def test_skeletons_go_to_a_gpu_as_bytes() -> None:
    batch = make_batch(RandomImages(), plan_batch(RandomImages(), CONFIG, 0), visible_weight=0.1)
    assert batch.drawn_skeletons.dtype == torch.uint8
    assert batch.skeletons.dtype == torch.float32 and 0.5 < batch.skeletons.max() <= 1


def test_a_batch_is_moved_and_pinned_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    source = RandomImages()
    batch = make_batch(source, plan_batch(source, CONFIG, 0), visible_weight=0.1)
    assert {tensor.device.type for tensor in vars(batch.to(torch.device("meta"))).values()} == {"meta"}
    pinned = []  # without a GPU there is no memory to pin
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    assert vars(batch.pin_memory()) == vars(batch) and len(pinned) == len(vars(batch))


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    source = RandomImages()
    assert plan_batch(source, CONFIG, 5) == plan_batch(source, CONFIG, 5)
    assert plan_batch(source, CONFIG, 5) != plan_batch(source, CONFIG, 6)
    assert plan_batch(source, CONFIG, 5) != plan_batch(source, CONFIG.model_copy(update={"seed": 1}), 5)


def test_people_are_counted_by_how_they_train() -> None:
    assert canvas_counts(RandomImages((1, 1, 1, 2, 3, 3, 4, 5, 6, 9))) == {
        "images": 35,
        "identities": 10,
        "identities with four views": 4,
        "identities with two or three views": 3,
        "identities with one view (reconstruction only)": 3,
    }
