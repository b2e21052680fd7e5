"""How a training run goes: lengths, sizes, optimiser, precision, and when to save and to evaluate."""

from dataclasses import dataclass
from typing import Literal

from unisign_fast.pipelines.errors import InputError


@dataclass(frozen=True)
class TrainSettings:
    """Settings of a run; the optimiser's are the published ones (AdamW, cosine to zero without warm-up)."""

    epochs: int = 20  # passes over the training clips
    clips_per_step: int = 512  # clips of one optimiser step, all ranks and micro-batches together
    frames_per_device: int | Literal["auto"] = "auto"  # of a micro-batch, padded to its longest clip; auto: as fit
    tokens_per_device: int | Literal["auto"] = "auto"  # target tokens of a micro-batch; auto: as fit the GPU's memory
    learning_rate: float = 3e-4
    rgb_rate: float = 1.0  # times as fast the RGB branch learns; for one that starts from random weights
    weight_decay: float = 1e-4  # none on biases and 1-D parameters
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-9
    clip_norm: float = 1.0  # of the gradient of the whole step
    precision: Literal["fp32", "bf16"] = "bf16"  # of weights and activations; the optimiser's are float32
    zero_stage: Literal[0, 1, 2, 3] = 1  # how much of the state DeepSpeed ZeRO shares out among ranks
    seed: int = 0  # of everything random: weights, order, frames, sampling, dropout
    checkpoint_every_steps: int = 500  # and after every evaluation
    evaluate_every_epochs: int = 1  # on the dev split, where there is one
    log_every_steps: int = 10  # to log.jsonl and TensorBoard
    resume: Literal["auto", "never"] = "auto"  # auto: from the newest whole checkpoint; never: the run must be new
    max_bad_share: float = 0.05  # a run stops when more of its clips than this are bad

    def __post_init__(self):
        counts = "epochs", "clips_per_step", "checkpoint_every_steps", "evaluate_every_epochs", "log_every_steps"
        for name in counts:
            self._check(name, getattr(self, name) >= 1, "give 1 or more")
        for name in ("frames_per_device", "tokens_per_device"):
            value = getattr(self, name)
            self._check(name, value == "auto" or isinstance(value, int) and value >= 1, "give auto, or 1 or more")
        for name in ("learning_rate", "rgb_rate", "eps", "clip_norm"):
            self._check(name, getattr(self, name) > 0, "give a number above 0")
        self._check("weight_decay", self.weight_decay >= 0, "give 0 or more")
        self._check("betas", all(0 <= beta < 1 for beta in self.betas), "give two numbers in [0, 1)")
        self._check("max_bad_share", 0 <= self.max_bad_share <= 1, "give a share in [0, 1]")
        self._check("precision", self.precision in ("fp32", "bf16"), "choose fp32 or bf16")
        self._check("zero_stage", self.zero_stage in (0, 1, 2, 3), "choose 0, 1, 2 or 3")
        self._check("resume", self.resume in ("auto", "never"), "choose auto or never")

    def _check(self, name: str, good: bool, remedy: str) -> None:
        if not good:
            raise InputError(f"--{name.replace('_', '-')}", f"{getattr(self, name)!r} is not possible", remedy)
