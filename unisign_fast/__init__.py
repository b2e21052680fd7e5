"""Uni-Sign (ICLR 2025) as a training system: keypoints and hand crops of signing to text.

    from unisign_fast import Translator

    Translator("FOLDER OR HUB ID")(keypoints)[0].text

The names below are imported on first use: `import unisign_fast` alone loads neither torch nor
transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unisign_fast.inference.processor import Processor
    from unisign_fast.inference.translator import Translation, Translator
    from unisign_fast.model.config import ModelConfig
    from unisign_fast.model.unisign import UniSign

__version__ = "0.2.0"
__all__ = ["ModelConfig", "Processor", "Translation", "Translator", "UniSign", "__version__"]

_MODULES = {
    "ModelConfig": "unisign_fast.model.config",
    "Processor": "unisign_fast.inference.processor",
    "Translation": "unisign_fast.inference.translator",
    "Translator": "unisign_fast.inference.translator",
    "UniSign": "unisign_fast.model.unisign",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
