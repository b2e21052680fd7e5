"""Hand crops of the sampled hands, all of one size, from the crop store or from the clips' videos.

Both sources have one interface, `read(wanted)`: crops [n, 3, S, S] uint8 on the device for each clip, or its
error. Sources are not thread-safe.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..errors import InputError
from ..skeleton import HANDS, WHOLEBODY, Skeleton
from ..store.clip import Clip
from ..store.crop_store import CropStore
from .boxes import BoxRule, hand_boxes, side_of_clip, side_of_sampled
from .color_matrix import DALI_MATRICES, correct_colors
from .dali import DecodingError, JpegDecoder, VideoDecoder, for_caller
from .video import VideoFile

LENGTH_TOLERANCE = 3  # frames by which pose and video may differ: many files declare a few more than can be decoded
MOST_BYTES = 2**30  # of files and pictures in one call of DALI, which keeps the GPU memory that training needs too
MAX_BOX_SIDE = 2  # times the larger side of the picture; beyond that the keypoints cannot be fractions of the picture
# Shared by the many clips without sampled hands.
NO_FRAMES, _NO_BOXES = np.zeros(0, np.int64), np.zeros((0, 4), np.int64)


@dataclass(frozen=True)
class WantedHands:
    """The hands of a clip whose pictures are wanted."""

    clip: Clip
    video: Path | None  # None for crops from a store
    frames: np.ndarray  # [n] int64, of the clip, from 0
    hands: np.ndarray  # [n] int64, numbers of skeleton.HANDS
    points_px: np.ndarray  # [n, 21, 2] float64, the hands' keypoints in pixels
    boxes: np.ndarray  # [n, 4] int64, pixels of the video; all of one side


def want_hands(
    clip: Clip,
    video: Path | None,
    keypoints: np.ndarray,
    frames: np.ndarray,
    hands: np.ndarray,
    rule: BoxRule,
    skeleton: Skeleton = WHOLEBODY,
) -> WantedHands:
    """Boxes for these hands by a rule of boxes.py; `keypoints` [T, 133, 3] of the whole clip, as stored.

    Raises InputError if the keypoints can't be of this picture.
    """
    if not len(frames):
        return WantedHands(clip, video, frames, hands, np.zeros((0, skeleton.hand_size, 2)), _NO_BOXES)
    hands_THVC = keypoints[:, skeleton.hand_columns].reshape(len(keypoints), len(HANDS), -1, 3)
    hands_CVTH = np.ascontiguousarray(hands_THVC.transpose(3, 2, 0, 1), np.float64)  # extents are taken over V
    hands_CVTH[0] *= clip.width
    hands_CVTH[1] *= clip.height
    hands_THVC = hands_CVTH.transpose(2, 3, 1, 0)
    points_px = hands_THVC[frames, hands, :, :2]
    if rule == "clip":
        every_NVC = hands_THVC.reshape(-1, *hands_THVC.shape[2:])
        side = side_of_clip(every_NVC[..., :2], every_NVC[..., 2])
    else:
        side = side_of_sampled(points_px)
    if side > MAX_BOX_SIDE * max(clip.width, clip.height):
        problem = f"a hand would be {side} pixels wide in a picture of {clip.width}x{clip.height}"
        remedy = "give x and y as fractions of width and height"
        raise InputError(f"clip {clip.id}: keypoints", problem, remedy)
    return WantedHands(clip, video, frames, hands, points_px, hand_boxes(points_px, side))


class StoredHandCrops:
    """From a crop store: all crops of a batch in one decoder call."""

    def __init__(self, store: CropStore, device: torch.device):
        self.store = store
        self._decoder = JpegDecoder(device)
        self._nothing = torch.zeros(0, 3, store.size, store.size, dtype=torch.uint8, device=device)

    def read(self, wanted: Sequence[WantedHands]) -> list[Tensor | InputError]:
        """The crops of each clip, or why they cannot be read."""
        result: list[Tensor | InputError] = [self._nothing] * len(wanted)
        files: list[np.ndarray] = []
        rows: dict[int, slice] = {}
        for i, clip in enumerate(wanted):
            if len(clip.frames):
                try:
                    jpegs = self.store.jpegs(clip.clip, clip.frames, clip.hands)
                except InputError as error:
                    result[i] = error
                    continue
                rows[i] = slice(len(files), len(files) + len(jpegs))
                files += jpegs
        if not files:
            return result
        try:
            pixels = self._decoder.decode(files).permute(0, 3, 1, 2)
        except DecodingError as error:  # all checksums match: the store was written like this
            raise AssertionError(f"{self.store.path}: {error}") from None
        return [pixels[rows[i]] if i in rows else other for i, other in enumerate(result)]


@dataclass(frozen=True)
class _ForDali:
    """A clip whose frames DALI is to decode; `bytes` of its file and of these frames."""

    wanted: WantedHands
    color_matrix: int
    bytes: int


class VideoHandCrops:
    """From the clips' videos, decoding only the needed frames: DALI on a GPU, PyAV on the CPU.

    Where DALI fails, PyAV takes its place, with a warning if the video is not to blame. `dali` uses DALI
    on the CPU too, for the codecs it supports there: slightly slower than PyAV (benchmarks/data_path.py).
    """

    def __init__(self, size: int, device: torch.device, dali: bool = False):
        self.size = size
        self._device = device
        self._decoder = VideoDecoder(device) if dali or device.type == "cuda" else None

    def read(self, wanted: Sequence[WantedHands]) -> list[Tensor | InputError]:
        """The crops of each clip, or why they cannot be read."""
        answers = [self._begin(clip) for clip in wanted]
        pending = {i: clip for i, clip in enumerate(answers) if isinstance(clip, _ForDali)}
        for numbers in _calls(pending, self._decoder.most if self._decoder else 1):
            for i, crops in zip(numbers, self._by_dali([pending[i] for i in numbers])):
                answers[i] = crops
        result = [crops for crops in answers if not isinstance(crops, _ForDali)]
        assert len(result) == len(wanted), (len(result), len(wanted))
        return result

    def _begin(self, wanted: WantedHands) -> Tensor | InputError | _ForDali:
        """The crops, if there are none or PyAV reads them."""
        if not len(wanted.frames):
            return torch.zeros(0, 3, self.size, self.size, dtype=torch.uint8, device=self._device)
        try:
            with VideoFile(_video_of(wanted), wanted.clip.box) as video:
                _check(video, wanted)
                if not (self._decoder and _is_for_dali(video, self._decoder)):
                    return self._by_pyav(video, wanted)
                frames, count = np.unique(_video_frames(wanted)), video.count_frames()
                if frames[-1] >= count:
                    problem = f"holds {count} frames, and frame {frames[-1]} is needed"
                    raise InputError(video.path, problem, "copy it again")
                size = video.path.stat().st_size + len(frames) * video.width * video.height * 3
                return _ForDali(wanted, video.color_matrix, size)
        except InputError as error:
            return error

    def _by_pyav(self, video: VideoFile, wanted: WantedHands) -> Tensor:
        rows_of: dict[int, list[int]] = {}
        for row, number in enumerate(_video_frames(wanted).tolist()):
            rows_of.setdefault(number, []).append(row)
        patches = _patches(wanted.boxes)
        for number, picture in video.frames(_video_frames(wanted)):
            for row in rows_of[number]:
                _cut(torch.from_numpy(picture), wanted.boxes[row], patches[row])
        return resize(patches, self.size).to(self._device)

    def _by_dali(self, clips: Sequence[_ForDali]) -> Sequence[Tensor | InputError]:
        wanted = [clip.wanted for clip in clips]
        if self._decoder is None:
            return [self._alone(clip) for clip in wanted]
        frames = [np.unique(_video_frames(clip), return_inverse=True) for clip in wanted]
        files = [np.fromfile(_video_of(clip), np.uint8) for clip in wanted]
        try:
            with self._decoder.decode(files, [numbers for numbers, _ in frames]) as pictures:
                _check_sizes(pictures, wanted)
                cut = _gpu_crops if self._device.type == "cuda" else _cpu_crops
                crops = cut(pictures, [index for _, index in frames], [clip.boxes for clip in wanted], self.size)
                crops = [correct_colors(mine, clip.color_matrix) for mine, clip in zip(crops, clips)]
        except DecodingError as error:  # one clip is bad; PyAV reports which and why
            answers = [self._alone(clip) for clip in wanted]
            if not any(isinstance(answer, InputError) for answer in answers):
                warnings.warn(f"DALI fails ({error}); PyAV decodes these videos on the CPU", stacklevel=1)
            return answers
        except InputError as error:
            warnings.warn(f"{error}; until then PyAV decodes videos on the CPU", stacklevel=1)
            self._decoder = None
            return [self._alone(clip) for clip in wanted]
        for mine in crops:
            for_caller(mine)
        return crops

    def _alone(self, wanted: WantedHands) -> Tensor | InputError:
        try:
            with VideoFile(_video_of(wanted), wanted.clip.box) as video:
                return self._by_pyav(video, wanted)
        except InputError as error:
            return error


def _is_for_dali(video: VideoFile, decoder: VideoDecoder) -> bool:
    """DALI takes whole files, and counts their bytes in 32 bits."""
    is_short = video.path.stat().st_size <= MOST_BYTES
    return is_short and decoder.supports(video) and video.color_matrix in DALI_MATRICES and video.plain


def _check_sizes(pictures: Sequence[Tensor], wanted: Sequence[WantedHands]) -> None:
    """DALI's pictures have the size in the container's header, which may be wrong. Raises DecodingError if it is."""
    for pictures_FHW3, clip in zip(pictures, wanted):
        if pictures_FHW3.shape[1:3] != (clip.clip.height, clip.clip.width):
            raise DecodingError(f"the header of {_video_of(clip)} does not give the size of its pictures")


def _calls(pending: dict[int, _ForDali], most: int) -> Iterator[list[int]]:
    """The keys of `pending` in order, grouped into calls of at most `most` clips and, but for one clip, MOST_BYTES."""
    call: list[int] = []
    size = 0
    for number, clip in pending.items():
        if call and (len(call) == most or size + clip.bytes > MOST_BYTES):
            yield call
            call, size = [], 0
        call.append(number)
        size += clip.bytes
    if call:
        yield call


def _gpu_crops(*arguments) -> list[Tensor]:
    from .gpu_resize import gpu_crops  # imports triton

    return gpu_crops(*arguments)


def _cpu_crops(
    pictures: Sequence[Tensor], frames: Sequence[np.ndarray], boxes: Sequence[np.ndarray], size: int
) -> list[Tensor]:
    """The result of `gpu_crops`, computed crop by crop."""
    crops = []
    for pictures_FHW3, numbers, boxes_N4 in zip(pictures, frames, boxes):
        patches = _patches(boxes_N4)
        for row, number in enumerate(numbers.tolist()):
            _cut(pictures_FHW3[number], boxes_N4[row], patches[row])
        crops.append(resize(patches, size))
    return crops


def resize(patches_NSS3: Tensor, size: int) -> Tensor:
    """[n, s, s, 3] uint8 to [n, 3, size, size] uint8 by PIL's bicubic filter, within two grey levels of PIL."""
    pixels = patches_NSS3.permute(0, 3, 1, 2)
    if pixels.shape[-1] == size or not len(pixels):
        return pixels
    return interpolate(pixels, (size, size), mode="bicubic", antialias=True)


def _patches(boxes: np.ndarray) -> Tensor:
    """Black patches [n, s, s, 3] to copy crops into."""
    side = int(boxes[0, 2] - boxes[0, 0])
    return torch.zeros(len(boxes), side, side, 3, dtype=torch.uint8)


def _cut(picture_HW3: Tensor, box: np.ndarray, patch_SS3: Tensor) -> None:
    """Copies the part of the picture inside the box; the patch stays black where the box lies outside the picture."""
    x0, y0, x1, y1 = box.tolist()
    height, width, _ = picture_HW3.shape
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    if left < right and top < bottom:
        patch_SS3[top - y0 : bottom - y0, left - x0 : right - x0] = picture_HW3[top:bottom, left:right]


def _video_of(wanted: WantedHands) -> Path:
    assert wanted.video is not None, wanted.clip.id
    return wanted.video


def _video_frames(wanted: WantedHands) -> np.ndarray:
    return wanted.clip.video_start + wanted.frames


def _check(video: VideoFile, wanted: WantedHands) -> None:
    """Raises InputError if the pose was not extracted from this video."""
    clip = wanted.clip
    again = "extract the pose from this video again"
    if (video.width, video.height) != (clip.width, clip.height):
        sizes = f"is {video.width}x{video.height}, but the pose of clip {clip.id} is for {clip.width}x{clip.height}"
        raise InputError(video.path, sizes, again)
    expected = clip.video_frames or clip.video_start + clip.frames
    if video.declared_frames and abs(video.declared_frames - expected) > LENGTH_TOLERANCE:
        frames = video.count_frames()  # the declared frame count may be wrong
        if abs(frames - expected) > LENGTH_TOLERANCE:
            problem = f"has {frames} frames, but the pose of clip {clip.id} is for {expected}"
            raise InputError(video.path, problem, again)
