"""Hand boxes by hand-worked numbers; hand crops from real and broken mp4 files."""

from pathlib import Path

import av
import numpy as np
import pytest
from video_files import damage, write_video

from pipelines.errors import InputError
from pipelines.hand_boxes import crop_points, hand_boxes
from pipelines.hand_crops import HandCropReader

HEIGHT, WIDTH, FRAMES = 64, 96, 12


def hand(x: tuple[float, float], y: tuple[float, float]) -> np.ndarray:
    """21 keypoints that span x and y."""
    return np.stack([np.linspace(*x, 21), np.linspace(*y, 21)], axis=1)


def picture(frame: int) -> np.ndarray:
    """Grey by frame number, with a white block of 16 x 16 whose corner is at x 32, y 16."""
    pixels = np.full((HEIGHT, WIDTH, 3), 10 + 12 * frame, np.uint8)
    pixels[16:32, 32:48] = 255
    return pixels


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", [picture(i) for i in range(FRAMES)])


def read(video: Path, frames: list[int], boxes: list[tuple[int, int, int, int]], size: int = 16) -> np.ndarray:
    with HandCropReader(video) as reader:
        return reader.read(np.array(frames, np.int64), np.array(boxes, np.int64).reshape(-1, 4), size)


def test_one_box_size_for_all_hands_of_a_clip():
    hands = np.stack([hand((10, 20), (30, 35)), hand((100, 104), (50, 71))])
    boxes = hand_boxes(hands)  # int(1.2 * 21 / 2) * 2 = 24
    assert boxes.dtype == np.int64
    assert boxes.tolist() == [[3, 20, 27, 44], [90, 48, 114, 72]]


def test_a_box_beyond_the_corner_keeps_its_size_and_its_place():
    hands = hand((-3, 7), (1, 4))[None]  # centre (2, 2.5), side 12
    boxes = hand_boxes(hands)
    assert boxes.tolist() == [[-4, -4, 8, 8]]
    points = crop_points(hands, boxes)
    assert points.dtype == np.float32
    np.testing.assert_allclose(points[0, [0, 20]], [(1 / 12, 5 / 12), (11 / 12, 8 / 12)], rtol=1e-6)


def test_the_smallest_box_is_two_pixels():
    assert hand_boxes(hand((5, 5), (9, 9))[None]).tolist() == [[4, 8, 6, 10]]
    assert hand_boxes(np.zeros((0, 21, 2))).shape == (0, 4)


def test_points_outside_the_box_are_moved_to_its_edge():
    points = crop_points(hand((0, 40), (10, 10))[None], np.array([[10, 0, 30, 20]]))
    np.testing.assert_array_equal(points[0, [0, 20]], [(0, 0.5), (1, 0.5)])


def test_each_row_shows_its_frame_in_any_order(video):
    crops = read(video, [7, 0, 11, 7], [(0, 40, 16, 56)] * 4)
    assert crops.shape == (4, 3, 16, 16) and crops.dtype == np.uint8
    np.testing.assert_allclose(crops.mean(axis=(1, 2, 3)), [94, 10, 142, 94], atol=3)


def test_two_hands_of_one_frame_have_their_own_boxes(video):
    block, beside = read(video, [3, 3], [(32, 16, 48, 32), (48, 16, 64, 32)])
    assert block.min() > 245 and abs(beside.mean() - 46) < 3


def test_outside_the_picture_is_black_at_the_true_place(video):
    crop = read(video, [5], [(-8, -4, 8, 12)])[0].astype(int)
    inside = np.zeros((16, 16), bool)
    inside[4:, 8:] = True
    assert (crop[:, ~inside] == 0).all() and np.abs(crop[:, inside] - 70).max() < 4
    crop = read(video, [5], [(WIDTH - 4, HEIGHT - 8, WIDTH + 12, HEIGHT + 8)])[0].astype(int)
    assert np.abs(crop[:, :8, :4] - 70).max() < 4 and (crop[:, 8:] == 0).all() and (crop[:, :, 4:] == 0).all()


def test_crops_are_scaled_to_one_size(video):
    crop = read(video, [0], [(24, 8, 56, 40)], size=112)[0]  # the block lies in the middle half
    assert crop.shape == (3, 112, 112)
    assert crop[:, 32:80, 32:80].min() > 240 and abs(crop[:, :24].mean() - 10) < 4


def test_colours_are_red_green_blue(tmp_path):
    red = np.zeros((32, 32, 3), np.uint8)
    red[:, :, 0] = 200
    crop = read(write_video(tmp_path / "red.mp4", [red]), [0], [(0, 0, 32, 32)])[0]
    np.testing.assert_allclose(crop.mean(axis=(1, 2)), [200, 0, 0], atol=5)


def test_says_what_the_file_declares(video):
    with HandCropReader(video) as reader:
        assert (reader.width, reader.height, reader.declared_frames) == (WIDTH, HEIGHT, FRAMES)


def test_no_frames_need_no_decoding(video):
    assert read(video, [], []).shape == (0, 3, 16, 16)


def test_frame_out_of_range(video):
    with pytest.raises(InputError, match=r"clip\.mp4: has 12 frames that decode, and frame 12 is needed; "):
        read(video, [3, 12], [(0, 0, 8, 8)] * 2)


@pytest.mark.parametrize(("kept", "problem"), [(0, "does not decode after frame 4"), (1000, "frame 5 is damaged")])
def test_a_damaged_frame_stops_only_those_who_need_it(tmp_path, kept, problem):
    rng = np.random.default_rng(0)
    video = write_video(tmp_path / "clip.mp4", [rng.integers(0, 255, (64, 64, 3), np.uint8) for _ in range(8)])
    damage(video, frame=5, kept=kept)
    assert read(video, [1, 4], [(0, 0, 8, 8)] * 2).any()
    with pytest.raises(InputError, match=rf"clip\.mp4: {problem}"):
        read(video, [1, 5], [(0, 0, 8, 8)] * 2)


def test_files_that_are_no_videos(tmp_path, video):
    with pytest.raises(InputError, match="there is no such video"):
        HandCropReader(tmp_path / "missing.mp4")
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(InputError, match=r"text\.mp4: does not open as a video"):
        HandCropReader(tmp_path / "text.mp4")
    (tmp_path / "half.mp4").write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    with pytest.raises(InputError, match=r"half\.mp4: does not open as a video"):
        HandCropReader(tmp_path / "half.mp4")


def test_sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(InputError, match=r"sound\.mp4: has no video stream"):
        HandCropReader(tmp_path / "sound.mp4")


def test_real_videos_that_declare_more_than_they_hold(shared):
    """This one declares 55 frames and decodes 52."""
    path = shared / "wlasl" / "rgb_format" / "11872.mp4"
    with HandCropReader(path) as reader:
        assert reader.declared_frames == 55
    assert read(path, [51], [(100, 100, 200, 200)]).any()
    with pytest.raises(InputError, match="has 52 frames that decode, and frame 52 is needed"):
        read(path, [52], [(0, 0, 8, 8)])
