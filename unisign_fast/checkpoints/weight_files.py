"""Weight files: reads .safetensors, and .pth without executing its content; loads weights only if all of them fit."""

import re
import shutil
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeGuard

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from unisign_fast.checkpoints.safetensors_file import checksum_metadata, read_safetensors
from unisign_fast.pipelines.atomic_io import replaced
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.input_files import Readable, not_a_file_of_its_kind

RUNNING = ("running_mean", "running_var")  # BatchNorm's statistics
TABLES = ("model", "model_state_dict", "state_dict", "module")  # keys used by other trainers; DeepSpeed's is module
WRAPPER = "module."
INFLATED, INFLATED_PER_BYTE = 64 * 2**20, 4  # how far a zip file may expand: weights hardly compress
BYTEARRAY = b"bytearray\n"  # how the opcode that names this global ends
NAMED = 20  # entries listed in an error message; the rest are counted


def read_torch_file(path: Path) -> Any:
    """The content of a torch.save file: plain containers, and tensors on the CPU. Raises InputError for anything else
    in it."""
    _check_start(path)
    _check_memory(path)
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on damaged bytes torch may raise any exception
        message = str(error)
    remedy = "save only the weights: torch.save({'model': model.state_dict()}, FILE)"
    forbidden = re.search(r"GLOBAL ([\w.]+)", message)
    if forbidden:
        raise InputError(path, f"contains {forbidden[1]}, which cannot be loaded without running code", remedy)
    if "TorchScript" in message:
        raise InputError(path, "is a TorchScript program, not a table of weights", remedy)
    with open(path, "rb") as file:
        kind = "is a damaged zip file" if file.read(2) == b"PK" else "is not a weight file, or is cut short"
    reason = message.rpartition("WeightsUnpickler error: ")[2].strip().split("\n")[0][:120]
    raise InputError(path, f"{kind} ({reason})", "download or copy it again from its authors")


def _check_start(path: Path) -> None:
    """Raises InputError if the file does not exist, or a web page or pointer was downloaded in its place."""
    try:
        with open(path, "rb") as file:
            problem = not_a_file_of_its_kind(file.read(1024))
    except FileNotFoundError:
        raise InputError(path, "does not exist", f"give the path of a {path.suffix or '.pth'} file") from None
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", "give the path of a weight file") from None
    if problem:
        raise InputError(path, problem, "download it again, with git lfs or by the page's download link")


def _check_memory(path: Path) -> None:
    """Raises InputError if torch would take far more memory than the file has bytes.

    torch inflates zip entries of any size, and calls `bytearray` with any number that the pickle gives.
    """
    limit, has_bytearray = INFLATED + INFLATED_PER_BYTE * path.stat().st_size, False
    if zipfile.is_zipfile(path):
        inflated = 0
        with suppress(Exception), zipfile.ZipFile(path) as archive:  # a damaged one is refused by torch
            inflated = sum(entry.file_size for entry in archive.infolist())
            for entry in archive.infolist() if inflated <= limit else ():
                if entry.filename.endswith(".pkl"):
                    with archive.open(entry) as file:
                        has_bytearray |= _has(file, BYTEARRAY)
        if inflated > limit:
            raise InputError(path, f"is a zip file that expands to {inflated} bytes", "use another file")
    else:
        with open(path, "rb") as file:
            has_bytearray = _has(file, BYTEARRAY)
    if has_bytearray:
        raise InputError(path, "contains a bytearray, which weights do not need", "use another file")


def _has(file: Readable, text: bytes) -> bool:
    """Whether the rest of a file contains `text`."""
    piece = b""
    while more := file.read(2**24):
        piece = piece[1 - len(text) :] + more
        if text in piece:
            return True
    return False


def read_weights(path: Path) -> dict[str, Tensor]:
    """Names and tensors of a .safetensors or .pth file.

    A .pth file is a table of tensors, or has one under a key in TABLES, beside other trainer state. The prefix
    "module." (DistributedDataParallel) is removed if all names have it. Raises InputError for anything else, and says
    what the file contains instead.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        _check_start(path)
        return read_safetensors(path)
    weights = _table_of(read_torch_file(path), path)
    size = path.stat().st_size
    for name, weight in weights.items():
        if weight.layout != torch.strided or weight.is_nested or weight.is_quantized or weight.is_meta:
            problem = "is sparse, nested, quantized or without data"
            raise InputError(f"{path}: {name}", problem, "save it as a plain tensor")
        if weight.numel() * weight.element_size() > size:
            raise InputError(f"{path}: {name}", "claims to be larger than the file", "use another file")
        if weight.is_floating_point() and not weight.float().isfinite().all():
            remedy = "copy the file again, or use another checkpoint"
            raise InputError(f"{path}: {name}", "has values that are not finite", remedy)
    if all(name.startswith(WRAPPER) for name in weights):
        return {name.removeprefix(WRAPPER): weight for name, weight in weights.items()}
    return weights


def _table_of(content: object, path: Path) -> dict[str, Tensor]:
    """The table of named tensors in what torch.load returned."""
    if _is_table(content):
        return content
    entries = content if isinstance(content, dict) else {}
    tables = [key for key in TABLES if _is_table(entries.get(key))]
    if len(tables) == 1:
        return entries[tables[0]]
    if tables:
        problem = f"holds several tables of named tensors: {', '.join(tables)}"
        raise InputError(path, problem, "save only the one to load, under the key model")
    outline = f"; it contains {_outline(content)}" if isinstance(content, dict) else ""
    problem = f"is not a table of named tensors, and has none under {', '.join(TABLES)}{outline}"
    raise InputError(path, problem, "give the file that holds the weights")


def _is_table(value: object) -> TypeGuard[dict[str, Tensor]]:
    return (
        isinstance(value, dict)
        and len(value) > 0
        and all(isinstance(name, str) and isinstance(weight, Tensor) for name, weight in value.items())
    )


def _outline(content: dict) -> str:
    """The first keys of a dict, with the types of their values."""
    named = [f"{key} ({type(value).__name__})" for key, value in list(content.items())[:NAMED]]
    return ", ".join(named + [f"and {len(content) - NAMED} more"] * (len(content) > NAMED)) or "nothing"


def save_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Write a .safetensors file with a checksum of each tensor atomically, replacing an older one.

    Raises InputError if there is no room.
    """
    weights = {name: weight.contiguous() for name, weight in weights.items()}
    with replaced(path) as part, _no_room(path):
        save_file(weights, part, checksum_metadata(weights))


def write_torch_file(path: Path, content: dict) -> None:
    """Write a .pth file atomically, replacing an older one. Raises InputError if there is no room."""
    with replaced(path) as part, _no_room(path):
        torch.save(content, part)


@contextmanager
def _no_room(path: Path) -> Iterator[None]:
    """Converts a system error that safetensors and torch wrap in their own exceptions into an OSError."""
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        free = shutil.disk_usage(path.parent).free
        known = re.search(r"No space left|Disk quota|Read-only|File too large|Permission denied", str(error))
        reason = known[0] if known else f"disk full, {free / 1e6:.0f} MB free" if free < 2**24 else str(error)
        raise OSError(reason) from None


def check_fit(weights: dict[str, Tensor], expected: dict[str, Tensor], where: object) -> None:
    """Raises InputError listing the weights that are missing, unknown or of the wrong shape, unless all of them fit."""
    problems = [f"{name} is missing" for name in expected if name not in weights]
    problems += [f"{name} is unknown" for name in weights if name not in expected]
    problems += [
        f"{name} is {tuple(weights[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if problems:
        listed = ", ".join(problems[:NAMED] + [f"and {len(problems) - NAMED} more"] * (len(problems) > NAMED))
        raise InputError(where, f"{len(problems)} entries do not fit: {listed}", "give a file for this model")


def load_strictly(module: nn.Module, weights: dict[str, Tensor], where: object) -> None:
    """Load `weights` into `module`. Raises InputError unless names and shapes match exactly.

    Where `module` has running statistics per part and `weights` has one set, every part starts from that set.
    """
    weights = for_each_part(weights, module.state_dict())
    check_fit(weights, module.state_dict(), where)
    module.load_state_dict(weights)


def for_each_part(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """`state` with running statistics [C] expanded to every part where `own` has [parts, C] under that name."""
    shared = {name: own[name] for name in state if name.endswith(RUNNING) and name in own}
    single_part = {name for name, like in shared.items() if state[name].shape == like.shape[1:]}
    return {name: tensor.expand_as(own[name]) if name in single_part else tensor for name, tensor in state.items()}
