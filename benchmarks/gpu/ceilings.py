"""Section 1 of gpu_call.py: the card's limits, and the attention backends that support mT5's arguments."""

import subprocess
import time
from contextlib import nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.gpu.device import Rows, Sizes, synchronize, time_ms


def ceilings(rows: Rows, sizes: Sizes) -> None:
    """Rows of the card, a copy, a matrix product, a launch, and every sdpa backend with and without a trained bias."""
    device = sizes.device
    if device.type == "cuda" and not rows.attempted("card"):
        card = torch.cuda.get_device_properties(device)
        rows.add(
            "card",
            multiprocessors=card.multi_processor_count,
            memory_gib=card.total_memory / 2**30,
            l2_mib=card.L2_cache_size / 2**20,
            capability=f"{card.major}.{card.minor}",
            cudnn=torch.backends.cudnn.version(),
        )
    for name, measure in {"copy": _copy, "bf16 product": _product, "launch": _launch}.items():
        if not rows.attempted(name):
            with rows.guard(name):
                measure(rows, sizes)
    if device.type == "cuda" and not rows.attempted("clocks"):
        with rows.guard("clocks"):
            query = "clocks.sm,clocks.mem,power.draw,temperature.gpu,driver_version"
            command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
            rows.add("clocks", after_the_products=subprocess.check_output(command, text=True, timeout=5).strip())
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION, None):
        for trained_bias in (True, False):
            _attention(rows, sizes, backend, trained_bias)


def _copy(rows: Rows, sizes: Sizes) -> None:
    """Bytes read and written a second."""
    source = torch.randint(0, 255, (sizes.copied_bytes,), dtype=torch.uint8, device=sizes.device)
    target = torch.empty_like(source)
    target.copy_(source)
    ms = time_ms(lambda: target.copy_(source), sizes.device, sizes.repeats)
    rows.add("copy", ms=ms, bytes_per_s=2e3 * source.numel() / ms)


def _product(rows: Rows, sizes: Sizes) -> None:
    """FLOPs a second of a square bf16 product of random numbers."""
    a, b = (torch.randn(sizes.product, sizes.product, device=sizes.device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    ms = time_ms(lambda: a @ b, sizes.device, sizes.repeats)
    rows.add("bf16 product", ms=ms, flops_per_s=2e3 * sizes.product**3 / ms)


def _launch(rows: Rows, sizes: Sizes) -> None:
    """The host's time of a launch."""
    one, launches = torch.zeros(1, device=sizes.device), 1000
    for _ in range(10):
        one += 1
    synchronize(sizes.device)
    begin = time.perf_counter()
    for _ in range(launches):
        one += 1
    rows.add("launch", host_us=1e6 * (time.perf_counter() - begin) / launches)


def _attention(rows: Rows, sizes: Sizes, backend: SDPBackend | None, trained_bias: bool) -> None:
    """One row: whether forward and backward run, and their milliseconds; None is torch's own choice."""
    clips, heads, length, width = (2, 2, 16, 8) if sizes.dry else (16, 12, 272, 64)
    name = f"sdpa {backend.name if backend else 'default'}, {'trained bias' if trained_bias else 'no bias'}"
    factory = {"device": sizes.device, "dtype": torch.bfloat16, "requires_grad": True}
    if rows.attempted(name):
        return
    with rows.guard(name):
        q, k, v = (torch.randn(clips, heads, length, width, **factory) for _ in range(3))
        bias = torch.randn(1, heads, length, length, **factory) if trained_bias else None
        inputs = [q, k, v] if bias is None else [q, k, v, bias]
        upstream = torch.randn_like(q)

        def step() -> None:
            mask = None if bias is None else bias.expand(clips, -1, -1, -1).contiguous()
            with sdpa_kernel(backend) if backend else nullcontext():
                out = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
            torch.autograd.grad(out, inputs, upstream)

        step()
        rows.add(name, ms=time_ms(step, sizes.device, sizes.repeats))
