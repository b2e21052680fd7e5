"""Videos as a player shows them: frames, frame count, presentation times and size.

Converters, pose estimation, crops and report all number frames by this reader. A frame counts if it is shown: frames
removed by an edit list, hidden reference frames and cover pictures do not count.
Pictures are rotated and mirrored by the display matrix, and width and height are those of the rotated picture.

Where packets determine the frame count (frame_scan.py), the file is read but only one frame is decoded; otherwise
every frame is decoded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition

from ..errors import InputError
from .display_matrix import as_shown, display_matrix, is_right_angled, shown_size
from .frame_boxes import box_of
from .frame_scan import Scan, decode, is_mov, scan_frames, scan_packets

REMEDY = "encode it again, or leave the clip out"
VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".h264", ".ivf")
FORMATS = (  # FFmpeg's names of the formats that hold all of a recording in one file
    "mov,matroska,webm,avi,mpeg,mpegts,mpegvideo,m4v,h264,hevc,ivf,obu,av1,vc1,mjpeg,flv,asf,ogg,mxf,nut,rm,dv,wav,mp3,aac"
)
NO_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
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


class VideoFile:
    """An open video; `frames`, `pictures`, `sampled` or `span` may be read once. Use it in a `with` block.

    `width` and `height` in pixels as shown; `codec` and `pixel_format` by FFmpeg's names; `color_matrix` by the number
    of ITU-T H.273, 2 if the file does not tell.
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
            reason = "unknown format, or a playlist" if isinstance(error, av.ArgumentError) else error.strerror
            raise InputError(path, f"does not open as a video ({reason})", REMEDY) from None
        try:
            self._prepare()
        except BaseException:
            self._container.close()
            raise

    def _open(self) -> tuple[av.container.InputContainer, av.VideoStream]:
        container = open_media(self.path)
        streams = [stream for stream in container.streams.video if not stream.disposition & NO_VIDEO]
        # a stream that FFmpeg cannot identify, as in a file cut short, has no codec_context
        if not streams or streams[0].codec_context is None:
            container.close()
            problem = "has a video stream of an unknown codec" if streams else "has no video stream"
            raise InputError(self.path, problem, REMEDY)
        streams[0].codec_context.thread_count = 1  # parallel over clips instead
        return container, streams[0]

    def _prepare(self) -> None:
        self.codec = self._stream.codec_context.name
        self._decoded = decode(self._container, self._stream)
        try:
            first = next(self._decoded, None)
        except av.FFmpegError as error:
            raise InputError(self.path, f"the video does not decode ({error.strerror})", REMEDY) from None
        if first is None:
            raise InputError(self.path, "the video does not decode (it has no frame)", REMEDY)
        self._first = first
        self.pixel_format, self.color_matrix = first.format.name, first.colorspace
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
        if is_mov(self._container) and self._stream.frames:  # the index knows the edit list, the header does not
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
        return self.scan.plain and not self._box and display_matrix(self._first) is None

    @cached_property
    def scan(self) -> Scan:
        """Reads the file to its end, and decodes it if the packets do not determine its frames.

        Raises InputError if it cannot be read to its end, or if its picture changes its shape on the way.
        """
        try:
            container, stream = self._open()
            with container:
                scan = scan_packets(container, stream, self._first)
            return scan or self._scan_frames()
        except av.FFmpegError as error:
            raise InputError(self.path, f"cannot be read to its end ({error.strerror})", REMEDY) from None

    def _scan_frames(self) -> Scan:
        container, stream = self._open()
        with container:
            return scan_frames(container, stream, lambda *frame: self._shown_size(*frame) != self._whole_size)

    def frames(self, wanted: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """The wanted frames (int64, any order, counted from 0), each once and in order: number, RGB [H, W, 3] uint8.

        Decodes from the start up to the last one. Raises InputError if one of them does not decode.
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

    def span(self, first: int, end: int, every: int = 1) -> Iterator[tuple[int, np.ndarray]]:
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
            for frame in decode(container, stream):
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
        matrix = display_matrix(frame)
        if self._shown_size(frame, number) == self._whole_size:
            if self._box and matrix is None and (part := box_of(frame, self._box)) is not None:
                return part
            coded = frame.to_ndarray(format="rgb24")
        else:
            width, height = shown_size(*self._whole_size, matrix)  # the matrix swaps them back
            coded = frame.to_ndarray(format="rgb24", width=width, height=height)
        picture = as_shown(coded, matrix)
        if not self._box:
            return picture
        left, top, right, bottom = self._box
        return np.ascontiguousarray(picture[top:bottom, left:right])

    def _shown_size(self, frame: av.VideoFrame, number: int) -> tuple[int, int]:
        """Width and height. Raises InputError if no right angles turn the picture upright, or if its shape changes."""
        matrix = display_matrix(frame)
        if not is_right_angled(matrix):
            problem = f"frame {number} is shown rotated or skewed by other than right angles"
            raise InputError(self.path, problem, "encode it upright, or leave the clip out")
        width, height = shown_size(frame.width, frame.height, matrix)
        if number:
            first_width, first_height = self._whole_size
            if abs(width * first_height / (height * first_width) - 1) > SAME_SHAPE:
                change = f"from {first_width}x{first_height} to {width}x{height} at frame {number}"
                problem = f"its picture changes size {change}"
                raise InputError(self.path, problem, "encode it again in one size, or leave the clip out")
        return width, height


def open_media(path: Path) -> av.container.InputContainer:
    """Opens a video or audio file of FORMATS; playlists, which would open other files and addresses, are refused.

    Raises av.FFmpegError.
    """
    # FFmpeg would take the start of a relative path up to a colon for a protocol.
    path = path.absolute()
    return av.open(str(path), metadata_errors="ignore", container_options={"format_whitelist": FORMATS})


def read_video_info(path: Path) -> VideoInfo:
    """Raises InputError if the video is missing, does not decode or has no frame rate."""
    with VideoFile(path) as video:
        return video.info()
