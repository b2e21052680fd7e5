"""Normalisation of predictions and references before scoring.

`published` reproduces the published numbers. mT5's tokenizer converts all text to Unicode's compatibility form (NFKC);
`nfkc` converts the references too, so that the model can match every one of them in full.
"""

import unicodedata
from collections.abc import Callable, Sequence
from typing import Literal

from unisign_fast.pipelines.targets import Task, has_spaces

Normalization = Literal["published", "nfkc"]

INVISIBLE = dict.fromkeys((0x200B, 0x200C, 0x200D, 0x200E, 0x200F, 0xFEFF), " ")  # zero-width and direction marks


def _words(text: str) -> str:
    return " ".join(text.split())


def _characters(text: str) -> str:
    return " ".join("".join(text.split()))


def _nfkc(text: str) -> str:
    """The text as mT5's tokenizer normalises it: NFKC, but invisible marks become spaces and U+FF5E is kept."""
    parts = text.translate(INVISIBLE).split("～")
    return "～".join(unicodedata.normalize("NFKC", part) for part in parts)


RULES: dict[str, Callable[[str], str]] = {
    "none": lambda text: text,
    "single-spaces": _words,
    # Published for references only. mT5 predicts neither mark; predictions of other systems are treated alike.
    "csl-daily": lambda text: _characters(text.replace("，", ",").replace("？", "?")),
    "nfkc": lambda text: _words(_nfkc(text)),
    "nfkc-characters": lambda text: _characters(_nfkc(text)),
}


def rule_for(task: Task, language: str, normalization: Normalization) -> str:
    """The key in RULES for the texts of a task.

    Sentences in a language without spaces are scored by character; of these, only Chinese has published numbers.
    """
    if by_character(task, language):
        return "csl-daily" if language == "zh" and normalization == "published" else "nfkc-characters"
    if normalization == "nfkc":
        return "nfkc"
    return "none" if task == "slt" else "single-spaces"


def by_character(task: Task, language: str) -> bool:
    """Whether texts are scored by character: true for sentences in a language without spaces, never for glosses."""
    return task == "slt" and not has_spaces(language)


def unreachable(references: Sequence[str]) -> int:
    """The number of references with characters that mT5's tokenizer cannot produce."""
    return sum(_nfkc(text).split() != text.split() for text in references)
