"""Which frames a video shows, and when: from its packets where these determine it, otherwise by decoding all of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import av
import numpy as np

from .bitstream import header_reader

INDEXED = ("mov", "matroska", "avi")  # containers with one frame and its time in each packet


@dataclass(frozen=True)
class Scan:
    """The result of reading a file to its end: shown frames, their times, and whether the size changes.

    `times` are in seconds from the file's start, float64 [frames]. `plain`: every packet is a shown frame, so that a
    decoder that counts packets numbers the frames alike. DALI's decoder for GPUs counts pictures, of which a frame of
    two fields has two, and sorts them by timestamps of 32 bits, where -1 marks none. `pts` are the frames' timestamps,
    int64 in units of the stream, where packets determine them: reading may start anywhere.
    """

    frames: int
    times: np.ndarray | None
    resized: bool
    plain: bool
    pts: np.ndarray | None = None


def scan_packets(
    container: av.container.InputContainer, stream: av.VideoStream, first_frame: av.VideoFrame
) -> Scan | None:
    """Scans the packets only; None if they do not determine the frames. `first_frame` is the first that decodes.

    They do if every packet has a timestamp and the first is a key frame, earliest in time and the first frame that
    the decoder returned: then no frame lacks its references, and every shown frame decodes, unless a packet is
    damaged inside.
    """
    read_headers = header_reader(stream)
    if read_headers is None or not container.format.name.startswith(INDEXED):
        return None
    shown: list[int] = []
    sizes: set[object] = set()
    discarded = hidden = fields = 0
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
        fields += any(header.fields for header in headers)
        if len(sizes) > 1 or time < first or seen > 1:
            return None
        if discard:
            discarded += 1
        elif seen:
            shown.append(time)
        else:
            hidden += 1
    pts = np.sort(np.array(shown, np.int64))
    if not len(pts) or pts[0] != first_frame.pts or (np.diff(pts) <= 0).any():
        return None
    removed = is_mov(container) and stream.frames and stream.frames != len(shown)  # by an edit list
    counted = not (discarded or hidden or removed or fields) and len(container.streams.video) == 1
    plain = counted and bool(0 <= pts[0] and pts[-1] < 2**31)
    return Scan(len(pts), _seconds(pts, container, stream), False, plain, pts)


def scan_frames(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    is_resized: Callable[[av.VideoFrame, int], bool],
) -> Scan:
    """Decodes all frames up to the first that fails, and drops damaged frames at the end.

    `is_resized(frame, number)`: whether a frame's size differs from the first frame's.
    """
    times: list[int | None] = []
    frames, resized = 0, False
    try:
        for number, frame in enumerate(decode(container, stream)):
            times.append(frame.pts)
            resized |= is_resized(frame, number)
            if not frame.is_corrupt:
                frames = number + 1
    except av.FFmpegError:
        pass  # a reader that needs more frames reports why it cannot get them
    known = [time for time in times[:frames] if time is not None]
    if len(known) < frames or any(b <= a for a, b in zip(known, known[1:])):
        return Scan(frames, None, resized, False)
    return Scan(frames, _seconds(np.array(known, np.int64), container, stream), resized, False)


def decode(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
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


def is_mov(container: av.container.InputContainer) -> bool:
    """Whether the container is MP4 or QuickTime, which may have an edit list."""
    return container.format.name.startswith("mov")


def _seconds(pts: np.ndarray, container: av.container.InputContainer, stream: av.VideoStream) -> np.ndarray:
    """Timestamps as a player counts time: from the start of the file's earliest stream."""
    assert stream.time_base is not None, stream
    return pts * float(stream.time_base) - (container.start_time or 0) / av.time_base
