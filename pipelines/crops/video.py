"""Videos as a player shows them: frames, frame count, presentation times and size.

Converters, pose estimation, crops and report all number frames by this reader. A frame counts if it is shown: frames
removed by an edit list, hidden reference frames and cover pictures do not count.
Pictures are rotated and mirrored by the display matrix, and width and height are those of the rotated picture.

Where packets determine the frame count (`VideoFile.scan`), the file is read but only one frame is decoded; otherwise
every frame is decoded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice
from pathlib import Path

import av
import numpy as np
from av.sidedata.sidedata import SideData
from av.stream import Disposition

from ..errors import InputError
from .bitstream import header_reader

REMEDY = "encode it again, or leave the clip out"
VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".h264", ".ivf")
INDEXED = ("mov", "matroska", "avi")  # containers with one frame and its time in each packet
NO_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
RIGHT_ANGLE = 0.01  # tolerance within which a display matrix is a right-angle rotation
SAME_SHAPE = 0.05  # relative change of aspect ratio allowed within a video (sizes are rounded)
RATE_DOUBT = 0.05  # if the declared frame rate differs by more, the timestamps' rate is used


@dataclass(frozen=True)
class VideoInfo:
    """Width and height in pixels as shown, frames per second, and how many frames are shown.

    `times` are the frames' in seconds from the video's start, float64 [frames]. `resized`: some pictures are of another
    size and are scaled to width and height when they are read.
    """

    width: int
    height: int
    fps: float
    frames: int
    times: np.ndarray | None = field(default=None, compare=False, repr=False)
    resized: bool = False

    def frame_at(self, seconds: float) -> int:
        """The number of the frame whose time is nearest, `frames` for the end of the last frame and beyond."""
        times = np.arange(self.frames) / self.fps if self.times is None else self.times
        ends = np.append(times[1:], times[-1] + 1 / self.fps)
        return int(np.searchsorted((times + ends) / 2, seconds, "left"))


@dataclass(frozen=True)
class Scan:
    """The result of reading a file to its end: shown frames, their times, and whether the size changes.

    `plain`: every packet is a shown frame, so that a decoder that counts packets numbers the frames alike. `pts` are
    the frames' timestamps, int64 in units of the stream, where packets determine them: reading may start anywhere.
    """

    frames: int
    times: np.ndarray | None
    resized: bool
    plain: bool
    pts: np.ndarray | None = None


class VideoFile:
    """An open video; `frames`, `pictures`, `sampled` or `stretch` may be read once. Use it in a `with` block.

    `width` and `height` in pixels as shown; `codec` by FFmpeg's name.
    """

    def __init__(self, path: Path, box: Sequence[int] = ()):
        """Decodes the first frame. `box` is the part of the picture to show: left, top, right, bottom in pixels.

        Raises InputError if there is no such file, no video in it or no frame of it, or the box is not inside.
        """
        self.path, self._box = path, box
        if not path.is_file():
            raise InputError(path, "there is no such video", "put it there, or leave the clip out")
        try:
            self._container, self._stream = self._open()
        except av.FFmpegError as error:
            raise InputError(path, f"does not open as a video ({error.strerror})", REMEDY) from None
        try:
            self._prepare()
        except BaseException:
            self._container.close()
            raise

    def _open(self) -> tuple[av.container.InputContainer, av.VideoStream]:
        container = av.open(str(self.path), metadata_errors="ignore")
        streams = [stream for stream in container.streams.video if not stream.disposition & NO_VIDEO]
        if not streams:
            container.close()
            raise InputError(self.path, "has no video stream", REMEDY)
        streams[0].codec_context.thread_count = 1  # parallel over clips instead
        return container, streams[0]

    def _prepare(self) -> None:
        self.codec = self._stream.codec_context.name
        self._mov = self._container.format.name.startswith("mov")
        self._decoded = _decode(self._container, self._stream)
        try:
            first = next(self._decoded, None)
        except av.FFmpegError as error:
            raise InputError(self.path, f"the video does not decode ({error.strerror})", REMEDY) from None
        if first is None:
            raise InputError(self.path, "the video does not decode (it has no frame)", REMEDY)
        self._first = first
        self._whole_size = self.width, self.height = self._shown_size(self._first, 0)
        if self._box:
            left, top, right, bottom = self._box
            if not (0 <= left < right <= self.width and 0 <= top < bottom <= self.height):
                problem = f"has pictures of {self.width}x{self.height}, and the box is {tuple(self._box)}"
                raise InputError(self.path, problem, "give a box inside the picture")
            self.width, self.height = right - left, bottom - top

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(self, *exception) -> None:
        self._container.close()

    @cached_property
    def declared_frames(self) -> int:
        """The frame count that the file declares, without frames removed by an edit list; 0 if it declares none."""
        if self._mov and self._stream.frames:  # the index knows the edit list, the header does not
            return sum(not entry.is_discard for entry in self._stream.index_entries)
        return self._stream.frames

    def info(self) -> VideoInfo:
        """The video's properties. Reads the whole file. Raises InputError if it has no frame rate or cannot be read."""
        scan = self.scan
        if not scan.frames:
            raise InputError(self.path, "the video does not decode (all its frames are damaged)", REMEDY)
        rate = float(self._stream.average_rate or self._stream.guessed_rate or 0)
        if scan.times is not None and scan.frames > 1:
            measured = (scan.frames - 1) / (scan.times[-1] - scan.times[0])
            if abs(rate - measured) > RATE_DOUBT * measured:  # browsers' recordings declare 1000
                rate = float(measured)
        if not rate:
            raise InputError(self.path, "the video has no frame rate", REMEDY)
        return VideoInfo(self.width, self.height, rate, scan.frames, scan.times, scan.resized)

    def count_frames(self) -> int:
        """Frames that the video shows; a file that was cut off has fewer than it declares. Errors as for `scan`."""
        return self.scan.frames

    @property
    def plain(self) -> bool:
        """Whether a decoder that knows of packets alone (DALI) gives the same frames, upright and of one size."""
        return self.scan.plain and not self._box and _display_matrix(self._first) is None

    @cached_property
    def scan(self) -> Scan:
        """Reads the file to its end, and decodes it if the packets do not determine its frames.

        Raises InputError if it cannot be read to its end, or if its picture changes its shape on the way.
        """
        try:
            container, stream = self._open()
            with container:
                result = self._scan_packets(container, stream)
            return result or self._scan_frames()
        except av.FFmpegError as error:
            raise InputError(self.path, f"cannot be read to its end ({error.strerror})", REMEDY) from None

    def _scan_packets(self, container: av.container.InputContainer, stream: av.VideoStream) -> Scan | None:
        """Scans the packets only; None if they do not determine the frames.

        They do if every packet has a timestamp and the first is a key frame, earliest in time and the first frame that
        the decoder returned: then no frame lacks its references, and every shown frame decodes, unless a packet is
        damaged inside.
        """
        read_headers = header_reader(stream)
        if read_headers is None or not container.format.name.startswith(INDEXED):
            return None
        shown: list[int] = []
        sizes: set[object] = set()
        discarded = hidden = 0
        first: int | None = None
        for packet in container.demux(stream):
            if not packet.size:
                continue
            if packet.is_corrupt or packet.has_sidedata("new_extradata") or packet.pts is None:
                return None
            if first is None:
                first = packet.pts
                if not packet.is_keyframe:
                    return None
            time, discard = packet.pts, packet.is_discard  # reading the headers may empty the packet
            try:
                headers = read_headers(packet)
            except av.FFmpegError:
                return None
            sizes |= {header.size for header in headers} - {None}
            seen = sum(header.shown for header in headers)
            if len(sizes) > 1 or time < first or seen > 1:
                return None
            if discard:
                discarded += 1
            elif seen:
                shown.append(time)
            else:
                hidden += 1
        times = np.sort(np.array(shown, np.int64))
        if not len(times) or times[0] != self._first.pts or (np.diff(times) <= 0).any():
            return None
        removed = self._mov and stream.frames and stream.frames != len(shown)  # by an edit list
        plain = not (discarded or hidden or removed) and len(container.streams.video) == 1
        return Scan(len(times), self._seconds(times, container, stream), False, plain, times)

    def _scan_frames(self) -> Scan:
        """Decodes all frames up to the first that fails, and drops damaged frames at the end."""
        times: list[int | None] = []
        frames, resized = 0, False
        container, stream = self._open()
        with container:
            try:
                for number, frame in enumerate(_decode(container, stream)):
                    times.append(frame.pts)
                    resized |= self._shown_size(frame, number) != self._whole_size
                    if not frame.is_corrupt:
                        frames = number + 1
            except av.FFmpegError:
                pass  # a reader that needs more frames reports why it cannot get them
            known = [time for time in times[:frames] if time is not None]
            if len(known) < frames or any(b <= a for a, b in zip(known, known[1:])):
                return Scan(frames, None, resized, False)
            return Scan(frames, self._seconds(np.array(known, np.int64), container, stream), resized, False)

    @staticmethod
    def _seconds(times: np.ndarray, container: av.container.InputContainer, stream: av.VideoStream) -> np.ndarray:
        """Timestamps as a player counts time: from the start of the file's earliest stream."""
        assert stream.time_base is not None, stream
        return times * float(stream.time_base) - (container.start_time or 0) / av.time_base

    def frames(self, wanted: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """The wanted frames (int64, any order, counted from 0), each once and in order: number, RGB [H, W, 3] uint8.

        Decodes from the start up to the last one. Raises InputError if one of them cannot be had.
        """
        numbers = set(wanted.tolist())
        number, last = -1, max(numbers, default=-1)
        if number == last:
            return
        try:
            for number, frame in enumerate(self._all()):
                if number in numbers:
                    if frame.is_corrupt:
                        raise InputError(self.path, f"frame {number} is damaged", REMEDY)
                    yield number, self._picture(frame, number)
                if number == last:
                    return
        except av.FFmpegError as error:
            problem = f"does not decode after frame {number} ({error.strerror}), and frame {last} is needed"
            raise InputError(self.path, problem, REMEDY) from None
        raise InputError(self.path, f"has {number + 1} frames that decode, and frame {last} is needed", REMEDY)

    def pictures(self) -> Iterator[np.ndarray]:
        """All frames, RGB [H, W, 3] uint8, up to the first that does not decode."""
        try:
            for number, frame in enumerate(self._all()):
                yield self._picture(frame, number)
        except av.FFmpegError:
            return

    def sampled(self, every: int) -> Iterator[tuple[int, np.ndarray]]:
        """Every `every`-th frame and the last that decodes: its number, and RGB [H, W, 3] uint8."""
        last: tuple[int, av.VideoFrame] | None = None
        try:
            for number, frame in enumerate(self._all()):
                last = number, frame
                if number % every == 0:
                    yield number, self._picture(frame, number)
                    last = None
        except av.FFmpegError:
            pass
        if last:
            number, frame = last
            yield number, self._picture(frame, number)

    def stretch(self, first: int, end: int, every: int = 1) -> Iterator[tuple[int, np.ndarray]]:
        """Frames `first`, `first + every`, ... and `end - 1`: number, and RGB [H, W, 3] uint8.

        Decoding starts at the key frame before `first` where packets determine the frames, else with the video. Ends at
        the first frame that does not decode.
        """
        try:
            for number, frame in self._all_from(first):
                if number >= end:
                    return
                if (number - first) % every == 0 or number == end - 1:
                    if frame.is_corrupt:
                        return
                    yield number, self._picture(frame, number)
        except av.FFmpegError:
            return

    def _all(self) -> Iterator[av.VideoFrame]:
        return chain([self._first], self._decoded)

    def _all_from(self, first: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """The frames from number `first` on, numbered."""
        pts = self.scan.pts
        if not first or pts is None or first >= len(pts):
            yield from islice(enumerate(self._all()), first, None)
            return
        container, stream = self._open()
        with container:
            container.seek(int(pts[first]), stream=stream)
            expected = first
            for frame in _decode(container, stream):
                if frame.pts is None or frame.pts < pts[first]:
                    continue
                if expected == len(pts) or frame.pts != pts[expected]:
                    break
                yield expected, frame
                expected += 1
        if expected == first:  # the container's seek led past it
            yield from islice(enumerate(self._all()), first, None)

    def _picture(self, frame: av.VideoFrame, number: int) -> np.ndarray:
        """The frame, or the box of it, as it is shown, scaled where the video's first frame has another size."""
        size, matrix = self._whole_size, _display_matrix(frame)
        if self._shown_size(frame, number) == size:
            picture = _upright(frame.to_ndarray(format="rgb24"), matrix)
        else:
            width, height = size[::-1] if matrix and matrix[0] == 0 else size
            picture = _upright(frame.to_ndarray(format="rgb24", width=width, height=height), matrix)
        if not self._box:
            return picture
        left, top, right, bottom = self._box
        return np.ascontiguousarray(picture[top:bottom, left:right])

    def _shown_size(self, frame: av.VideoFrame, number: int) -> tuple[int, int]:
        """Width and height. Raises InputError if no right angles turn the picture upright, or if its shape changes."""
        matrix = _display_matrix(frame)
        if matrix and (matrix[0] == 0) == (matrix[1] == 0):
            problem = f"frame {number} is shown rotated or skewed by other than right angles"
            raise InputError(self.path, problem, "encode it upright, or leave the clip out")
        width, height = frame.width, frame.height
        if matrix and matrix[0] == 0:
            width, height = height, width
        if number:
            first_width, first_height = self._whole_size
        if number and abs(width * first_height / (height * first_width) - 1) > SAME_SHAPE:
            problem = (
                f"its picture changes size from {first_width}x{first_height} to {width}x{height} at frame {number}"
            )
            raise InputError(self.path, problem, "encode it again in one size, or leave the clip out")
        return width, height


def read_video_info(path: Path) -> VideoInfo:
    """Raises InputError if the video is missing, does not decode or has no frame rate."""
    with VideoFile(path) as video:
        return video.info()


def _decode(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """The frames in the order in which they are shown.

    A stream cut at an arbitrary point begins with frames whose references are gone, so frames before the first key
    frame may fail to decode.
    """
    begun = False
    for packet in container.demux(stream):
        begun = begun or packet.is_keyframe
        try:
            yield from packet.decode()
        except av.InvalidDataError:
            if begun:
                raise


def _display_matrix(frame: av.VideoFrame) -> tuple[int, int, int, int] | None:
    """(a, b, c, d) of the frame's display matrix, rounded to -1, 0 or 1; None if it changes nothing.

    A pixel at (x, y) is shown at (ax + cy, bx + dy), up to a shift. A rotation by any other angle has no zeros.
    """
    side_data = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return None
    assert isinstance(side_data, SideData), side_data
    a, b, _, c, d = np.frombuffer(bytes(side_data), np.int32)[:5].tolist()
    largest = max(map(abs, (a, b, c, d)))

    def sign(x: int) -> int:
        return (x > 0) - (x < 0) if abs(x) > RIGHT_ANGLE * largest else 0

    signs = sign(a), sign(b), sign(c), sign(d)
    return None if signs in ((1, 0, 0, 1), (0, 0, 0, 0)) else signs


def _upright(picture: np.ndarray, matrix: tuple[int, int, int, int] | None) -> np.ndarray:
    if matrix is None:
        return picture
    a, b, c, d = matrix
    if a == 0:
        picture = picture.swapaxes(0, 1)
    across, down = (c, b) if a == 0 else (a, d)
    return np.ascontiguousarray(picture[::down, ::across])
