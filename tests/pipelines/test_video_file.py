"""Videos as they occur in practice: covers, changing sizes, uneven times; and parts of them."""

from pathlib import Path

import av
import numpy as np
import pytest
from numbered_videos import FRAMES, VP8, VP9, WITH_B_FRAMES, X264, assert_shows, copy, encode, frames_of, shown, write
from refusals import refusal

from unisign_fast.pipelines.crops import video as video_module
from unisign_fast.pipelines.crops.video import VideoFile, read_video_info


def test_a_cover_picture_is_not_a_video(tmp_path):
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


def test_a_playlist_opens_no_other_file(tmp_path):
    write(tmp_path / "whole.mp4", [shown(0)] * 3)
    for name, content in (("a.mp4", "ffconcat version 1.0\nfile whole.mp4\n"), ("b.ts", "#EXTM3U\nwhole.mp4\n")):
        (tmp_path / name).write_text(content)
        assert f"{name}: does not open as a video" in refusal(VideoFile, tmp_path / name)


def test_a_colon_in_a_relative_name_is_no_protocol(tmp_path, monkeypatch):
    write(tmp_path / "whole.mp4", [shown(0)] * 3).rename(tmp_path / "http:a.mp4")
    monkeypatch.chdir(tmp_path)
    assert read_video_info(Path("http:a.mp4")).frames == 3


def test_a_stream_of_an_unknown_codec_is_one_line(tmp_path):
    path = write(tmp_path / "whole.mkv", [shown(0)] * 3)
    content = path.read_bytes()
    assert content.count(b"V_MPEG4/ISO/AVC") == 1
    path.write_bytes(content.replace(b"V_MPEG4/ISO/AVC", b"V_MPEG4/ISO/XYZ"))
    assert "whole.mkv: has a video stream of an unknown codec" in refusal(VideoFile, path)


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
def test_a_span_equals_reading_from_the_start(tmp_path, codec, options, suffix):
    path = write(tmp_path / f"v.{suffix}", [shown(number) for number in range(FRAMES)], codec, options)
    with VideoFile(path) as video:
        whole = list(video.pictures())
    for first, end, every in [(0, 24, 1), (5, 9, 1), (13, 24, 4), (12, 13, 1), (23, 24, 1), (7, 30, 5)]:
        with VideoFile(path) as video:
            pictures = dict(video.span(first, end, every))
        last = [end - 1] if end <= FRAMES else []
        assert list(pictures) == sorted({*range(first, min(end, FRAMES), every), *last})
        assert all((picture == whole[number]).all() for number, picture in pictures.items())


def test_a_span_is_decoded_from_the_key_frame_before_it(tmp_path, monkeypatch):
    path = write(tmp_path / "v.mp4", [shown(number) for number in range(FRAMES)], options=WITH_B_FRAMES)
    decoded = []
    decode = video_module.decode

    def counting(*arguments):
        for frame in decode(*arguments):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(video_module, "decode", counting)
    with VideoFile(path) as video:
        assert len(dict(video.span(13, 15))) == 2
    assert len(decoded) <= 10  # the first frame of the file, and from the key frame 12 or those shown before it


@pytest.mark.parametrize("pixels", ["yuv420p", "yuvj420p", "yuv444p"])
@pytest.mark.parametrize("size", [(64, 48), (66, 50)])
def test_a_box_has_the_pixels_of_the_whole_picture(tmp_path, pixels, size):
    """At odd and even places, up to the edges: only the box is converted where chroma planes allow it."""
    rng = np.random.default_rng(0)
    with av.open(str(tmp_path / "v.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        (stream.width, stream.height), stream.pix_fmt = size, pixels
        for _ in range(2):
            picture = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode())
    width, height = size
    with VideoFile(tmp_path / "v.mp4") as video:
        whole = list(video.pictures())
    for box in ((0, 0, *size), (2, 4, 30, 20), (3, 5, 30, 21), (width - 5, height - 3, *size), (7, 0, 8, 1)):
        left, top, right, bottom = box
        with VideoFile(tmp_path / "v.mp4", box) as video:
            for picture, expected in zip(video.pictures(), whole, strict=True):
                assert (picture == expected[top:bottom, left:right]).all() and picture.flags.c_contiguous
