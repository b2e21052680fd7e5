"""The Python API: keypoints as arrays, files and stores give the same texts as the command for the same clips."""

import numpy as np
import pytest
import torch
from pose_files import (
    HEIGHT,
    WIDTH,
    in_pixels,
    make_holistic,
    make_keypoints,
    write_dot_pose,
    write_mmpose,
    write_rtmlib,
)
from translation_parts import SIDE, translations, write_models, write_store

from unisign_fast import Processor, Translator, UniSign
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.store.keypoint_store import KeypointStore


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("data") / "store", [12, 40])


@pytest.fixture(scope="module")
def translator(models) -> Translator:
    return Translator(models["pose"], language="en")


def rows(result) -> list[tuple]:
    return [(one.text, pytest.approx(one.score, abs=1e-4), one.start, one.end) for one in result]


def test_arrays_lists_stores_and_videos_give_the_same_texts(translator, store):
    expected = translations(translator, store)
    assert len(expected) == 3, "the second clip has two windows"
    opened = KeypointStore.open(store)
    clips = [opened.keypoints(clip) for clip in opened.clips]
    assert [(one.text, one.score, one.start, one.end) for one in translator(clips, fps=10)] == rows(expected)
    assert [(one.text, one.score) for one in translator(clips[0])] == [row[:2] for row in rows(expected)[:1]]
    for inputs in (store, [store / "videos/0.mp4", str(store / "videos/1.mp4")]):
        assert [(one.text, one.score, one.start, one.end) for one in translator(inputs)] == rows(expected)


def test_pixels_and_separate_scores_are_the_same_keypoints(translator, store):
    opened = KeypointStore.open(store)
    clip = opened.keypoints(opened.clips[0])
    (expected,) = translator(clip)
    pixels = clip * [640, 480, 1]
    for arguments, sizes in (
        ((pixels,), {}),
        ((pixels[..., :2], clip[..., 2]), {}),
        ((torch.from_numpy(pixels),), {}),
        (([pixels], None), dict(width=[640], height=[480])),
    ):
        (result,) = translator(*arguments, **(sizes or dict(width=640, height=480)))
        assert result.text == expected.text and result.score == pytest.approx(expected.score, abs=2e-3)


@pytest.mark.parametrize("kind", ["mmpose.json", "rtmlib.npz", "rtmlib.json", "holistic.pose"])
def test_the_format_of_a_pose_file_is_recognised(translator, tmp_path, kind):
    path = tmp_path / kind
    keypoints = make_keypoints()
    if kind == "holistic.pose":
        data, confidence, _ = make_holistic()
        write_dot_pose(path, data, confidence)
    elif kind.startswith("mmpose"):
        write_mmpose(path, [[frame] for frame in keypoints])
    else:
        write_rtmlib(path, [frame[None] for frame in keypoints])
    (result,) = translator(path)
    assert result.file == str(path) and result.end == len(keypoints) / 25
    if kind != "holistic.pose":
        (expected,) = translator(keypoints)
        assert result.text == expected.text and result.score == pytest.approx(expected.score, abs=2e-3)
    with pytest.raises(InputError, match=str(path)):
        translator(path, format="openpose")


def test_beams_are_the_best_texts_with_their_scores(translator, store):
    for one in translator(store):
        assert [one.text, one.score] == [one.beams[0].text, one.beams[0].score]
        scores = [beam.score for beam in one.beams]
        assert len(scores) == 4 and scores == sorted(scores, reverse=True) and scores[0] < 0


def test_generate_takes_the_batch_of_a_processor_by_keyword(models, translator, store):
    opened = KeypointStore.open(store)
    clips = [opened.keypoints(clip) for clip in opened.clips]
    processor = Processor.from_pretrained(models["pose"], language="en")
    model = UniSign.from_pretrained(models["pose"], dtype=torch.float32, device="cpu")
    texts = [processor.decode(ids) for ids in model.generate(batch=processor(clips), beams=4, max_new_tokens=100)]
    assert texts == [one.text for one in translator(store)]


def test_bfloat16(models, store):
    result = Translator(models["rgb"], language="en", dtype=torch.bfloat16, device="cpu")(store)
    assert all(one.text and np.isfinite(one.score) for one in result)
    model = UniSign.from_pretrained(models["pose"], dtype=torch.bfloat16)
    assert model.projection.weight.dtype == torch.bfloat16 and not model.training


@pytest.mark.parametrize(
    "clips, choices, expected",
    [
        (np.zeros((4, 17, 3)), {}, r"keypoints: keypoints \(4, 17, 3\) are not \[T, 133, 3\]; give x, y, confidence"),
        (
            in_pixels(make_keypoints()),
            {},
            "keypoints: keypoints: are pixels, and nothing says.*; give width and height",
        ),
        (make_keypoints(), dict(width=WIDTH), "keypoints: has only one of width and height; give both"),
        (make_keypoints()[..., :2], dict(scores=np.ones((4, 5))), r"scores \(4, 5\) do not fit keypoints"),
        ([make_keypoints()] * 2, dict(fps=[25.0]), "fps: has 1 values for 2 clips; give one for each, or one for all"),
        ([make_keypoints(), make_keypoints() * np.nan], dict(height=HEIGHT, width=SIDE), "clip 1: keypoints: frame 0"),
        ("nothing.mp4", {}, "nothing.mp4: there is no such video; name an existing video"),
        ("nothing", {}, "nothing: is neither a file nor a store; name a video, a pose file, a store"),
    ],
)
def test_unusable_inputs_are_named(translator, clips, choices, expected):
    with pytest.raises(InputError, match=expected):
        translator(clips, **choices)


def test_an_rgb_model_needs_a_video(models):
    with pytest.raises(InputError, match="keypoints: has no video, and the model needs hand crops; give it, or p_samp"):
        Translator(models["rgb"], language="en")(make_keypoints())
    assert Translator(models["rgb"], language="en", p_samp=0.0)(make_keypoints())[0].text


def test_keypoints_do_not_determine_the_language(models):
    with pytest.raises(InputError, match="--language: keypoints do not determine the target language"):
        Translator(models["pose"])(make_keypoints())
