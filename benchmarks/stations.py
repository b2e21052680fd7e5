"""Which station of a training step the time goes to.

Waiting for the device changes what it measures, so it has a pass of its own. Stations follow each other: time belongs
to the one that was entered last, and most are entered where one of their modules is called.
"""

import re
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

STATIONS = (
    "input",
    "pose encoder",
    "RGB encoder",
    "fusion",
    "temporal encoder",
    "mT5 encoder",
    "mT5 decoder",
    "vocabulary loss",
    "backward",
    "optimiser",
)
MODULES = (  # by their names, of both recipes
    (r"(pose_encoders|embeddings)\.", "pose encoder"),
    (r"rgb\.fusion(\.|$)", "fusion"),
    (r"rgb\.(backbone|projection)(\.|$)", "RGB encoder"),
    (r"temporal_encoders\.", "temporal encoder"),
    (r"(language_model\.)?mt5\.(encoder\.|shared$)", "mT5 encoder"),
    (r"(language_model\.)?mt5\.decoder\.", "mT5 decoder"),
    (r"(language_model\.)?mt5\.lm_head$", "vocabulary loss"),
)
LAST_OF_DECODER = r"(language_model\.)?mt5\.decoder\.dropout$"
ENCODER_ROWS = r"(language_model\.)?mt5\.encoder\.block\.0\.layer\.0\.SelfAttention\.o$"  # sees every position once


class StationClock:
    """`seconds` of each station, and the `positions` that mT5's encoder computed, padding too."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self.positions = 0
        self._station, self._since, self._in_forward = "input", 0.0, False

    def enter(self, station: str) -> None:
        """From now on, until the next one."""
        if station == self._station:
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds[self._station] += now - self._since
        self._station, self._since = station, now

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        """Enter the stations of the forward pass where `model` goes through them, and "backward" behind it."""
        handles = [
            model.register_forward_pre_hook(lambda *_: self._begin()),
            model.register_forward_hook(lambda *_: self._end()),
        ]
        for name, module in model.named_modules():
            for pattern, station in MODULES:
                if re.match(pattern, name):
                    handles.append(module.register_forward_pre_hook(lambda *_, s=station: self._pass(s)))
            if re.match(LAST_OF_DECODER, name):
                handles.append(module.register_forward_hook(lambda *_: self._pass("vocabulary loss")))
            if re.match(ENCODER_ROWS, name):
                handles.append(module.register_forward_pre_hook(lambda _, inputs: self._count(inputs[0])))
        self._station, self._since = "input", time.perf_counter()
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

    def _pass(self, station: str) -> None:
        if self._in_forward:  # what is computed again in the backward pass is part of it
            self.enter(station)

    def _count(self, x: torch.Tensor) -> None:
        if self._in_forward:
            self.positions += x.shape[:-1].numel()
