"""Translation of stores, videos and pose files: texts and their scores, windows, and the options of the command."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from pose_files import make_keypoints, write_mmpose
from transformers.modeling_outputs import BaseModelOutput
from translation_parts import (
    MAX_FRAMES,
    SIDE,
    TEXTS,
    Run,
    lines,
    translate_command,
    translations,
    write_models,
    write_store,
)
from video_files import write_video

from unisign_fast.evaluation.evaluate import evaluate_split
from unisign_fast.inference.translator import Translation, Translator
from unisign_fast.model.unisign import UniSign
from unisign_fast.pipelines.batches.reader import ClipReader
from unisign_fast.pipelines.corpus.recordings import known_recordings, recordings_of_store
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.store.keypoint_store import KeypointStore, KeypointStoreWriter
from unisign_fast.utils.distributed import start_ranks


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def run(capfd) -> Run:
    return translate_command(capfd)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return write_store(tmp_path_factory.mktemp("data") / "store", [12, 20, 16, 31])


# --- texts and scores


@pytest.mark.parametrize("name", ["pose", "rgb"])
def test_a_store_gives_the_texts_of_evaluation(models, store, name):
    model, tokenizer = UniSign.load(models[name])
    reader = ClipReader([KeypointStore.open(store)], model.companions.data, tokenizer)
    expected = evaluate_split(model.eval(), tokenizer, reader, "test", start_ranks())
    result = translations(Translator(models[name]), store)
    assert [one.clip for one in result] == [row.id for row in expected.rows] == [f"clip{i}" for i in range(4)]
    assert [one.text for one in result] == [row.prediction for row in expected.rows]
    assert len({one.text for one in result}) > 1
    assert [(one.start, one.end) for one in result] == [(0, frames / 10) for frames in (12, 20, 16, 31)]
    assert [Path(one.file).resolve() for one in result] == [store / "videos" / f"{i}.mp4" for i in range(4)]


def test_the_score_is_the_mean_log_probability_at_the_end_of_beam_search(models, store):
    model, tokenizer = UniSign.load(models["pose"])
    model.eval()
    reader = ClipReader([KeypointStore.open(store)], model.companions.data, tokenizer)
    batch = reader.batch(reader.clips("test"), range(4), epoch=0, training=False).batch
    with torch.no_grad():
        hidden, packing = model.encode(model.sign_features(batch), batch)
        expected = model.language_model.mt5.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=packing.pad(hidden)),
            attention_mask=packing.mask_BS.long(),
            num_beams=4,
            max_new_tokens=100,
            do_sample=False,
            output_scores=True,
            return_dict_in_generate=True,
        ).sequences_scores
    result = translations(Translator(models["pose"]), store)
    np.testing.assert_allclose([one.score for one in result], expected, atol=2e-3)


def test_the_language_to_write_is_the_models_the_clips_or_the_users(models, store, tmp_path):
    own = [one.score for one in translations(Translator(models["pose"]), store)]
    english = [one.score for one in translations(Translator(models["pose"], language="en"), store)]
    german = [one.score for one in translations(Translator(models["pose"], language="de"), store)]
    assert own == english and all(a != b for a, b in zip(own, german))


def test_an_rgb_model_uses_the_hands(models, store):
    looking = [one.score for one in translations(Translator(models["rgb"]), store)]
    not_looking = [one.score for one in translations(Translator(models["rgb"], p_samp=0.0), store)]
    assert all(a != b for a, b in zip(looking, not_looking))


# --- windows


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.9])
@pytest.mark.parametrize("frames", [1, 20, 21, 33, 200])
def test_windows_cover_a_recording(models, tmp_path, frames, overlap):
    with KeypointStoreWriter(tmp_path, {"estimator": "test", "version": "1", "coordinates": "fractions"}) as writer:
        fields = dict(split="test", language="en", text="", fps=10.0, width=SIDE, height=SIDE)
        writer.add(np.zeros((frames, 133, 3)), id="a", **fields)
    translator = Translator(models["pose"], window=20, overlap=overlap)
    (recording,) = recordings_of_store(tmp_path)
    windows = list(translator.processor.windows(recording))
    assert windows[0].first == 0 and windows[-1].end == frames and len({w.id for w in windows}) == len(windows)
    assert all(0 < w.end - w.first <= 20 for w in windows)
    common = [before.end - after.first for before, after in zip(windows, windows[1:])]
    assert all(share >= round(overlap * 20) for share in common) and (len(windows) == 1) == (frames <= 20)
    if len(windows) > 1:  # one fewer would not suffice
        assert frames > (len(windows) - 1) * 20 - (len(windows) - 2) * round(overlap * 20)


def test_a_window_is_translated_like_a_separate_clip(models, tmp_path):
    """Including its hand crops, which come from the window's frames of the video."""
    whole = write_store(tmp_path / "whole", [30])
    translator = Translator(models["rgb"], window=20, overlap=0.5)
    first, second = translations(translator, whole)
    assert (first.start, first.end, second.start, second.end) == (0, 2, 1, 3)
    clips = KeypointStore.open(whole)
    with KeypointStoreWriter(tmp_path / "part", clips.keypoint_source) as writer:
        fields = dict(split="test", language="en", text="", fps=10.0, width=SIDE, height=SIDE)
        place = dict(video_start=10, video_frames=30, source=str(whole / "videos" / "0.mp4"))
        writer.add(clips.keypoints(clips.clips[0])[10:], id="clip0:10", **fields, **place)
    (alone,) = translations(translator, tmp_path / "part")
    assert (alone.text, alone.score) == (second.text, pytest.approx(second.score, abs=1e-4))
    assert (alone.start, alone.end) == (second.start, second.end)


def test_by_default_a_window_is_twice_the_frames_of_training(models, tmp_path):
    store = write_store(tmp_path / "store", [2 * MAX_FRAMES, 2 * MAX_FRAMES + 1])
    assert [one.clip for one in translations(Translator(models["pose"]), store)] == ["clip0", "clip1", "clip1"]


def test_an_unusable_clip_stops_no_other(models, tmp_path):
    store = write_store(tmp_path / "store", [12, 12, 12])
    (store / "videos" / "1.mp4").unlink()
    result = list(Translator(models["rgb"]).translate(recordings_of_store(store)))
    assert [isinstance(one, Translation) for one in result] == [True, False, True]
    assert "1.mp4: there is no such video" in str(result[1])
    assert len(translations(Translator(models["rgb"], p_samp=0.0), store)) == 3


# --- the command


def test_videos_whose_store_is_beside_them_need_no_pose_estimation(run, models, store):
    videos = [store / "videos" / f"{i}.mp4" for i in (2, 0)]
    result = lines(run("--model", models["rgb"], *videos))
    expected = translations(Translator(models["rgb"]), store)
    expected = [expected[2], expected[0]]
    assert [(row["clip"], row["text"]) for row in result] == [(one.clip, one.text) for one in expected]
    assert [row["score"] for row in result] == pytest.approx([one.score for one in expected], abs=2e-3)
    assert set(result[0]) == {"file", "clip", "text", "score", "start", "end", "took", "language", "reference"}
    assert (result[0]["language"], result[0]["reference"]) == ("en", TEXTS[2])
    assert result[0]["file"] == str(videos[0])


def test_an_untrained_language_causes_a_warning(run, models, store, tmp_path):
    shutil.copytree(models["pose"], tmp_path / "model")
    (tmp_path / "model/README.md").write_text("---\nlanguage:\n- zh\n- fr\n---\n")
    video = store / "videos/0.mp4"
    warned, not_warned = (run("--model", tmp_path / "model", "--language", name, video) for name in ("de", "fr"))
    folder = tmp_path / "model"
    assert warned.status == not_warned.status == 0 and not_warned.error == ""
    assert warned.error == f"warning: {folder}: its model card names zh, fr as training languages, not de\n"


def test_a_recording_has_all_its_clips_and_an_unknown_video_none(store, tmp_path):
    with KeypointStoreWriter(tmp_path / "store", {"estimator": "t", "version": "1", "coordinates": "f"}) as writer:
        fields = dict(split="test", language="en", text="", fps=10.0, width=SIDE, height=SIDE, source="a.mp4")
        for start in (0, 5):
            writer.add(np.zeros((5, 133, 3)), id=f"a{start}", video_start=start, video_frames=10, **fields)
    for name in ("a", "b"):
        (tmp_path / "store" / f"{name}.mp4").touch()
    assert [one.clip.id for one in known_recordings(tmp_path / "store" / "a.mp4")] == ["a0", "a5"]
    assert known_recordings(tmp_path / "store" / "b.mp4") == []


def test_a_named_store_recognises_copies_of_its_videos(store, tmp_path):
    opened, video = KeypointStore.open(store), tmp_path / "1.mp4"
    shutil.copy(store / "videos/1.mp4", video)
    assert known_recordings(video) == [], "no store is near"
    assert [one.clip.id for one in known_recordings(video, [opened])] == ["clip1"]
    write_video(video, [np.zeros((SIDE, SIDE, 3), np.uint8)] * 3)
    assert known_recordings(video, [opened]) == [], "another length"


def test_videos_that_need_missing_networks_stop_no_other(run, models, store, tmp_path):
    """Nor does a video that does not decode, which is reported before any network is opened."""
    unknown, broken = tmp_path / "unknown.mp4", tmp_path / "broken.mp4"
    shutil.copy(store / "videos/1.mp4", unknown)
    broken.write_bytes(b"no video")
    common = "--model", models["pose"], "--language", "en", "--detector", tmp_path / "none.onnx"
    done = run(*common, store / "videos/0.mp4", unknown, broken)
    assert [row["clip"] for row in lines(done)] == ["clip0"]
    decoded, warning, left_out, count = done.error.splitlines()
    assert decoded.startswith(f"left out: {broken}: ") and warning.startswith("warning: ")
    assert (left_out, count) == (f"left out: {unknown}", "left out: 2")
    done = run(*common, broken)
    assert done.status == 2 and done.error.startswith(f"error: {broken}: ") and done.error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ([], "translate: there is nothing to translate; name videos, --store STORE or --live CAMERA"),
        (["none.mp4"], "none.mp4: there is no such video; name an existing video"),
        (["{store}/videos"], "{store}/videos: is a folder of videos; name the videos in it: {store}/videos/*.mp4"),
        (["--store", "{store}"], "--model: no model is named, and runs has none that launch/quickstart.sh trained; "),
    ],
)
def test_the_command_refuses_in_one_line(run, store, tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    done = run(*(argument.format(store=store) for argument in arguments))
    assert done.status == 2 and done.output == "" and done.error.count("\n") == 1, done
    assert done.error.startswith("error: ") and expected.format(store=store) in done.error


def test_the_default_model_is_the_newest_demo_model_for_sentences(run, models, store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, run_folder in enumerate(["demo/slt-rgb", "quickstart/slt-pose", "quickstart/islr-rgb"]):
        best = tmp_path / "runs" / run_folder / "best"
        shutil.copytree(models["pose" if "pose" in run_folder else "rgb"], best)
        os.utime(best / "model.safetensors", (number, number))
    result = lines(run("--store", store))
    assert [row["text"] for row in result] == [one.text for one in translations(Translator(models["pose"]), store)]


@pytest.mark.parametrize(
    "choices, expected",
    [
        (dict(language="xx"), "--language: 'xx' is not known; give a code of BCP-47"),
        (dict(overlap=1.0), "--overlap: 1.0 is not valid"),
        (dict(window=0), "--window: 0 is not valid"),
        (dict(p_samp=0.1), "--p-samp: the model is pose-only; leave it out, or name an RGB-pose model"),
    ],
)
def test_impossible_choices(models, choices, expected):
    with pytest.raises(InputError) as caught:
        Translator(models["pose"], **choices)
    assert expected in str(caught.value)


def test_clips_by_name_a_split_and_references(run, models, store, tmp_path):
    other = store_of_splits(tmp_path / "other")
    common = "--model", models["pose"], "--language", "en"
    assert [row["clip"] for row in lines(run(*common, "--store", other, "--split", "dev"))] == ["b"]
    result = run(*common, "--store", other, store, "--", "clip3", "a", "nobody", other)
    assert [row["clip"] for row in lines(result)] == ["clip3", "a", "a", "b"]
    unknown = "left out: nobody: is neither a file, nor a store, nor a clip of --store; "
    assert result.error.startswith(unknown) and result.error.endswith("left out: 1\n")
    assert [row["reference"] for row in lines(result)] == [TEXTS[0], "A.", "A.", "B."]


def store_of_splits(folder: Path) -> Path:
    with KeypointStoreWriter(folder, {"estimator": "t", "version": "1", "coordinates": "f"}) as writer:
        rng = np.random.default_rng(1)
        for name, split in (("a", "test"), ("b", "dev")):
            fields = dict(split=split, language="en", text=f"{name.upper()}.", fps=10.0, width=SIDE, height=SIDE)
            writer.add(rng.uniform(0.2, 0.8, (8, 133, 3)), id=name, **fields)
    return folder


def test_pose_files_alone_and_of_videos(run, models, store, tmp_path):
    keypoints = make_keypoints(frames=12)
    write_mmpose(tmp_path / "p.json", [[frame] for frame in keypoints])
    common = "--model", models["pose"], "--language", "en", "--poses", tmp_path / "p.json", "--format", "mmpose"
    video = store / "videos" / "0.mp4"
    (alone,), (from_video,) = lines(run(*common)), lines(run(video, *common))
    assert alone["text"] == from_video["text"] and (alone["file"], from_video["file"]) == (
        str(tmp_path / "p.json"),
        str(video),
    )
    pixels = [[frame * [SIDE, SIDE, 1]] for frame in keypoints]
    write_mmpose(tmp_path / "pixels.json", pixels)
    done = run("--model", models["pose"], "--language", "en", "--poses", tmp_path / "pixels.json")
    assert done.status == 2 and done.error.endswith("of how large a picture; name its video too, before --poses\n")
    done = run("--model", models["pose"], "a.mp4", "b.mp4", "--poses", tmp_path / "p.json")
    assert done.status == 2 and "--poses: 1 pose files for 2 videos; give one for each video" in done.error


def test_an_output_file_whole_and_subtitles(run, models, store, tmp_path):
    common = "--model", models["pose"], "--language", "en", "--store", store
    rows = lines(run(*common))
    done = run(*common, "--out", tmp_path / "all.jsonl")
    assert done.output == f"{tmp_path}/all.jsonl: {len(rows)} texts\n"
    written = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert [{**row, "took": 0} for row in written] == [{**row, "took": 0} for row in rows]
    run(*common, "--window", 20, "--out", tmp_path / "clip.vtt", "clip3")
    texts = (tmp_path / "clip.vtt").read_text()
    assert texts.startswith("WEBVTT") and "00:00:00.000 --> 00:00:01.300\n" in texts and "--> 00:00:03.100\n" in texts
    run(*common, "--window", 20, "--out", tmp_path / "clip.srt", "clip3")
    assert "00:00:00,000 --> 00:00:01,300" in (tmp_path / "clip.srt").read_text()
    for name, problem in {
        "all.srt": "subtitles hold one video, but 4 clips",
        "all.txt": "has an unknown suffix",
    }.items():
        done = run(*common, "--out", tmp_path / name)
        assert done.status == 2 and problem in done.error and not (tmp_path / name).exists()


def test_a_store_beside_the_folder_of_videos_is_found(models, store, tmp_path):
    (tmp_path / "my").mkdir()
    shutil.copytree(store / "videos", tmp_path / "my" / "videos")
    with KeypointStoreWriter(
        tmp_path / "my" / "store", {"estimator": "t", "version": "1", "coordinates": "f"}
    ) as writer:
        source = str(tmp_path / "my" / "videos" / "2.mp4")
        fields = dict(split="test", language="en", text="t", fps=10.0, width=SIDE, height=SIDE, source=source)
        writer.add(np.ones((5, 133, 3)), id="mine", **fields)
    (known,) = known_recordings(tmp_path / "my" / "videos" / "2.mp4")
    assert known.clip.id == "mine" and known_recordings(tmp_path / "my" / "videos" / "1.mp4") == []
    opened = KeypointStore.open(store)
    shutil.copy(store / "videos" / "1.mp4", tmp_path / "1.mp4")
    assert known_recordings(store / "videos" / "1.mp4", [opened])[0].clip.id == "clip1"
