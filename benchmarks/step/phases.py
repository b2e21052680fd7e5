"""Time of each phase of a training step.

Waiting for the device at every boundary changes the total, so phases are timed in a pass of their own. A phase lasts
until the next one begins; most begin where one of their modules is called.
"""

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

MODULES = (  # by their names, of both recipes
    (r"(pose_encoders|embeddings)\.", "pose encoder"),
    (r"rgb\.fusion(\.|$)", "fusion"),
    (r"rgb\.(backbone|projection)(\.|$)", "RGB encoder"),
    (r"temporal_encoders\.", "temporal encoder"),
    (r"(language_model\.)?mt5\.(encoder\.|shared$)", "mT5 encoder"),
    (r"(language_model\.)?mt5\.decoder\.", "mT5 decoder"),
    (r"(language_model\.)?mt5\.lm_head$", "vocabulary loss"),
)
DECODER_DROPOUT = r"(language_model\.)?mt5\.decoder\.dropout$"
ENCODER_ROWS = r"(language_model\.)?mt5\.encoder\.block\.0\.layer\.0\.SelfAttention\.o$"  # sees every position once


def hooks(model: nn.Module, enter: Callable[[str], None]) -> list[RemovableHandle]:
    """Hooks that call `enter(phase)` where the forward pass reaches a phase; the caller removes them."""
    handles = []
    for name, module in model.named_modules():
        for pattern, phase in MODULES:
            if re.match(pattern, name):
                handles.append(module.register_forward_pre_hook(lambda *_, phase=phase: enter(phase)))
        if re.match(DECODER_DROPOUT, name):
            after = cycle(("mT5 decoder", "vocabulary loss"))  # mT5 drops out before its layers and after them
            handles.append(module.register_forward_hook(lambda *_: enter(next(after))))
    return handles


class PhaseClock:
    """`seconds` of each phase, and the `positions` that mT5's encoder computed, padding too."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self.positions = 0
        self._phase, self._since, self._in_forward = "input", 0.0, False

    def enter(self, phase: str) -> None:
        """Begin a phase, which ends the one before."""
        if phase == self._phase:
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds[self._phase] += now - self._since
        self._phase, self._since = phase, now

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        """Enter the phases of the forward pass as `model` reaches them, and "backward" after it."""
        handles = [
            model.register_forward_pre_hook(lambda *_: self._begin()),
            *hooks(model, self._pass),
            model.register_forward_hook(lambda *_: self._end()),
        ]
        for name, module in model.named_modules():
            if re.match(ENCODER_ROWS, name):
                handles.append(module.register_forward_pre_hook(lambda _, inputs: self._count(inputs[0])))
        self._phase, self._since = "input", time.perf_counter()
        try:
            yield
            self.enter("end")
        finally:
            for handle in handles:
                handle.remove()

    def _begin(self) -> None:
        self._in_forward = True
        self.enter("pose encoder")

    def _end(self) -> None:
        self._in_forward = False
        self.enter("backward")

    def _pass(self, phase: str) -> None:
        if self._in_forward:  # recomputation in the backward pass belongs to it
            self.enter(phase)

    def _count(self, x: torch.Tensor) -> None:
        if self._in_forward:
            self.positions += x.shape[:-1].numel()
