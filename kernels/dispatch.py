"""The one place that chooses which backend of an operation runs, from the device of its tensors.

`gpu` is the fastest version for a GPU (a Triton kernel, or a library where one is faster), `cpu` the one for CPUs,
`reference` plain PyTorch, and `compiled` torch.compile of the reference. UNISIGN_KERNELS=NAME forces one backend for
the whole process. The first call of each operation logs its backend.
"""

import inspect
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor

BACKENDS = ("reference", "gpu", "cpu", "compiled")
BACKEND_OF = {"cuda": "gpu", "cpu": "cpu"}  # by type of device
DEVICE_OF = {backend: device for device, backend in BACKEND_OF.items()}  # that a backend is written for
DTYPES, INTEGERS = (torch.float32, torch.bfloat16), (torch.int32, torch.int64)
logger = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")

Kind = tuple[torch.dtype, torch.device, int]  # of a tensor: the last is its number of dimensions

_forced = os.environ.get("UNISIGN_KERNELS") or None
_meta_device = "meta"


@dataclass(frozen=True)
class Operation(Generic[P, R]):
    """An operation that the model calls like a function, with the signature of its reference.

    `reference`, `gpu` and `cpu` take the same arguments and return the same tensors, nested alike. `refusal` returns
    one line saying why `gpu` cannot take the arguments, or None. `cpu` is None where the reference is fast enough; it
    imports CPU-only code (kernels/cpu) when called, so a GPU process never loads it.
    """

    name: str
    reference: Callable[P, R]
    gpu: Callable[..., R]
    refusal: Callable[..., str | None] = lambda *_: None
    cpu: Callable[..., R] | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the operation. Raises ValueError if a forced backend cannot take the arguments; without forcing, the
        reference runs instead, with one warning per operation.
        """
        arguments = inspect.signature(self.reference).bind(*args, **kwargs).args if kwargs else args
        backend = self.backend(*arguments)
        return (_compile(self.reference) if backend == "compiled" else getattr(self, backend))(*arguments)

    def backend(self, *arguments: Any) -> str:
        """The name of the backend that runs on these arguments."""
        kinds = [(tensor.dtype, tensor.device, tensor.ndim) for tensor in tensors(arguments)]
        backend = default_backend(_type(kinds[0][1], _meta_device))
        if backend == "cpu" and self.cpu is None:
            backend = "reference"
        if backend in DEVICE_OF and (refusal := self._refused(backend, arguments, frozenset(kinds))):
            if forced_backend():
                raise ValueError(f"{self.name}: the {backend} backend cannot run: {refusal}; unset UNISIGN_KERNELS")
            _warn(self.name, refusal)
            backend = "reference"
        if not torch.compiler.is_compiling():
            _log_backend(self.name, backend)
        return backend

    def _refused(self, backend: str, arguments: tuple, kinds: frozenset[Kind]) -> str | None:
        """Why a backend cannot take these arguments, with tensors of these kinds; None where it can."""
        if torch.is_autocast_enabled(DEVICE_OF[backend]):
            return "torch.autocast mixes types within an operation; give the model a dtype instead"
        refusal = _refused_kinds(backend, kinds, _meta_device)
        return self.refusal(*arguments) if refusal is None and backend == "gpu" else refusal


@cache
def _refused_kinds(backend: str, kinds: frozenset[Kind], meta_device: str) -> str | None:
    """Why a backend cannot take tensors of these kinds; None where it can."""
    floats = set()
    for dtype, device, dimensions in kinds:
        if dtype in DTYPES:
            if dimensions > 1:
                floats.add(dtype)
        elif dtype not in INTEGERS:
            return f"{dtype} is not one of {', '.join(map(str, DTYPES))}"
        place = _type(device, meta_device)
        if place != DEVICE_OF[backend] and not (backend == "gpu" and _interpreted()):
            return f"a tensor is on {place}, not on {DEVICE_OF[backend]}"
    return f"tensors of different types ({', '.join(sorted(map(str, floats)))})" if len(floats) > 1 else None


@cache
def _type(device: torch.device, meta_device: str) -> str:
    """The type of device that a tensor's device counts as. torch takes microseconds to say a device's type."""
    return meta_device if device.type == "meta" else device.type


def forced_backend() -> str | None:
    """The backend of UNISIGN_KERNELS at the start, or of `force` since. Raises ValueError for an unknown name."""
    if _forced is not None and _forced not in BACKENDS:
        raise ValueError(f"UNISIGN_KERNELS: {_forced!r} is not known; choose one of {' | '.join(BACKENDS)}")
    return _forced


def default_backend(device: str) -> str:
    """The backend for a type of device, or the forced one. Raises ValueError as `forced_backend` does."""
    return forced_backend() or BACKEND_OF.get(device, "reference")


def backend_for(tensor: Tensor) -> str:
    """The backend for the tensor's device, or the forced one."""
    return default_backend(_type(tensor.device, _meta_device))


def force(backend: str | None) -> str | None:
    """Force a backend from now on as UNISIGN_KERNELS does from the start; None forces none. Returns the one before."""
    global _forced
    before, _forced = _forced, backend
    return before


@contextmanager
def forcing(backend: str) -> Iterator[None]:
    """Force a backend within the block."""
    before = force(backend)
    try:
        yield
    finally:
        force(before)


@contextmanager
def as_device(device: str) -> Iterator[None]:
    """Within the block meta tensors count as this device's: as_device("cuda") takes a model through its GPU path
    without a GPU. Triton kernels are then recorded instead of run (launch.py).
    """
    global _meta_device
    before, _meta_device = _meta_device, device
    try:
        yield
    finally:
        _meta_device = before


def tensors(values: Any) -> list[Tensor]:
    """The tensors among nested arguments or results, in order."""
    result = []
    for value in values if isinstance(values, (tuple, list)) else [values]:
        if isinstance(value, Tensor):
            result.append(value)
        elif isinstance(value, (tuple, list)):
            result += tensors(value)
    return result


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def _compile(reference: Callable) -> Callable:
    return torch.compile(reference)


@cache
def _warn(name: str, refusal: str) -> None:
    logger.warning("%s: the reference runs instead of a faster backend: %s", name, refusal)


@cache
def _log_backend(name: str, backend: str) -> None:
    logger.info("%s: %s", name, backend)
