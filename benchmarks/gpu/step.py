"""Sections of gpu_call.py on the whole step: Stage 1 at several sizes, the cost of RGB, and a falling loss.

The optimiser is torch's fused AdamW on float32 masters; gradients of micro-batches are summed in float32. DeepSpeed is
not needed.
"""

import json
import time
import warnings
from collections import Counter
from dataclasses import replace

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.device import DATASHEET_TFLOPS, Rows, Sizes, synchronize, time_ms
from benchmarks.step.synthetic import synthetic_step
from unisign_fast.kernels.aot import compile_ahead
from unisign_fast.kernels.bn_silu.op import bucketed_crops
from unisign_fast.kernels.dispatch import as_device
from unisign_fast.kernels.launch import recording
from unisign_fast.model.flops import TRAINING, forward_flops
from unisign_fast.model.unisign import UniSign
from unisign_fast.pipelines.batches.packed_batch import PackedBatch

CHUNKS = 4  # micro-batches of a step that are timed, evenly spaced over its lengths
TOP = 25  # costliest kernels that a row lists
RGB_SHARES = (0.0, 0.1, 0.25, 0.5)


class MasterAdamW:
    """AdamW on float32 masters of bf16 parameters, its learning rate constant, the gradient clipped to norm 1."""

    def __init__(self, model: torch.nn.Module, learning_rate: float):
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.masters = [p.detach().float() for p in self.parameters]
        for master in self.masters:
            master.grad = torch.zeros_like(master)
        self.exact = [torch.empty_like(master) for master in self.masters]  # gradients of a micro-batch
        self.optimizer = torch.optim.AdamW(self.masters, learning_rate, eps=1e-9, weight_decay=1e-4, fused=True)

    @torch.no_grad()
    def accumulate(self) -> None:
        """Add the gradients of a micro-batch to the float32 ones."""
        both = zip(self.masters, self.exact, self.parameters)
        given = [(master.grad, exact, p.grad) for master, exact, p in both if p.grad is not None]
        sums, exact, grads = map(list, zip(*given))
        torch._foreach_copy_(exact, grads)  # few launches, where one conversion for each parameter would take hundreds
        torch._foreach_add_(sums, exact)
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Take the step; float32 gradients start again from zero."""
        torch.nn.utils.clip_grad_norm_(self.masters, 1.0, foreach=True)
        self.optimizer.step()
        torch._foreach_copy_(self.parameters, self.masters)
        torch._foreach_zero_([master.grad for master in self.masters])


def build(sizes: Sizes, rgb: bool) -> UniSign:
    """The model in bf16, training, with random weights."""
    torch.manual_seed(0)
    with sizes.device:
        model = UniSign(replace(sizes.model, rgb=rgb))
    return model.to(sizes.device, torch.bfloat16).train()


def make_step(sizes: Sizes, clips: int, per_micro_batch: int, p_samp: float) -> list[PackedBatch]:
    """Synthetic micro-batches on the device."""
    batches = synthetic_step(
        clips,
        per_micro_batch,
        sizes.max_frames,
        vocabulary=sizes.model.mt5.vocab_size,
        p_samp=p_samp,
        crop_size=sizes.crop_size,
    )
    return [batch.to(sizes.device) for batch in batches]


def useful_flops(sizes: Sizes, batch: PackedBatch, rgb: bool) -> int:
    """Useful FLOPs of forward and backward, without padding or recomputation."""
    config = replace(sizes.model, rgb=rgb)
    lengths = batch.lengths, batch.prompt_lengths, batch.label_lengths
    return TRAINING * sum(forward_flops(config, *lengths, sum(batch.crops_per_hand), sizes.crop_size).values())


def micro_step(model: UniSign, batch: PackedBatch) -> torch.Tensor:
    """Forward and backward of one micro-batch, whose gradients replace the ones before; the sum of its losses, left on
    the device.
    """
    model.zero_grad(set_to_none=True)
    loss = model(batch)[0]
    (loss / sum(batch.label_lengths)).backward()
    return loss.detach()


def compile_step(sizes: Sizes, p_samp: float) -> None:
    """Compile the kernels of a micro-batch, recorded on meta tensors, on all cores; print a row of JSON. A dry run only
    counts them.
    """
    begin, meta = time.perf_counter(), replace(sizes, device=torch.device("meta"))
    (batch,) = make_step(meta, sizes.rgb_clips, sizes.rgb_clips, p_samp)
    with as_device("cuda"), recording() as launches:
        micro_step(build(meta, rgb=p_samp > 0), batch)
    kernels = len(set(launches)) if sizes.dry else compile_ahead(launches)
    values = {"kernels": kernels, "seconds": time.perf_counter() - begin}
    print(json.dumps({"what": f"kernels of a step at p_samp {p_samp:g}"} | values), flush=True)


def stage1(rows: Rows, sizes: Sizes) -> None:
    """For each size of a micro-batch: clips/s, MFU, launches, busy share, synchronisations, the costliest kernels."""
    model = build(sizes, rgb=False)
    optimizer = MasterAdamW(model, 3e-4)
    for clips in sizes.micro_batches:
        if not rows.attempted(f"stage 1, {clips} clips"):
            with rows.guard(f"stage 1, {clips} clips"):
                rows.require(15)
                _stage1(rows, sizes, model, optimizer, clips)
            model.zero_grad(set_to_none=True)


def _stage1(rows: Rows, sizes: Sizes, model: UniSign, optimizer: MasterAdamW, clips: int) -> None:
    device, name = sizes.device, f"stage 1, {clips} clips"
    batches = make_step(sizes, sizes.clips_per_step, clips, 0.0)
    count = min(CHUNKS, len(batches))
    timed = [batches[int((n + 0.5) * len(batches) / count)] for n in range(count)]

    def run(chosen: list[PackedBatch]) -> None:
        for batch in chosen:
            micro_step(model, batch)
            optimizer.accumulate()

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    run(timed)
    optimizer.step()
    synchronize(device)
    first_seconds = time.perf_counter() - begin
    ms = time_ms(lambda: run(timed), device, min(3, sizes.repeats))
    begin = time.perf_counter()
    run(timed)
    host_ms = 1e3 * (time.perf_counter() - begin)
    synchronize(device)
    optimizer_ms = time_ms(optimizer.step, device, sizes.repeats)
    done = sum(len(batch.lengths) for batch in timed)
    flops = sum(useful_flops(sizes, batch, rgb=False) for batch in timed)
    step_ms = ms / done * sizes.clips_per_step + optimizer_ms
    rows.add(
        name,
        frames=sum(sum(batch.lengths) for batch in timed) / len(timed),
        micro_batch_ms=ms / len(timed),
        host_ms=host_ms / len(timed),
        optimizer_ms=optimizer_ms,
        clips_per_s=1e3 * sizes.clips_per_step / step_ms,
        mfu=flops / done * sizes.clips_per_step / (step_ms / 1e3) / (DATASHEET_TFLOPS * 1e12),
        first_seconds=first_seconds,
        peak_gib=torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0,
    )
    with rows.guard(f"{name}, profile"):  # of the micro-batch that benchmarks/launches.py counts
        rows.require(10)
        middle = batches[len(batches) // 2]
        rows.add(f"{name}, profile", **profiled(lambda: micro_step(model, middle), device))
    with rows.guard(f"{name}, synchronisations"):
        rows.require(3)
        places = synchronisations(lambda: run(timed[-1:]), device)
        rows.add(f"{name}, synchronisations", count=sum(places.values()), places=places)


def profiled(function, device: torch.device) -> dict:
    """Launches, their time, its share of the call's time without a profiler, and the costliest kernels.

    All run on one stream, so that their times add up.
    """
    on_gpu = device.type == "cuda"
    function()
    wall_ms = time_ms(function, device, 3 if on_gpu else 1)
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
        function()
        synchronize(device)
    kind = torch.autograd.DeviceType.CUDA if on_gpu else torch.autograd.DeviceType.CPU
    calls, micros = Counter(), Counter()
    for event in profiler.events():
        if event.device_type == kind and not getattr(event, "is_user_annotation", False):
            calls[event.name] += 1
            micros[event.name] += event.time_range.elapsed_us() if on_gpu else event.self_cpu_time_total
    busy_ms = sum(micros.values()) / 1e3
    costliest = [[name[:120], calls[name], round(us / 1e3, 4)] for name, us in micros.most_common(TOP)]
    return {
        "launches": sum(calls.values()),
        "busy_ms": busy_ms,
        "wall_ms": wall_ms,
        "busy_share": busy_ms / wall_ms,
        "costliest": costliest,
    }


def synchronisations(function, device: torch.device) -> dict[str, int]:
    """Where the host waits for the device, by torch's own warnings: line of code and how often."""
    if device.type != "cuda":
        function()
        return {}
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            function()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    places = Counter(f"{w.filename}:{w.lineno}" for w in caught if "synchroniz" in str(w.message))
    return dict(places)


def rgb(rows: Rows, sizes: Sizes) -> None:
    """Time of a micro-batch at each share of sampled frames, relative to pose-only, and microseconds a crop; then a
    profile of each.
    """
    model = build(sizes, rgb=True)
    branch = model.rgb
    profiles = {f"RGB at {share:g}, profile": (share, _rgb_profile) for share in RGB_SHARES}
    if sizes.dry:  # on a CPU each takes seconds
        profiles = dict(list(profiles.items())[1:2])
    for name, (share, measure) in (
        {f"RGB at {share:g}": (share, _rgb_time) for share in RGB_SHARES} | profiles
    ).items():
        if any(row["what"] == name for row in rows.rows):
            continue
        with rows.guard(name):
            rows.require(6)
            model.rgb = branch if share else None
            (batch,) = make_step(sizes, sizes.rgb_clips, sizes.rgb_clips, share)
            micro_step(model, batch)
            measure(rows, sizes, name, model, batch)
        model.zero_grad(set_to_none=True)


def _rgb_time(rows: Rows, sizes: Sizes, name: str, model: UniSign, batch: PackedBatch) -> None:
    micro_step(model, batch)
    ms = time_ms(lambda: micro_step(model, batch), sizes.device, sizes.repeats)
    crops, values = sum(batch.crops_per_hand), {}
    pose_ms = next((row["ms"] for row in rows.rows if row["what"] == "RGB at 0" and "ms" in row), None)
    if crops and pose_ms:
        values = {"us_a_crop": 1e3 * (ms - pose_ms) / crops, "relative": ms / pose_ms}
    flops = useful_flops(sizes, batch, rgb=crops > 0)
    mfu = flops / (ms / 1e3) / (DATASHEET_TFLOPS * 1e12)
    rows.add(name, ms=ms, crops=crops, padded_crops=bucketed_crops(crops, batch.crops), mfu=mfu, **values)


def _rgb_profile(rows: Rows, sizes: Sizes, name: str, model: UniSign, batch: PackedBatch) -> None:
    rows.add(name, **profiled(lambda: micro_step(model, batch), sizes.device))


def falling_loss(rows: Rows, sizes: Sizes) -> None:
    """Steps in bf16 on fixed clips: mean loss of a target token, every tenth step."""
    model = build(sizes, rgb=False)
    optimizer = MasterAdamW(model, 3e-4)
    (batch,) = make_step(sizes, sizes.rgb_clips, sizes.rgb_clips, 0.0)
    losses, tokens = [], sum(batch.label_lengths)
    if rows.attempted("loss in bf16"):
        return
    with rows.guard("loss in bf16"):
        for number in range(sizes.steps):
            torch.manual_seed(number)
            loss = micro_step(model, batch)
            optimizer.accumulate()
            optimizer.step()
            if number % 10 == 0 or number == sizes.steps - 1:
                losses.append(loss.item() / tokens)
                if rows.seconds_left < 2:
                    break
        rows.add(
            "loss in bf16",
            steps=number + 1,
            first=losses[0],
            last=losses[-1],
            falls=losses[-1] < losses[0],
            losses=losses,
        )
