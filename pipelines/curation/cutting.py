"""Cuts a programme's words into the sentences of its clips, at punctuation marks (section 3.1).

The paper cuts at ， 。 ？ ！. Cutting at every comma gives clips of two or three seconds, but the paper's average 9.5 s
and 40 characters, so pieces are merged up to a target length. Western marks count only where they end a sentence or
clause, not in numbers, abbreviations and initials.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..errors import InputError
from .records import Sentence, Word

Cut = Literal["clause", "sentence"]
SENTENCE_MARKS = "。？！．｡…؟۔।.?!"
CLAUSE_MARKS = SENTENCE_MARKS + "，；：、،؛,;:"
CLOSING = "\"'”’»)]}）】》」』〉"
_SPACELESS = "。？！．｡…，；：、"  # marks that no space need follow
ABBREVIATIONS = frozenset(
    """mr mrs ms dr prof st sr jr vs etc e.g i.e cf al gen col sgt capt lt gov sen rep rev hon inc ltd co corp dept est
    approx jan feb mar apr jun jul aug sep sept oct nov dec mt ft u.s u.k u.n a.m p.m
    z.b d.h u.a usw bzw ca evtl ggf hr fr str bd mio mrd o.ä s.o vgl zzt bspw
    mme mlle av env sra srta dra ud uds ee.uu pág núm sig dott ing avv on
    т.е т.д т.п г гг ул руб коп тыс млн млрд им тж bijv dhr mevr nl m.in np tj tzn dn""".split()
)
BEFORE_NUMBERS = frozenset("no nr nos p pp vol art fig ch sec núm № abs ziff kap".split())
ORDINAL_LANGUAGES = ("de", "pl", "tr")  # a number with a full stop is an ordinal


@dataclass(frozen=True)
class CutSettings:
    """Where words are cut, and up to what length pieces are merged."""

    at: Cut = "sentence"
    target_seconds: float = 9.5  # pieces are merged while that brings a clip nearer to it; 0: no piece is merged
    longest_pause: float = 2.0  # seconds without a word that always end a clip

    def __post_init__(self):
        if self.at not in ("clause", "sentence"):
            raise InputError("--cut", f"{self.at!r} is not valid", "choose clause or sentence")
        if not 0 <= self.target_seconds <= 60:
            raise InputError("--target-seconds", f"{self.target_seconds} is not valid", "give 0 to 60")
        if not self.longest_pause > 0:
            raise InputError("--longest-pause", f"{self.longest_pause} is not valid", "give more than 0 seconds")


def cut_sentences(words: Sequence[Word], language: str, settings: CutSettings) -> list[Sentence]:
    """The sentences of a programme, in order; pieces without a letter or digit are left out."""
    marks = SENTENCE_MARKS if settings.at == "sentence" else CLAUSE_MARKS
    clips: list[list[Word]] = []
    open_clip = False  # whether the next piece may join the last clip
    for piece, by_pause in _pieces(words, marks, language, settings.longest_pause):
        if open_clip and _nearer(clips[-1], piece, settings.target_seconds):
            clips[-1] += piece
        else:
            clips.append(piece)
        open_clip = not by_pause
    return [_sentence(clip) for clip in clips if any(c.isalnum() for word in clip for c in word.text)]


def _pieces(words: Sequence[Word], marks: str, language: str, pause: float) -> list[tuple[list[Word], bool]]:
    """The words up to each cut, and whether it is due to a pause."""
    pieces, piece = [], []
    for number, word in enumerate(words):
        piece.append(word)
        after = words[number + 1] if number + 1 < len(words) else None
        by_pause = after is None or after.start - word.end > pause
        if by_pause or _ends(word.text, after.text if after else "", marks, language):
            pieces.append((piece, by_pause))
            piece = []
    return pieces


def _ends(text: str, after: str, marks: str, language: str) -> bool:
    """Whether a word ends with one of the marks, and the mark ends a clause or sentence rather than the word alone."""
    word = text.strip().rstrip(CLOSING)
    if not word or word[-1] not in marks or after.lstrip()[:1] and after.lstrip()[0] in CLOSING + CLAUSE_MARKS:
        return False  # a mark or bracket that follows is the end
    if word[-1] in _SPACELESS:
        return True
    if after and not after[0].isspace() and re.match(r"[\w.]", after) and after.isascii():
        return False  # 3.14, 1,000, 10:30 and example.org as several tokens
    if word[-1] != ".":
        return True
    stem = word.rstrip(".").lstrip("(\"'“‘«¿¡").lower()
    following = after.strip()[:1]
    if word.endswith("..") or not stem:
        return not following.islower()
    number_follows = following.isdigit() and stem in BEFORE_NUMBERS
    initial = len(stem) == 1 and stem.isalpha() and stem not in ("i", "я", "и") or re.fullmatch(r"(?:\w\.)+\w", stem)
    ordinal = language in ORDINAL_LANGUAGES and re.fullmatch(r"\d{1,2}", stem) and following
    return not (stem in ABBREVIATIONS or number_follows or initial or ordinal)


def _nearer(clip: Sequence[Word], piece: Sequence[Word], target: float) -> bool:
    """Whether adding the piece brings the clip's length nearer to the target."""
    alone, merged = clip[-1].end - clip[0].start, piece[-1].end - clip[0].start
    return abs(merged - target) < abs(alone - target)


def _sentence(clip: Sequence[Word]) -> Sentence:
    lengths = [len(word.text.strip()) for word in clip]
    confidence = sum(n * word.confidence for n, word in zip(lengths, clip, strict=True)) / sum(lengths)
    text = " ".join("".join(word.text for word in clip).split())
    return Sentence(text, clip[0].start, clip[-1].end, round(confidence, 4))
