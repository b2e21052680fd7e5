"""Named recipes: `demo`, and `base`, the paper's Table 2. A run's settings are a recipe plus what the user changed."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from unisign_fast.model.config import ModelConfig, MT5Shape, published_settings
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.settings import DataSettings
from unisign_fast.training.settings import TrainSettings

DEMO_CORPUS = Path("data/demo")
RUNS = Path("runs")

RecipeName = Literal["demo", "base"]
Source = Literal["paper", "published"]


@dataclass(frozen=True)
class ModelChoices:
    """Where Uni-Sign comes in variants; see ModelConfig."""

    parts: Literal["hands", "hands,body", "hands,body,face"] = "hands,body,face"  # body parts used (Table 13)
    fusion: Literal["deformable", "cross"] = "deformable"  # of RGB into pose; cross is the alternative of Table 10
    gate: Literal["live", "published"] = "live"  # published: a ReLU behind it that never opens from zero
    gate_input: Literal["pose,fused", "fused,pose"] = "pose,fused"  # order of concatenation: equation 3, or published
    label_smoothing: float = 0.0  # of the cross entropy; published 0.2
    body_anchors: bool = True  # add the body's wrist or nose feature to each part
    part_bias: bool = True  # a learned vector on the concatenated parts
    head: Literal["language_model", "classifier", "ctc"] = "language_model"  # the others: Table 7's task heads
    head_features: Literal["sign", "encoder"] = "sign"  # what a task head sees


@dataclass(frozen=True)
class RunSettings:
    """One training run, whole: what --help shows, and what the run's settings.json records."""

    recipe: RecipeName = "demo"  # base: the paper's Table 2
    settings: Source = "paper"  # published: the published code's gate, smoothing and sampling, where it differs
    stage: Literal[1, 2, 3] = 1  # pose-only pre-training, RGB-pose pre-training, fine-tuning
    stores: tuple[Path, ...] = ()  # keypoint stores to train on
    out: Path | None = None  # folder of the run; by default runs/RECIPE/stage1, stage2 or TASK-rgb, TASK-pose
    start_from: Path | None = None  # model folder to start from; by default the run before this one
    mt5: str = "random"  # first weights of the language model: random, a folder, or a name on the hub
    efficientnet: str = "random"  # first weights of the RGB encoder: random, imagenet, handshapes (drawn), or a file
    tokenizer: Path | None = None  # spiece.model of a random mT5; by default made from the corpus
    trim_vocabulary: bool = False  # keep only the pieces of mT5's vocabulary that the training texts need
    data_fraction: float = 1.0  # share of the training clips used; 0 skips pre-training (Table 8)
    data: DataSettings = field(default_factory=DataSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    model: ModelChoices = field(default_factory=ModelChoices)

    def __post_init__(self):
        if not 0 <= self.data_fraction <= 1:
            raise InputError("--data-fraction", f"{self.data_fraction} is not possible", "give a share in [0, 1]")
        if self.trim_vocabulary and self.source is None and self.mt5 == "random":
            problem = "a random mT5 has the corpus' own vocabulary"
            raise InputError("--trim-vocabulary", problem, "leave it out, or give --mt5 or --start-from")
        if self.rgb and self.data.crop_size > 128:
            problem = f"{self.data.crop_size} gives a feature map of more than 4 x 4, which the fusion is made for"
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
        """The model folder this run starts from; stage 1 starts from `mt5` unless told otherwise."""
        if self.start_from is not None or self.stage == 1:
            return self.start_from
        before = 2 if self.stage == 3 and self.rgb else 1
        return RUNS / self.recipe / f"stage{before}" / "last"

    def model_config(self, mt5: MT5Shape, head_classes: tuple[str, ...]) -> ModelConfig:
        """The model of this run, around a language model of this shape."""
        choices = {name: getattr(self.model, name) for name in ModelChoices.__dataclass_fields__}
        return replace(RECIPES[self.recipe].model, mt5=mt5, rgb=self.rgb, head_classes=head_classes, **choices)


@dataclass(frozen=True)
class Recipe:
    """Sizes and lengths that belong together. `stages`: settings of stages 1, 2 and 3."""

    model: ModelConfig
    stages: dict[int, TrainSettings]
    mt5: str
    efficientnet: str
    max_frames: int = 256
    crop_size: int = 112


# Table 2, on the four GPUs of the published code: 16 x 8, 4 x 8 and 8 x 1 clips a GPU and optimiser step.
BASE = Recipe(
    model=ModelConfig(),
    stages={
        1: TrainSettings(epochs=20, clips_per_step=512),
        2: TrainSettings(epochs=5, clips_per_step=128),
        3: TrainSettings(epochs=20, clips_per_step=32),
    },
    mt5="google/mt5-base",
    efficientnet="imagenet",
)

# Small enough to learn the demo corpus from nothing on two CPU cores within minutes.
DEMO_TRAIN = TrainSettings(
    clips_per_step=8,
    frames_per_device=8 * 40,
    tokens_per_device=8 * 50,
    learning_rate=1e-3,
    precision="fp32",
    checkpoint_every_steps=500,
)
# Slower, so that what stage 1 learned stays; the RGB branch, most of it new, learns faster.
DEMO_LATER = replace(DEMO_TRAIN, learning_rate=5e-4, rgb_rate=3.0)
DEMO = Recipe(
    model=ModelConfig(
        mt5=MT5Shape(
            vocab_size=0,
            d_model=128,
            d_kv=32,
            d_ff=256,
            num_layers=2,
            num_decoder_layers=2,
            num_heads=4,
            dropout_rate=0.1,
        ),
        pose_channels=(16, 16, 24, 24),
        projection_std=0.3,  # a random mT5 has embeddings of standard deviation 1
        backbone_width=0.25,
        backbone_depth=0.25,
    ),
    stages={
        1: replace(DEMO_TRAIN, epochs=24, evaluate_every_epochs=8),
        2: replace(DEMO_LATER, epochs=10, evaluate_every_epochs=5),
        3: replace(DEMO_LATER, epochs=6, evaluate_every_epochs=3),
    },
    mt5="random",
    efficientnet="handshapes",
    crop_size=64,
    max_frames=40,  # fewer than a sentence has, so that every epoch sees other frames: without it texts are memorised
)

RECIPES: dict[str, Recipe] = {"demo": DEMO, "base": BASE}
DEMO_CLIPS = 1600


def default_settings(recipe: RecipeName, source: Source, stage: int, task: str = "slt") -> RunSettings:
    """The settings of a run before the user changes any."""
    chosen = RECIPES[recipe]
    sizes = {"max_frames": chosen.max_frames, "crop_size": chosen.crop_size}
    data = DataSettings(task=task, p_samp=0.0 if stage == 1 else 0.1, **sizes)
    model = ModelChoices()
    if source == "published":
        data = replace(data, sampling="published", boxes="sampled")
        config = published_settings(ModelConfig())
        model = ModelChoices(gate=config.gate, gate_input=config.gate_input, label_smoothing=config.label_smoothing)
    stores = ()
    if recipe == "demo":
        stores_of_stage = {1: ("sentences", "words"), 2: ("words",)}  # RGB begins where one sign is the whole target
        names = stores_of_stage.get(stage, ("words",) if task == "islr" else ("sentences",))
        stores = tuple(DEMO_CORPUS / name for name in names)
    return RunSettings(
        recipe=recipe,
        settings=source,
        stage=stage,
        stores=stores,
        mt5=chosen.mt5,
        efficientnet=chosen.efficientnet,
        data=data,
        train=chosen.stages[stage],
        model=model,
    )
