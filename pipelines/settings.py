"""Settings of the data path."""

from dataclasses import dataclass
from typing import Literal, get_args

from .clips.augmentation import read_augmentation
from .clips.frame_sampling import RULES, Rule
from .crops.boxes import BOX_RULES, BoxRule
from .errors import InputError
from .targets import Task, read_language


@dataclass(frozen=True)
class DataSettings:
    """Settings of the data path, exposed as command-line options."""

    task: Task = "slt"  # the target: sentence, glosses or word
    language: str | None = None  # language of prompt and target: CODE (de, gsw, ...) or CODE=NAME; None: the clip's own
    max_frames: int = 256  # frames of a clip; longer clips are subsampled to this number
    p_samp: float = 0.1  # share of frames whose hand crops are sampled; 0: pose only
    sampling: Rule = "paper"  # Algorithm 1, or the published code's rule
    boxes: BoxRule = "clip"  # side of the hand boxes: fixed per clip, or from the sampled hands (published code)
    crops: Literal["store", "video"] | None = None  # source of hand crops; None: the crop store if present
    crop_size: int = 112  # side of a hand crop, pixels
    augment: tuple[str, ...] = ()  # augmentation in training, such as rotation=10 (docs/extending.md)

    def __post_init__(self):
        self._check("task", self.task in get_args(Task), f"choose one of {', '.join(get_args(Task))}")
        if self.language is not None:
            object.__setattr__(self, "language", read_language(self.language))
        self._check("max_frames", 1 <= self.max_frames <= 2**20, f"give 1 or more, at most {2**20}")
        self._check("p_samp", 0 <= self.p_samp <= 1, "give a share in [0, 1]")
        self._check("sampling", self.sampling in RULES, f"choose one of {', '.join(RULES)}")
        self._check("boxes", self.boxes in BOX_RULES, f"choose one of {', '.join(BOX_RULES)}")
        self._check("crops", self.crops in (None, "store", "video"), "choose store or video")
        self._check("crop_size", 1 <= self.crop_size <= 4096, "give 1 or more pixels, at most 4096")
        read_augmentation(self.augment)
        if self.crops == "store" and self.boxes != "clip":
            raise InputError("--crops store", f"stored crops are not cut by --boxes {self.boxes}", "use --crops video")

    def _check(self, name: str, good: bool, remedy: str) -> None:
        if not good:
            raise InputError(f"--{name.replace('_', '-')}", f"{getattr(self, name)!r} is not valid", remedy)
