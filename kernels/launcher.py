"""Launching a Triton kernel on a GPU. Triton binds and specializes all arguments anew at each launch, and calls its
hooks even if there are none, which takes longer than many kernels run.
"""

from typing import Any

import torch
from triton import knobs
from triton.runtime import JITFunction, driver

ALIGNMENT = 16  # of pointers and integers that Triton compiles for
MIN_INT32, MAX_INT32 = -(2**31), 2**31 - 1


NUMBERS = {int, float}  # the types of arguments that are not tensors
ONES = {1: (1, 1), 2: (1,), 3: ()}  # the axes that a grid leaves out


class Launcher:
    """Launches one kernel. Triton compiles it; further launches of the same code go straight to its launcher in C."""

    def __init__(self, kernel: Any):
        self._kernel = kernel
        self._interpreted = not isinstance(kernel, JITFunction)
        self._compiled: dict[tuple, tuple] = {}

    def __call__(
        self, device: int, grid: tuple[int, ...], arguments: tuple, constants: dict[str, Any], warps: int, stages: int
    ) -> None:
        """kernel[grid](*arguments, **constants, num_warps=warps, num_stages=stages) on the device of the tensors."""
        if self._interpreted:
            self._kernel[grid](*arguments, **constants, num_warps=warps, num_stages=stages)
            return
        gpu = driver.active
        if device != gpu.get_current_device():
            with torch.cuda.device(device):  # Triton launches on the current GPU, whatever GPU the tensors are on
                return self(device, grid, arguments, constants, warps, stages)
        kinds: list[Any] = [device, warps, stages, *constants, *constants.values()]
        values: list[Any] = []
        for argument in arguments:
            if type(argument) in NUMBERS:
                kinds.append(_kind(argument))
                values.append(argument)
            else:
                pointer = argument.data_ptr()
                kinds += argument.dtype, pointer % ALIGNMENT == 0
                values.append(pointer)
        key = tuple(kinds)
        compiled = self._compiled.get(key)
        if compiled is None or _hooked(self._kernel):
            kernel = self._kernel[grid](*arguments, **constants, num_warps=warps, num_stages=stages)
            rest = tuple(constants[name] for name in self._kernel.arg_names[len(arguments) :])
            self._compiled[key] = kernel.run, kernel.function, kernel.packed_metadata, rest
            return
        run, function, metadata, rest = compiled
        stream = gpu.get_current_stream(device)
        run(*grid, *ONES[len(grid)], stream, function, metadata, None, None, None, *values, *rest)


def _kind(number: float) -> Any:
    """What Triton may compile for: type, the number 1, multiples of 16. Kinds that it does not tell apart cost nothing:
    it finds the code of either.
    """
    if type(number) is not int:
        return type(number)
    if not MIN_INT32 <= number <= MAX_INT32:
        return number
    return "one" if number == 1 else number % ALIGNMENT == 0


def _hooked(kernel: Any) -> bool:
    """Whether something wants to see launches, as a profiler does. Triton then has to make them."""
    enter, leave = knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook
    return bool(kernel.pre_run_hooks or getattr(enter, "calls", enter) or getattr(leave, "calls", leave))
