"""A script that compiles recorded launches ahead, and then launches for real: Triton must find all in its cache. It
needs no GPU, but a process of its own without TRITON_INTERPRET, and an empty TRITON_CACHE_DIR.
"""

import sys
import threading
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import triton
import triton.language as tl
from triton import knobs

from tests.helpers.recorded_launches import Driver, kernel, kinds
from unisign_fast.kernels.aot import compile_ahead
from unisign_fast.kernels.launch import launch, recording


@triton.jit
def mode_kernel(x, MODE: tl.constexpr, SCALE: tl.constexpr):
    if MODE == "broken":
        tl.store(x, tl.arange(0, 3))
    tl.store(x, SCALE)


class Loading(Driver):
    """Notes what is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.launchers: list[Any] = []

    def load_binary(self, name: str, *_: Any) -> tuple:
        self.loaded.append(name)
        return super().load_binary(name)

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        self.launchers.append(metadata)
        return super().launcher_cls(source, metadata)


def main() -> None:
    recorder, hits = Loading(), []

    def create_driver() -> Loading:
        assert threading.current_thread() is threading.main_thread(), "threads would each build a driver"
        return recorder

    patch.object(sys.modules["triton.runtime.driver"], "_create_driver", create_driver).start()
    knobs.compilation.listener = lambda **compilation: hits.append(compilation["cache_hit"])

    def launch_all() -> None:
        for grid, arguments, constants in kinds():
            if arguments[3] < 2**31:  # no kernel takes larger integers: offsets are int32
                launch(kernel, grid, *arguments, warps=2, stages=1, **constants)
        for mode, scale in (("D", 1), ("plain", 16), ("plain", 0.5)):
            launch(mode_kernel, (1,), arguments[0], warps=1, stages=1, MODE=mode, SCALE=scale)

    with recording() as launches:
        launch_all()
    broken = replace(launches[-1], constants=(("MODE", "broken"), ("SCALE", 1)))
    try:
        compile_ahead([broken, *launches, *launches])
        raise AssertionError("an error is hidden")
    except triton.CompilationError:
        pass
    assert not recorder.calls and hits == [False] * len(recorder.loaded), "launches nothing, and compiles each once"
    assert len(set(launches)) == len(recorder.loaded) == len(recorder.launchers)
    assert compile_ahead(launches) == len(recorder.loaded) == len(hits), "they are loaded"

    for each in (kernel, mode_kernel):
        each.device_caches.clear()  # as in another process
    hits.clear()
    launch_all()
    assert hits == [True] * len(set(launches)), "Triton finds the code of every launch in its cache"
    assert len(recorder.calls) == len(launches)


if __name__ == "__main__":
    main()
