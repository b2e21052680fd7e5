"""Scores of short texts, worked out by hand."""

import math
import sys
import unicodedata
from collections import Counter
from importlib.util import find_spec

import pytest

from unisign_fast.evaluation.metrics import edit_counts, rouge_l, score
from unisign_fast.pipelines.converters.labels import read_labels
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.targets import script_mismatch
from unisign_fast.text.normalization import RULES


def test_bleu_of_one_wrong_word():
    # Matches of order 1 to 4: 5 of 6, 3 of 5, 2 of 4, 1 of 3; no brevity penalty.
    values = score("slt", ["the cat sat on the mat"], ["the cat sat on a mat"], "en").values
    expected = [5 / 6, (5 / 6 * 3 / 5) ** (1 / 2), (1 / 4) ** (1 / 3), (1 / 12) ** (1 / 4)]
    assert [values[f"BLEU-{k}"] for k in (1, 2, 3, 4)] == pytest.approx([100 * e for e in expected])


def test_bleu_brevity_and_smoothing():
    assert score("slt", ["a b c d"], ["a b c d e"], "en").values["BLEU-1"] == pytest.approx(77.8801, abs=1e-4)  # e^-1/4
    assert score("slt", ["a b"], ["a c"], "en").values["BLEU-2"] == pytest.approx(50)  # 1/2, and 0 of 1 smoothed to 1/2


def test_bleu_tokenises_punctuation():
    assert score("slt", ["yes, I do."], ["yes , I do ."], "en").values["BLEU-4"] == pytest.approx(100)


def test_chrf_of_equal_and_disjoint_texts():
    assert score("slt", ["hello there"], ["hello there"], "en").values["chrF"] == pytest.approx(100)
    assert score("slt", ["abc"], ["xyz"], "en").values["chrF"] == 0


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("c b a", "a b c", 100 / 3),
        ("a b c", "a b c", 100),
        ("a a a", "a", 100),  # distinct words
        ("a b. c d", "c d. a b", 100),  # sentences match in any order
        ("a b c d", "c d a b", 50),  # words within a sentence do not
        ("", "a", 0),
        (" ", "a. ", 0),
        ("..", "a", 0),
        ("a", ".", 0),
    ],
)
def test_rouge_l(prediction, reference, expected):
    assert rouge_l(prediction, reference) == pytest.approx(expected, abs=1e-5)


def test_rouge_l_is_a_mean_over_clips():
    values = score("slt", ["a", "", "x", "c b a"], ["a", "b", "c", "a b c"], "en").values
    assert values["ROUGE-L"] == pytest.approx(100 / 3, abs=1e-5)


def test_rouge_l_of_a_runaway_prediction():
    limit = sys.getrecursionlimit()
    text = " ".join(f"w{i}" for i in range(limit + 100))
    assert rouge_l(text, text) == pytest.approx(100, abs=1e-5)
    assert sys.getrecursionlimit() == limit


@pytest.mark.parametrize(
    ("reference", "prediction", "expected"),
    [
        ("a b c d", "a b c d", (0, 0, 0)),
        ("a b c d", "a x c d", (1, 0, 0)),
        ("a b c", "a b x c", (0, 1, 0)),
        ("a b c", "b c", (0, 0, 1)),
        ("a b", "", (0, 0, 2)),
        ("p q m", "m s t", (3, 0, 0)),  # cost 12 either way: the substitution is preferred
        ("p q r m n", "m n s t u", (0, 3, 3)),  # 18 against 20, though five substitutions are fewer errors
    ],
)
def test_edit_counts(reference, prediction, expected):
    assert edit_counts(reference.split(), prediction.split()) == expected


def test_word_error_rate_is_over_the_corpus():
    scores = score("cslr", ["a b c d", "x"], ["a b c d", "y z"], "zh")  # one substitution, one deletion, six glosses
    expected = {"WER": 200 / 6, "substitutions": 100 / 6, "insertions": 0, "deletions": 100 / 6}
    assert scores.values == pytest.approx(expected)
    assert "sub:4|ins:3|del:3" in scores.signature


def test_islr_per_instance_and_per_class():
    values = score("islr", ["a", "a", "new", "b"], ["a", "a", "a", "b"], "en").values
    assert values == pytest.approx({"top-1 per instance": 75, "top-1 per class": 100 * (2 / 3 + 1) / 2})


def test_islr_requires_the_exact_string():
    assert score("islr", ["Book", "book shelf"], ["book", "bookshelf"], "en").values["top-1 per instance"] == 0


def test_synonyms_of_a_class_list_are_one_class():
    predictions, references = ["give  ticket", "get", "box", "new"], ["ticket", "receive", "boxing", "new"]
    classes = {"ticket": "ticket", "give ticket": "ticket", "get": "get", "receive": "get", "boxing": "boxing"}
    alone, joined = (score("islr", predictions, references, "en", classes=c) for c in (None, classes))
    assert alone.values["top-1 per instance"] == 25 and joined.values["top-1 per instance"] == 75
    assert "exact string|classes:4" in alone.signature and "exact class|classes:4" in joined.signature


def test_per_class_accuracy_is_over_the_classes_of_the_references():
    classes = {"get": "get", "receive": "get", "never": "never"}
    scores = score("islr", ["get", "receive", "x", "never"], ["receive", "get", "get", "y"], "en", classes=classes)
    assert scores.values == pytest.approx({"top-1 per instance": 50, "top-1 per class": 100 * (2 / 3 + 0) / 2})


def test_classes_are_for_words_only():
    with pytest.raises(InputError, match="--classes: classes apply to words"):
        score("cslr", ["a"], ["a"], "en", classes={"a": "a"})


def test_published_labels_need_no_more_than_the_rules(shared):
    """CSL-Daily's sentences contain two marks that the published rule folds and one that it keeps, its glosses none;
    WLASL's words need no folding."""
    sentences, _ = read_labels(shared / "labels/CSL_Daily.labels.dev", "dev")
    texts, glosses = [row.text for row in sentences], [row.gloss for row in sentences]
    predictions = [RULES["nfkc"](text) for text in texts]  # what mT5 can write of them
    published, nfkc = (score("slt", predictions, texts, "zh", rule) for rule in ("published", "nfkc"))
    assert published.unreachable == sum("！" in text for text in texts) > 0 and nfkc.unreachable == 0
    assert published.values["BLEU-1"] == pytest.approx(100, abs=0.2) and published.values["BLEU-1"] < 100
    assert nfkc.values["BLEU-4"] == pytest.approx(100)
    recognised = score("cslr", [f" {gloss.replace(' ', '  ')}" for gloss in glosses], glosses, "zh")
    assert recognised.values["WER"] == 0 and recognised.unreachable == 0
    words = [row.text for row in read_labels(shared / "labels/WLASL.labels-2000.dev", "dev")[0]]
    values = score("islr", words, words, "en").values
    assert values == {"top-1 per instance": 100, "top-1 per class": 100} and len(set(words)) == 2000


def test_chinese_is_scored_by_character():
    scores = score("slt", ["我 喜欢茶。"], ["我喜欢 水。"], "zh")
    assert scores.values["BLEU-1"] == pytest.approx(80)  # 4 of 5 characters
    assert scores.values["ROUGE-L"] == pytest.approx(80, abs=1e-5)
    assert scores.normalization == "csl-daily"


@pytest.mark.parametrize(
    ("language", "reference", "prediction"),
    [
        ("ja", "水を飲む", "水が飲む"),
        ("th", "น้ำ", "น้า"),
        ("lo", "ນ້ຳ", "ນ້າ"),
        ("my", "ရေ\u200bသောက်", "ရေသောက်"),
        ("km", "ទឹក", "ទើក"),
    ],
)
def test_languages_without_spaces_are_scored_by_character(language, reference, prediction):
    """As mT5's tokenizer writes the texts: it splits the vowel am of Thai and Lao and drops invisible breaks."""
    written = unicodedata.normalize("NFKC", reference.replace("\u200b", ""))
    assert score("slt", [written], [reference], language).values["BLEU-1"] == pytest.approx(100)
    scores = score("slt", [prediction], [reference], language)
    characters = list(written)
    hits = sum((Counter(unicodedata.normalize("NFKC", prediction)) & Counter(characters)).values())
    short = min(1.0, math.exp(1 - len(characters) / len(unicodedata.normalize("NFKC", prediction))))
    length = len(unicodedata.normalize("NFKC", prediction))
    assert scores.values["BLEU-1"] == pytest.approx(100 * short * hits / length)
    assert scores.normalization == "nfkc-characters"
    assert "tok:char" in scores.signature and scores.signature.count("units:characters") == 2


def test_signatures_name_the_units():
    assert score("slt", ["a"], ["a"], "ko").signature.count("units:words") == 2
    chinese = score("slt", ["我"], ["我"], "zh").signature
    assert "tok:13a" in chinese and chinese.count("units:characters") == 2
    glosses = score("cslr", ["水 飲む"], ["水 飲"], "ja")
    assert glosses.values["WER"] == 50 and "units:glosses" in glosses.signature


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("zh", "我看中央CCTV。", None),
        ("ja", "ＡＢ ｶﾀｶﾅ データー", None),
        ("vi", "Tôi uống nước", None),
        ("ru", "ё", None),
        ("de", "12:30 ...", None),
        ("de", "我喜欢茶", "100% of the letters are not in the script of German; most are CJK"),
        ("ja", "I like tea 茶", "89% of the letters are not in the script of Japanese; most are LATIN"),
    ],
)
def test_a_text_in_another_script_is_noticed(language, text, expected):
    assert script_mismatch([text, ""], language) == expected


def test_the_published_rule_folds_two_marks_and_nfkc_all():
    predictions, references = ["你好,好吗?", "来!"], ["你好，好吗？", "来！"]
    published, nfkc = (score("slt", predictions, references, "zh", rule) for rule in ("published", "nfkc"))
    assert published.values["BLEU-1"] == pytest.approx(100 * 7 / 8)
    assert published.unreachable == 1
    assert nfkc.values["BLEU-1"] == pytest.approx(100)
    assert (nfkc.unreachable, nfkc.normalization) == (0, "nfkc-characters")


def test_english_is_scored_as_it_is():
    scores = score("slt", ["wait..."], ["wait…"], "en")
    assert (scores.normalization, scores.unreachable, scores.values["BLEU-1"] < 50) == ("none", 1, True)
    assert score("slt", ["wait..."], ["wait…"], "en", "nfkc").values["BLEU-1"] == pytest.approx(100)


def test_nfkc_gives_the_texts_that_the_tokenizer_gives(shared):
    sentencepiece = pytest.importorskip("sentencepiece")
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(shared / "mt5_tokenizer_zh/spiece.model"))
    for text in ("你好，好吗？来！", "（１２：３０；ＡＢ）", "等…天～地", "左\u200b右\u3000上", " 两  个 "):
        round_trip = tokenizer.decode(tokenizer.encode(text))
        assert RULES["nfkc"](text) == RULES["none"](round_trip)


def test_bleurt_says_what_is_missing(tmp_path):
    with pytest.raises(InputError, match="is not a BLEURT checkpoint"):
        score("slt", ["a"], ["a"], "en", bleurt=tmp_path)
    with pytest.raises(InputError, match="English only"):
        score("slt", ["a"], ["a"], "zh", bleurt=tmp_path)
    with pytest.raises(InputError, match="not cslr"):
        score("cslr", ["a"], ["a"], "en", bleurt=tmp_path)


@pytest.mark.skipif(find_spec("bleurt") is not None, reason="bleurt is installed")
def test_bleurt_without_its_package(tmp_path):
    (tmp_path / "bleurt_config.json").write_text("{}")
    with pytest.raises(InputError, match="package bleurt is not installed"):
        score("slt", ["a"], ["a"], "en", bleurt=tmp_path)
