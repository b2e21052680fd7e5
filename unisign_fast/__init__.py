"""Uni-Sign (ICLR 2025) as a training system: keypoints and hand crops of signing to text.

`UniSign` and `ModelConfig` are imported when they are first asked for: `import unisign_fast` alone loads neither torch
nor transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unisign_fast.model.config import ModelConfig
    from unisign_fast.model.unisign import UniSign

__version__ = "0.2.0"
__all__ = ["ModelConfig", "UniSign", "__version__"]

_MODULES = {"UniSign": "unisign_fast.model.unisign", "ModelConfig": "unisign_fast.model.config"}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
