"""How texts are normalised before they are scored, predictions and references alike.

`published` reproduces the published numbers; `nfkc` also folds every other character that mT5's tokenizer cannot write
(it turns all text into Unicode's compatibility form), so that each reference can be matched in full.
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
    """What mT5's tokenizer makes of a text: NFKC, but invisible marks become spaces and U+FF5E stays."""
    parts = text.translate(INVISIBLE).split("～")
    return "～".join(unicodedata.normalize("NFKC", part) for part in parts)


RULES: dict[str, Callable[[str], str]] = {
    "none": lambda text: text,
    "single-spaces": _words,
    # Published for references only; predictions of mT5 hold neither mark, those of other systems get the same chance.
    "csl-daily": lambda text: _characters(text.replace("，", ",").replace("？", "?")),
    "nfkc": lambda text: _words(_nfkc(text)),
    "nfkc-characters": lambda text: _characters(_nfkc(text)),
}


def rule_for(task: Task, language: str, normalization: Normalization) -> str:
    """The key of RULES that a task's texts are normalised by.

    Sentences of a language without spaces are scored by character. Of these only Chinese has published numbers.
    """
    if by_character(task, language):
        return "csl-daily" if language == "zh" and normalization == "published" else "nfkc-characters"
    if normalization == "nfkc":
        return "nfkc"
    return "none" if task == "slt" else "single-spaces"


def by_character(task: Task, language: str) -> bool:
    """Whether texts are scored by character: sentences without spaces. Glosses and words stay tokens."""
    return task == "slt" and not has_spaces(language)


def unreachable(references: Sequence[str]) -> int:
    """How many references have characters that mT5's tokenizer cannot write."""
    return sum(_nfkc(text).split() != text.split() for text in references)
