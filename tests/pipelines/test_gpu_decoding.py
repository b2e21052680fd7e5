"""DALI as it decodes on a GPU: which videos, in which colours, on which device and stream, and what replaces it."""

from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from clip_stores import batch_loader, pose, reader, write_store
from numbered_videos import VP8, VP9, WITH_B_FRAMES, X264, copy, shown, write
from test_hand_crops import clip_of, read_many
from video_files import write_video

from unisign_fast.pipelines.batches import loader
from unisign_fast.pipelines.crops import cutting, dali, sources
from unisign_fast.pipelines.crops.bitstream import header_reader
from unisign_fast.pipelines.crops.color_matrix import BT709, UNSPECIFIED
from unisign_fast.pipelines.crops.dali import DecodingError, JpegDecoder, VideoDecoder
from unisign_fast.pipelines.crops.sources import VideoHandCrops, WantedHands
from unisign_fast.pipelines.crops.video import VideoFile
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.settings import DataSettings
from unisign_fast.pipelines.workers import compute_alone

CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)

# --- which videos


def grey(height: int, width: int) -> list[np.ndarray]:
    return [np.full((height, width, 3), 20 * i, np.uint8) for i in range(6)]


@pytest.mark.parametrize(
    ("name", "codec", "size", "on_gpu"),
    [
        ("a.mp4", "libx264", (64, 96), False),  # 4:4:4
        ("a.avi", "mjpeg", (64, 96), False),
        ("a.webm", "libvpx-vp9", (64, 96), True),
        ("a.webm", "libvpx-vp9", (63, 96), False),
        ("a.webm", "libvpx-vp9", (64, 95), False),
    ],
)
def test_a_gpu_decodes_what_dali_decodes_correctly_there(tmp_path, name, codec, size, on_gpu):
    with VideoFile(write_video(tmp_path / name, grey(*size), codec=codec)) as video:
        assert VideoDecoder(GPU).supports(video) == on_gpu
        assert VideoDecoder(CPU).supports(video) == (codec != "libx264")


def test_h264_in_420_is_for_the_gpu(tmp_path):
    path = write(tmp_path / "a.mp4", [shown(number) for number in range(4)], options=X264 | {"slices": "4"})
    with VideoFile(path) as video:
        assert video.plain and VideoDecoder(GPU).supports(video)


def test_a_frame_of_two_fields_is_two_pictures_for_the_gpu(tmp_path, monkeypatch):
    """x264 writes none: a frame's slices are repeated, as the second field's follow the first's."""
    path = write(tmp_path / "a.mp4", [shown(number) for number in range(4)])
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        read_headers = header_reader(stream)
        packets = [bytes(packet) for packet in container.demux(stream) if packet.size]
    for packet in packets[1:]:  # the first one has parameter sets
        (once,), (twice,) = read_headers(av.Packet(packet)), read_headers(av.Packet(packet + packet))
        assert not once.fields and twice.fields
    monkeypatch.setattr(
        "unisign_fast.pipelines.crops.frame_scan.header_reader",
        lambda stream: lambda packet: [read_headers(packet)[0]._replace(fields=True)],
    )
    with VideoFile(path) as video:
        assert not video.plain and video.count_frames() == 4


def test_timestamps_that_the_gpu_decoder_cannot_hold(tmp_path):
    """It keeps 32 bits of them."""
    whole = write(tmp_path / "whole.mkv", [shown(number) for number in range(4)])
    for late, plain in ((2**31 // 40 - 10, True), (2**31 // 40 - 1, False)):  # frames of 40 ms
        with VideoFile(copy(whole, tmp_path / f"{late}.mkv", shift=-late)) as video:
            assert video.scan.pts[0] == 40 * late and video.plain == plain


# --- colours


def coloured(path: Path, matrix: int, color_range: int) -> Path:
    """VP9 whose left half is skin and whose right half is blue, with declared matrix and range."""
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:, :48], picture[:, 48:] = (200, 140, 110), (40, 120, 200)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=25, options={"crf": "4", "b": "0"})
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, color_range
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=matrix, dst_color_range=color_range)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("matrix", [1, 5, 9])
@pytest.mark.parametrize("color_range", [1, 2])
def test_the_declared_color_matrix_is_used(tmp_path, matrix, color_range):
    path = coloured(tmp_path / "a.webm", matrix, color_range)
    boxes = [(0, 0, 40, 40), (56, 0, 96, 40)]
    for by_dali in (True, False):
        (crops,) = read_many([(path, [0, 2], boxes, {})], 16, by_dali)
        assert np.abs(crops.mean(axis=(2, 3)) - [(200, 140, 110), (40, 120, 200)]).max() < 3.5


def test_the_size_in_the_header_may_be_wrong(tmp_path):
    """DALI scales the pictures to it on a CPU, and misreads their lines on a GPU."""
    path = write_video(tmp_path / "a.mp4", grey(64, 96), codec="libvpx-vp9")
    content = bytearray(path.read_bytes())
    at = content.index(b"vp09", content.index(b"stsd")) + 28
    assert content[at : at + 4] == b"\0\x60\0\x40"
    content[at + 1] = 128
    path.write_bytes(content)
    source = VideoHandCrops(16, CPU, dali=True)
    with pytest.warns(UserWarning, match=r"DALI fails \(the header of .*a\.mp4 does not give the size"):
        (crops,) = source.read([wanted(path)])
    assert abs(crops.float().mean() - 40) < 3


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", WITH_B_FRAMES),
        ("a.mp4", "libx265", {"crf": "4", "x265-params": "keyint=12:log-level=none"}),
        ("a.webm", "libvpx", VP8 | {"auto-alt-ref": "0"}),
        ("a.webm", "libvpx-vp9", VP9),
    ],
)
def test_the_device_at_hand_decodes_as_pyav_does(tmp_path, name, codec, options):
    """Frame by frame; on a GPU this is NVDEC, on a CPU DALI decodes only VP9."""
    path = write(tmp_path / name, [shown(number, 320, 240) for number in range(24)], codec, options)
    frames, boxes = [0, 5, 11, 12, 13, 22, 23], np.array([(0, 0, 120, 120)] * 7)
    clip = WantedHands(clip_of(path, 24), path, np.array(frames), np.zeros(7, int), np.zeros((7, 21, 2)), boxes)
    device = torch.device("cuda", 0) if torch.cuda.is_available() else CPU
    (by_dali,) = VideoHandCrops(112, device, dali=True).read([clip])
    (by_pyav,) = VideoHandCrops(112, CPU).read([clip])
    assert (by_dali.cpu().int() - by_pyav.int()).abs().double().mean() < 2
    assert [round((mine.double().mean().item() - 60) / 6) for mine in by_dali[:, :, 80:, 80:]] == frames


def test_other_matrices_are_left_to_pyav(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "DALI_MATRICES", (BT709, UNSPECIFIED))
    monkeypatch.setattr(VideoDecoder, "decode", None)
    read_many([(coloured(tmp_path / "a.webm", 9, 1), [0], [(0, 0, 40, 40)], {})])


# --- device and stream


class FakeStream:
    """Of a GPU that is not there; `log` records what is done with all streams."""

    log: list[str] = []

    def __init__(self, device: torch.device):
        self.device = device

    def synchronize(self) -> None:
        self.log.append("wait")


class FakeCurrent:
    def __init__(self, stream: FakeStream):
        self.stream = stream

    def __enter__(self) -> None:
        FakeStream.log.append(f"on {self.stream.device}")

    def __exit__(self, *exception) -> None:
        FakeStream.log.append("off")


class FakePipeline:
    def __init__(self, **settings):
        FakeStream.log.append(f"device_id {settings['device_id']}")

    def __enter__(self) -> "FakePipeline":
        return self

    def __exit__(self, *exception) -> None:
        pass

    def set_outputs(self, *outputs) -> None:
        pass

    def build(self) -> None:
        pass

    def feed_input(self, name: str, samples: list) -> None:
        pass

    def run(self) -> tuple[str]:
        FakeStream.log.append("run")
        return ("decoded",)


def test_results_are_used_on_the_decoders_own_stream_and_device(monkeypatch):
    """Waiting for the default stream would wait for the training step; Triton launches on the current device."""
    monkeypatch.setattr(torch.cuda, "Stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "stream", FakeCurrent)
    monkeypatch.setattr("nvidia.dali.Pipeline", FakePipeline)
    monkeypatch.setattr(JpegDecoder, "_graph", lambda self: None)
    monkeypatch.setattr(FakeStream, "log", [])
    decoder = JpegDecoder(GPU)
    for _ in range(2):
        with decoder._run(files=[]):
            FakeStream.log.append("use")
    use = ["run", "on cuda:1", "use", "off", "wait"]
    assert FakeStream.log == ["device_id 1", *use, *use]


def test_threads_work_on_the_readers_gpu(tmp_path, monkeypatch):
    devices = []
    monkeypatch.setattr(torch.cuda, "set_device", devices.append)
    with ThreadPoolExecutor(1, "test", compute_alone, (GPU,)) as pool:
        pool.submit(int).result()
    assert devices == [GPU]
    started = []
    monkeypatch.setattr(loader, "compute_alone", started.append)
    clips = reader(write_store(tmp_path / "store", [{}]), DataSettings(p_samp=0))
    next(batch_loader(clips).steps(epochs=1))
    assert set(started) == {clips.device}


def test_processes_that_cut_share_the_gpus(tmp_path, monkeypatch):
    store = write_store(tmp_path / "store", [{"keypoints": pose(3)}])
    monkeypatch.setattr(cutting.os, "sched_getaffinity", lambda pid: range(192))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cutting.default_workers() == 192
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert cutting.default_workers() == 2 * cutting.GPU_WORKERS
    devices = [cutting._Cutter(store.path, 16, 90, None, number).source._device.index for number in range(3)]
    assert devices == [0, 1, 0] == [device.index for device in current]


# --- when DALI fails


@pytest.fixture
def video(tmp_path) -> Path:
    return write_video(tmp_path / "clip.webm", grey(64, 96), codec="libvpx-vp9")


def wanted(path: Path) -> WantedHands:
    boxes = np.array([(0, 0, 16, 16)])
    return WantedHands(clip_of(path, 6), path, np.array([2]), np.zeros(1, int), np.zeros((1, 21, 2)), boxes)


def broken(*arguments):
    raise RuntimeError("CUDA driver version is insufficient")


def test_pyav_replaces_a_dali_that_does_not_start(video, monkeypatch):
    """As one built for another CUDA does not."""
    monkeypatch.setattr(VideoDecoder, "_graph", broken)
    source = VideoHandCrops(16, CPU, dali=True)
    with pytest.warns(
        UserWarning, match=r"NVIDIA DALI: does not work here \(CUDA driver .*\); install nvidia-dali-cuda"
    ):
        (crops,) = source.read([wanted(video)])
    assert abs(crops.float().mean() - 40) < 3 and source._decoder is None
    assert torch.equal(source.read([wanted(video)])[0], crops)


def test_stored_crops_need_a_dali_that_starts(monkeypatch):
    monkeypatch.setattr(JpegDecoder, "_graph", broken)
    with pytest.raises(InputError, match="NVIDIA DALI: does not work here"):
        JpegDecoder(CPU).decode([np.zeros(9, np.uint8)])


def test_a_gpu_that_cannot_decode_a_good_video_is_reported(video, monkeypatch):
    """As one without NVDEC, or in a container without its library."""
    monkeypatch.setattr(dali._Decoder, "_run", lambda self, **inputs: failing())
    with pytest.warns(UserWarning, match=r"DALI fails \(no decoder\); PyAV decodes these videos"):
        (crops,) = VideoHandCrops(16, CPU, dali=True).read([wanted(video)])
    assert abs(crops.float().mean() - 40) < 3


def failing():
    raise DecodingError("no decoder")


def test_the_reason_is_what_dali_says_of_the_sample():
    with pytest.raises(DecodingError, match="nvImageCodec failure"):
        JpegDecoder(CPU).decode([np.zeros(9, np.uint8)])


def test_calls_are_bounded_by_the_bytes_of_files_and_pictures(video, monkeypatch):
    size = video.stat().st_size
    monkeypatch.setitem(dali.MOST_VIDEOS, "cpu", 16)
    monkeypatch.setattr(sources, "MOST_BYTES", 2 * (size + 64 * 96 * 3))
    calls = []
    original = VideoDecoder.decode
    monkeypatch.setattr(VideoDecoder, "decode", lambda *args: calls.append(len(args[1])) or original(*args))
    crops = VideoHandCrops(16, CPU, dali=True).read([wanted(video)] * 5)
    assert calls == [2, 2, 1] and all(abs(mine.float().mean() - 40) < 3 for mine in crops)
    monkeypatch.setattr(sources, "MOST_BYTES", size - 1)  # the file of an hour is left to PyAV
    (crops,) = VideoHandCrops(16, CPU, dali=True).read([wanted(video)])
    assert len(calls) == 3 and abs(crops.float().mean() - 40) < 3
