"""Named recipes: `demo`, and `base`, the paper's Table 2. A run's settings are a recipe plus what the user changed."""

from dataclasses import dataclass, replace
from pathlib import Path

from unisign_fast.model.config import ModelConfig, MT5Shape, published_settings
from unisign_fast.pipelines.settings import DataSettings
from unisign_fast.pipelines.targets import Task
from unisign_fast.training.settings import RecipeName, RunSettings, SettingsName, Stage, TrainSettings

DEMO_CORPUS = Path("data/demo")


@dataclass(frozen=True)
class Recipe:
    """Sizes and lengths that belong together. `stages`: settings of stages 1, 2 and 3."""

    model: ModelConfig
    stages: dict[int, TrainSettings]
    mt5: str
    efficientnet: str
    max_frames: int = 256
    crop_size: int = 112


# Table 2, on the four GPUs of the published code: 16 x 8, 4 x 8 and 8 x 1 clips per GPU and optimiser step.
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

# Small enough to learn the demo corpus from scratch on two CPU cores within minutes.
DEMO_TRAIN = TrainSettings(
    clips_per_step=8,
    frames_per_device=8 * 40,
    tokens_per_device=8 * 50,
    learning_rate=1e-3,
    precision="fp32",
    checkpoint_every_steps=500,
)
# Slower, to preserve the result of stage 1; the mostly new RGB branch learns faster.
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
        projection_std=0.3,  # a random mT5's embeddings have standard deviation 1
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
    max_frames=40,  # fewer than a sentence has: epochs sample different frames, so texts are not memorised
)

RECIPES: dict[str, Recipe] = {"demo": DEMO, "base": BASE}
DEMO_CLIPS = 1600


def default_settings(recipe: RecipeName, settings: SettingsName, stage: Stage, task: Task = "slt") -> RunSettings:
    """The settings of a run before the user changes any."""
    chosen = RECIPES[recipe]
    p_samp = 0.0 if stage == 1 else 0.1
    data = DataSettings(task=task, p_samp=p_samp, max_frames=chosen.max_frames, crop_size=chosen.crop_size)
    model = chosen.model
    if settings == "published":
        data = replace(data, sampling="published", boxes="sampled")
        model = published_settings(model)
    stores: tuple[Path, ...] = ()
    if recipe == "demo":
        stores_of_stage = {1: ("sentences", "words"), 2: ("words",)}  # one sign is the whole target
        names = stores_of_stage.get(stage, ("words",) if task == "islr" else ("sentences",))
        stores = tuple(DEMO_CORPUS / name for name in names)
    return RunSettings(
        recipe=recipe,
        settings=settings,
        stage=stage,
        stores=stores,
        mt5=chosen.mt5,
        efficientnet=chosen.efficientnet,
        data=data,
        train=chosen.stages[stage],
        model=model,
    )
