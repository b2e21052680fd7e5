"""The target of a clip: the kind of text and its language.

A language is CODE, a BCP-47 tag (de, gsw, zh-Hant), or CODE=NAME, where NAME is what the prompt calls it.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import Literal

from .errors import InputError

LANGUAGES = {
    "zh": "Chinese",
    "en": "English",
    "de": "German",
    "fr": "French",
    "es": "Spanish",
    "it": "Italian",
    "pt": "Portuguese",
    "nl": "Dutch",
    "ru": "Russian",
    "uk": "Ukrainian",
    "pl": "Polish",
    "tr": "Turkish",
    "ar": "Arabic",
    "fa": "Persian",
    "hi": "Hindi",
    "ja": "Japanese",
    "ko": "Korean",
    "vi": "Vietnamese",
}  # the most common ones, with langcodes' names for them; it also names all others
Task = Literal["slt", "cslr", "islr"]  # the target: sentence, glosses or word

# Scripts by ISO 15924: the first words of their letters' names in Unicode.
SCRIPTS = {
    "Arab": ("ARABIC",),
    "Armn": ("ARMENIAN",),
    "Beng": ("BENGALI",),
    "Cyrl": ("CYRILLIC",),
    "Deva": ("DEVANAGARI",),
    "Ethi": ("ETHIOPIC",),
    "Geor": ("GEORGIAN",),
    "Grek": ("GREEK",),
    "Hans": ("CJK",),
    "Hant": ("CJK",),
    "Hebr": ("HEBREW",),
    "Jpan": ("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"),
    "Khmr": ("KHMER",),
    "Kore": ("HANGUL",),
    "Laoo": ("LAO",),
    "Latn": ("LATIN",),
    "Mymr": ("MYANMAR",),
    "Taml": ("TAMIL",),
    "Thai": ("THAI",),
}
WITHOUT_SPACES = ("Hans", "Hant", "Jpan", "Khmr", "Laoo", "Mymr", "Thai")  # no space between words

_TAG = re.compile(r"(?:[a-zA-Z]{2,8}|x)(?:-[a-zA-Z0-9]{1,8})*")


def language_code(language: str) -> str:
    """CODE of CODE or CODE=NAME."""
    return language.partition("=")[0]


@lru_cache(1024)
def language_name(language: str) -> str | None:
    """The English name of CODE, or NAME of CODE=NAME; None if the code is unknown or malformed, or the name empty."""
    code, equals, name = language.partition("=")
    if not _TAG.fullmatch(code):
        return None
    if equals:
        return name if name.strip() and name.isprintable() else None
    return LANGUAGES.get(code) or _name_in_table(code)


def _name_in_table(code: str) -> str | None:
    import langcodes  # late import: it takes 0.2 s, and most languages are in LANGUAGES

    try:
        tag = langcodes.Language.get(code)
        name = tag.display_name("en")
    except ValueError:
        return None
    return None if name.startswith("Unknown language") or not tag.is_valid() else name


def read_language(given: str) -> str:
    """The language that the user gave, with its code in standard form (de for deu and DE). Raises InputError if it is
    unknown."""
    code, equals, name = given.partition("=")
    if language_name(given) is None:
        remedy = "give a code of BCP-47 or ISO 639, or CODE=NAME with the English name of the language"
        raise InputError("--language", f"{given!r} is not known", remedy)
    if code not in LANGUAGES:
        import langcodes

        code = langcodes.standardize_tag(code)
    return f"{code}{equals}{name.strip()}"


@lru_cache(1024)
def script_of(language: str) -> str | None:
    """The script that CODE or CODE=NAME is usually written in, as ISO 15924; None if it is not known."""
    import langcodes

    try:
        tag = langcodes.Language.get(language_code(language))
        return tag.maximize().script if tag.is_valid() else None
    except ValueError:
        return None


def has_spaces(language: str) -> bool:
    """Whether spaces separate the words of a language; if not, its sentences are counted and scored by character."""
    return script_of(language) not in WITHOUT_SPACES


def script_mismatch(texts: Iterable[str], language: str) -> str | None:
    """A message if most letters of the texts are not in the language's script; otherwise None."""
    expected = SCRIPTS.get(script_of(language) or "", ())
    letters = Counter(c for text in texts for c in unicodedata.normalize("NFKC", text) if c.isalpha())
    scripts: Counter[str] = Counter()
    for letter, count in letters.items():
        scripts[unicodedata.name(letter, "UNNAMED").split()[0]] += count
    share = sum(scripts[script] for script in expected) / max(1, scripts.total())
    if not expected or not scripts or share >= 0.5:
        return None
    (most, _), *_ = scripts.most_common(1)
    return f"{1 - share:.0%} of the letters are not in the script of {language_name(language)}; most are {most}"
