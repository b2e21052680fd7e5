"""The settings of a training run, as one tree: the command line exposes it, and RUN/settings.json records it."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import msgspec

from unisign_fast.checkpoints.run_folders import model_in
from unisign_fast.model.config import ModelConfig, MT5Shape
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.settings import DataSettings

RUNS = Path("runs")

RecipeName = Literal["demo", "base"]
SettingsName = Literal["paper", "published"]  # where both differ
Stage = Literal[1, 2, 3]


@dataclass(frozen=True)
class TrainSettings:
    """Length, batch sizes, optimiser and precision; as published, AdamW with cosine decay and without warm-up."""

    epochs: int = 20  # passes over the training clips; may grow on resume
    clips_per_step: int = 512  # clips of an optimiser step, all ranks together
    frames_per_device: int | Literal["auto"] = "auto"  # frames of a micro-batch, padded; auto: as many as fit
    tokens_per_device: int | Literal["auto"] = "auto"  # target tokens of a micro-batch; auto: as many as fit
    learning_rate: float = 3e-4  # at the start of the cosine decay
    rgb_rate: float = 1.0  # factor on the RGB branch's learning rate, for random initial weights
    weight_decay: float = 1e-4  # not applied to biases and 1-D parameters
    betas: tuple[float, float] = (0.9, 0.999)  # AdamW's
    eps: float = 1e-9  # AdamW's
    clip_norm: float = 1.0  # clipping norm of the whole step's gradient
    precision: Literal["fp32", "bf16"] = "bf16"  # of weights and activations; optimiser state is float32
    zero_stage: Literal[0, 1, 2, 3] = 1  # DeepSpeed ZeRO: how much training state to shard over ranks
    seed: int = 0  # seeds weights, order, frames, sampling and dropout
    checkpoint_every_steps: int = 500  # steps between checkpoints; also one after every evaluation
    evaluate_every_epochs: int = 1  # epochs between evaluations on the dev split, if there is one
    early_stopping: int = 0  # evaluations without a better score after which the run ends; 0: never
    log_every_steps: int = 10  # steps between entries in log.jsonl and TensorBoard
    wandb: str | None = None  # Weights & Biases project to log to as well
    resume: Literal["auto", "never"] = "auto"  # auto: from the newest complete checkpoint; never: the run must be new
    max_bad_share: float = 0.05  # stop the run if a larger share of its clips is bad
    on_bad_step: Literal["stop", "skip"] = "stop"  # if loss or gradient is not finite; the step is never taken
    max_skipped_steps: int = 10  # per run, with --on-bad-step skip

    def __post_init__(self):
        counts = "epochs", "clips_per_step", "checkpoint_every_steps", "evaluate_every_epochs", "log_every_steps"
        for name in counts:
            self._check(name, getattr(self, name) >= 1, "give 1 or more")
        for name in ("frames_per_device", "tokens_per_device"):
            value = getattr(self, name)
            self._check(name, value == "auto" or isinstance(value, int) and value >= 1, "give auto, or 1 or more")
        for name in ("learning_rate", "rgb_rate", "eps", "clip_norm"):
            self._check(name, 0 < getattr(self, name) < float("inf"), "give a finite number above 0")
        for name in ("weight_decay", "early_stopping", "max_skipped_steps"):
            self._check(name, 0 <= getattr(self, name) < float("inf"), "give 0 or more")
        self._check("betas", all(0 <= beta < 1 for beta in self.betas), "give two numbers in [0, 1)")
        self._check("max_bad_share", 0 <= self.max_bad_share <= 1, "give a share in [0, 1]")
        self._check("precision", self.precision in ("fp32", "bf16"), "choose fp32 or bf16")
        self._check("zero_stage", self.zero_stage in (0, 1, 2, 3), "choose 0, 1, 2 or 3")
        self._check("resume", self.resume in ("auto", "never"), "choose auto or never")
        self._check("on_bad_step", self.on_bad_step in ("stop", "skip"), "choose stop or skip")

    def _check(self, name: str, good: bool, remedy: str) -> None:
        if not good:
            raise InputError(f"--{name.replace('_', '-')}", f"{getattr(self, name)!r} is not valid", remedy)


@dataclass(frozen=True)
class RunSettings:
    """All settings of one training run."""

    recipe: RecipeName = "demo"  # base: the paper's Table 2
    settings: SettingsName = "paper"  # published: the published code's gate, smoothing and sampling, where it differs
    stage: Stage = 1  # pose-only pre-training, RGB-pose pre-training, fine-tuning
    stores: tuple[Path, ...] = ()  # keypoint stores to train on
    out: Path | None = None  # folder of the run; by default runs/RECIPE/STAGE-OR-TASK
    start_from: Path | None = None  # model folder or run to start from; by default the run before this one
    mt5: str = "random"  # initial weights: random, a folder, or a hub id
    efficientnet: str = "random"  # initial weights of the RGB encoder: random, imagenet, handshapes (drawn), or a file
    tokenizer: Path | None = None  # spiece.model of a random mT5; by default trained on the corpus
    trim_vocabulary: bool = False  # keep only the pieces of mT5's vocabulary that the training texts need
    data_fraction: float = 1.0  # share of the training clips used; 0 skips pre-training (Table 8)
    data: DataSettings = field(default_factory=DataSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    model: ModelConfig = field(default_factory=ModelConfig)  # fields that follow from the data are not options

    def __post_init__(self):
        if not 0 <= self.data_fraction <= 1:
            raise InputError("--data-fraction", f"{self.data_fraction} is not valid", "give a share in [0, 1]")
        if self.trim_vocabulary and self.source is None and self.mt5 == "random":
            problem = "a random mT5 already has only the corpus's vocabulary"
            raise InputError("--trim-vocabulary", problem, "leave it out, or give --mt5 or --start-from")
        if self.rgb and self.data.crop_size > 128:
            problem = f"{self.data.crop_size} gives a feature map larger than the 4 x 4 that the fusion expects"
            raise InputError("--crop-size", problem, "give 128 pixels or fewer")
        if self.stage == 1 and self.rgb:
            raise InputError("--p-samp", "stage 1 is pose-only", "leave it out, or train --stage 2")
        if self.stage == 2 and not self.rgb:
            raise InputError("--p-samp", "stage 2 trains the RGB branch", "give a share above 0, or train --stage 1")

    @property
    def rgb(self) -> bool:
        """Whether the model has an RGB branch: p_samp 0 is the pose-only path."""
        return self.data.p_samp > 0

    @property
    def name(self) -> str:
        """The run's name within its recipe."""
        if self.stage < 3:
            return f"stage{self.stage}"
        head = "" if self.model.head == "language_model" else f"-{self.model.head}-{self.model.head_features}"
        return f"{self.data.task}-{'rgb' if self.rgb else 'pose'}{head}"

    @property
    def folder(self) -> Path:
        return self.out or RUNS / self.recipe / self.name

    @property
    def source(self) -> Path | None:
        """The model folder that this run starts from; None if it starts from `mt5`, as stage 1 does by default."""
        if self.start_from is not None:
            return model_in(self.start_from)
        if self.stage == 1:
            return None
        before = 2 if self.stage == 3 and self.rgb else 1
        return RUNS / self.recipe / f"stage{before}" / "last"

    def model_config(self, mt5: MT5Shape, head_classes: tuple[str, ...], skeleton: str) -> ModelConfig:
        """This run's model, with a language model of this shape, for keypoints of this skeleton."""
        return replace(self.model, mt5=mt5, rgb=self.rgb, head_classes=head_classes, skeleton=skeleton)

    def as_json(self) -> dict:
        """The settings as plain JSON values; `run_settings` reads them back."""
        return json.loads(json.dumps(asdict(self), default=str))


def run_settings(where: Path, values: dict, default: RunSettings) -> RunSettings:
    """`default` with the `values` that `as_json` returned. Raises InputError naming the field of the file `where` that
    is unknown or has the wrong type."""
    remedy = "use the settings.json that a training run wrote"
    merged = _merged(where, default.as_json(), values)
    try:
        return msgspec.convert(merged, RunSettings, dec_hook=lambda kind, value: kind(value))
    except (msgspec.ValidationError, TypeError) as error:
        raise InputError(where, f"does not hold a run's settings ({error})", remedy) from None
    except InputError as error:
        raise InputError(f"{where}: {error.where}", error.problem, error.remedy) from None


def _merged(where: object, default: dict, values: dict) -> dict:
    """`default` overridden by `values`, group by group. Raises InputError for a name that `default` does not have."""
    merged = dict(default)
    for name, value in values.items():
        if name not in default:
            raise InputError(where, f"has an unknown field {name!r}", "use the settings.json that a training run wrote")
        is_group = isinstance(default[name], dict) and isinstance(value, dict)
        merged[name] = _merged(f"{where}: {name}", default[name], value) if is_group else value
    return merged
