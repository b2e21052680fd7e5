"""A corpus of small programmes, made without Ray: the work done, the work repeated, and the remains of a withdrawn
source."""

import json
import resource
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pose_networks import write_detector, write_pose_network
from programmes import BOX, FPS, HEIGHT, WIDTH, write_programme, write_sources

from unisign_fast.pipelines.crops.video import VideoFile
from unisign_fast.pipelines.curation import run
from unisign_fast.pipelines.curation.folder import CorpusFolder
from unisign_fast.pipelines.curation.makers import MOST_ATTEMPTS, MOST_CRASHES
from unisign_fast.pipelines.curation.parts import PartMaker, pixel_box, read_part
from unisign_fast.pipelines.curation.quality import Thresholds
from unisign_fast.pipelines.curation.release import Release, finish
from unisign_fast.pipelines.curation.report import read_corpus_report
from unisign_fast.pipelines.curation.settings import CurationSettings, read_curation_settings
from unisign_fast.pipelines.curation.status import print_plan, print_status
from unisign_fast.pipelines.curation.survey import Survey
from unisign_fast.pipelines.curation.withdrawal import withdraw
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.store.keypoint_store import KeypointStore

pytest.importorskip("datasketch", reason="bash launch/install.sh curation")
EVERYTHING = Thresholds(min_hands_share=0, min_hand_speed=0)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    monkeypatch.setattr(run, "ray_started", lambda workers: nullcontext())
    monkeypatch.setattr(run, "distribute", lambda maker, arguments, items, *_: map(maker(**arguments), items))


@pytest.fixture(scope="session")
def material(tmp_path_factory) -> Path:
    """Two programmes of six seconds and the networks."""
    root = tmp_path_factory.mktemp("material")
    for number in range(2):
        write_programme(root / "news" / f"news-2026-05-{number + 1:02d}.mp4", number)
    write_detector(root / "detector.onnx")
    write_pose_network(root / "pose.onnx")
    return root


class Corpus:
    """Programmes and a corpus folder of one test."""

    def __init__(self, root: Path):
        self.root, self.folder = root, CorpusFolder(root / "out")
        self.videos = sorted((root / "news").glob("*.mp4"))
        self.settings = CurationSettings(
            str(write_sources(root / "sources.toml")),
            detector=str(root / "detector.onnx"),
            pose_model=str(root / "pose.onnx"),
            part_seconds=3,
            target_seconds=0,
            thresholds=EVERYTHING,
        )

    def make(self, **changed) -> tuple[dict[str, int], int, Release | None]:
        """Items made by stage, new dead letters, and the release."""
        self.settings = replace(self.settings, **changed)
        survey, done = run.make_parts(self.folder, self.settings)
        return dict(done.made), done.dead, finish(survey)


@pytest.fixture
def corpus(material, tmp_path) -> Corpus:
    shutil.copytree(material, tmp_path, dirs_exist_ok=True)
    return Corpus(tmp_path)


@pytest.fixture(scope="module")
def finished(material, tmp_path_factory) -> Path:
    """A corpus that is finished, to be copied."""
    root = tmp_path_factory.mktemp("finished")
    shutil.copytree(material, root, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "ray_started", lambda workers: nullcontext())
        patch.setattr(run, "distribute", lambda maker, arguments, items, *_: map(maker(**arguments), items))
        made, dead, release = Corpus(root).make()
    assert (made, dead) == ({"plan": 2, "part": 4}, 0) and (release.clips, release.candidates) == (6, 6)
    return root


@pytest.fixture
def again(finished, tmp_path) -> Corpus:
    """A separate copy of the finished corpus, with its own absolute paths."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True, symlinks=True)
    return Corpus(tmp_path)


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_clips_have_the_text_the_box_and_the_poses_of_their_span(finished):
    store = KeypointStore.open(finished / "out" / "current" / "store")
    store.verify()
    assert len(store.clips) == 6
    box = pixel_box(BOX, WIDTH, HEIGHT)
    for number, clip in enumerate(store.clips):
        day, item = divmod(number, 3)
        assert clip.text.endswith(f"on day {day} item {item}.") and clip.split == "train"
        assert (clip.video_start, clip.frames) == (2 * item * FPS + 5, 40)  # 0.2 s to 1.8 s
        assert clip.box == box and (clip.width, clip.height) == (WIDTH // 2, HEIGHT)
        with VideoFile(store.video(clip)) as whole, VideoFile(store.video(clip), clip.box) as cropped:
            pictures = zip(whole.pictures(), cropped.pictures())
            assert all((w[box[1] : box[3], box[0] : box[2]] == c).all() for w, c in pictures)
        keypoints = store.keypoints(clip)  # joint 2 follows the brightest blue, the hand: 108 + 6 sin, 30 + 12 cos
        frames = clip.video_start + np.arange(clip.frames)
        x = (108 + 6 * np.sin(frames / 3 + day) - box[0]) / clip.width
        y = (30 + 12 * np.cos(frames / 4 + day)) / clip.height
        assert np.abs(keypoints[:, 2, 0] - x).max() < 2 / clip.width
        assert np.abs(keypoints[:, 2, 1] - y).max() < 2 / clip.height


def test_the_report_reads_what_a_release_holds(finished):
    report = read_corpus_report(finished / "out" / "current")
    assert [stage.count for stage in report.stages] == [2, 6, 6, 6] and report.reasons == []
    assert [(one.name, one.language, one.programmes, one.clips) for one in report.series] == [("news", "en", 2, 6)]
    assert len(report.lags) == 2 and report.splits == {"train": 6} and report.real_time > 0


def test_parts_are_those_of_the_whole_video(finished, material):
    """A part from the middle of the video equals that span of a part of the whole video."""
    folder = CorpusFolder(finished / "out")
    parts = sorted((read_part(path) for path in (finished / "out" / "parts").iterdir()), key=lambda one: one.info.first)
    late = next(part for part in parts if part.info.first)
    maker = PartMaker(str(folder.root), "r", material / "detector.onnx", material / "pose.onnx", "cpu")
    maker.load()
    video = finished / "news"
    whole = [
        maker.make({"video": str(path), "first": 0, "end": 150, "fps": 25.0, "box": BOX}).keypoints[late.info.first :]
        for path in sorted(video.glob("*.mp4"))
    ]
    assert any(np.abs(late.keypoints[:, 2] - one[:, 2].astype(np.float16)).max() < 0.03 for one in whole)


def test_a_second_run_makes_nothing_and_changes_nothing(again):
    before = content_of(again.folder.root)
    moved = again.make()  # the videos have other names than those of the first release
    assert moved[0] == {} and moved[2].clips == 6
    release = moved[2].path
    before = content_of(again.folder.root / "parts")
    assert again.make()[0] == {}
    assert content_of(again.folder.root / "parts") == before and again.folder.current.resolve() == release


@pytest.mark.parametrize(
    "change, made",
    [
        ({"lag": 1.0}, {}),
        ({"target_seconds": 9.5}, {}),
        ({"thresholds": Thresholds(max_seconds=1.5)}, {}),
        ({"part_seconds": 2.0}, {"part": 6}),
    ],
    ids=lambda value: next(iter(value), "nothing"),
)
def test_a_changed_setting_repeats_only_what_depends_on_it(again, change, made):
    again.make()
    assert again.make(**change)[:2] == (made, 0)


def test_another_network_repeats_parts_and_another_caption_one_plan(again):
    again.make()
    write_pose_network(again.root / "pose.onnx", batch=1)
    assert again.make()[0] == {"part": 4}
    captions = again.videos[0].with_suffix(".en.vtt")
    captions.write_text(captions.read_text().replace("river", "lake"))
    made, _, release = again.make()
    assert made == {"plan": 1} and "lake" in (release.store / "manifest.jsonl").read_text()
    write_sources(again.root / "sources.toml", box=[0.4, 0, 1, 1])
    assert again.make()[0] == {"part": 4}
    write_sources(again.root / "sources.toml")
    assert again.make()[0] == {}  # what was made before is still there


def test_bad_programmes_become_dead_letters_and_the_others_a_release(corpus, tmp_path):
    cut, silent = tmp_path / "news" / "cut-2026-05-03.mp4", tmp_path / "news" / "no-captions-2026-05-04.mp4"
    shutil.copy(corpus.videos[0], silent)
    silent.write_bytes(silent.read_bytes() + b"\0")  # another content
    cut.write_bytes(corpus.videos[1].read_bytes()[:20_000])
    cut.with_suffix(".en.vtt").write_text(corpus.videos[1].with_suffix(".en.vtt").read_text())
    made, dead, release = corpus.make()
    assert made == {"plan": 2, "part": 4} and dead == 1 and release.clips == 6
    reasons = {letter["stage"]: letter["reason"] for letter in corpus.folder.dead_letters().values()}
    assert len(corpus.folder.dead_letters()) == 2 and "captions" in str(corpus.folder.dead_letters())
    assert reasons.keys() == {"plan"}
    assert corpus.make()[:2] == ({}, 0)  # they are not tried again
    write_programme(cut, 7)
    assert corpus.make()[0] == {"plan": 1, "part": 2}  # another content is another source
    silent.with_suffix(".en.vtt").write_text("WEBVTT\n\n00:00:01.000 --> 00:00:02.000\nLater captions.\n")
    assert corpus.make()[0] == {"plan": 1, "part": 2}


def test_retry_tries_dead_letters_again(corpus):
    folder = corpus.folder
    corpus.make()
    survey = Survey(folder, corpus.settings)
    survey.read_plans()
    item = survey.work[0].part_items[0]
    shutil.rmtree(folder.part(item["key"]))
    folder.bury(item["key"], "part", "its worker ended")
    folder.attempts(item["key"]).write_text("old\n" * 3)
    made, dead, release = corpus.make()
    assert (made, dead, release.clips) == ({}, 0, 4)  # a clip crosses into the part that is missing
    assert folder.revive() == [item["key"]]
    made, dead, release = corpus.make()
    assert (made, dead, release.clips) == ({"part": 1}, 0, 6) and not folder.attempts(item["key"]).exists()


class Crashing(PartMaker):
    """Ends like a worker that is killed while it makes an item."""

    def make(self, item):
        raise KeyboardInterrupt


@pytest.mark.parametrize("runs, begun", [(["a"] * 9, MOST_CRASHES), ([*"abcdefghijklmn"], MOST_ATTEMPTS)])
def test_a_file_that_kills_its_worker_is_given_up(material, tmp_path, runs, begun):
    """After three crashes within a run; attempts that ended with their driver count only from the tenth on."""
    item = {"key": "0123456789abcdef-0123456789abcdef"}
    for number, name in enumerate(runs):
        maker = Crashing(str(tmp_path), name, material / "detector.onnx", material / "pose.onnx", "cpu")
        if number < begun:
            with pytest.raises(KeyboardInterrupt):
                maker(item)
        else:
            answer = maker(item)
            assert answer["state"] == "failed" and f"{begun} times" in answer["reason"]


def test_attempts_at_finished_items_are_removed(again):
    """A worker killed after its final rename leaves them, whether its driver continues or another one starts."""
    keys = [path.stem for name in ("plans", "parts") for path in (again.folder.root / name).iterdir()]
    again.folder.attempts(keys[0]).parent.mkdir(exist_ok=True)
    for key in keys:
        again.folder.attempts(key).write_text("old\n")
    maker = PartMaker(str(again.folder.root), "r", again.root / "detector.onnx", again.root / "pose.onnx", "cpu")
    assert maker({"key": keys[-1]})["state"] == "done" and not again.folder.attempts(keys[-1]).exists()
    unfinished = again.folder.attempts("0" * 16 + "-" + "1" * 16)
    unfinished.write_text("old\n")
    again.make()
    assert list(unfinished.parent.iterdir()) == [unfinished]


def test_a_full_disk_stops_the_run_with_one_line_and_the_next_run_resumes(corpus):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        with pytest.raises(InputError, match="cannot be written"):
            corpus.make()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not corpus.folder.dead_letters() and not list(corpus.folder.unfinished.iterdir())
    assert not any((corpus.root / "out" / "parts").glob("*"))
    made, dead, release = corpus.make()
    assert made["part"] == 4 and dead == 0 and release.clips == 6


def test_programmes_are_split_by_date(again):
    sources = again.root / "sources.toml"
    sources.write_text(sources.read_text() + "[splits]\ntest_from = 2026-05-02\n")
    again.make()
    store = KeypointStore.open(again.folder.current / "store")
    assert [clip.split for clip in store.clips] == ["train"] * 3 + ["test"] * 3
    again.videos[0].rename(again.videos[0].with_name("undated.mp4"))
    with pytest.raises(InputError, match="undated.mp4: has no date"):
        again.make()


def needles(corpus: Corpus, video: Path) -> list[bytes]:
    """Byte strings that identify a source: its name, texts, keypoints and pieces of its crops."""
    words = [line for line in video.with_suffix(".en.vtt").read_text().splitlines() if "on day" in line]
    store = KeypointStore.open(corpus.folder.current / "store")
    clips = [clip for clip in store.clips if clip.source.endswith(video.name)]
    frames = [store.packed_keypoints(clip)[number].tobytes()[:200] for clip in clips for number in (0, -1)]
    return [video.name.encode(), video.stem.encode(), *map(str.encode, words), *frames]


def test_withdrawal_removes_every_byte_and_names_releases_and_runs(again, tmp_path):
    first = again.make()[2]
    second = again.make(lag=0.2)[2]
    video = again.videos[0]
    searched = needles(again, video)
    assert len(searched) == 11
    trained = tmp_path / "runs" / "mine"
    trained.mkdir(parents=True)
    data = [{"store": str(first.store.resolve()), "content": "..."}]
    (trained / "settings.json").write_text(json.dumps({"start": {"data": data}}))
    old = KeypointStore.open(second.store).manifest_crc32c
    moved = tmp_path / "runs" / "moved"
    moved.mkdir()
    content = [{"store": "/elsewhere", "content": f"6 clips, 9 frames, CRC-32C {old:08x}"}]
    (moved / "settings.json").write_text(json.dumps({"start": {"data": content}}))
    (tmp_path / "runs" / "other").mkdir()
    (tmp_path / "runs" / "other" / "settings.json").write_text('{"start": {"data": []}}')

    def occurrences() -> list[tuple[bytes, str]]:
        files = content_of(again.folder.root).items()
        return [(needle, name) for needle in searched for name, content in files if needle in content]

    first.path.with_suffix(".html").write_text(f"the report names {video.name}")
    assert occurrences()
    gone = withdraw(again.folder, str(video), tmp_path / "runs")
    assert {first.path.name, second.path.name} <= set(gone.releases)
    assert [path.name for path in gone.runs] == ["mine", "moved"]
    assert not again.folder.current.exists() and not occurrences()
    made, _, release = again.make()
    assert made == {} and release.clips == 3 and not occurrences()
    assert withdraw(again.folder, gone.content[:12], tmp_path / "runs") == gone  # a second call completes the first
    with pytest.raises(InputError, match="8 digits"):
        withdraw(again.folder, "nothing", tmp_path / "runs")


def test_a_second_command_waits_for_none(corpus):
    with corpus.folder.locked(), pytest.raises(InputError, match="in use"), corpus.folder.locked():
        pass
    with corpus.folder.locked():  # released
        pass


def test_a_damaged_part_is_named(again):
    again.make()
    part = sorted((again.folder.root / "parts").iterdir())[0]
    (part / "manifest.jsonl").write_bytes(b"{}")
    with pytest.raises(InputError, match=part.name):
        again.make(lag=0.3)


def test_status_counts_and_plans(again, capsys):
    again.make()
    survey = Survey(again.folder, read_curation_settings(again.folder))
    survey.read_plans()
    print_status(survey)
    said = capsys.readouterr().out
    assert "4 of 4" in said and survey.work[0].programme.source_id in said and "current: " in said
    print_plan(1985, 8, again.folder)
    said = capsys.readouterr().out
    assert "9363 core hours" in said and "50 GPU hours" in said and "not measured" in said
