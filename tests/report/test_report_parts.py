"""The parts of a report: order of clips, differences, curves, colours."""

import re

import pytest
from report_run import STYLE, palettes
from sacrebleu.metrics import BLEU

from unisign_fast.evaluation.metrics import score
from unisign_fast.evaluation.predictions import Prediction
from unisign_fast.report import charts
from unisign_fast.report.charts import histogram, line_chart, nice_ticks, tick_labels
from unisign_fast.report.ranking import Comparison, Span, compare, worst_and_best
from unisign_fast.report.words import confusion_matrix, worst_words

# --- order, differences, curves


def test_differences_are_marked_in_the_units_that_are_scored():
    compared = compare("slt", "zh", "csl-daily", Prediction("a", "我爱茶。", "我喜欢茶。"))
    assert compared.prediction == [Span("我", False), Span("爱", True), Span("茶。", False)]
    assert compared.reference == [Span("我", False), Span("喜欢", True), Span("茶。", False)]
    assert compared.verdict.startswith("sentence BLEU ") and 0 < compared.quality < 100
    compared = compare("cslr", "zh", "single-spaces", Prediction("a", "我 他 茶", "我 茶 水"))
    assert compared.verdict == "WER 66.7: 0 substituted, 1 inserted, 1 deleted of 3"
    assert compared.prediction == [Span("我", False), Span("他", True), Span("茶", False)]
    assert compared.reference == [Span("我", False), Span("茶", False), Span("水", True)]
    assert compare("islr", "en", "single-spaces", Prediction("a", "thank  you", "thank you")).verdict == "correct"
    assert compare("islr", "en", "single-spaces", Prediction("a", "", "tea")).verdict == "wrong"


@pytest.mark.parametrize("language, tokenizer", [("zh", "13a"), ("ja", "char"), ("en", "13a"), ("und", "13a")])
def test_single_clips_are_scored_with_the_tokenizer_of_their_language(language, tokenizer):
    prediction, reference = "雪が降る日", "雪が降る夜"  # one word to 13a, five to char
    bleu = BLEU(tokenize=tokenizer, smooth_method="exp", effective_order=True)
    expected = bleu.sentence_score(prediction, [reference]).score
    compared = compare("slt", language, "none", Prediction("a", prediction, reference))
    assert compared.score == pytest.approx(expected) and (compared.score > 0) == (tokenizer == "char")
    assert f"|tok:{tokenizer}|" in score("slt", [prediction], [reference], language).signature


def test_worst_and_best_share_no_clip():
    clips = [Comparison(str(i), [], [], "", q, "", quality=q) for i, q in enumerate([3.0, 1.0, 2.0, 0.0, 9.0])]
    worst, best = worst_and_best(clips, 2)
    assert [clip.id for clip in worst] == ["3", "1"] and [clip.id for clip in best] == ["4", "0"]
    worst, best = worst_and_best(clips[:3], 5)
    assert [clip.id for clip in worst] == ["1", "2"] and [clip.id for clip in best] == ["0"]
    assert worst_and_best([], 3) == ([], [])


def test_curves_have_round_ticks_around_all_values():
    assert nice_ticks(0.83, 1.6) == pytest.approx([0.8, 1.0, 1.2, 1.4, 1.6])
    assert nice_ticks(0, 0.0005) == pytest.approx([0, 0.0002, 0.0004, 0.0006])
    assert nice_ticks(1, 3, whole=True) == [1, 2, 3]
    assert nice_ticks(7, 7)[0] < 7 < nice_ticks(7, 7)[-1]
    assert 0 < nice_ticks(3e-4, 3e-4)[0] < 3e-4, "a constant learning rate has no negative axis"
    assert nice_ticks(0, 0)[0] == 0
    curve = line_chart("loss", [(step, 1 / step) for step in range(1, 5001)])
    heights = [float(point.split(",")[1]) for point in curve.line.split()]
    assert heights == sorted(heights) and len(heights) <= 400 and 10 <= heights[0] and heights[-1] <= 176
    assert curve.summary == "loss: from 1 at step 1 to 0.0002 at step 5000; lowest 0.0002, highest 1."


def test_one_point_is_in_the_middle_and_many_points_have_a_running_mean():
    one = line_chart("BLEU-4", [(6000, 25.0)], best=max)
    ((x, y),) = one.dots
    assert x == (charts.LEFT + charts.WIDTH - charts.RIGHT) / 2
    assert charts.TOP < y < charts.HEIGHT - charts.BOTTOM
    assert one.x_ticks == [(x, "6000")] and one.marked is None
    line_chart("zero", [(1, 0.0)])
    full = line_chart("BLEU-4", [(6000, 100.0)], best=max, limit=100.0)
    assert [tick.label for tick in full.y_ticks] == ["90", "95", "100"] and full.dots[0][1] == charts.TOP
    points = [(step, 5.0 + (-1) ** step) for step in range(1, 101)]
    many = line_chart("loss", points, smooth=True)
    assert many.dots == [] and len(many.line.split()) == 100
    raw, trend = ([float(point.split(",")[1]) for point in line.split()] for line in (many.line, many.trend))
    assert max(trend[3:-3]) - min(trend[3:-3]) < 0.3 * (max(raw) - min(raw))
    assert line_chart("loss", points[:20], smooth=True).trend == ""
    best = line_chart("WER", [(10, 60.0), (20, 40.0), (30, 45.0)], best=min)
    assert best.marked == best.dots[1] and best.summary.endswith("best at step 20.")


def test_ticks_can_be_told_apart_and_fit():
    for low, high in [(25.101, 25.103), (0, 3e-4), (2.9e-4, 3e-4), (0, 123456), (0, 3_000_000), (0.83, 1.6), (98, 101)]:
        labels = tick_labels(nice_ticks(low, high))
        assert len(set(labels)) == len(labels) and max(map(len, labels)) <= 7, labels
    assert tick_labels([0, 10000, 20000]) == ["0", "10k", "20k"]
    assert tick_labels([0, 1e-4, 2e-4]) == ["0", "1e-4", "2e-4"]


def test_a_histogram_counts_every_value_once():
    bars = histogram("BLEU", [0, 9.9, 10, 55, 99.9, 100]).bars
    assert [bar.total for bar in bars] == [2, 1, 0, 0, 0, 1, 0, 0, 0, 2]
    assert all(b.x + b.width < other.x for b, other in zip(bars, bars[1:]))
    wer = histogram("WER", [0, 100, 100.5, 250], above=True)
    assert [bar.total for bar in wer.bars] == [1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2]
    assert wer.x_ticks[-1].label == "> 100" and "over 100: 2" in wer.summary
    assert dict(wer.facts)["Exactly 100"] == "1" and dict(wer.facts)["Median"] == "100.2"


def test_words_are_counted_by_reference_and_prediction():
    pairs = ["tea tea", "tea tea", "tea milk", "tea ", "milk tea", "milk tea", "go go", "stop ?"]
    clips = [Prediction(str(i), *reversed(pair.split(" "))) for i, pair in enumerate(pairs)]
    compared = [compare("islr", "en", "single-spaces", clip) for clip in clips]
    matrix = confusion_matrix(compared)
    assert matrix.words == ["go", "milk", "stop", "tea"] and matrix.words_left_out == 0
    assert {row.word: row.counts for row in matrix.rows} == {
        "go": [1, 0, 0, 0, 0],
        "milk": [0, 0, 0, 2, 0],
        "stop": [0, 0, 0, 0, 1],
        "tea": [0, 1, 0, 2, 1],
    }
    assert worst_words(compared) == [("milk", 2, 0, "tea", 2), ("stop", 1, 0, "?", 1), ("tea", 4, 2, "", 1)]
    many = [compare("islr", "en", "single-spaces", Prediction(str(i), f"w{i // 2}", f"w{i % 30}")) for i in range(60)]
    matrix = confusion_matrix(many)
    assert len(matrix.words) == 20 and matrix.words_left_out == 10 and "w0" not in matrix.words, "always correct"
    assert all(sum(row.counts) == row.clips == 2 for row in matrix.rows)


# --- colours


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2.2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(share * c for share, c in zip((0.2126, 0.7152, 0.0722), linear))


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_suffices(scheme):
    colours = palettes()[scheme]
    assert contrast("#ffffff", "#000000") == 21 and contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    pairs = {
        (front, back): contrast(colours[front], colours[back])
        for front in colours.keys() - {"paper", "panel"}
        for back in ("paper", "panel")
    }
    assert len(pairs) == 16
    least = {"line": 3.0}  # of rules and borders; 4.5 for text
    assert {pair: ratio for pair, ratio in pairs.items() if ratio < least.get(pair[0], 4.5)} == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_numbers_can_be_read_on_every_shade_of_the_confusion_matrix(scheme):
    assert "(40 * count / row.clips)" in (STYLE.parent / "figures.html.j2").read_text(), "percent of colour at most"
    colours = palettes()[scheme]
    for kind in ("missed", "wrong"):
        for share in (0.0, 0.1, 0.2, 0.3, 0.4):
            parts = [
                round(share * int(colours[kind][i : i + 2], 16) + (1 - share) * int(colours["paper"][i : i + 2], 16))
                for i in (1, 3, 5)
            ]
            assert contrast("#" + "".join(f"{part:02x}" for part in parts), colours["ink"]) >= 4.5, (kind, share)


def test_every_colour_has_a_name():
    rules = re.sub(r":root \{.*?\}|/\*.*?\*/", "", STYLE.read_text(), flags=re.DOTALL)
    assert set(re.findall(r"--(\w+)", rules)) == palettes()["light"].keys() == palettes()["dark"].keys()
    assert re.findall(r"#[0-9a-f]{3,8}\b|rgb|hsl", rules) == []
    assert set(re.findall(r"\b(black|white)\b(?!-)", rules)) == {"black", "white"}, "on pictures, white over black"
