"""The configuration of a model: everything needed to rebuild it, as plain data.

Where the paper and the published code differ, both are named here; `published_settings` selects the code's.
"""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from unisign_fast.pipelines.atomic_io import replace_json
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.input_files import read_settings
from unisign_fast.pipelines.skeleton import WHOLEBODY, Skeleton
from unisign_fast.pipelines.skeletons import find_skeleton

PARTS_CHOICES = ("hands", "hands,body", "hands,body,face")
REQUIRED = ("mt5", "pose_channels", "head_classes")  # in every version of config.json; newer fields have defaults
WIDEST = 2**16  # largest width of any layer


def _check_range(settings: object, low: float, high: float, *names: str) -> None:
    """Raises InputError unless each of these fields is in [low, high]; NaN never is."""
    for name in names:
        if not low <= getattr(settings, name) <= high:
            raise InputError(name, f"is {getattr(settings, name)}", f"give a number from {low} to {high}")


@dataclass(frozen=True)
class MT5Shape:
    """The shape of the language model; the defaults are mT5-Base's."""

    vocab_size: int = 250_112
    d_model: int = 768
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 12
    num_decoder_layers: int = 12
    num_heads: int = 12
    dropout_rate: float = 0.1

    def __post_init__(self):
        _check_range(self, 1, WIDEST, "d_model", "d_kv", "d_ff", "num_heads")
        _check_range(self, 0, 2**24, "vocab_size")  # 0: taken from the tokenizer
        _check_range(self, 1, 1000, "num_layers", "num_decoder_layers")
        _check_range(self, 0, 1, "dropout_rate")
        if self.num_decoder_layers > self.num_layers:
            problem = f"{self.num_decoder_layers} decoder layers over {self.num_layers} encoder layers cannot generate"
            raise InputError("mt5: num_decoder_layers", problem, "use at least as many encoder layers")


@dataclass(frozen=True)
class ModelConfig:
    """What defines a Uni-Sign model besides its weights."""

    mt5: MT5Shape = field(default_factory=MT5Shape)
    rgb: bool = False
    skeleton: str = WHOLEBODY.name  # of the keypoints in the training stores (pipelines/skeletons/)
    parts: Literal["hands", "hands,body", "hands,body,face"] = "hands,body,face"  # parts of the body (Table 13)
    pose_channels: tuple[int, int, int, int] = (64, 64, 128, 256)  # embedding, then the three spatial blocks
    projection_std: float = 0.02  # of the initial weights of the projection to mT5; 0.02 as published
    backbone_width: float = 1.0  # width multiplier of EfficientNet-B0
    backbone_depth: float = 1.0  # depth multiplier of EfficientNet-B0
    body_anchors: bool = True  # add the detached body feature of wrist or nose to every joint of a part
    part_bias: bool = True  # one learned vector on the concatenated parts; `part_para` in published files
    fusion: Literal["deformable", "cross"] = "deformable"  # cross: Table 10's alternative
    gate: Literal["live", "published"] = "live"  # published: tanh, then a ReLU that never opens from zero
    gate_input: Literal["pose,fused", "fused,pose"] = "pose,fused"  # as in equation 3, or as published
    label_smoothing: float = 0.0  # of the cross entropy (equation 5)
    head: Literal["language_model", "classifier", "ctc"] = "language_model"  # classifier, ctc: Table 7's task heads
    head_features: Literal["sign", "encoder"] = "sign"  # what a task head reads: sign encoder's or mT5 encoder's output
    head_classes: tuple[str, ...] = ()

    def __post_init__(self):
        if self.parts not in PARTS_CHOICES:
            raise InputError("--parts", f"{self.parts!r} is not known", f"choose one of {' | '.join(PARTS_CHOICES)}")
        find_skeleton(self.skeleton, "skeleton")
        if self.head != "language_model" and self.rgb:
            raise InputError("--head", f"{self.head} is pose-only", "give --p-samp 0 with it (paper, Table 7)")
        _check_range(self, 0, 1, "label_smoothing")
        _check_range(self, 0, 100, "projection_std", "backbone_width", "backbone_depth")
        if not all(1 <= channels <= WIDEST for channels in self.pose_channels):
            raise InputError("pose_channels", f"is {self.pose_channels}", f"give numbers from 1 to {WIDEST}")

    @property
    def joints(self) -> Skeleton:
        """The skeleton itself: its joints, parts and edges."""
        return find_skeleton(self.skeleton, "skeleton")

    @property
    def part_names(self) -> tuple[str, ...]:
        """The parts in the order in which their features are concatenated."""
        wanted = {"hands": {"left", "right"}, "hands,body": {"body", "left", "right"}}
        return tuple(p for p in ("body", "left", "right", "face") if p in wanted.get(self.parts, {p}))

    def save(self, path: Path) -> None:
        """Write as JSON. Raises InputError if the folder cannot be written to."""
        replace_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> "ModelConfig":
        """Read what `save` wrote. Raises InputError for a missing file, broken JSON or an invalid field."""
        if not path.is_file():
            raise InputError(path, "does not exist", "name the folder that a training run wrote (best/ or last/)")
        what, remedy = "is not a model configuration", "use the config.json of a run"
        config = read_settings(path, cls, what, remedy, REQUIRED)
        if config.head != "language_model" and not config.head_classes:
            raise InputError(path, f"{what} (head_classes: is empty, and a task head needs its classes)", remedy)
        return config


def published_settings(config: ModelConfig) -> ModelConfig:
    """The same model with the published code's choices instead of the paper's (gate, its input order, smoothing)."""
    return replace(config, gate="published", gate_input="fused,pose", label_smoothing=0.2)
