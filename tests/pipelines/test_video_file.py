"""Videos as they occur in practice: rotated, mirrored, cut without encoding, with hidden frames, covers and changing
sizes.

Every picture has a grey level of its own and a red upper left and a green upper right corner, as it is to be shown.
"""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from unisign_fast.pipelines.crops import video as video_module
from unisign_fast.pipelines.crops.sources import VideoHandCrops, WantedHands
from unisign_fast.pipelines.crops.video import VideoFile, read_video_info
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.store.manifest import Clip

WIDTH, HEIGHT, FRAMES = 96, 64, 24
X264 = {"crf": "4", "preset": "ultrafast"}
WITH_B_FRAMES = {"crf": "4", "preset": "medium", "g": "12", "bf": "2", "b-adapt": "0"}
VP8 = {"auto-alt-ref": "1", "lag-in-frames": "16", "arnr-maxframes": "5", "crf": "4", "b": "2M", "g": "12"}
VP9 = {"auto-alt-ref": "1", "lag-in-frames": "16", "crf": "4", "b": "0", "cpu-used": "5", "g": "12"}


def shown(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Frame `number` as a player shows it."""
    picture = np.full((height, width, 3), 60 + 6 * number, np.uint8)
    picture[: height // 4, : width // 4] = 255, 0, 0
    picture[: height // 4, -(width // 4) :] = 0, 255, 0
    return picture


def encode(
    pictures: list[np.ndarray], codec: str = "libx264", options: dict[str, str] = X264, times: list[int] | None = None
) -> tuple[av.VideoCodecContext, list[av.Packet]]:
    """Packets in decoding order, their times in frames of 1/25 s."""
    context = av.CodecContext.create(codec, "w")
    context.height, context.width = pictures[0].shape[:2]
    context.pix_fmt, context.time_base, context.framerate, context.options = "yuv420p", Fraction(1, 25), 25, options
    packets = []
    for number, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
        frame.pts, frame.time_base = times[number] if times else number, Fraction(1, 25)
        packets += context.encode(frame)
    return context, packets + context.encode(None)


def write(
    path: Path,
    pictures: list[np.ndarray],
    codec: str = "libx264",
    options: dict[str, str] = X264,
    matrix: list[float] | None = None,
    times: list[int] | None = None,
    fragmented: bool = False,
) -> Path:
    with av.open(str(path), "w", options={"movflags": "frag_keyframe+empty_moov"} if fragmented else {}) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        if matrix:
            stream.set_display_matrix([round(65536 * x) for x in matrix])
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = times[number] if times else number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def copy(source: Path, target: Path, first: int = 0, last: int | None = None, shift: int = 0) -> Path:
    """Like ffmpeg -c copy: packets first..last, `shift` frames earlier; times below 0 become an edit list in MP4."""
    with av.open(str(source)) as container, av.open(str(target), "w") as out:
        stream = container.streams.video[0]
        copied = out.add_stream_from_template(stream)
        out.start_encoding()
        packets = [packet for packet in container.demux(stream) if packet.size]
        frame = round(1 / stream.average_rate / stream.time_base)
        for packet in packets[first:last]:
            packet.pts, packet.dts, packet.stream = packet.pts - shift * frame, packet.dts - shift * frame, copied
            out.mux(packet)
    return target


def decoded(path: Path) -> int:
    """Frames that FFmpeg's decoder gives."""
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def assert_shows(path: Path, numbers: list[int], width: int = WIDTH, height: int = HEIGHT, plain: bool = False) -> None:
    """That the video's frames are these pictures, that all counters agree, and that crops show the same."""
    with VideoFile(path) as video:
        assert (video.width, video.height) == (width, height)
        assert video.count_frames() == len(numbers) == video._scan_frames().frames
        assert video.plain == plain
        pictures = [picture for _, picture in video.frames(np.arange(len(numbers)))]
    for picture, number in zip(pictures, numbers, strict=True):
        assert_is(picture, number, width, height)
    with VideoFile(path) as video:
        assert len(list(video.pictures())) == len(numbers)
    clip = Clip("a", "train", "en", "t", "", 0, len(numbers), 25.0, width, height, str(path), 0)
    last = len(numbers) - 1
    box = np.array([(0, 0, 16, 16), (width - 16, 0, width, 16), (width - 16, height - 16, width, height)])
    wanted = WantedHands(clip, path, np.full(3, last), np.zeros(3, int), np.zeros((3, 21, 2)), box)
    for dali in (True, False):
        (crops,) = VideoHandCrops(16, torch.device("cpu"), dali).read([wanted])
        red, green, grey = crops.double().mean(dim=(2, 3)).numpy()
        assert red.argmax() == 0 and red[0] > 180 and green.argmax() == 1 and green[1] > 180
        np.testing.assert_allclose(grey, 60 + 6 * numbers[-1], atol=3)


def assert_is(picture: np.ndarray, number: int, width: int, height: int) -> None:
    assert picture.shape == (height, width, 3)
    np.testing.assert_allclose(picture[height // 2, width // 2], 60 + 6 * number, atol=3)
    assert picture[4, 4].argmax() == 0 and picture[4, 4, 0] > 180 and picture[4, -5].argmax() == 1


def refusal(action, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        action(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def frames_of(path: Path) -> list[np.ndarray]:
    with VideoFile(path) as video:
        return list(video.pictures())


# --- the display matrix

MATRICES = {  # how a player rotates the coded picture: a, b, c, d with (x, y) shown at (ax + cy, bx + dy)
    "90 clockwise": (0, 1, -1, 0),
    "180": (-1, 0, 0, -1),
    "90 counter-clockwise": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
    "upside down": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "transposed the other way": (0, -1, -1, 0),
}


def coded_for(picture: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """The coded picture that the matrix turns into `picture`, pixel by pixel."""
    a, b, c, d = matrix
    height, width = picture.shape[:2] if a else picture.shape[1::-1]
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    across, down = a * x + c * y, b * x + d * y
    return picture[down - down.min(), across - across.min()]


@pytest.mark.parametrize("name", MATRICES)
def test_pictures_are_read_as_a_player_turns_them(tmp_path, name):
    a, b, c, d = matrix = MATRICES[name]
    pictures = [coded_for(shown(number), matrix) for number in range(6)]
    path = write(tmp_path / "clip.mp4", pictures, matrix=[a, b, 0, c, d, 0, 0, 0, 1])
    assert_shows(path, list(range(6)))


def test_vp9_with_a_display_matrix_is_not_left_to_dali(tmp_path):
    """DALI also decodes VP9 on a CPU, but ignores the display matrix."""
    pictures = [coded_for(shown(number), MATRICES["180"]) for number in range(6)]
    path = write(tmp_path / "clip.mp4", pictures, "libvpx-vp9", VP9, matrix=[-1, 0, 0, 0, -1, 0, 0, 0, 1])
    assert_shows(path, list(range(6)))


def test_an_odd_angle_is_refused(tmp_path):
    path = write(tmp_path / "clip.mp4", [shown(0)] * 3, matrix=[0.8, 0.6, 0, -0.6, 0.8, 0, 0, 0, 1])
    assert "clip.mp4: frame 0 is shown rotated or skewed by other than right angles" in refusal(VideoFile, path)


# --- frames that are not shown


@pytest.mark.parametrize("options", [X264 | {"g": "12"}, WITH_B_FRAMES], ids=["no B-frames", "B-frames"])
@pytest.mark.parametrize(("first", "hidden"), [(0, 5), (12, 17)])
def test_the_start_is_cut_off_by_an_edit_list(tmp_path, options, first, hidden):
    whole = write(tmp_path / "whole.mp4", [shown(number) for number in range(FRAMES)], options=options)
    path = copy(whole, tmp_path / "clip.mp4", first=first, shift=hidden)
    kept = decoded(path)
    assert 0 < kept <= FRAMES - hidden
    assert_shows(path, list(range(FRAMES - kept, FRAMES)))


def test_the_end_is_cut_off_by_an_edit_list(tmp_path):
    """The edit's length in the file's elst box is set to 10 frames."""
    path = write(tmp_path / "clip.mp4", [shown(number) for number in range(FRAMES)], options=WITH_B_FRAMES)
    content = bytearray(path.read_bytes())
    at = content.index(b"elst") + 12
    content[at : at + 4] = (int.from_bytes(content[at : at + 4], "big") * 10 // FRAMES).to_bytes(4, "big")
    path.write_bytes(content)
    assert decoded(path) == 10
    assert_shows(path, list(range(10)))


@pytest.mark.parametrize(("codec", "options"), [("libvpx", VP8), ("libvpx-vp9", VP9)])
def test_hidden_reference_frames_do_not_count(tmp_path, codec, options):
    """Frames 3 and 9 are marked as hidden, as an encoder's alternate references are."""
    _, packets = encode([shown(number) for number in range(FRAMES)], codec, options)
    data = [bytes(packet) for packet in packets]
    for number in (9, 3):
        data[number] = hidden_vp8(data[number]) if codec == "libvpx" else hidden_vp9(data, number)
    path = write_packets(tmp_path / "clip.webm", codec, data)
    with VideoFile(path) as video:
        assert video._scan_packets(*video._open()).frames == FRAMES - 2  # without decoding
    kept = [number for number in range(FRAMES) if number not in (3, 9)]
    assert_shows(path, kept, plain=codec == "libvpx-vp9")  # its hidden frames share a packet with the next shown


def write_packets(path: Path, codec: str, packets: list[bytes]) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number, data in enumerate(packets):
            packet = av.Packet(data)
            packet.pts = packet.dts = number
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 25), number == 0
            container.mux(packet)
    return path


def hidden_vp8(frame: bytes) -> bytes:
    return bytes([frame[0] & ~0x10]) + frame[1:]


def hidden_vp9(frames: list[bytes], number: int) -> bytes:
    """The frame with show_frame 0, which inserts a bit (intra_only) after its first byte. The end of the header is
    found by trial: all other frames must decode as before.
    """
    wanted = decode_vp9(frames)
    del wanted[number]
    frame = frames[number]
    for length in range(2, 40):
        bits = "0" + "".join(f"{byte:08b}" for byte in frame[1:length])
        head = int(bits[:-1], 2) if bits[-1] == "0" else int(bits + 7 * "0", 2)
        size = length - 1 if bits[-1] == "0" else length
        hidden = bytes([frame[0] & ~2]) + head.to_bytes(size, "big") + frame[length:]
        try:
            result = decode_vp9([*frames[:number], hidden, *frames[number + 1 :]])
        except av.FFmpegError:
            continue
        if len(result) == len(wanted) and all(map(np.array_equal, result, wanted)):
            return hidden
    raise AssertionError("no such frame")


def decode_vp9(frames: list[bytes]) -> list[np.ndarray]:
    context = av.CodecContext.create("vp9", "r")
    return [frame.to_ndarray(format="rgb24") for data in frames for frame in context.decode(av.Packet(data))]


def test_what_comes_before_the_first_key_frame_is_not_shown(tmp_path):
    whole = write(tmp_path / "whole.mp4", [shown(number) for number in range(FRAMES)], options=X264 | {"g": "12"})
    for suffix in ("ts", "mkv"):
        path = copy(whole, tmp_path / f"clip.{suffix}", first=5)
        frames = frames_of(path)
        assert read_video_info(path).frames == len(frames)
        assert_is(frames[-1], FRAMES - 1, WIDTH, HEIGHT)


# --- containers


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov", "avi", "ts", "h264"])
def test_containers(tmp_path, suffix):
    path = write(tmp_path / f"clip.{suffix}", [shown(number) for number in range(FRAMES)], options=WITH_B_FRAMES)
    assert_shows(path, list(range(FRAMES)), plain=suffix in ("mp4", "mkv", "mov"))
    assert read_video_info(path).fps == 25


OTHER_CODECS = {
    "libx265": {"x265-params": "log-level=none:bframes=2"},
    "libsvtav1": {"svtav1-params": "lp=1"},
    "mpeg4": {"bf": "2"},
}


@pytest.mark.parametrize("codec", OTHER_CODECS)
def test_codecs(tmp_path, codec):
    path = write(tmp_path / "clip.mp4", [shown(number) for number in range(FRAMES)], codec, OTHER_CODECS[codec])
    with VideoFile(path) as video:
        assert video.count_frames() == FRAMES == decoded(path)


def test_raw_vp8(tmp_path):
    path = write(tmp_path / "clip.ivf", [shown(number) for number in range(FRAMES)], "libvpx", VP8)
    assert_shows(path, list(range(FRAMES)))


def test_fragments(tmp_path):
    path = write(tmp_path / "clip.mp4", [shown(number) for number in range(FRAMES)], options=WITH_B_FRAMES,
                 fragmented=True)  # fmt: skip
    assert_shows(path, list(range(FRAMES)), plain=True)


def test_a_cover_picture_is_no_video(tmp_path):
    """A cover before the video, and a cover alone."""
    whole = write(tmp_path / "whole.mp4", [shown(number) for number in range(6)])
    for name, with_video in (("clip.mp4", True), ("cover.mp4", False)):
        with av.open(str(whole)) as container, av.open(str(tmp_path / name), "w") as out:
            picture = out.add_stream("png", rate=25)
            picture.width = picture.height = 32
            picture.pix_fmt = "rgb24"
            picture.disposition = av.stream.Disposition.attached_pic
            if with_video:
                stream = container.streams.video[0]
                copied = out.add_stream_from_template(stream)
            packets = picture.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24"))
            out.mux(packets + picture.encode())
            for packet in container.demux(stream) if with_video else ():
                if packet.size:
                    packet.stream = copied
                    out.mux(packet)
    put_cover_first(tmp_path / "clip.mp4")
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert len(container.streams.video) == 2 and container.streams.video[0].width == 32
    assert_shows(tmp_path / "clip.mp4", list(range(6)))
    assert "cover.mp4: has no video stream" in refusal(VideoFile, tmp_path / "cover.mp4")


def put_cover_first(path: Path) -> None:
    """Moves the box of the metadata, where the cover is, in front of the tracks."""
    content = path.read_bytes()
    start = content.index(b"moov") - 4
    end = start + int.from_bytes(content[start : start + 4], "big")
    boxes, at = [], start + 8
    while at < end:
        size = int.from_bytes(content[at : at + 4], "big")
        boxes.append(content[at : at + size])
        at += size
    boxes.sort(key=lambda box: box[4:8] == b"trak")
    path.write_bytes(content[: start + 8] + b"".join(boxes) + content[end:])


def test_a_video_without_frames(tmp_path):
    whole = write(tmp_path / "whole.mkv", [shown(0)] * 3)
    for suffix, problem in (("mkv", "does not open as a video"), ("mp4", "has no video stream")):
        path = copy(whole, tmp_path / f"none.{suffix}", last=0)
        assert f"none.{suffix}: {problem}" in refusal(VideoFile, path)
    headers = write(tmp_path / "none.ts", [shown(0)] * 3).read_bytes()[: 188 * 3]
    (tmp_path / "none.ts").write_bytes(headers)
    assert "none.ts: " in refusal(VideoFile, tmp_path / "none.ts")


# --- sizes


def write_sizes(path: Path, codec: str, options: dict[str, str], sizes: list[tuple[int, int]]) -> Path:
    """Six frames of each size in one stream."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = *sizes[0], "yuv420p"
        for part, (width, height) in enumerate(sizes):
            pictures = [shown(number, width, height) for number in range(6 * part, 6 * part + 6)]
            times = list(range(6 * part, 6 * part + 6))
            for packet in encode(pictures, codec, options, times)[1]:
                packet.stream = stream
                container.mux(packet)
    return path


SIZED = {"libvpx": VP8, "libvpx-vp9": VP9, "libx264": X264}


@pytest.mark.parametrize("codec", SIZED)
def test_pictures_of_another_size_are_scaled(tmp_path, codec):
    suffix = "ts" if codec == "libx264" else "webm"
    path = write_sizes(tmp_path / f"clip.{suffix}", codec, SIZED[codec], [(96, 64), (192, 128)])
    assert read_video_info(path).resized
    assert_shows(path, list(range(12)))


@pytest.mark.parametrize("codec", SIZED)
def test_pictures_of_another_shape_are_refused(tmp_path, codec):
    suffix = "ts" if codec == "libx264" else "webm"
    path = write_sizes(tmp_path / f"clip.{suffix}", codec, SIZED[codec], [(96, 64), (64, 96)])
    message = "changes size from 96x64 to 64x96 at frame 6"
    assert message in refusal(read_video_info, path)
    assert message in refusal(frames_of, path)


# --- times


def test_times_follow_the_timestamps(tmp_path):
    times = [0, 1, 2, 20, 21, 22, 50, 51]
    path = write(tmp_path / "clip.mp4", [shown(number) for number in range(8)], times=times, options=X264)
    info = read_video_info(path)
    np.testing.assert_allclose(info.times, np.array(times) / 25, atol=1e-6)
    assert [info.frame_at(t) for t in (0, 0.02, 0.8, 0.83, 2.0, 2.05, 99)] == [0, 0, 3, 4, 6, 7, 8]
    assert info.fps == pytest.approx(7 / (51 / 25))


def test_times_count_from_the_start_of_the_file(tmp_path):
    """MPEG transport streams begin at 1.4 s, which players do not show."""
    path = write(tmp_path / "clip.ts", [shown(number) for number in range(8)])
    np.testing.assert_allclose(read_video_info(path).times, np.arange(8) / 25, atol=1e-6)


@pytest.mark.parametrize(
    "codec, options, suffix",
    [("libx264", WITH_B_FRAMES, "mp4"), ("libvpx", VP8, "mkv"), ("libvpx-vp9", VP9, "webm"), ("libx264", X264, "ts")],
)
def test_a_stretch_is_what_reading_from_the_start_gives(tmp_path, codec, options, suffix):
    path = write(tmp_path / f"v.{suffix}", [shown(number) for number in range(FRAMES)], codec, options)
    with VideoFile(path) as video:
        whole = list(video.pictures())
    for first, end, every in [(0, 24, 1), (5, 9, 1), (13, 24, 4), (12, 13, 1), (23, 24, 1), (7, 30, 5)]:
        with VideoFile(path) as video:
            pictures = dict(video.stretch(first, end, every))
        last = [end - 1] if end <= FRAMES else []
        assert list(pictures) == sorted({*range(first, min(end, FRAMES), every), *last})
        assert all((picture == whole[number]).all() for number, picture in pictures.items())


def test_a_stretch_decodes_from_the_key_frame_before_it(tmp_path, monkeypatch):
    path = write(tmp_path / "v.mp4", [shown(number) for number in range(FRAMES)], options=WITH_B_FRAMES)
    decoded = []
    decode = video_module._decode

    def counting(*arguments):
        for frame in decode(*arguments):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(video_module, "_decode", counting)
    with VideoFile(path) as video:
        assert len(dict(video.stretch(13, 15))) == 2
    assert len(decoded) <= 10  # the first frame of the file, and from the key frame 12 or those shown before it


def test_a_box_shows_its_pixels_of_a_rotated_video(tmp_path):
    path = write(tmp_path / "v.mp4", [shown(number) for number in range(4)], matrix=[0, 1, 0, -1, 0, 0, 0, 0, 1 / 4])
    box = (3, 10, 41, 50)
    with VideoFile(path) as whole, VideoFile(path, box) as cropped:
        assert (cropped.width, cropped.height) == (38, 40) and (whole.width, whole.height) == (HEIGHT, WIDTH)
        assert not cropped.plain
        assert all((a[10:50, 3:41] == b).all() for a, b in zip(whole.pictures(), cropped.pictures(), strict=True))
    with pytest.raises(InputError, match="has pictures of 64x96, and the box is"):
        VideoFile(path, (0, 0, 65, 10))
