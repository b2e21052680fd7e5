"""Weights in files: .pth of others without running what is in them, .safetensors, and loading without silent gaps."""

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unisign_fast.pipelines.errors import InputError

RUNNING = ("running_mean", "running_var")  # BatchNorm's statistics
NAMED = 20  # entries that one error message names; it counts the others


def read_torch_file(path: Path) -> Any:
    """What torch.save wrote, tensors on the CPU and plain containers only. Raises InputError for anything else."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(path, "not there", "give the path of a .pth file") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).strip().split("\n")[0][:120] or type(error).__name__
        raise InputError(
            path, f"not a file of weights, or cut short ({reason})", "download or copy it again from its authors"
        ) from None


def read_weights(path: Path) -> dict[str, Tensor]:
    """Names and tensors of a .safetensors or .pth file (there, a dict of tensors or one under the key `model`)."""
    path = Path(path)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except FileNotFoundError:
            raise InputError(path, "not there", "give the path of a .safetensors file") from None
        except (SafetensorError, OSError) as error:
            raise InputError(path, f"not a whole safetensors file ({error})", "download or copy it again") from None
    weights = read_torch_file(path)
    if isinstance(weights, dict) and isinstance(weights.get("model"), dict):
        weights = weights["model"]
    if not isinstance(weights, dict) or not weights or not all(isinstance(v, Tensor) for v in weights.values()):
        raise InputError(path, "holds no table of named tensors", "give the file of weights itself")
    return weights


def save_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Write a .safetensors file in one move, in the place of an older one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".part")
    save_file({name: weight.contiguous() for name, weight in weights.items()}, new)
    new.replace(path)


def write_torch_file(path: Path, content: dict) -> None:
    """Write a .pth file in one move, in the place of an older one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".part")
    torch.save(content, new)
    new.replace(path)


def check_fit(weights: dict[str, Tensor], expected: dict[str, Tensor], where: object) -> None:
    """Raise an InputError that names what is missing, unknown or misshapen among `weights`, if anything is."""
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
    """Load every entry into `module`, which must need exactly these. Raises InputError otherwise.

    Where parts share layers in `module` and not in `weights`, each starts from the same running statistics.
    """
    weights = for_each_part(weights, module.state_dict())
    check_fit(weights, module.state_dict(), where)
    module.load_state_dict(weights)


def for_each_part(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """`state` with running statistics [C] as those of every part where `own` has [parts, C] of that name."""
    shared = {name: own[name] for name in state if name.endswith(RUNNING) and name in own}
    of_one = {name for name, like in shared.items() if state[name].shape == like.shape[1:]}
    return {name: tensor.expand_as(own[name]) if name in of_one else tensor for name, tensor in state.items()}
