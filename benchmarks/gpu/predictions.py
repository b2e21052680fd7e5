"""What gpu_call.py is to measure, counted without a GPU: for the same micro-batches, and for the graph stack."""

from dataclasses import replace
from pathlib import Path

from benchmarks.about import about
from benchmarks.gpu.device import gpu_sizes
from benchmarks.gpu.step import RGB_SHARES
from benchmarks.kernel_subjects import FRAMES
from benchmarks.launches import CEILINGS, WHOLE, count_batch
from benchmarks.step.synthetic import synthetic_step
from benchmarks.tiles import count
from unisign_fast.evaluation.predictions import write_json

CARD = "H200"


def predict(file: Path) -> None:
    """Write a row for each micro-batch of Stage 1 and RGB, and for the graph stack forward and backward."""
    sizes, rows = gpu_sizes(), []
    settings = {"vocabulary": sizes.model.mt5.vocab_size, "crop_size": sizes.crop_size}
    for clips in sizes.micro_batches:
        batches = synthetic_step(sizes.clips_per_step, clips, sizes.max_frames, p_samp=0.0, **settings)
        rows.append({"what": f"stage 1, {clips} clips"} | _of(batches[len(batches) // 2], sizes, False))
    for share in RGB_SHARES:
        (batch,) = synthetic_step(sizes.rgb_clips, sizes.rgb_clips, sizes.max_frames, p_samp=share, **settings)
        rows.append({"what": f"RGB at {share:g}"} | _of(batch, sizes, share > 0))
    for frames in sizes.stack_frames:
        us_a_frame = sum(row.us_a_frame for row in count(frames // FRAMES))
        rows.append({"what": f"graph stack of {frames} frames", "us_an_item": us_a_frame})
    where = about() | {"device": f"predicted for one {CARD}"}
    write_json(file, [row | where for row in rows])


def _of(batch, sizes, rgb: bool) -> dict[str, float]:
    rows = count_batch(1, batch, replace(sizes.model, rgb=rgb), CEILINGS[CARD])
    (whole,) = (row for row in rows if row.phase == WHOLE)
    names = "frames", "crops", "launches", "gpu_ms", "host_ms"
    return {name: getattr(whole, name) for name in names} | {"saved_gib": whole.saved_mib / 1024}
