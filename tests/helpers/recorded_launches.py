"""A script that compares launches of kernels/launch.py with Triton's own, without a GPU: the driver records what the
launcher in C would get. It needs a process of its own without TRITON_INTERPRET.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from unisign_fast.kernels.launch import launch

CPU = -1  # the device of its tensors
BEFORE_ARGUMENTS = 9  # grid, stream, function, its metadata, that of the launch, and two hooks


class Driver:
    """What Triton asks of a driver, to launch on CPU tensors."""

    def __init__(self) -> None:
        self.utils = self
        self.calls: list[tuple] = []
        self.current = CPU

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        return lambda *arguments: self.calls.append(arguments)

    def load_binary(self, *_: Any) -> tuple:
        return object(), object(), 32, 0, 1024

    def get_device_properties(self, _: int) -> dict[str, int]:
        return {"max_shared_mem": 232_448}

    def get_current_device(self) -> int:
        return self.current

    def get_current_stream(self, _: int) -> int:
        return 7

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


@triton.jit(do_not_specialize=["rows"])
def kernel(x, y, rows, width, scale, BLOCK: tl.constexpr, FLAG: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(y + at, tl.load(x + at, at < rows * width, 0) * scale, at < (BLOCK if FLAG else 1))


def kinds() -> Iterator[tuple[tuple[int, ...], tuple, dict[str, Any]]]:
    """Grid, arguments and constants of launches for which Triton compiles different code, and of some it does not."""
    for dtype, offset in ((torch.float32, 0), (torch.bfloat16, 0), (torch.bfloat16, 1)):
        x = torch.zeros(64, dtype=dtype)
        for rows, width in ((1, 1), (16, 16), (5, 7), (3, 2**31)):
            for flag in (True, False):
                yield (3, 2, 4)[: 1 + flag], (x[offset:], x, rows, width, 0.5), {"BLOCK": 32, "FLAG": flag}


def without_hooks(call: tuple) -> tuple:
    """What determines a launch; tensors by their addresses."""
    values = [value.data_ptr() if isinstance(value, Tensor) else value for value in call[BEFORE_ARGUMENTS:]]
    return *call[: BEFORE_ARGUMENTS - 3], *values


def main() -> None:
    calls = (recorder := Driver()).calls
    driver.set_active(recorder)  # type: ignore[arg-type]
    functions = set()
    for grid, arguments, constants in kinds():
        calls.clear()
        kernel[grid](*arguments, **constants, num_warps=2, num_stages=1)
        for _ in range(2):
            launch(kernel, grid, *arguments, warps=2, stages=1, **constants)
        expected, first, again = calls
        assert without_hooks(first) == without_hooks(again) == without_hooks(expected)
        assert again[6:BEFORE_ARGUMENTS] == (None, None, None), "the second launch of a kind does not ask Triton"
        functions.add(expected[4])
    assert len(functions) == 3 * 4 * 2, "each kind has code of its own"

    devices = []

    @contextmanager
    def device(number: int) -> Iterator[None]:
        before, recorder.current = recorder.current, number
        yield
        devices.append(number)
        recorder.current = before

    with patch.object(torch.cuda, "device", device), patch.object(recorder, "current", 1):
        launch(kernel, grid, *arguments, warps=2, stages=1, **constants)
    assert devices == [CPU] and calls[-1] == again, "a kernel is launched on the device of its tensors"

    triton.knobs.runtime.launch_enter_hook.add(lambda metadata: None)
    launch(kernel, grid, *arguments, warps=2, stages=1, **constants)
    assert calls[-1][7].calls, "a hook sees every launch"


if __name__ == "__main__":
    main()
