"""A small language: its sentences as glosses, Chinese and English.

Glosses follow the order of signing, [time] subject object [number or colour] verb [不 | 吗]; the translations reorder
them and add what signing leaves out (了, 要, 没, measure words, 的; auxiliaries, articles, endings in English). The
grammar treats both signs of every pair in `signs.PAIRS` alike, so no context tells them apart.
"""

from dataclasses import dataclass
from itertools import product

from pipelines.demo_corpus.signs import PAIRS

SUBJECTS = {"我": "I", "你": "you", "她": "she"}
TIMES = {"昨天": "yesterday", "今天": "today", "明天": "tomorrow"}
COLOURS = {"红": "red", "蓝": "blue"}
TWO, GO, LIKE, NOT, ASK = "两", "去", "喜欢", "不", "吗"
NO_WORD = ""
# Signs of pairs in a sentence of so many signs at most: with more, score-aware sampling would miss some too often.
MOST_AMBIGUOUS = {3: 1, 4: 1, 5: 2}


@dataclass(frozen=True)
class Noun:
    """A thing with its measure word, and English for one (with article, and ready for a colour), any, and two."""

    measure: str
    one: str
    generic: str
    two: str
    verbs: tuple[str, ...]
    colourable: bool = False


NOUNS = {
    "书": Noun("本", "a book", "books", "two books", ("看",), colourable=True),
    "衣服": Noun("件", "a shirt", "shirts", "two shirts", ("看",), colourable=True),
    "水": Noun("杯", "water", "water", "two glasses of water", ("喝",)),
    "茶": Noun("杯", "tea", "tea", "two cups of tea", ("喝",)),
    "咖啡": Noun("杯", "coffee", "coffee", "two cups of coffee", ("喝",)),
    "面包": Noun("个", "bread", "bread", "two loaves of bread", ("吃",)),
    "苹果": Noun("个", "an apple", "apples", "two apples", ("吃",)),
    "橘子": Noun("个", "an orange", "oranges", "two oranges", ("吃",)),
    "猫": Noun("只", "a cat", "cats", "two cats", ("看",)),
    "狗": Noun("只", "a dog", "dogs", "two dogs", ("看",)),
}
TRADE = ("买", "卖", LIKE)  # verbs of every noun
VERBS = {  # base, third person, past
    "喝": ("drink", "drinks", "drank"),
    "吃": ("eat", "eats", "ate"),
    "看": ("see", "sees", "saw"),
    LIKE: ("like", "likes", "liked"),
    "买": ("buy", "buys", "bought"),
    "卖": ("sell", "sells", "sold"),
    GO: ("go", "goes", "went"),
}
PLACES = {"学校": "to school", "商店": "to the shop"}
# English of every sign made alone.
WORDS = {
    **SUBJECTS,
    **TIMES,
    **COLOURS,
    TWO: "two",
    NOT: "not",
    ASK: "question",
    **{word: noun.one.split()[-1] for word, noun in NOUNS.items()},
    **{word: forms[0] for word, forms in VERBS.items()},
    "学校": "school",
    "商店": "shop",
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
    modifier: str
    verb: str
    end: str

    def glosses(self) -> tuple[str, ...]:
        order = (self.time, self.subject, self.thing, self.modifier, self.verb, self.end)
        return tuple(word for word in order if word)


def _chinese(c: _Clause) -> str:
    past, future, negated = c.time == "昨天", c.time == "明天", c.end == NOT
    thing = c.thing
    if c.modifier == TWO:
        thing = TWO + NOUNS[c.thing].measure + thing
    elif c.modifier:
        thing = f"{c.modifier}色的{thing}"
    if negated:
        verb = ("没" if past else "不") + c.verb
    else:
        verb = ("要" if future else "") + c.verb + ("了" if past else "")
    return c.subject + c.time + verb + thing + ("吗？" if c.end == ASK else "。")


def _english_thing(c: _Clause) -> str:
    if c.thing in PLACES:
        return PLACES[c.thing]
    noun = NOUNS[c.thing]
    if c.modifier == TWO:
        return noun.two
    words = noun.generic if c.verb == LIKE else noun.one
    if c.modifier:
        article, _, rest = words.rpartition(" ")
        words = f"{article} {COLOURS[c.modifier]} {rest}".strip()
    return words


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
    words = f"{words} {_english_thing(c)} {TIMES.get(c.time, '')}".strip()
    return words[0].upper() + words[1:] + ("?" if c.end == ASK else ".")


def _clauses() -> list[_Clause]:
    times, ends, modifiers = (NO_WORD, *TIMES), (NO_WORD, NOT, ASK), (NO_WORD, TWO, *COLOURS)
    clauses = [
        _Clause(time, subject, place, NO_WORD, GO, end)
        for time, subject, place, end in product(times, SUBJECTS, PLACES, ends)
    ]
    for time, subject, (thing, noun), modifier, end in product(times, SUBJECTS, NOUNS.items(), modifiers, ends):
        if modifier in COLOURS and not noun.colourable:
            continue
        for verb in noun.verbs + TRADE:
            if verb != LIKE or not (time or modifier == TWO):  # liking has neither a time nor a number
                clauses.append(_Clause(time, subject, thing, modifier, verb, end))
    return clauses


def all_sentences() -> list[Sentence]:
    """Every sentence of 3 to 5 signs, in a fixed order; no two have the same Chinese text."""
    sentences = []
    for clause in _clauses():
        glosses = clause.glosses()
        if sum(word in AMBIGUOUS for word in glosses) <= MOST_AMBIGUOUS.get(len(glosses), -1):
            sentences.append(Sentence(glosses, _chinese(clause), _english(clause)))
    return sentences
