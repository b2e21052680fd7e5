"""The pose-only, task-specific heads that the paper compares with its unified fine-tuning (Table 7).

`frames`: the clips' packing. Its lengths are known on the host, and no head reads them from the device.
"""

from torch import Tensor, nn

from unisign_fast.kernels.packing import Packing, to_device
from unisign_fast.model.config import ModelConfig
from unisign_fast.pipelines.batches.packed_batch import IGNORED


class ClassifierHead(nn.Module):
    """ISLR: mean over a clip's features, one linear layer, cross entropy over the words."""

    def __init__(self, width: int, classes: tuple[str, ...]):
        super().__init__()
        self.classes = classes
        self.out = nn.Linear(width, len(classes))

    def _logits(self, features_BTD: Tensor, frames: Packing) -> Tensor:
        weight = frames.mask_BS[..., None].to(features_BTD.dtype)
        return self.out((features_BTD * weight).sum(1) / weight.sum(1).clamp(min=1))

    def count(self, texts: list[str]) -> int:
        """The number of clips whose word is among the classes."""
        return sum(text in self.classes for text in texts)

    def loss(self, features_BTD: Tensor, frames: Packing, texts: list[str]) -> Tensor:
        """Sum of cross entropies over the clips that `count` counts."""
        known = {word: index for index, word in enumerate(self.classes)}
        target = to_device([known.get(text, IGNORED) for text in texts], features_BTD.device)
        logits = self._logits(features_BTD, frames).float()
        return nn.functional.cross_entropy(logits, target, ignore_index=IGNORED, reduction="sum")

    def predict(self, features_BTD: Tensor, frames: Packing) -> list[str]:
        """The most likely word of each clip."""
        return [self.classes[i] for i in self._logits(features_BTD, frames).argmax(-1).tolist()]


class CTCHead(nn.Module):
    """CSLR: one bidirectional LSTM layer and CTC over the glosses; class 0 is the blank."""

    def __init__(self, width: int, classes: tuple[str, ...]):
        super().__init__()
        self.classes = classes
        self.lstm = nn.LSTM(width, width // 2, batch_first=True, bidirectional=True)
        self.out = nn.Linear(width, len(classes) + 1)

    def _log_probabilities(self, features_BTD: Tensor, lengths: list[int]) -> Tensor:
        # Sorted here, on the host, where the lengths are known: torch's own sorting synchronises with the device.
        order = sorted(range(len(lengths)), key=lambda clip: -lengths[clip])
        sorted_BTD = features_BTD[to_device(order, features_BTD.device)]
        packed = nn.utils.rnn.pack_padded_sequence(sorted_BTD, [lengths[clip] for clip in order], batch_first=True)
        hidden, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        hidden = hidden[to_device([order.index(clip) for clip in range(len(order))], hidden.device)]
        return self.out(hidden).float().log_softmax(-1)

    def count(self, texts: list[str]) -> int:
        """The number of glosses of the clips, excluding those never seen in training."""
        return sum(map(len, self._targets(texts)))

    def _targets(self, texts: list[str]) -> list[list[int]]:
        known = {gloss: index + 1 for index, gloss in enumerate(self.classes)}
        return [[known[gloss] for gloss in text.split() if gloss in known] for text in texts]

    def loss(self, features_BTD: Tensor, frames: Packing, texts: list[str]) -> Tensor:
        """Sum of CTC losses over the glosses that `count` counts."""
        targets = self._targets(texts)
        return nn.functional.ctc_loss(
            self._log_probabilities(features_BTD, frames.lengths).transpose(0, 1),
            to_device([g for target in targets for g in target], features_BTD.device),
            frames.lengths,  # type: ignore[arg-type]  # torch also accepts lists
            [len(target) for target in targets],  # type: ignore[arg-type]
            reduction="sum",
            zero_infinity=True,
        )

    def predict(self, features_BTD: Tensor, frames: Packing) -> list[str]:
        """Best path: the most likely class of each frame, repeats merged, blanks dropped."""
        rows = self._log_probabilities(features_BTD, frames.lengths).argmax(-1).tolist()
        paths = [row[:length] for row, length in zip(rows, frames.lengths)]
        return [
            " ".join(self.classes[c - 1] for i, c in enumerate(path) if c and (i == 0 or c != path[i - 1]))
            for path in paths
        ]


def build_head(config: ModelConfig) -> ClassifierHead | CTCHead:
    """The head that the configuration names, on features of the language model's width."""
    kind = ClassifierHead if config.head == "classifier" else CTCHead
    return kind(config.mt5.d_model, config.head_classes)
