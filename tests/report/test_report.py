"""The report of a trained run: the content of the page, and incomplete runs."""

import base64
import json
import re
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
from report_run import FRAMES, SIDE, STYLE, Page, make_run, write_keypoints, write_run
from toy_training import ROOT

from unisign_fast.evaluation.predictions import read_predictions
from unisign_fast.model.fusion import OFFSET_RANGE
from unisign_fast.model.unisign import UniSign
from unisign_fast.pipelines.batches.reader import ClipReader
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.skeleton import HAND_JOINTS
from unisign_fast.pipelines.skeletons import SKELETONS
from unisign_fast.pipelines.store.keypoint_store import KeypointStore
from unisign_fast.report.clip_view import NoTexts
from unisign_fast.report.fusion_probe import probe
from unisign_fast.report.page import write_report
from unisign_fast.report.pictures import FRACTION
from unisign_fast.report.ranking import compare
from unisign_fast.report.run_folder import read_run
from unisign_fast.utils.console import run_command


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished RGB-pose run of a few steps: SLT."""
    return make_run(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(run) -> Path:
    write_report(run, run.parent / "report.html", clips=2, faces=False)
    return run.parent / "report.html"


DOWNLOADS = "data:text/csv;charset=utf-8;base64,", "data:application/x-tex;charset=utf-8;base64,"


# --- what is on the page


def test_page_shows_the_run_and_needs_nothing_but_itself(page, run):
    shown = Page(page)
    assert ("html", "lang", "en") in shown.attributes
    ids = shown.values("id")
    assert len(ids) == len(set(ids))
    links = shown.values("href") + shown.values("src")
    assert links and all(link.startswith(("#", "data:image/webp;base64,", *DOWNLOADS)) for link in links)
    assert [link[1:] for link in links if link.startswith("#") and link[1:] not in ids] == []
    scores = json.loads((run / "scores-test.json").read_text())
    assert f"{scores['values']['BLEU-4']:.2f}" in shown.text and scores["signature"] in shown.text
    assert "CSL-Daily test (Chinese) paper, pose-only, Table 19 53.86 40.96 32.02 25.61 54.92 – " in shown.text
    assert "Not comparable across corpora." in shown.text and "The demo corpus is a small, procedurally" in shown.text
    assert "clip11" not in [player["id"] for player in shown.players] and "1 in the test" in shown.text
    assert "11.mp4" in shown.text, "the reason"
    charts = [value for tag, name, value in shown.attributes if tag == "svg" and name == "aria-label"][:4]
    assert [text.split(":")[0] for text in charts] == [
        "Training loss",
        "BLEU-4 on the dev split, percent",
        "Learning rate",
        "Speed, clips/s, median of five",
    ]
    assert page.stat().st_size < 1e6


def test_players_hold_keypoints_crops_and_sampled_frames(page, run):
    opened = read_run(run)
    reader = ClipReader([KeypointStore.open(opened.stores[0])], opened.data, NoTexts(), opened.seed)
    clips = reader.clips("test")
    by_id = {clips.name(number): clips[number] for number in range(len(clips))}
    players = Page(page).players
    assert len(players) == 4
    for player in players:
        ref = by_id[player["id"]]
        numbers = np.frombuffer(base64.b64decode(player["keypoints"]), "<i2").reshape(FRAMES, 69, 3) / FRACTION
        stored = ref.store.keypoints(ref.clip)
        assert np.abs(numbers[:, 0] - stored[:, 0]).max() < 1 / FRACTION, "the nose"
        assert np.abs(numbers[:, 9:30] - stored[:, 91:112]).max() < 1 / FRACTION, "the left hand"
        sample = reader.read(ref, epoch=0, training=False)
        for hand, drawn in enumerate(player["hands"]):
            sampled = sample.crop_frame[sample.rows(hand)].tolist()
            assert drawn["sampled"] == sampled and len(sampled) > 1
            confident = np.flatnonzero(stored[:, 91:112, 2].mean(1) > 0.3).tolist()
            assert drawn["shown"] == sorted({*confident, *sampled})
        assert player["video"] is None


@pytest.mark.parametrize("name", SKELETONS)
def test_clips_of_every_skeleton_are_drawn_by_its_definition(name, tmp_path):
    skeleton = SKELETONS[name]
    store = write_keypoints(tmp_path / "store", 3, skeleton)
    write_report(write_run(tmp_path / "run", store, "slt", [], evaluations=1), tmp_path / "page.html", 1, faces=False)
    (player,) = Page(tmp_path / "page.html").players
    joints = [skeleton.joints[joint] for joint in skeleton.packed_joints]
    numbers = np.frombuffer(base64.b64decode(player["keypoints"]), "<i2").reshape(3, len(joints), 3) / FRACTION
    opened = KeypointStore.open(store)
    stored = next(opened.keypoints(clip) for clip in opened.clips if clip.id == player["id"])
    for joint in "nose", "right_elbow", "left_hand_index_4", "right_hand_wrist":
        index = joints.index(joint)
        assert np.abs(numbers[:, index] - stored[:, skeleton.joints.index(joint)]).max() < 1 / FRACTION, joint
    lines = {
        part: {frozenset(joints[end] for end in edge) for edge in edges} for part, edges in player["parts"].items()
    }
    assert {"left_shoulder", "right_shoulder"} in lines["body"] and {"left_elbow", "left_wrist"} in lines["body"]
    assert not any("nose" in line for line in lines["body"]), "no edges to the nose"
    for hand in "left", "right":
        assert {f"{hand}_wrist", f"{hand}_hand_wrist"} in lines[hand] and len(lines[hand]) == 21
        assert joints[slice(*player["slices"][hand])] == [f"{hand}_hand_{joint}" for joint in HAND_JOINTS]
    assert not frozenset.intersection(*lines["face"]) and len(lines["face"]) > 6, "no edges to the nose"


def test_gates_and_samples_are_those_of_the_model(run):
    opened = read_run(run)
    model, _ = UniSign.load(opened.model)
    reader = ClipReader([KeypointStore.open(opened.stores[0])], opened.data, NoTexts(), opened.seed)
    batch = reader.batch(reader.clips("dev"), [0, 1], epoch=0, training=False).batch
    fusion = probe(model, batch)
    assert fusion.gate_NV.shape == (len(batch.crops), 21) and (fusion.gate_NV > 0).any(), "training opened the gates"
    assert fusion.position_NGV2.shape == (len(batch.crops), 8, 21, 2)
    away = np.abs(fusion.position_NGV2 - batch.crop_points.numpy()[:, None])
    assert 0 < away.max() <= OFFSET_RANGE / 2 + 1e-6, "an offset of half a crop times OFFSET_RANGE at most"
    assert not model.rgb.fusion.gate._forward_hooks

    captured = {}
    hook = model.rgb.fusion.register_forward_hook(lambda module, inputs, out: captured.update(inputs=inputs, out=out))
    probe(model, batch)
    hook.remove()
    pose, maps, points = captured["inputs"]
    mixed = model.rgb.fusion.fuse(pose, maps, 2 * points - 1)
    share = ((captured["out"] - pose) / (mixed - pose)).detach().numpy()
    assert np.abs(np.median(share, axis=-1) - fusion.gate_NV).max() < 1e-3, "the share in the mixture"


def test_faces_are_shown_only_when_asked_for(run, tmp_path):
    write_report(run, tmp_path / "faces.html", clips=1, faces=True)
    shown = Page(tmp_path / "faces.html")
    assert [player["video"]["width"] for player in shown.players] == [SIDE, SIDE]
    assert "--faces" in shown.text and "--faces" not in Page(run.parent / "report.html").text


# --- incomplete runs


def forget(run: Path, *names: str) -> None:
    for name in names:
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def change(run: Path, **values: object) -> None:
    settings = json.loads((run / "settings.json").read_text())
    settings["data"] |= {name: value for name, value in values.items() if name in settings["data"]}
    settings |= {name: value for name, value in values.items() if name in settings}
    (run / "settings.json").write_text(json.dumps(settings))


def never_ended(run: Path) -> None:
    """An unfinished run of version 0.1: its settings are only in the log."""
    settings = json.loads((run / "settings.json").read_text())
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    for line in lines:
        if line["event"] == "start":
            line["recipe"]["stores"] = settings["stores"]
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    forget(run, "settings.json", "scores-test.json")


LACKING = {
    "curves": (lambda run: forget(run, "log.jsonl"), "No curves: the run has no log.jsonl", 2),
    "scores": (lambda run: forget(run, "scores-test.json"), "No test scores (scores-test.json)", 2),
    "predictions": (lambda run: forget(run, "predictions-test.jsonl"), "No predictions (predictions-test.jsonl)", 1),
    "weights": (lambda run: forget(run, "best", "last"), "has neither best/ nor last/", 2),
    "RGB": (lambda run: change(run, p_samp=0.0), "The run is pose-only: it samples no hand crops", 2),
    "stores": (lambda run: change(run, stores=["gone"]), "Clips cannot be shown: gone: is not a store", 0),
    "an end": (lambda run: never_ended(run), "No test scores", 2),
}


@pytest.mark.parametrize("lack, message, players", LACKING.values(), ids=LACKING)
def test_what_a_run_lacks_is_named_and_the_rest_is_shown(run, tmp_path, lack, message, players):
    copy = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
    lack(copy)
    write_report(copy, tmp_path / "report.html", clips=1, faces=False)
    shown = Page(tmp_path / "report.html")
    assert "Missing: " + message in shown.text or message in shown.text
    assert len(shown.players) == players and "Table 19" in shown.text


def test_a_clip_whose_video_is_gone_is_named_and_its_skeleton_shown(run, tmp_path):
    store = shutil.copytree(run.parent / "store", tmp_path / "store")
    shutil.rmtree(store / "videos")
    copy = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
    change(copy, stores=[str(store)])
    write_report(copy, tmp_path / "report.html", clips=1, faces=True)
    shown = Page(tmp_path / "report.html")
    assert "there is no such video; put it there" in shown.text
    assert [hand["sprite"] for player in shown.players for hand in player["hands"]] == [None] * 4


def test_a_folder_that_is_no_run_is_one_error(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        run_command(runpy.run_path(str(ROOT / "launch/report.py"))["report"], [str(tmp_path)])
    problem = "is not a run folder (it has neither log.jsonl nor settings.json)"
    remedy = "name a folder that launch/pretrain.py or launch/finetune.py wrote"
    assert capsys.readouterr().err == f"error: {tmp_path}: {problem}; {remedy}\n"
    assert list(tmp_path.iterdir()) == []
    settings = {"recipe": "demo", "stage": 1, "stores": [], "data": {"old": 1}, "train": {"seed": 0}}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="settings.json: does not say how the run was trained .*old.*; use "):
        read_run(tmp_path)


def test_predictions_and_references_are_marked_by_more_than_colour(page, run):
    rows = {row.id: row for row in read_predictions(run / "predictions-test.jsonl")}
    shown = Page(page)
    assert "&lt;" in shown.source and "b" not in shown.tags, "texts are escaped"
    first = rows[shown.players[0]["id"]]
    compared = compare("slt", "zh", "csl-daily", first)
    missed = next(span.text for span in compared.reference if span.differs)
    assert f"missed: +{missed}" in shown.text
    style = STYLE.read_text()
    assert "line-through" in re.search(r"^del \{.*\}", style, re.MULTILINE)[0]
    assert "underline" in re.search(r"^ins \{.*\}", style, re.MULTILINE)[0]
