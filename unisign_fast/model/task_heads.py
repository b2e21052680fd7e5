"""The task-specific heads that the paper compares its unified fine-tuning with (Table 7), pose-only."""

import torch
from torch import Tensor, nn

from unisign_fast.model.config import ModelConfig
from unisign_fast.pipelines.batches.packed_batch import IGNORED


class ClassifierHead(nn.Module):
    """ISLR: the mean of a clip's features, then one linear layer and cross entropy over the words."""

    def __init__(self, width: int, classes: tuple[str, ...]):
        super().__init__()
        self.classes = classes
        self.out = nn.Linear(width, len(classes))

    def _logits(self, features_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        weight = mask_BT[..., None].to(features_BTD.dtype)
        return self.out((features_BTD * weight).sum(1) / weight.sum(1).clamp(min=1))

    def count(self, texts: list[str]) -> int:
        """How many of the clips have a word that is a class."""
        return sum(text in self.classes for text in texts)

    def loss(self, features_BTD: Tensor, mask_BT: Tensor, texts: list[str]) -> Tensor:
        """Sum of cross entropies over the clips that `count` counts."""
        known = {word: index for index, word in enumerate(self.classes)}
        target = torch.tensor([known.get(text, IGNORED) for text in texts], device=features_BTD.device)
        logits = self._logits(features_BTD, mask_BT).float()
        return nn.functional.cross_entropy(logits, target, ignore_index=IGNORED, reduction="sum")

    def predict(self, features_BTD: Tensor, mask_BT: Tensor) -> list[str]:
        return [self.classes[i] for i in self._logits(features_BTD, mask_BT).argmax(-1).tolist()]


class CTCHead(nn.Module):
    """CSLR: one bidirectional LSTM layer and CTC over the glosses; class 0 is the blank."""

    def __init__(self, width: int, classes: tuple[str, ...]):
        super().__init__()
        self.classes = classes
        self.lstm = nn.LSTM(width, width // 2, batch_first=True, bidirectional=True)
        self.out = nn.Linear(width, len(classes) + 1)

    def _log_probabilities(self, features_BTD: Tensor, lengths: list[int]) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(features_BTD, lengths, batch_first=True, enforce_sorted=False)
        hidden, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        return self.out(hidden).float().log_softmax(-1)

    def count(self, texts: list[str]) -> int:
        """How many glosses the clips have, without those never seen in training."""
        return sum(map(len, self._targets(texts)))

    def _targets(self, texts: list[str]) -> list[list[int]]:
        known = {gloss: index + 1 for index, gloss in enumerate(self.classes)}
        return [[known[gloss] for gloss in text.split() if gloss in known] for text in texts]

    def loss(self, features_BTD: Tensor, mask_BT: Tensor, texts: list[str]) -> Tensor:
        """Sum of CTC losses over the glosses that `count` counts."""
        targets, lengths = self._targets(texts), mask_BT.sum(1).tolist()
        return nn.functional.ctc_loss(
            self._log_probabilities(features_BTD, lengths).transpose(0, 1),
            torch.tensor([g for target in targets for g in target], device=features_BTD.device, dtype=torch.long),
            lengths,  # type: ignore[arg-type]  # torch takes lists too
            [len(target) for target in targets],  # type: ignore[arg-type]
            reduction="sum",
            zero_infinity=True,
        )

    def predict(self, features_BTD: Tensor, mask_BT: Tensor) -> list[str]:
        """Best path: the most likely class a frame, repeats joined, blanks dropped."""
        lengths = mask_BT.sum(1).tolist()
        rows = self._log_probabilities(features_BTD, lengths).argmax(-1).tolist()
        paths = [row[:length] for row, length in zip(rows, lengths)]
        return [
            " ".join(self.classes[c - 1] for i, c in enumerate(path) if c and (i == 0 or c != path[i - 1]))
            for path in paths
        ]


def build_head(config: ModelConfig) -> ClassifierHead | CTCHead:
    """The head that the configuration names, on features of the language model's width."""
    kind = ClassifierHead if config.head == "classifier" else CTCHead
    return kind(config.mt5.d_model, config.head_classes)
