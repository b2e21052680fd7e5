"""A programme's sound: 16 kHz, mono, aligned with the first video frame."""

from pathlib import Path

import av
import numpy as np

from ..crops.video import open_media
from ..errors import InputError

SAMPLE_RATE = 16_000  # as speech recognisers expect
MOST_SECONDS = 12 * 3600  # 2.8 GB of samples
_REMEDY = "leave the programme out, or use --text captions"


def read_audio(video: Path) -> np.ndarray:
    """The samples [N] of the first audio stream, float32 in [-1, 1]; sample 0 is heard with the first video frame.

    Raises InputError if there is no sound, it cannot be decoded, or it is longer than MOST_SECONDS.
    """
    pieces: list[np.ndarray] = []
    try:
        with open_media(video) as container:
            if not container.streams.audio:
                raise InputError(video, "has no sound", _REMEDY)
            stream = container.streams.audio[0]
            shown = container.streams.video[0] if container.streams.video else None
            offset = _start(stream) - (_start(shown) if shown else 0.0)
            # Of float samples FFmpeg sums the channels instead of averaging them.
            resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
            samples = 0
            for frame in container.decode(stream):
                for out in resampler.resample(frame):
                    pieces.append(out.to_ndarray().reshape(-1))
                    samples += len(pieces[-1])
                if samples > MOST_SECONDS * SAMPLE_RATE:
                    raise InputError(video, f"has more than {MOST_SECONDS // 3600} hours of sound", "cut it into parts")
            pieces += [out.to_ndarray().reshape(-1) for out in resampler.resample(None)]
    except (OSError, ValueError) as error:  # FFmpeg's errors are either
        raise InputError(video, f"its sound cannot be decoded ({error})", _REMEDY) from None
    if not pieces:
        raise InputError(video, "has no sound", _REMEDY)
    return _shifted(np.concatenate(pieces).astype(np.float32) / 32_768, round(offset * SAMPLE_RATE))


def _start(stream) -> float:
    return float(stream.start_time * stream.time_base) if stream.start_time is not None else 0.0


def _shifted(samples: np.ndarray, by: int) -> np.ndarray:
    """The samples delayed by a number of samples; negative delays drop the start. Delays beyond a minute are damaged
    times."""
    if abs(by) > 60 * SAMPLE_RATE:
        return samples
    return np.concatenate([np.zeros(by, np.float32), samples]) if by > 0 else samples[-by:]
