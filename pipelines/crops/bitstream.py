"""Frame headers, read without decoding: which frames are shown, and where the size of the picture may change.

In H.264, HEVC and Motion JPEG every packet is a shown frame; the size can change only with a sequence parameter set, or
is in every frame's header. VP8 and VP9 have hidden frames (alternate references): a bit of the header says which are
shown. Sources: ITU-T H.264 section 7.3.1 and H.265 section 7.3.1.2 (NAL unit headers), RFC 6386 section 9.1 (VP8 frame
header), VP9 bitstream specification section 6.2 (uncompressed header), ITU-T T.81 section B.2.2 (JPEG frame header).
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import av
from av.bitstream import BitStreamFilterContext


class FrameHeader(NamedTuple):
    """`size` changes exactly when the picture size may change; None if the packet does not specify it. `fields`: the
    frame is coded as two pictures, one of its even and one of its odd lines.
    """

    shown: bool
    size: object | None = None
    fields: bool = False


HeaderReader = Callable[[av.Packet], list[FrameHeader]]


def header_reader(stream: av.VideoStream) -> HeaderReader | None:
    """Reads the headers of all frames in a packet of the stream; None for other codecs and layouts."""
    codec = stream.codec_context
    if codec.name == "vp8":
        return lambda packet: [_vp8(bytes(packet))]
    if codec.name in ("vp9", "libvpx-vp9"):
        split = BitStreamFilterContext("vp9_superframe_split", stream)
        return lambda packet: [_vp9(bytes(part)) for part in split.filter(packet)]
    if codec.name == "mjpeg":
        return lambda packet: [FrameHeader(True, _jpeg_size(bytes(packet)))]
    extradata = codec.extradata or b""
    if codec.name in ("h264", "hevc") and extradata[:1] == b"\x01" and len(extradata) > 22:  # avcC or hvcC
        return _ParameterSets(codec.name, extradata)
    return None


class _ParameterSets:
    """H.264 and HEVC as stored in MP4 and Matroska: length-prefixed NAL units."""

    def __init__(self, codec: str, extradata: bytes):
        self.hevc = codec == "hevc"
        self.length_bytes = (extradata[21 if self.hevc else 4] & 3) + 1
        self.first = frozenset(self._in_extradata(extradata))

    def __call__(self, packet: av.Packet) -> list[FrameHeader]:
        units = list(_units(bytes(packet), 0, self.length_bytes))
        sets = self.first | set(filter(self._is_sps, units))
        size = next(iter(sets)) if len(sets) == 1 else frozenset(sets)
        return [FrameHeader(True, size, not self.hevc and sum(map(_begins_picture, units)) > 1)]

    def _is_sps(self, unit: bytes) -> bool:
        if not unit:
            return False
        return (unit[0] >> 1 & 63) == 33 if self.hevc else unit[0] & 31 == 7

    def _in_extradata(self, data: bytes) -> Iterator[bytes]:
        if not self.hevc:
            at, count = 6, data[5] & 31
            for _ in range(count):
                size = int.from_bytes(data[at : at + 2], "big")
                yield data[at + 2 : at + 2 + size]
                at += 2 + size
            return
        at = 23
        for _ in range(data[22]):
            count = int.from_bytes(data[at + 1 : at + 3], "big")
            at += 3
            for _ in range(count):
                size = int.from_bytes(data[at : at + 2], "big")
                if self._is_sps(unit := data[at + 2 : at + 2 + size]):
                    yield unit
                at += 2 + size


def _begins_picture(unit: bytes) -> bool:
    """Whether an H.264 unit is a picture's first slice: first_mb_in_slice is 0, coded as a single bit 1."""
    return len(unit) > 1 and unit[0] & 31 in (1, 5) and unit[1] & 0x80 > 0


def _units(data: bytes, at: int, length_bytes: int) -> Iterator[bytes]:
    while at + length_bytes < len(data):
        size = int.from_bytes(data[at : at + length_bytes], "big")
        at += length_bytes
        yield data[at : at + size]
        at += size


def _jpeg_size(data: bytes) -> bytes | None:
    """Height and width from the start-of-frame segment, which precedes the pixels."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        if data[at + 1] in (0xC0, 0xC1, 0xC2):
            return data[at + 5 : at + 9]
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _vp8(data: bytes) -> FrameHeader:
    """Bit 0 of the frame tag: not a key frame; bit 4: shown. A key frame's size follows its start code."""
    shown = len(data) > 0 and bool(data[0] >> 4 & 1)
    return FrameHeader(shown, data[6:10] if len(data) > 9 and not data[0] & 1 else None)


def _vp9(data: bytes) -> FrameHeader:
    bits = _Bits(data[:24])
    bits.skip(2)  # frame marker
    profile = bits(1) + 2 * bits(1)
    if profile == 3:
        bits.skip(1)
    if bits(1):  # an earlier frame is shown
        return FrameHeader(True)
    inter, shown, error_resilient = bits(1), bool(bits(1)), bits(1)
    if not inter:
        bits.skip(24)  # sync code
        bits.skip_colours(profile)
        return FrameHeader(shown, bits(32))
    intra_only = 0 if shown else bits(1)
    if not error_resilient:
        bits.skip(2)  # reset_frame_context
    if intra_only:
        bits.skip(24)
        if profile:
            bits.skip_colours(profile)
        bits.skip(8)  # refresh_frame_flags
        return FrameHeader(shown, bits(32))
    bits.skip(8 + 3 * 4)  # refresh_frame_flags, three references
    for _ in range(3):
        if bits(1):  # as large as a reference
            return FrameHeader(shown)
    return FrameHeader(shown, bits(32))


class _Bits:
    """Reads bits from the front; past the end it returns zeros."""

    def __init__(self, data: bytes):
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def __call__(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            return 0
        return self._value >> self._left & ((1 << count) - 1)

    def skip(self, count: int) -> None:
        self._left -= count

    def skip_colours(self, profile: int) -> None:
        if profile >= 2:
            self.skip(1)  # bit depth
        if self(3) != 7:  # RGB
            self.skip(1)
            subsampled = profile in (1, 3)
        else:
            subsampled = False
            if profile in (1, 3):
                self.skip(1)
        if subsampled:
            self.skip(3)
