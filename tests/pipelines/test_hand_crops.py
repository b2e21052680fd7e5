"""Hand crops from real and broken video files, through DALI and PyAV."""

import os
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from video_files import damage, write_video

from unisign_fast.pipelines.crops.boxes import crop_points
from unisign_fast.pipelines.crops.sources import VideoHandCrops, WantedHands, want_hands
from unisign_fast.pipelines.crops.video import VideoFile
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.store.clip import Clip

HEIGHT, WIDTH, FRAMES = 64, 96, 12


def picture(frame: int) -> np.ndarray:
    """Grey by frame number, with a white block of 16 x 16 whose corner is at x 32, y 16."""
    pixels = np.full((HEIGHT, WIDTH, 3), 10 + 12 * frame, np.uint8)
    pixels[16:32, 32:48] = 255
    return pixels


CONTAINERS = {"libx264": "clip.mp4", "libvpx-vp9": "clip.webm", "mjpeg": "clip.avi"}


@pytest.fixture(scope="module", params=CONTAINERS)
def video(request, tmp_path_factory) -> Path:
    """One clip in a codec for PyAV and in those for DALI."""
    path = tmp_path_factory.mktemp("video") / CONTAINERS[request.param]
    return write_video(path, [picture(i) for i in range(FRAMES)], codec=request.param)


def clip_of(path: Path, length: int = FRAMES, **more) -> Clip:
    with av.open(str(path)) as container:
        size = {"width": container.streams.video[0].width, "height": container.streams.video[0].height}
    fields = {
        "id": "a",
        "split": "train",
        "language": "en",
        "text": "t",
        "gloss": "",
        "first_frame": 0,
        "frames": length,
        "fps": 25.0,
    }
    return Clip(**fields | size | {"source": str(path), "crc32c": 0} | more)


def read(path: Path, frames: list[int], boxes: list[tuple[int, int, int, int]], size: int = 16, **more) -> np.ndarray:
    """Crops [n, 3, size, size]; raises the clip's error."""
    return read_many([(path, frames, boxes, more)], size)[0]


def read_many(clips: list[tuple], size: int = 16, dali: bool = True) -> list[np.ndarray]:
    wanted = [
        WantedHands(
            clip=clip_of(path, **more),
            video=path,
            frames=np.array(frames, np.int64),
            hands=np.zeros(len(frames), np.int64),
            points_px=np.zeros((len(frames), 21, 2)),
            boxes=np.array(boxes, np.int64).reshape(-1, 4),
        )
        for path, frames, boxes, more in clips
    ]
    result = VideoHandCrops(size, torch.device("cpu"), dali).read(wanted)
    for crops in result:
        if isinstance(crops, InputError):
            raise crops
    return [crops.numpy() for crops in result]


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


def test_a_hand_wholly_outside_the_picture_is_black(video):
    outside = [(-40, -40, -24, -24), (WIDTH, 0, WIDTH + 16, 16), (0, HEIGHT + 3, 16, HEIGHT + 19)]
    assert not read(video, [1, 2, 3], outside).any()


def test_crops_are_scaled_to_one_size(video):
    crop = read(video, [0], [(24, 8, 56, 40)], size=112)[0]  # the block lies in the middle half
    assert crop.shape == (3, 112, 112)
    assert crop[:, 32:80, 32:80].min() > 240 and abs(crop[:, :24].mean() - 10) < 4


@pytest.mark.parametrize("codec", CONTAINERS)
def test_colours_are_red_green_blue(tmp_path, codec):
    red = np.zeros((32, 32, 3), np.uint8)
    red[:, :, 0] = 200
    path = write_video(tmp_path / CONTAINERS[codec], [red], codec=codec)
    crop = read(path, [0], [(0, 0, 32, 32)], length=1)[0]
    np.testing.assert_allclose(crop.mean(axis=(1, 2)), [200, 0, 0], atol=6)


@pytest.mark.parametrize("centre", [(48.0, 32.0), (8.0, 54.0), (70.5, 20.25)])
def test_crop_points_are_exact_to_a_tenth_of_a_pixel(tmp_path, centre):
    """A soft dot at a keypoint is found in the crop where crop_points says."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5  # keypoint (0, 0) is the corner of the first pixel
    dot = 250 * np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / 8)
    path = write_video(tmp_path / "dot.mp4", [np.repeat(dot[..., None], 3, axis=2).astype(np.uint8)])
    keypoints = np.ones((1, 133, 3), np.float32)
    keypoints[0, 91:112, :2] = (np.array(centre) + np.linspace((-9, -7), (9, 12), 21)) / (WIDTH, HEIGHT)
    keypoints[0, 91, :2] = np.array(centre) / (WIDTH, HEIGHT)
    keypoints[0, 112:] = keypoints[0, 91:112]
    wanted = want_hands(clip_of(path, 1), path, keypoints, np.zeros(1, int), np.zeros(1, int), "clip")
    (crops,) = VideoHandCrops(112, torch.device("cpu")).read([wanted])
    weight = crops[0].double().mean(0).numpy()
    weight[weight < 20] = 0
    y, x = np.mgrid[0:112, 0:112] + 0.5
    result = np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()
    said = crop_points(wanted.points_px, wanted.boxes)[0, 0] * 112
    scale = 112 / (wanted.boxes[0, 2] - wanted.boxes[0, 0])
    assert np.abs(result - said).max() / scale < 0.1  # pixels of the video


def test_says_what_the_file_declares(video):
    with VideoFile(video) as file:
        declared = 0 if video.suffix == ".webm" else FRAMES
        assert (file.width, file.height, file.declared_frames) == (WIDTH, HEIGHT, declared)
        assert file.count_frames() == FRAMES


def test_no_frames_need_no_decoding(video):
    assert read(video, [], []).shape == (0, 3, 16, 16)


def test_frame_out_of_range(video):
    holds = "has 12 frames that decode" if video.suffix == ".mp4" else "holds 12 frames"
    with pytest.raises(InputError, match=rf"clip\.\w+: {holds}, and frame 12 is needed; "):
        read(video, [3, 12], [(0, 0, 8, 8)] * 2)


@pytest.mark.parametrize("codec", ["libvpx-vp9", "mjpeg"])
@pytest.mark.parametrize("share", [0.5, 0.7, 0.95])
def test_a_video_that_was_cut_off(tmp_path, codec, share):
    """DALI would return black frames for missing ones."""
    rng = np.random.default_rng(0)
    whole = [rng.integers(100, 255, (64, 64, 3), np.uint8) for _ in range(20)]
    path = write_video(tmp_path / CONTAINERS[codec], whole, codec=codec)
    size = path.stat().st_size
    os.truncate(path, int(share * size))
    last = int(share * 20) - 3
    if last > 0 and codec == "libvpx-vp9":
        assert read(path, [0, last], [(0, 0, 64, 64)] * 2, length=20).min(axis=(1, 2, 3)).min() > 20
    problem = (
        r"((holds|has) \d+ frames( that decode)?, and frame 19|does not decode after|cannot be read|does not open)"
    )
    with pytest.raises(InputError, match=rf"clip\.\w+: {problem}"):
        read(path, [1, 19], [(0, 0, 8, 8)] * 2, length=20)


def test_one_bad_video_does_not_spoil_the_others_of_a_call(tmp_path):
    paths = [tmp_path / f"{name}.webm" for name in "abc"]
    for path in paths:
        write_video(path, [picture(i) for i in range(FRAMES)], codec="libvpx-vp9")
    damage(paths[1], frame=0, kept=0)
    wanted = [(path, [2, 5], [(0, 0, 16, 16)] * 2, {}) for path in paths]
    for crops in read_many([wanted[0], wanted[2]]):
        np.testing.assert_allclose(crops.mean(axis=(1, 2, 3)), [34, 70], atol=4)
    source = VideoHandCrops(16, torch.device("cpu"), dali=True)
    fields = {"hands": np.zeros(2, int), "points_px": np.zeros((2, 21, 2)), "boxes": np.array([(0, 0, 16, 16)] * 2)}
    result = source.read([WantedHands(clip_of(p), p, np.array([2, 5]), **fields) for p in paths])
    assert isinstance(result[1], InputError) and "b.webm: " in str(result[1])
    for crops in (result[0], result[2]):
        np.testing.assert_allclose(crops.double().mean(dim=(1, 2, 3)), [34, 70], atol=4)


def test_dali_and_pyav_agree(video):
    """DALI's colour conversion is not FFmpeg's to the last bit."""
    wanted = [(video, [0, 3, 8], [(20, 10, 60, 50), (-4, 2, 36, 42), (70, 30, 110, 70)], {})]
    by_dali, by_pyav = (read_many(wanted, 24, dali)[0].astype(int) for dali in (True, False))
    assert np.abs(by_dali - by_pyav).mean() < 2


@pytest.mark.parametrize(("kept", "problem"), [(0, "does not decode after frame 4"), (1000, "frame 5 is damaged")])
def test_a_damaged_frame_stops_only_those_who_need_it(tmp_path, kept, problem):
    rng = np.random.default_rng(0)
    video = write_video(tmp_path / "clip.mp4", [rng.integers(0, 255, (64, 64, 3), np.uint8) for _ in range(8)])
    damage(video, frame=5, kept=kept)
    assert read(video, [1, 4], [(0, 0, 8, 8)] * 2, length=8).any()
    with pytest.raises(InputError, match=rf"clip\.mp4: {problem}"):
        read(video, [1, 5], [(0, 0, 8, 8)] * 2, length=8)


def test_a_video_of_another_size(video):
    with pytest.raises(InputError, match="is 96x64, but the pose of clip a is for 192x128; extract the pose"):
        read(video, [0], [(0, 0, 8, 8)], width=192, height=128)


def test_odd_sizes_and_variable_frame_rate(tmp_path):
    pictures = [np.full((63, 45, 3), 20 * i, np.uint8) for i in range(8)]
    path = write_video(tmp_path / "odd.mp4", pictures, times=[0, 1, 2, 9, 10, 30, 31, 32])
    grey = read(path, [3, 6], [(0, 0, 45, 45)] * 2, length=8).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(grey, [60, 120], atol=3)


def test_files_that_are_not_videos(tmp_path, video):
    with pytest.raises(InputError, match="there is no such video"):
        VideoFile(tmp_path / "missing.mp4")
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(InputError, match=r"text\.mp4: does not open as a video"):
        VideoFile(tmp_path / "text.mp4")
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(InputError, match=r"empty\.mp4: does not open as a video"):
        VideoFile(tmp_path / "empty.mp4")
    if video.suffix == ".mp4":
        (tmp_path / "half.mp4").write_bytes(video.read_bytes()[: video.stat().st_size // 2])
        with pytest.raises(InputError, match=r"half\.mp4: does not open as a video"):
            VideoFile(tmp_path / "half.mp4")


def test_a_file_with_only_sound_is_not_a_video(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(InputError, match=r"sound\.mp4: has no video stream"):
        VideoFile(tmp_path / "sound.mp4")


def test_real_videos_that_declare_more_than_they_hold(shared):
    """This one has 55 frames, of which an edit list shows 52."""
    path = shared / "wlasl" / "rgb_format" / "11872.mp4"
    with VideoFile(path) as file:
        assert file.declared_frames == file.count_frames() == 52
    assert read(path, [51], [(100, 100, 200, 200)], length=52).any()
    with pytest.raises(InputError, match="has 52 frames that decode, and frame 52 is needed"):
        read(path, [52], [(0, 0, 8, 8)], length=53)
