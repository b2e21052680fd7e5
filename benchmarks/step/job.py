"""What a benchmark of the training step measures, as plain values: the job and the phases. Imports no torch."""

from dataclasses import dataclass, replace

from unisign_fast.model.config import ModelConfig
from unisign_fast.pipelines.batches.batch_sampler import Budget
from unisign_fast.pipelines.settings import DataSettings
from unisign_fast.text.tokenizer import MAX_TARGET_TOKENS
from unisign_fast.training.recipes import RECIPES
from unisign_fast.training.settings import TrainSettings

PHASES = (
    "input",
    "pose encoder",
    "RGB encoder",
    "fusion",
    "temporal encoder",
    "mT5 encoder",
    "mT5 decoder",
    "vocabulary loss",
    "backward",
    "optimiser",
)
SMOOTHING = 0.2  # the published loss


@dataclass(frozen=True)
class Job:
    """One recipe at work; plain values, to be sent to a process."""

    candidate: str  # fast | baseline
    recipe: str
    stage: int
    p_samp: float
    crops: str  # video | store, of the fast step; the published code has videos only
    kernels: str
    precision: str
    zero_stage: int
    vocabulary: int  # classes
    clips_per_step: int
    clips_per_micro_batch: int
    store: str
    poses: str  # folder of the published pickles
    tokenizer: str

    @property
    def data(self) -> DataSettings:
        recipe = RECIPES[self.recipe]
        sizes = {"max_frames": recipe.max_frames, "crop_size": recipe.crop_size}
        crops = {"fast": self.crops, "baseline": "video"}[self.candidate]
        return DataSettings(p_samp=self.p_samp, crops=crops, **sizes)

    @property
    def train(self) -> TrainSettings:
        settings = RECIPES[self.recipe].stages[self.stage]
        chosen = {name: getattr(self, name) for name in ("precision", "zero_stage", "clips_per_step")}
        return replace(settings, **chosen)

    @property
    def budget(self) -> Budget:
        clips = self.clips_per_micro_batch
        return Budget(clips * self.data.max_frames, clips * MAX_TARGET_TOKENS)

    @property
    def model(self) -> ModelConfig:
        model = RECIPES[self.recipe].model
        mt5 = replace(model.mt5, vocab_size=self.vocabulary)
        return replace(model, mt5=mt5, rgb=self.p_samp > 0, label_smoothing=SMOOTHING)
