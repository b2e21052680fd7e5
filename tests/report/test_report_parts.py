"""The parts of a report: order of clips, differences, curves, colours."""

import re

import pytest
from report_run import STYLE, palettes

from unisign_fast.evaluation.predictions import Prediction
from unisign_fast.report.charts import chart, nice_ticks
from unisign_fast.report.ranking import Said, Span, compare, worst_and_best

# --- order, differences, curves


def test_differences_are_marked_in_the_units_that_are_scored():
    said = compare("slt", "csl-daily", Prediction("a", "我爱茶。", "我喜欢茶。"))
    assert said.prediction == [Span("我", False), Span("爱", True), Span("茶。", False)]
    assert said.reference == [Span("我", False), Span("喜欢", True), Span("茶。", False)]
    assert said.verdict.startswith("sentence BLEU ") and 0 < said.quality < 100
    said = compare("cslr", "single-spaces", Prediction("a", "我 他 茶", "我 茶 水"))
    assert said.verdict == "WER 66.7: 0 substituted, 1 inserted, 1 deleted of 3"
    assert said.prediction == [Span("我", False), Span("他", True), Span("茶", False)]
    assert said.reference == [Span("我", False), Span("茶", False), Span("水", True)]
    assert compare("islr", "single-spaces", Prediction("a", "thank  you", "thank you")).verdict == "right"
    assert compare("islr", "single-spaces", Prediction("a", "", "tea")).verdict == "wrong"


def test_worst_and_best_share_no_clip():
    said = [Said(str(i), [], [], "", "", quality) for i, quality in enumerate([3.0, 1.0, 2.0, 0.0, 9.0])]
    worst, best = worst_and_best(said, 2)
    assert [clip.id for clip in worst] == ["3", "1"] and [clip.id for clip in best] == ["4", "0"]
    worst, best = worst_and_best(said[:3], 5)
    assert [clip.id for clip in worst] == ["1", "2"] and [clip.id for clip in best] == ["0"]
    assert worst_and_best([], 3) == ([], [])


def test_curves_have_round_ticks_around_all_values():
    assert nice_ticks(0.83, 1.6) == pytest.approx([0.8, 1.0, 1.2, 1.4, 1.6])
    assert nice_ticks(0, 0.0005) == pytest.approx([0, 0.0002, 0.0004, 0.0006])
    assert nice_ticks(1, 3, whole=True) == [1, 2, 3]
    assert nice_ticks(7, 7)[0] < 7 < nice_ticks(7, 7)[-1]
    curve = chart("loss", [(step, 1 / step) for step in range(1, 5001)])
    heights = [float(point.split(",")[1]) for point in curve.line.split()]
    assert heights == sorted(heights) and len(heights) <= 400 and 10 <= heights[0] and heights[-1] <= 176
    assert curve.words == "loss: from 1 at step 1 to 0.0002 at step 5000; least 0.0002, most 1."
    chart("flat", [(1, 0.0)])


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


def test_every_colour_has_a_name():
    rules = re.sub(r":root \{.*?\}|/\*.*?\*/", "", STYLE.read_text(), flags=re.DOTALL)
    assert set(re.findall(r"--(\w+)", rules)) == palettes()["light"].keys() == palettes()["dark"].keys()
    assert re.findall(r"#[0-9a-f]{3,8}\b|rgb|hsl", rules) == []
    assert set(re.findall(r"\b(black|white)\b(?!-)", rules)) == {"black", "white"}, "on pictures, white over black"
