"""NVIDIA DALI's decoders: JPEG pictures, and the sampled frames of videos, on the CPU or on a GPU.

On a GPU only the compressed bytes are uploaded; nvJPEG and NVDEC decode them, and the pixels stay on the GPU. On the
CPU DALI decodes JPEG, VP9 and MJPEG.

A decoder works on a CUDA stream of its own. On the default stream it would queue, and wait, behind the kernels of the
training step. Each decoder's device is current while its results are used: threads start with device 0.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .video import VideoFile

if TYPE_CHECKING:
    from nvidia.dali import Pipeline
    from nvidia.dali.backend import TensorListCPU, TensorListGPU

CPU_CODECS = ("vp9", "mjpeg")  # FFmpeg's names
GPU_CODECS = ("h264", "hevc", "vp8", "vp9")
GPU_PIXEL_FORMATS = ("yuv420p", "yuvj420p")  # what every NVDEC decodes, and DALI converts from NV12 without loss
MOST_PICTURES = 4096  # files of one call
MOST_VIDEOS = {"cpu": 1, "cuda": 16}  # more do not help on the CPU; on a GPU they keep the decoders busy
DECODER_THREADS = 1  # parallel over the loader's threads instead


class DecodingError(Exception):
    """DALI failed on one sample of a call; it does not report which."""


class _Decoder(ABC):
    """One pipeline, built on first use and rebuilt after an error. Not thread-safe.

    DALI is imported on first use, so pose-only training does not need it.
    """

    def __init__(self, device: torch.device, most: int):
        self.device, self.most = device, most
        self._pipeline: Pipeline | None = None
        self._stream: torch.cuda.Stream | None = None  # on a GPU, from the first use on

    @abstractmethod
    def _graph(self):
        """What the pipeline computes; called inside it."""

    @contextmanager
    def _run(self, **inputs: list[np.ndarray]) -> Iterator["TensorListCPU | TensorListGPU"]:
        """The pipeline's output for the inputs, in its own buffer, which is valid only inside the block.

        On a GPU the block runs on the decoder's stream, whose work is complete after the block; what it returns has to
        pass through `for_caller`.
        """
        if self._pipeline is None:
            self._pipeline = self._build()
        try:
            for name, samples in inputs.items():
                self._pipeline.feed_input(name, samples)
            (decoded,) = self._pipeline.run()
        except RuntimeError as error:
            self._pipeline = None  # the pipeline is no longer usable
            raise DecodingError(_reason(error)) from None
        with torch.cuda.stream(self._stream):
            yield decoded
        if self._stream is not None:
            self._stream.synchronize()  # finish before the next run overwrites the buffer

    def _build(self) -> "Pipeline":
        """Raises InputError if DALI is missing or does not work on the device."""
        try:
            from nvidia.dali import Pipeline

            if self.device.type == "cuda" and self._stream is None:
                self._stream = torch.cuda.Stream(self.device)
            pipeline = Pipeline(
                batch_size=self.most,
                num_threads=DECODER_THREADS,
                device_id=None if self._stream is None else self._stream.device.index,
                prefetch_queue_depth=1,
                exec_dynamic=False,
            )
            with pipeline:
                pipeline.set_outputs(self._graph())
            pipeline.build()
            return pipeline
        except (ImportError, RuntimeError) as error:
            package = f"nvidia-dali-cuda{(torch.version.cuda or '13').split('.')[0]}0"
            remedy = f"install {package} and no other build of DALI (docs/data.md)"
            raise InputError("NVIDIA DALI", f"does not work here ({_reason(error)})", remedy) from None

    @property
    def _backend(self) -> str:
        return "mixed" if self.device.type == "cuda" else "cpu"


class JpegDecoder(_Decoder):
    """JPEG files of one size, all of a batch in one call."""

    def __init__(self, device: torch.device):
        super().__init__(device, MOST_PICTURES)

    def _graph(self):
        from nvidia.dali import fn, types

        files = fn.external_source(name="files", device="cpu", dtype=types.DALIDataType.UINT8, ndim=1)
        return fn.decoders.image(files, device=self._backend, output_type=types.DALIImageType.RGB)

    def decode(self, files: Sequence[np.ndarray]) -> Tensor:
        """[n, S, S, 3] uint8 RGB on the device, from n >= 1 files. Raises DecodingError."""
        parts = []
        for first in range(0, len(files), self.most):
            with self._run(files=list(files[first : first + self.most])) as decoded:
                parts.append(torch.from_dlpack(decoded.as_tensor()).clone())
            for_caller(parts[-1])
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class VideoDecoder(_Decoder):
    """Numbered frames of several videos. All must exist: for some codecs DALI fabricates missing frames."""

    def __init__(self, device: torch.device):
        super().__init__(device, MOST_VIDEOS[device.type])

    def _graph(self):
        from nvidia.dali import fn, types

        files = fn.external_source(name="files", device="cpu", dtype=types.DALIDataType.UINT8, ndim=1)
        frames = fn.external_source(name="frames", device="cpu", dtype=types.DALIDataType.INT32, ndim=1)
        return fn.decoders.video(files, frames=frames, device=self._backend, pad_mode="none")

    @contextmanager
    def decode(self, files: Sequence[np.ndarray], frames: Sequence[np.ndarray]) -> Iterator[list[Tensor]]:
        """For each of at most `most` files [n, H, W, 3] uint8 RGB on the device: its frames [n], from 0.

        The tensors are valid only inside the block. Raises DecodingError.
        """
        numbers = [video_frames.astype(np.int32) for video_frames in frames]
        with self._run(files=list(files), frames=numbers) as decoded:
            yield [torch.from_dlpack(decoded[i]) for i in range(len(decoded))]

    def supports(self, video: VideoFile) -> bool:
        """Whether DALI decodes this video's pictures on this device; PyAV decodes the others.

        NVDEC does not know MJPEG; DALI writes past the edge of pictures of odd width or height on a GPU.
        """
        if self.device.type == "cpu":
            return video.codec in CPU_CODECS
        is_even = video.width % 2 == video.height % 2 == 0
        return video.codec in GPU_CODECS and video.pixel_format in GPU_PIXEL_FORMATS and is_even


def for_caller(tensor: Tensor) -> None:
    """Marks memory allocated on a decoder's stream as used by the caller's, so that it is not reused too early."""
    if tensor.is_cuda:
        tensor.record_stream(torch.cuda.current_stream(tensor.device))


def _reason(error: Exception) -> str:
    """The line of DALI's message that says what failed; it is surrounded by tracebacks and advice."""
    text = str(error).partition("encountered:")[2] or str(error)
    return text.strip().splitlines()[0] if text.strip() else type(error).__name__
