"""The pose formats by the names that --format takes, each a module of this package; pose.py describes its interface.

Modules are imported on first use, so that --help is fast.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Literal

POSE_FORMATS = {
    "unisign": "unisign",
    "mmpose": "mmpose",
    "rtmlib": "rtmlib",
    "openpose": "openpose",
    "pose": "dot_pose",
    "holistic75": "holistic_75",
    "openpose137": "openpose_137",
}
if TYPE_CHECKING:
    PoseFormat = str
else:
    PoseFormat = Literal[tuple(POSE_FORMATS)]  # choices of a command line


def pose_format(name: str) -> ModuleType:
    """The module of a format."""
    return import_module(f".{POSE_FORMATS[name]}", __package__)
