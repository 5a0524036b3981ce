"""Skeletons: flipping, scaling and drawing agree with what happens to the picture."""

import numpy as np
import pytest

from datasets.poses.skeleton import (
    COLORS,
    FLIP_PAIRS,
    JOINTS,
    LIMBS,
    draw_skeleton,
    flip_keypoints,
    missing_keypoints,
    overlay_skeleton,
    present_joints,
    scale_keypoints,
)


def standing_person() -> np.ndarray:
    xs = [32, 32, 22, 18, 16, 42, 46, 48, 26, 25, 24, 38, 39, 40, 30, 34, 28, 36]
    ys = [12, 24, 25, 42, 58, 25, 42, 58, 62, 88, 112, 62, 88, 112, 10, 10, 12, 12]
    return np.stack([xs, ys, np.ones(18)], -1).astype(np.float32)


def test_names_and_flip_pairs_say_the_same():
    assert len(JOINTS) == len(COLORS) == 18 and len(LIMBS) == 17
    for right, left in FLIP_PAIRS:
        assert JOINTS[right].replace("right", "left") == JOINTS[left]


def test_flipping_twice_gives_the_skeleton_back_and_once_exchanges_the_sides():
    person = standing_person()
    person[4] = np.nan, np.nan, 0
    flipped = flip_keypoints(person, 64)
    np.testing.assert_array_equal(flip_keypoints(flipped, 64), person)
    np.testing.assert_array_equal(flipped[5, :2], [63 - 22, 25])
    assert np.isnan(flipped[7, :2]).all() and flipped[7, 2] == 0 and present_joints(flipped)[4]


def test_the_drawing_of_flipped_keypoints_is_the_flip_image_with_exchanged_colors():
    person = standing_person()
    drawn = draw_skeleton(flip_keypoints(person, 64), 128, 64)
    flipped = draw_skeleton(person, 128, 64)[:, ::-1]
    np.testing.assert_array_equal(drawn.any(-1), flipped.any(-1))
    assert tuple(drawn[25, 63 - 22]) == COLORS[5] and tuple(flipped[25, 63 - 22]) == COLORS[2]


def test_scaling_moves_pixel_centers_as_resizing_does():
    corners = np.array([[[0, 0, 1], [63, 127, 1]]], np.float32)
    np.testing.assert_allclose(
        scale_keypoints(corners, (128, 64), (256, 128))[0, :, :2], [[0.5, 0.5], [126.5, 254.5]], atol=1e-6
    )
    back = scale_keypoints(scale_keypoints(corners, (128, 64), (256, 96)), (256, 96), (128, 64))
    np.testing.assert_allclose(back, corners, atol=1e-4)


def test_joints_and_limbs_have_their_colors_at_their_places_at_every_size():
    for height, width in ((128, 64), (256, 192), (512, 384)):
        drawn = draw_skeleton(standing_person(), height, width, source_size=(128, 64))
        places = np.round(scale_keypoints(standing_person(), (128, 64), (height, width))[:, :2]).astype(int)
        for joint in (2, 4, 9, 13):
            assert tuple(drawn[places[joint, 1], places[joint, 0]]) == COLORS[joint]
        middle = np.round((places[9] + places[10]) / 2).astype(int)
        np.testing.assert_allclose(drawn[middle[1], middle[0]], 0.6 * np.array(COLORS[8]), atol=8)


def test_missing_joints_and_their_limbs_are_not_drawn():
    assert not draw_skeleton(missing_keypoints(), 64, 32).any()
    person = missing_keypoints()
    person[10] = 24, 100, 1  # an ankle alone
    drawn = draw_skeleton(person, 128, 64)
    assert drawn[100, 24].tolist() == list(COLORS[10]) and np.count_nonzero(drawn.any(-1)) < 16


def test_a_joint_far_outside_the_picture_neither_fails_nor_reaches_it():
    person = standing_person()
    person[0, :2] = -1e12, 5
    assert draw_skeleton(person, 128, 64).shape == (128, 64, 3)


def test_a_skeleton_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"\(18, 3\)"):
        draw_skeleton(np.zeros((17, 3)), 128, 64)


def test_the_overlay_changes_only_pixels_near_the_skeleton():
    image = np.full((128, 64, 3), 200, np.uint8)
    laid = overlay_skeleton(image, standing_person())
    changed = (laid != image).any(-1)
    assert changed[25, 22] and not changed[5, 5] and laid.dtype == np.uint8
