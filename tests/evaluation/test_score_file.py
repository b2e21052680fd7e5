"""Score files, run settings and logs with values of the wrong type."""

import json

import pytest

from unisign_fast.checkpoints.model_folder import trained_languages
from unisign_fast.evaluation.score_file import read_scores
from unisign_fast.pipelines.errors import InputError
from unisign_fast.report.run_folder import read_run
from unisign_fast.utils.event_log import BadClipEvent, EvaluationEvent, StepEvent, events_of


def test_log_lines_of_the_wrong_type_are_ignored():
    events = [
        {"event": "step", "step": 1, "loss": 2.0, "clips_per_s": 3},
        {"event": "step", "step": [2], "loss": 2.0},
        {"event": "step", "step": -1, "loss": "low"},
        {"event": "evaluation", "step": 1, "scores": {"BLEU-4": 1.0}},
        {"event": "evaluation", "step": 1, "scores": {"BLEU-4": [1.0]}},
        {"event": ["step"], "step": 3},
        {"event": "bad_clip", "clip": 7},
    ]
    (step,) = events_of(events, StepEvent)
    assert (step.step, step.loss, step.clips_per_s) == (1, 2.0, 3.0) and step.learning_rate != step.learning_rate
    assert [event.scores for event in events_of(events, EvaluationEvent)] == [{"BLEU-4": 1.0}]
    assert events_of(events, BadClipEvent) == []


@pytest.mark.parametrize(
    "change, words",
    [
        ({"values": 7}, "scores-test.json: holds no scores .*values"),
        ({"values": {"BLEU-4": "high"}}, "scores-test.json: holds no scores .*values"),
        ({"values": {"WER": 1.0}}, "scores-test.json: values: has no BLEU-4"),
        ({"intervals": {"BLEU-4": [1]}}, "scores-test.json: holds no scores .*intervals"),
        ({"count": "many"}, "scores-test.json: holds no scores .*count"),
    ],
)
def test_a_score_file_of_the_wrong_type_is_refused(tmp_path, change, words):
    file = tmp_path / "scores-test.json"
    file.write_text(json.dumps({"values": {"BLEU-4": 1.0}, "count": 3}))
    assert read_scores(file, ("BLEU-4",)).count == 3
    file.write_text(json.dumps({"values": {"BLEU-4": 1.0}, "count": 3} | change))
    with pytest.raises(InputError, match=words):
        read_scores(file, ("BLEU-4",))


def test_settings_that_no_run_can_have_are_refused(tmp_path):
    for data in ({"task": -1}, {"crops": 1}, {"p_samp": "x"}, 7):
        settings = {"recipe": "demo", "stage": 1, "stores": [], "data": data, "train": {"seed": 0}}
        (tmp_path / "settings.json").write_text(json.dumps(settings))
        with pytest.raises(InputError, match=f"{tmp_path}/settings.json: does not say how the run was trained"):
            read_run(tmp_path)
    (tmp_path / "settings.json").unlink()
    for start in ({}, {"recipe": 7}, {"recipe": {"recipe": "demo"}}):
        (tmp_path / "log.jsonl").write_text(json.dumps({"event": "start"} | start))
        with pytest.raises(InputError, match=f"{tmp_path}/log.jsonl: does not say how the run was trained"):
            read_run(tmp_path)


def test_a_damaged_model_card_names_no_language(tmp_path):
    for card in (
        "---\nlanguage: zh\n---\n",
        "---\nlanguage: [zh, 7]\n---\n",
        "---\nlanguage: \0\n---\n",
        "---\nlanguage: 7\n---\n",
    ):
        (tmp_path / "README.md").write_text(card)
        assert trained_languages(tmp_path) == (["zh"] if "zh" in card else [])
