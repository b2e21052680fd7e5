"""The skeletons by name: COCO-WholeBody, and those of the modules named here, each of which defines one as SKELETON."""

from importlib import import_module

from ..errors import InputError
from ..skeleton import WHOLEBODY, Skeleton

SKELETONS: dict[str, Skeleton] = {
    skeleton.name: skeleton
    for skeleton in (
        WHOLEBODY,
        *(
            import_module(f".{name}", __name__).SKELETON
            for name in (
                "mediapipe_holistic",
                "openpose",
            )
        ),
    )
}


def find_skeleton(name: object, where: object) -> Skeleton:
    """The skeleton of this name. Raises InputError, naming `where`, if there is none."""
    if not isinstance(name, str) or name not in SKELETONS:
        remedy = f"use one of {', '.join(SKELETONS)}, or define it (docs/extending.md)"
        raise InputError(where, f"the skeleton {name!r} is not known", remedy)
    return SKELETONS[name]


def check_skeleton(given: Skeleton, read: Skeleton, where: object) -> None:
    """Raises InputError, naming `where`, unless the given keypoints have the skeleton that a model reads."""
    if given is not read:
        problem = f"has keypoints of {given.name}, and the model reads those of {read.name}"
        raise InputError(where, problem, "convert the poses to that skeleton (--format), or name another model")
