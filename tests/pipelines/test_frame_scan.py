"""Which frames a video shows: cut without encoding, with hidden frames, in all containers and codecs."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numbered_videos import (
    FRAMES,
    HEIGHT,
    VP8,
    VP9,
    WIDTH,
    WITH_B_FRAMES,
    X264,
    assert_is,
    assert_shows,
    copy,
    decoded,
    encode,
    frames_of,
    shown,
    write,
)

from unisign_fast.pipelines.crops.frame_scan import scan_packets
from unisign_fast.pipelines.crops.video import VideoFile, read_video_info

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
        assert scan_packets(*video._open(), video._first).frames == FRAMES - 2  # without decoding
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
