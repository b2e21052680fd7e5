"""NVIDIA DALI's decoders: JPEG pictures, and the sampled frames of videos, on the CPU or on a GPU.

On a GPU only the compressed bytes are uploaded; nvJPEG and NVDEC decode them, and the pixels stay on the GPU. On the
CPU DALI decodes JPEG, VP9 and MJPEG.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from nvidia.dali import Pipeline
    from nvidia.dali.backend import TensorListCPU, TensorListGPU

CPU_CODECS = ("vp9", "mjpeg")  # FFmpeg's names
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

    @abstractmethod
    def _graph(self):
        """What the pipeline computes; called inside it."""

    @contextmanager
    def _run(self, **inputs: list[np.ndarray]) -> Iterator["TensorListCPU | TensorListGPU"]:
        """The pipeline's output for the inputs, in its own buffer, which is valid only inside the block."""
        if self._pipeline is None:
            self._pipeline = self._build()
        try:
            for name, samples in inputs.items():
                self._pipeline.feed_input(name, samples)
            (decoded,) = self._pipeline.run()
        except RuntimeError as error:
            self._pipeline = None  # the pipeline is no longer usable
            raise DecodingError(str(error).strip().splitlines()[-1]) from None
        yield decoded
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()  # finish before the next run overwrites the buffer

    def _build(self) -> "Pipeline":
        from nvidia.dali import Pipeline

        pipeline = Pipeline(
            batch_size=self.most,
            num_threads=DECODER_THREADS,
            device_id=self.device.index or 0 if self.device.type == "cuda" else None,
            prefetch_queue_depth=1,
            exec_dynamic=False,
        )
        with pipeline:
            pipeline.set_outputs(self._graph())
        pipeline.build()
        return pipeline

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

    def supports(self, codec: str) -> bool:
        """Whether DALI decodes this codec on this device; PyAV decodes the others."""
        return self.device.type == "cuda" or codec in CPU_CODECS
