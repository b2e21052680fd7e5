"""Scores of short texts, worked out by hand."""

import sys
from importlib.util import find_spec

import pytest

from pipelines.errors import InputError
from unisign_fast.metrics import RULES, cslr_scores, edit_counts, islr_scores, rouge_l, score, slt_scores


def test_bleu_of_one_wrong_word():
    # Matches of order 1 to 4: 5 of 6, 3 of 5, 2 of 4, 1 of 3; no brevity penalty.
    values = slt_scores(["the cat sat on the mat"], ["the cat sat on a mat"], "en").values
    expected = [5 / 6, (5 / 6 * 3 / 5) ** (1 / 2), (1 / 4) ** (1 / 3), (1 / 12) ** (1 / 4)]
    assert [values[f"BLEU-{k}"] for k in (1, 2, 3, 4)] == pytest.approx([100 * e for e in expected])


def test_bleu_brevity_and_smoothing():
    assert slt_scores(["a b c d"], ["a b c d e"], "en").values["BLEU-1"] == pytest.approx(77.8801, abs=1e-4)  # e^-1/4
    assert slt_scores(["a b"], ["a c"], "en").values["BLEU-2"] == pytest.approx(50)  # 1/2, and 0 of 1 smoothed to 1/2


def test_bleu_tokenises_punctuation():
    assert slt_scores(["yes, I do."], ["yes , I do ."], "en").values["BLEU-4"] == pytest.approx(100)


def test_chrf_of_equal_and_disjoint_texts():
    assert slt_scores(["hello there"], ["hello there"], "en").values["chrF"] == pytest.approx(100)
    assert slt_scores(["abc"], ["xyz"], "en").values["chrF"] == 0


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("c b a", "a b c", 100 / 3),
        ("a b c", "a b c", 100),
        ("a a a", "a", 100),  # distinct words
        ("a b. c d", "c d. a b", 100),  # sentences match in any order
        ("a b c d", "c d a b", 50),  # within one they do not
        ("", "a", 0),
        (" ", "a. ", 0),
        ("..", "a", 0),
        ("a", ".", 0),
    ],
)
def test_rouge_l(prediction, reference, expected):
    assert rouge_l([prediction], [reference]) == pytest.approx(expected, abs=1e-5)


def test_rouge_l_is_a_mean_over_clips():
    assert rouge_l(["a", "", "x", "c b a"], ["a", "b", "c", "a b c"]) == pytest.approx(100 / 3, abs=1e-5)


def test_rouge_l_of_a_runaway_prediction():
    limit = sys.getrecursionlimit()
    text = " ".join(f"w{i}" for i in range(limit + 100))
    assert rouge_l([text], [text]) == pytest.approx(100, abs=1e-5)
    assert sys.getrecursionlimit() == limit


@pytest.mark.parametrize(
    ("reference", "prediction", "expected"),
    [
        ("a b c d", "a b c d", (0, 0, 0)),
        ("a b c d", "a x c d", (1, 0, 0)),
        ("a b c", "a b x c", (0, 1, 0)),
        ("a b c", "b c", (0, 0, 1)),
        ("a b", "", (0, 0, 2)),
        ("p q m", "m s t", (3, 0, 0)),  # 12 either way: the substitution goes first
        ("p q r m n", "m n s t u", (0, 3, 3)),  # 18 against 20, though five substitutions are fewer errors
    ],
)
def test_edit_counts(reference, prediction, expected):
    assert edit_counts(reference.split(), prediction.split()) == expected


def test_word_error_rate_is_over_the_corpus():
    scores = cslr_scores(["a b c d", "x"], ["a b c d", "y z"], "zh")  # one substitution, one deletion, six glosses
    expected = {"WER": 200 / 6, "substitutions": 100 / 6, "insertions": 0, "deletions": 100 / 6}
    assert scores.values == pytest.approx(expected)
    assert "sub:4|ins:3|del:3" in scores.signature


def test_islr_per_instance_and_per_class():
    values = islr_scores(["a", "a", "new", "b"], ["a", "a", "a", "b"], "en").values
    assert values == pytest.approx({"top-1 per instance": 75, "top-1 per class": 100 * (2 / 3 + 1) / 2})


def test_islr_wants_the_exact_string():
    assert islr_scores(["Book", "book shelf"], ["book", "bookshelf"], "en").values["top-1 per instance"] == 0


def test_chinese_is_scored_by_character():
    scores = slt_scores(["我 喜欢茶。"], ["我喜欢 水。"], "zh")
    assert scores.values["BLEU-1"] == pytest.approx(80)  # 4 of 5 characters
    assert scores.values["ROUGE-L"] == pytest.approx(80, abs=1e-5)
    assert scores.normalization == "csl-daily"


def test_the_published_rule_folds_two_marks_and_nfkc_all():
    predictions, references = ["你好,好吗?", "来!"], ["你好，好吗？", "来！"]
    published, nfkc = (slt_scores(predictions, references, "zh", rule) for rule in ("published", "nfkc"))
    assert published.values["BLEU-1"] == pytest.approx(100 * 7 / 8)
    assert published.unreachable == 1
    assert nfkc.values["BLEU-1"] == pytest.approx(100)
    assert (nfkc.unreachable, nfkc.normalization) == (0, "nfkc-characters")


def test_english_is_scored_as_it_is():
    scores = slt_scores(["wait..."], ["wait…"], "en")
    assert (scores.normalization, scores.unreachable, scores.values["BLEU-1"] < 50) == ("none", 1, True)
    assert slt_scores(["wait..."], ["wait…"], "en", "nfkc").values["BLEU-1"] == pytest.approx(100)


def test_nfkc_makes_of_a_text_what_the_tokenizer_does(shared):
    sentencepiece = pytest.importorskip("sentencepiece")
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(shared / "mt5_tokenizer_zh/spiece.model"))
    for text in ("你好，好吗？来！", "（１２：３０；ＡＢ）", "等…天～地", "左\u200b右\u3000上", " 两  个 "):
        round_trip = tokenizer.decode(tokenizer.encode(text))
        assert RULES["nfkc"](text) == RULES["none"](round_trip)


def test_bleurt_says_what_is_missing(tmp_path):
    with pytest.raises(InputError, match="no BLEURT checkpoint"):
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
