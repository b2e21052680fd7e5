"""A small language: its sentences as glosses, Chinese and English.

Glosses follow the order of signing, [time] subject object verb [不 | 吗]; the translations reorder them and add what
signing leaves out (了, 要, 没; auxiliaries, articles, endings in English). The grammar treats both signs of every pair
in `signs.PAIRS` alike, so no context tells them apart.
"""

from dataclasses import dataclass
from itertools import product

from .signs import PAIRS

SUBJECTS = {"我": "I", "你": "you", "她": "she"}
TIMES = {"昨天": "yesterday", "明天": "tomorrow"}
NOT, ASK = "不", "吗"
NO_WORD = ""
# The most paired signs in a sentence of a given length: with more, score-aware sampling would miss some too often.
MOST_AMBIGUOUS = {3: 1, 4: 1, 5: 2}

NOUNS = {  # English with its article
    "书": "a book",
    "水": "water",
    "茶": "tea",
    "咖啡": "coffee",
    "苹果": "an apple",
    "橘子": "an orange",
    "猫": "a cat",
    "狗": "a dog",
}
VERBS = {  # base, third person, past
    "喝": ("drink", "drinks", "drank"),
    "吃": ("eat", "eats", "ate"),
    "看": ("see", "sees", "saw"),
    "买": ("buy", "buys", "bought"),
    "卖": ("sell", "sells", "sold"),
}
TRADE = ("买", "卖")  # verbs that take every noun; the others take only their own nouns
OBJECTS = {"喝": ("水", "茶", "咖啡"), "吃": ("苹果", "橘子"), "看": ("书", "猫", "狗")}
# English translation of every sign made alone.
WORDS = {
    **SUBJECTS,
    **TIMES,
    NOT: "not",
    ASK: "question",
    **{word: noun.split()[-1] for word, noun in NOUNS.items()},
    **{word: forms[0] for word, forms in VERBS.items()},
}
AMBIGUOUS = frozenset(word for pair in PAIRS for word in pair)


@dataclass(frozen=True)
class Sentence:
    """What is signed, and what it means."""

    glosses: tuple[str, ...]
    chinese: str
    english: str


@dataclass(frozen=True)
class _Clause:
    """The parts of a sentence; NO_WORD where one is absent."""

    time: str
    subject: str
    thing: str
    verb: str
    end: str

    def glosses(self) -> tuple[str, ...]:
        return tuple(word for word in (self.time, self.subject, self.thing, self.verb, self.end) if word)


def _chinese(c: _Clause) -> str:
    past, future = c.time == "昨天", c.time == "明天"
    if c.end == NOT:
        verb = ("没" if past else "不") + c.verb
    else:
        verb = ("要" if future else "") + c.verb + ("了" if past else "")
    return c.subject + c.time + verb + c.thing + ("吗？" if c.end == ASK else "。")


def _english(c: _Clause) -> str:
    base, third, past = VERBS[c.verb]
    subject, third_person = SUBJECTS[c.subject], c.subject == "她"
    if c.time == "昨天":
        auxiliary, plain = "did", past
    elif c.time == "明天":
        auxiliary, plain = "will", f"will {base}"
    else:
        auxiliary, plain = ("does", third) if third_person else ("do", base)
    if c.end == ASK:
        words = f"{auxiliary} {subject} {base}"
    elif c.end == NOT:
        words = f"{subject} {auxiliary} not {base}"
    else:
        words = f"{subject} {plain}"
    words = f"{words} {NOUNS[c.thing]} {TIMES.get(c.time, '')}".strip()
    return words[0].upper() + words[1:] + ("?" if c.end == ASK else ".")


def all_sentences() -> list[Sentence]:
    """Every sentence of 3 to 5 signs, in a fixed order; no two have the same Chinese text."""
    sentences = []
    pairs = [(thing, verb) for verb, things in OBJECTS.items() for thing in things] + list(product(NOUNS, TRADE))
    for time, subject, (thing, verb), end in product((NO_WORD, *TIMES), SUBJECTS, pairs, (NO_WORD, NOT, ASK)):
        clause = _Clause(time, subject, thing, verb, end)
        glosses = clause.glosses()
        if sum(word in AMBIGUOUS for word in glosses) <= MOST_AMBIGUOUS[len(glosses)]:
            sentences.append(Sentence(glosses, _chinese(clause), _english(clause)))
    return sentences
