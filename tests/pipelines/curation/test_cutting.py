"""Cuts at punctuation: which marks end a clip, and how pieces are merged."""

import pytest

from unisign_fast.pipelines.curation.captions import _WORD
from unisign_fast.pipelines.curation.cutting import CutSettings, cut_sentences
from unisign_fast.pipelines.curation.records import Sentence, Word
from unisign_fast.pipelines.errors import InputError


def spoken(text: str, seconds: float = 1.0) -> list[Word]:
    """Words of equal duration, one directly after another."""
    texts = _WORD.findall(text)
    return [Word(word, n * seconds, (n + 1) * seconds, 0.5 + n % 2 / 2) for n, word in enumerate(texts)]


def pieces(text: str, at: str = "sentence", language: str = "en") -> list[str]:
    return [s.text for s in cut_sentences(spoken(text), language, CutSettings(at, target_seconds=0))]


def test_the_papers_marks_and_western_ones():
    chinese = "今天，下雨了。你好吗？很好！再见"
    assert pieces(chinese, "clause", "zh") == ["今天，", "下雨了。", "你好吗？", "很好！", "再见"]
    assert pieces(chinese, "sentence", "zh") == ["今天，下雨了。", "你好吗？", "很好！", "再见"]
    western = "Rain, today. How are you? Fine! Bye"
    assert pieces(western, "clause") == ["Rain,", "today.", "How are you?", "Fine!", "Bye"]
    assert pieces(western) == ["Rain, today.", "How are you?", "Fine!", "Bye"]
    assert pieces("他说：“好。”然后走了。", "sentence", "zh") == ["他说：“好。”", "然后走了。"]
    assert pieces("“Go.” He went.") == ["“Go.”", "He went."]


@pytest.mark.parametrize(
    "text, language",
    [
        ("It costs 3.14 dollars and 1,000 more", "en"),
        ("At 10:30 Dr. Smith met J. R. Jones of the U.S. army", "en"),
        ("See No. 5 on p. 7 etc. and so on", "en"),
        ("Am 3. Mai z.B. kam Fr. Groß", "de"),
        ("visit example.org now", "en"),
        ("增长了3.5个百分点", "zh"),
        ("wait... not yet", "en"),
    ],
)
def test_numbers_abbreviations_and_initials_are_whole(text, language):
    assert pieces(text, "clause", language) == [text]


def test_a_mark_of_its_own_token_and_a_number_of_two():
    words = [Word("cost", 0, 1, 1), Word(" 3", 1, 2, 1), Word(".", 2, 2, 1), Word("5.", 2, 3, 1), Word(" Yes", 3, 4, 1)]
    sentences = cut_sentences(words, "en", CutSettings("sentence", 0))
    assert [s.text for s in sentences] == ["cost 3.5.", "Yes"]
    assert pieces("No. I said no.") == ["No.", "I said no."], "not an abbreviation where no number follows"


def test_pieces_are_merged_while_that_brings_them_nearer_to_the_target():
    words = spoken("a bb, c d ee, ff. g h i j k ll, m nn.")
    settings = CutSettings("clause", target_seconds=6)
    assert [s.text for s in cut_sentences(words, "en", settings)] == ["a bb, c d ee, ff.", "g h i j k ll,", "m nn."]
    assert [s.text for s in cut_sentences(words, "en", CutSettings("clause", 60))] == [
        "a bb, c d ee, ff. g h i j k ll, m nn."
    ]


def test_a_long_pause_ends_a_clip_with_and_without_marks():
    words = [Word("a", 0, 1, 1), Word(" b", 1, 2, 1), Word(" c", 5, 6, 1), Word(" d.", 6, 7, 1), Word(" e.", 7.5, 8, 1)]
    assert [(s.text, s.start, s.end) for s in cut_sentences(words, "en", CutSettings("sentence", 60))] == [
        ("a b", 0, 2),
        ("c d. e.", 5, 8),
    ]


def test_times_and_confidence_are_those_of_the_words():
    (sentence,) = cut_sentences(spoken("abc d."), "en", CutSettings())
    assert sentence == Sentence("abc d.", 0.0, 2.0, 0.7), "weighted by length: 3 characters of 0.5, 2 of 1"
    assert cut_sentences(spoken("..., !"), "en", CutSettings()) == cut_sentences([], "en", CutSettings()) == []


def test_settings_are_checked():
    for wrong in (dict(at="comma"), dict(target_seconds=-1.0), dict(longest_pause=0.0)):
        with pytest.raises(InputError, match="is not valid; "):
            CutSettings(**wrong)
