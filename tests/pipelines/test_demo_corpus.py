"""The demo corpus: reproducible, whole, and with signs that only the picture tells apart."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import av
import numpy as np
import pytest

from unisign_fast.pipelines.demo_corpus import STORES, make_clip, write_demo_corpus
from unisign_fast.pipelines.demo_corpus.keypoint_errors import estimate
from unisign_fast.pipelines.demo_corpus.language import AMBIGUOUS, WORDS, Sentence, all_sentences
from unisign_fast.pipelines.demo_corpus.plan import ClipPlan, plan_corpus
from unisign_fast.pipelines.demo_corpus.signer import LEFT, RIGHT, Performance, perform
from unisign_fast.pipelines.demo_corpus.signs import PAIRS, SIGNS
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.skeleton import LEFT_HAND, RIGHT_HAND
from unisign_fast.pipelines.store.clip import SPLITS
from unisign_fast.pipelines.store.keypoint_store import KeypointStore

CLIPS, SEED = 60, 3
P_SAMP = 0.1


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "corpus"
    write_demo_corpus(root, CLIPS, SEED, workers=2)
    return root


def _observe(plan: ClipPlan) -> tuple[Performance, np.ndarray]:
    """A clip without its picture: the performance and the estimator's confidences [T, 133]."""
    performance = perform(plan.sentence.glosses, plan.signer, np.random.default_rng((*plan.seed, 0)))
    _, confidence = estimate(performance, plan.signer, np.random.default_rng((*plan.seed, 1)))
    return performance, confidence


def _frames(video: Path) -> list[np.ndarray]:
    with av.open(str(video)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_language_translates_by_rule():
    sentences = {" ".join(s.glosses): s for s in all_sentences()}
    expected = {
        "我 茶 喝": ("我喝茶。", "I drink tea."),
        "昨天 我 书 买": ("我昨天买了书。", "I bought a book yesterday."),
        "昨天 她 猫 看 不": ("她昨天没看猫。", "She did not see a cat yesterday."),
        "明天 你 苹果 吃 吗": ("你明天要吃苹果吗？", "Will you eat an apple tomorrow?"),
        "她 书 卖": ("她卖书。", "She sells a book."),
        "明天 她 水 买": ("她明天要买水。", "She will buy water tomorrow."),
        "她 水 喝 吗": ("她喝水吗？", "Does she drink water?"),
    }
    assert {g: (sentences[g].chinese, sentences[g].english) for g in expected} == expected


def test_language_is_unambiguous_and_blind_to_pairs():
    sentences = all_sentences()
    assert len(sentences) > 450
    for texts in ([s.glosses for s in sentences], [s.chinese for s in sentences], [s.english for s in sentences]):
        assert len(set(texts)) == len(sentences)
    assert {len(s.glosses) for s in sentences} == {3, 4, 5}
    used = {gloss for s in sentences for gloss in s.glosses}
    assert used == set(SIGNS) == set(WORDS) and len(set(WORDS.values())) == len(WORDS)
    glosses = {s.glosses for s in sentences}
    for one, other in PAIRS:
        swap = {one: other, other: one}
        assert {tuple(swap.get(g, g) for g in sentence) for sentence in glosses} == glosses


def test_only_handshape_separates_a_pair_and_more_separates_the_rest():
    for one, other in PAIRS:
        assert SIGNS[one].handshape != SIGNS[other].handshape
        assert replace(SIGNS[one], handshape=SIGNS[other].handshape) == SIGNS[other]
    assert {word for word, sign in SIGNS.items() if sign.fast} == AMBIGUOUS
    keypoint_view = [replace(sign, handshape="") if sign.fast else sign for sign in SIGNS.values()]
    assert len(set(keypoint_view)) == len(SIGNS) - len(PAIRS)
    assert {sign.left for sign in SIGNS.values()} == {"rest", "mirror", "base"}


@pytest.mark.parametrize("pair", PAIRS)
def test_pair_has_equal_keypoints_and_different_pictures(pair, tmp_path):
    """The strongest form of "pose cannot tell": from the same random state the same bytes, alone and in a sentence."""
    plan = plan_corpus(CLIPS, SEED)[-1]
    for context in ((), ("我",)):
        keypoints, pictures = [], []
        for word in pair:
            made = replace(plan, id=word, sentence=Sentence((*context, word), "", ""))
            keypoints.append(make_clip(made, tmp_path))
            pictures.append(_frames(tmp_path / f"{word}.mp4"))
        assert np.array_equal(*keypoints)
    fast = np.flatnonzero(_observe(made)[0].fast[:, RIGHT])
    assert len(fast) >= 8
    for frame in fast:
        points = keypoints[0][frame, RIGHT_HAND, :2] * (plan.camera.width, plan.camera.height)
        low, high = points.min(axis=0), points.max(axis=0)
        centre, half = (low + high) / 2, 1.2 * (high - low).max() / 2  # the box a hand crop is cut from
        (left, top), (right, bottom) = np.maximum(centre - half, 0).astype(int), (centre + half).astype(int)
        one, other = (picture[frame][top:bottom, left:right].astype(int) for picture in pictures)
        assert one.size and (np.abs(one - other).max(axis=-1) > 60).mean() > 0.06


def test_confidence_is_low_in_fast_strokes_only():
    fast, other, body, raw = [], [], [], []
    for plan in plan_corpus(200, SEED):
        performance, confidence = _observe(plan)
        for hand, joints in ((LEFT, LEFT_HAND), (RIGHT, RIGHT_HAND)):
            means = confidence[:, joints].mean(axis=1)
            fast.append(means[performance.fast[:, hand]])
            other.append(means[~performance.fast[:, hand]])
            raw.append(confidence[:, joints].ravel())
        body.append(confidence[:, [9, 10]].ravel())
    fast, other, body, raw = map(np.concatenate, (fast, other, body, raw))
    assert 0.1 < fast.min() and fast.max() < 0.4 and (fast < 0.3).mean() > 0.5
    assert 0.75 < other.min() and 0.85 < other.mean() < 0.97
    assert body.min() > 0.7 and 0.01 < (raw > 1).mean() < 0.3


def _hit_probabilities(plan: ClipPlan) -> list[float]:
    """For each ambiguous sign: the chance that a draw of the right hand's floor(T p) falls into its stroke."""
    performance, confidence = _observe(plan)
    weights = 1 - np.clip(confidence[:, RIGHT_HAND], 0, 1).mean(axis=1)
    fast = np.concatenate([[0], performance.fast[:, RIGHT].astype(int), [0]])
    starts, ends = np.flatnonzero(np.diff(fast) == 1), np.flatnonzero(np.diff(fast) == -1)
    assert len(starts) == sum(gloss in AMBIGUOUS for gloss in plan.sentence.glosses)
    draws = int(len(performance) * P_SAMP)
    return [1 - (1 - weights[a:b].sum() / weights.sum()) ** draws for a, b in zip(starts, ends, strict=True)]


def test_score_aware_sampling_meets_the_fast_strokes():
    plans = plan_corpus(600, SEED)
    for store, least, mean in (("words", 0.95, 0.975), ("sentences", 0.85, 0.955)):
        hits = [p for plan in plans if plan.store == store for p in _hit_probabilities(plan)]
        assert len(hits) > 50 and min(hits) > least and np.mean(hits) > mean


@pytest.mark.parametrize("clips", [60, 200, 1200, 5000])
def test_splits(clips):
    plans = plan_corpus(clips, SEED)
    assert len(plans) == clips == len({p.id for p in plans})
    sentences, words = (
        {split: [p.sentence.chinese for p in plans if (p.store, p.split) == (store, split)] for split in SPLITS}
        for store in STORES
    )
    for one, other in combinations(SPLITS, 2):
        assert sentences[one] and sentences[other] and not set(sentences[one]) & set(sentences[other])
    assert set(words["train"]) == set(words["dev"]) == set(words["test"])
    assert any(word in AMBIGUOUS for word in words["test"]) and any(word not in AMBIGUOUS for word in words["test"])
    if clips >= 1200:
        assert set(words["test"]) == set(SIGNS) and min(map(words["test"].count, SIGNS)) >= 3
        shares = [sum(p.split == split for p in plans) / clips for split in SPLITS]
        assert np.allclose(shares, (0.8, 0.08, 0.12), atol=0.05)


def test_stores_are_whole_and_match_their_videos(corpus):
    stores = [KeypointStore.open(corpus / name) for name in STORES]
    assert sorted(path.name for path in corpus.parent.iterdir()) == ["corpus"]
    assert [len(store.clips) for store in stores] == [30, 30]
    sizes = set()
    for store in stores:
        store.verify()
        for clip in store.clips:
            keypoints = store.keypoints(clip)
            frames = _frames(store.video(clip))
            assert len(frames) == clip.frames == len(keypoints)
            assert frames[0].shape == (clip.height, clip.width, 3)
            assert (20 <= clip.frames <= 24) if store.path.name == "words" else (30 <= clip.frames <= 72)
            assert clip.target("slt") and clip.target("cslr") and clip.target("slt", "en")
            assert clip.tags["needs_rgb"] == ("yes" if AMBIGUOUS & set(clip.gloss.split()) else "no")
            sizes.add((clip.width, clip.height, clip.fps))
            used = keypoints[:, [0, *range(5, 11), *range(91, 133)]]
            assert (used[..., :2] > -0.1).all() and (used[..., :2] < 1.1).all()
            assert (keypoints[:, 5, 0] > keypoints[:, 6, 0]).all()  # the signer's left is the picture's right
    assert len(sizes) >= 3


def test_same_bytes_with_any_number_of_workers(corpus, tmp_path):
    write_demo_corpus(tmp_path / "again", CLIPS, SEED, workers=1)
    for name in STORES:
        once, again = corpus / name, tmp_path / "again" / name
        assert (once / "manifest.jsonl").read_bytes() == (again / "manifest.jsonl").read_bytes()
        parts = sorted(p.relative_to(once) for p in (once / "keypoints.zarr").rglob("*") if p.is_file())
        assert parts and all((once / part).read_bytes() == (again / part).read_bytes() for part in parts)


def test_another_seed_gives_another_corpus():
    one, other = (plan_corpus(CLIPS, seed) for seed in (SEED, SEED + 1))
    assert [p.sentence for p in one] != [p.sentence for p in other]
    same_word = [replace(plans[-1], sentence=one[-1].sentence, signer=one[-1].signer) for plans in (one, other)]
    assert not np.array_equal(*(_observe(plan)[1] for plan in same_word))


def test_user_mistakes(corpus, tmp_path):
    (tmp_path / "file").write_text("")
    for root, clips, seed, words in (
        (tmp_path / "new", 59, 0, "--clips: 59 is not in"),
        (tmp_path / "new", 5001, 0, "--clips: 5001 is not in"),
        (tmp_path / "new", 60, -1, "--seed: -1 is negative"),
        (corpus, 60, 0, f"{corpus}: exists already"),
        (tmp_path / "file" / "new", 60, 0, "cannot be written"),
    ):
        with pytest.raises(InputError, match=words):
            write_demo_corpus(root, clips, seed)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_killed_run_leaves_no_corpus_and_no_workers(tmp_path):
    code = "import sys; from pathlib import Path; "
    code += "from unisign_fast.pipelines.demo_corpus import write_demo_corpus as write; "
    command = [sys.executable, "-c", code + "write(Path(sys.argv[1]), 1000, 0, workers=1)", str(tmp_path / "corpus")]
    run = subprocess.Popen(command, cwd=Path(__file__).parents[2], start_new_session=True)
    deadline = time.monotonic() + 60
    while not any(tmp_path.glob(".corpus.unfinished-*/*/sentences/videos/*.mp4")) and time.monotonic() < deadline:
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not (tmp_path / "corpus").exists() and any(tmp_path.glob(".corpus.unfinished-*"))
    while time.monotonic() < deadline:
        try:
            os.killpg(run.pid, 0)  # the group is gone when its last process is
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGKILL)
    pytest.fail("a worker outlived the killed run")
