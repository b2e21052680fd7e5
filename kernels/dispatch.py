"""Which version of an operation runs: Triton on a GPU; on a CPU what was written for CPUs, or the PyTorch reference.

UNISIGN_KERNELS=reference|triton|cpu|compiled forces one for the whole process; `compiled` is torch.compile of the
reference. The first call of each operation says in the log which version it takes.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .spec import KernelSpec

VERSIONS = ("reference", "triton", "cpu", "compiled")
FAST = {"triton": "cuda", "cpu": "cpu"}  # and the device that each is for
DTYPES = (torch.float32, torch.bfloat16)
logger = logging.getLogger(__name__)


def forced_version() -> str | None:
    """What UNISIGN_KERNELS asks for; None where it is not set. Raises ValueError for an unknown name."""
    name = os.environ.get("UNISIGN_KERNELS") or None
    if name not in (None, *VERSIONS):
        raise ValueError(f"UNISIGN_KERNELS: {name!r} is not known; choose one of {' | '.join(VERSIONS)}")
    return name


@contextmanager
def forcing(version: str) -> Iterator[None]:
    """Within the block UNISIGN_KERNELS is `version`."""
    before = os.environ.get("UNISIGN_KERNELS")
    os.environ["UNISIGN_KERNELS"] = version
    try:
        yield
    finally:
        os.environ.pop("UNISIGN_KERNELS")
        if before is not None:
            os.environ["UNISIGN_KERNELS"] = before


def default_version(on_gpu: bool) -> str:
    """The version that runs there wherever it can. Raises ValueError as `forced_version` does."""
    return forced_version() or ("triton" if on_gpu else "cpu")


def run(spec: KernelSpec, *arguments: Any) -> Tensor:
    """The operation on these arguments, by the version chosen for them.

    Where a fast version cannot take them the reference runs, with one warning an operation; where it is forced,
    ValueError is raised instead. Not every operation has a version for CPUs: the reference serves.
    """
    version = default_version(next(tensors(arguments)).is_cuda)
    if version == "cpu" and spec.cpu is None:
        version = "reference"
    if version in FAST:
        refusal = refused(spec, version, arguments)
        if refusal and forced_version():
            raise ValueError(f"{spec.name}: the {version} kernel cannot run: {refusal}; unset UNISIGN_KERNELS")
        if refusal:
            _warn(spec.name, refusal)
            version = "reference"
    if not torch.compiler.is_compiling():
        _say(spec.name, version)
    return _implementation(spec, version)(*arguments)


def refused(spec: KernelSpec, version: str, arguments: tuple) -> str | None:
    """Why a fast version cannot take these arguments; None where it can."""
    device = FAST[version]
    for tensor in tensors(arguments):
        if tensor.dtype not in (*DTYPES, torch.int64):
            return f"{tensor.dtype} is not one of {', '.join(map(str, DTYPES))}"
        if tensor.device.type != device and not (version == "triton" and _interpreted()):
            return f"a tensor is on {tensor.device.type}, not on {device}"
    floats = {tensor.dtype for tensor in tensors(arguments) if tensor.dtype in DTYPES and tensor.ndim > 1}
    if len(floats) > 1:
        return f"tensors of different types ({', '.join(sorted(map(str, floats)))})"
    return spec.refusal(*arguments) if version == "triton" else None


def tensors(values: Any) -> Iterator[Tensor]:
    """The tensors among nested arguments or results, in order."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (tuple, list)):
        for value in values:
            yield from tensors(value)


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def _compiled(reference):
    return torch.compile(reference)


def _implementation(spec: KernelSpec, version: str):
    return _compiled(spec.reference) if version == "compiled" else getattr(spec, version)


@cache
def _warn(name: str, refusal: str) -> None:
    logger.warning("%s: the reference runs in the place of a faster version: %s", name, refusal)


@cache
def _say(name: str, version: str) -> None:
    logger.info("%s: %s", name, version)
