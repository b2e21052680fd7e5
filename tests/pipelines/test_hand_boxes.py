"""Hand boxes and the keypoints inside them, against numbers worked out by hand."""

import numpy as np

from unisign_fast.pipelines.crops.boxes import crop_points, hand_boxes, side_of_clip, side_of_sampled


def hand(x: tuple[float, float], y: tuple[float, float]) -> np.ndarray:
    """21 keypoints that span x and y."""
    return np.stack([np.linspace(*x, 21), np.linspace(*y, 21)], axis=1)


def test_one_box_size_for_all_hands_of_a_clip():
    hands = np.stack([hand((10, 20), (30, 35)), hand((100, 104), (50, 71))])
    side = side_of_sampled(hands)
    assert side == 24  # int(1.2 * 21 / 2) * 2
    boxes = hand_boxes(hands, side)
    assert boxes.dtype == np.int64
    assert boxes.tolist() == [[3, 20, 27, 44], [90, 48, 114, 72]]


def test_the_side_of_a_clip_follows_its_confident_hands_but_the_largest_twentieth():
    hands = np.stack([hand((0, extent), (0, 5)) for extent in [10.0] * 94 + [20.0] + [90.0] * 5 + [50.0] * 40])
    confidence = np.full((140, 21), 0.9)
    confidence[100:] = 0.2
    assert side_of_clip(hands, confidence) == 24
    assert side_of_clip(hands[:94], confidence[:94]) == 12
    assert side_of_clip(hands[100:], confidence[100:]) == 60  # none is confident: all count


def test_a_box_beyond_the_corner_keeps_its_size_and_its_place():
    hands = hand((-3, 7), (1, 4))[None]  # centre (2, 2.5), side 12
    boxes = hand_boxes(hands, side_of_sampled(hands))
    assert boxes.tolist() == [[-4, -4, 8, 8]]
    points = crop_points(hands, boxes)
    assert points.dtype == np.float32
    np.testing.assert_allclose(points[0, [0, 20]], [(1 / 12, 5 / 12), (11 / 12, 8 / 12)], rtol=1e-6)


def test_the_smallest_box_is_two_pixels():
    hands = hand((5, 5), (9, 9))[None]
    assert hand_boxes(hands, side_of_sampled(hands)).tolist() == [[4, 8, 6, 10]]
    assert hand_boxes(np.zeros((0, 21, 2)), 2).shape == (0, 4)


def test_points_outside_the_box_are_moved_to_its_edge():
    points = crop_points(hand((0, 40), (10, 10))[None], np.array([[10, 0, 30, 20]]))
    np.testing.assert_array_equal(points[0, [0, 20]], [(0, 0.5), (1, 0.5)])
