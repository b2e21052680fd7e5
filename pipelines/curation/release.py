"""The last stage, on the driver: cuts clips out of the parts, filters them, and writes them as a store to train on.

Nothing here takes long, so lag, cut, thresholds and splits can be changed cheaply. A release is byte-identical however
often its parts were interrupted; DIGEST is a digest of everything it depends on.

    OUT/releases/DIGEST/store          keypoint store with the clips that are kept
    OUT/releases/DIGEST/quality.jsonl  every clip, kept or not: measurements and reasons
    OUT/releases/DIGEST/release.json   programmes with licence, consent and lag, settings, counts
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import google_crc32c
import msgspec
import numpy as np

from ..atomic_io import created_once, replace_json, replace_text
from ..errors import InputError
from ..store.keypoint_store import KeypointStoreWriter
from ..targets import language_code
from .cutting import cut_sentences
from .duplicates import duplicate_reasons
from .lag import RATE, Recording, estimate_lags, hand_speed
from .parts import Part, read_part
from .plans import Plan, read_plan
from .quality import SCENE_CUT, Quality, measure_quality, rejection_reasons
from .records import Lag, Sentence
from .survey import Survey, Work

VERSION = 2  # of the computation
OUTSIDE, NO_PART = "outside_the_video", "part_missing"  # reasons, besides those of thresholds and duplicates


@dataclass
class Candidate:
    """A line of quality.jsonl: a sentence, the frames in which it is signed, and why it is not kept, if so."""

    id: str
    source: str
    series: str
    split: str
    language: str
    text: str
    start: float  # of the speech, seconds
    end: float
    first: int  # first frame, as numbered in the video
    frames: int
    quality: Quality | None = None  # None if there are no poses
    crc32c: int = 0  # of the keypoints
    reasons: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Release:
    """A finished release."""

    path: Path
    clips: int  # kept
    candidates: int

    @property
    def store(self) -> Path:
        """The store to train on."""
        return self.path / "store"


class Programmes:
    """The programmes with finished plans, and their finished parts."""

    def __init__(self, survey: Survey):
        self._survey = survey
        folder = survey.folder
        self.work = [work for work in survey.work if folder.plan(work.plan_key).exists()]
        self.plans = {work.plan_key: read_plan(folder.plan(work.plan_key)) for work in self.work}
        self.finished = {
            work.plan_key: [item for item in work.part_items if folder.part(item["key"]).exists()] for work in self.work
        }

    def plan(self, work: Work) -> Plan:
        return self.plans[work.plan_key]

    def parts(self, work: Work) -> list[Part]:
        """The finished parts, in order."""
        return [read_part(self._survey.folder.part(item["key"])) for item in self.finished[work.plan_key]]


def finish(survey: Survey) -> Release | None:
    """Makes the release of all finished parts unless it exists; None, and no link `current`, if no clip is kept.

    The caller holds the folder's lock. Raises InputError if a part is damaged or the disk is full.
    """
    folder, programmes = survey.folder, Programmes(survey)
    path = folder.releases / _digest(survey, programmes)
    if not (path / "release.json").exists():
        lags = _lags(survey, programmes)
        candidates = [one for work in programmes.work for one in _candidates(survey, programmes, work, lags)]
        _reject_duplicates(candidates, survey.settings.most_copies)
        if all(one.reasons for one in candidates):
            folder.current.unlink(missing_ok=True)
            return None
        with created_once(path, folder.unfinished) as part:
            _write_store(part / "store", programmes, candidates)
            lines = [msgspec.json.encode(one).decode() + "\n" for one in candidates]
            replace_text(part / "quality.jsonl", "".join(lines))
            replace_json(part / "release.json", _record(survey, programmes, lags, candidates))
    folder.point_current_to(path)
    counts = msgspec.json.decode((path / "release.json").read_bytes())["clips"]
    return Release(path, counts["kept"], counts["candidates"])


def _digest(survey: Survey, programmes: Programmes) -> str:
    depends = [
        [work.plan_key, [item["key"] for item in programmes.finished[work.plan_key]], str(work.programme.path)]
        for work in programmes.work
    ]
    listed = json.dumps([VERSION, depends, _settings(survey)], sort_keys=True, default=str)
    return hashlib.sha256(listed.encode()).hexdigest()[:16]


def _settings(survey: Survey) -> dict[str, Any]:
    """The settings that a release depends on, besides its plans and parts."""
    settings = survey.settings
    return {
        "cut": settings.cut,
        "target_seconds": settings.target_seconds,
        "lag": settings.lag,
        "most_copies": settings.most_copies,
        "thresholds": asdict(settings.thresholds),
        "sources": json.loads(msgspec.json.encode(survey.sources)),
    }


def _lags(survey: Survey, programmes: Programmes) -> dict[str, Lag]:
    """The lag of each programme, by the key of its plan."""
    lags: dict[str, Lag] = {}
    for series in survey.sources.series:
        given, estimate = survey.given_lag(series)
        works = [work for work in programmes.work if work.series is series]
        if estimate:
            lags |= estimate_lags({work.plan_key: list(_recordings(programmes, work)) for work in works}, given)
        else:
            lags |= {work.plan_key: given for work in works}
    return lags


def _recordings(programmes: Programmes, work: Work) -> Iterator[Recording]:
    """Speech and signing of each sequence of parts without a gap."""
    plan = programmes.plan(work)
    activity, start, end = plan.speech_activity, 0, -1
    speeds: list[np.ndarray] = []
    for part in programmes.parts(work):
        if part.info.first != end and speeds:
            yield _recording(activity, speeds, start, plan.fps)
            speeds = []
        start, end = start if speeds else part.info.first, part.info.first + part.info.frames
        left, top, right, bottom = part.info.box
        speeds.append(hand_speed(part.keypoints, plan.fps, (right - left) / (bottom - top)))
    if speeds:
        yield _recording(activity, speeds, start, plan.fps)


def _recording(activity: np.ndarray, speeds: list[np.ndarray], first_frame: int, fps: float) -> Recording:
    speed, first = np.concatenate(speeds), round(first_frame / fps * RATE)
    return Recording(activity[first : first + len(speed)], speed, first / RATE)


def _candidates(survey: Survey, programmes: Programmes, work: Work, lags: dict[str, Lag]) -> Iterator[Candidate]:
    """The clips of a programme, with their measurements."""
    plan, lag, programme = programmes.plan(work), lags[work.plan_key], work.programme
    parts = programmes.parts(work)
    split = survey.sources.splits.split(programme.day)
    sentences = cut_sentences(plan.words, language_code(work.series.language), survey.settings.cutting)
    for number, sentence in enumerate(sentences):
        start, end = (round(seconds * plan.fps) for seconds in lag.applied(sentence))
        first, frames = start, min(end, plan.frames) - start
        candidate = Candidate(
            f"{programme.series}-{programme.source_id}-{number:05d}",
            programme.source_id,
            programme.series,
            split,
            work.series.language,
            sentence.text,
            round(sentence.start, 3),
            round(sentence.end, 3),
            first,
            max(frames, 0),
        )
        if frames < 1 or end > plan.frames + plan.fps:  # ends more than a second after the video
            candidate.reasons.append(OUTSIDE)
        elif (keypoints := _keypoints(parts, first, frames)) is None:
            candidate.reasons.append(NO_PART)
        else:
            candidate.crc32c = google_crc32c.value(keypoints)
            candidate.quality = _quality(parts, plan, candidate, sentence, keypoints)
            candidate.reasons += rejection_reasons(candidate.quality, survey.settings.thresholds)
        yield candidate


def _keypoints(parts: Sequence[Part], first: int, frames: int) -> np.ndarray | None:
    """Keypoints [T, 133, 3] float16, which may span several parts; None if one of these is missing."""
    pieces, at = [], first
    for part in parts:
        start, end = part.info.first, part.info.first + part.info.frames
        if start <= at < end and at < first + frames:
            pieces.append(part.keypoints[at - start : first + frames - start])
            at = min(end, first + frames)
    return np.ascontiguousarray(np.concatenate(pieces)) if at == first + frames else None


def _quality(
    parts: Sequence[Part], plan: Plan, candidate: Candidate, sentence: Sentence, keypoints: np.ndarray
) -> Quality:
    persons, cuts = np.zeros(candidate.frames, np.int64), 0
    end = candidate.first + candidate.frames
    for part in parts:
        for look in part.looks:
            at = part.info.first + look.frame - candidate.first
            persons[max(at, 0) :] = look.people  # until the next detection
            if at >= candidate.frames:
                break
        changed = (part.info.first + look.changed_at for look in part.looks if look.change > SCENE_CUT)
        cuts += sum(candidate.first < frame < end for frame in changed)
    left, top, right, bottom = parts[0].info.box
    aspect = (right - left) / (bottom - top)
    return measure_quality(keypoints, plan.fps, aspect, persons, cuts, sentence, language_code(candidate.language))


def _reject_duplicates(candidates: list[Candidate], most_copies: int) -> None:
    kept = [one for one in candidates if not one.reasons]
    texts, splits, keypoints = ([getattr(one, name) for one in kept] for name in ("text", "split", "crc32c"))
    try:
        reasons = duplicate_reasons(texts, splits, keypoints, most_copies)
    except ImportError as error:
        problem = f"datasketch cannot be imported ({error})"
        raise InputError("curate.py", problem, "run `bash launch/install.sh curation`") from None
    for number, reason in reasons.items():
        kept[number].reasons.append(reason)


def _write_store(path: Path, programmes: Programmes, candidates: list[Candidate]) -> None:
    """Write the kept clips in order. Keypoints are fractions of the signer's box; `source` is the whole programme."""
    kept: dict[str, list[Candidate]] = {}
    for one in candidates:
        if not one.reasons:
            kept.setdefault(one.source, []).append(one)
    works = [work for work in programmes.work if work.programme.source_id in kept]
    first_part = programmes.parts(works[0])[0]
    origin = {"estimator": first_part.info.estimator, "version": "curate.py", "coordinates": "fractions of the box"}
    with KeypointStoreWriter(path, origin) as writer:
        for work in works:
            plan, parts = programmes.plan(work), programmes.parts(work)
            left, top, right, bottom = parts[0].info.box
            for one in kept[work.programme.source_id]:
                keypoints = _keypoints(parts, one.first, one.frames)
                assert keypoints is not None
                writer.add(
                    keypoints,
                    id=one.id,
                    split=one.split,
                    language=one.language,
                    text=one.text,
                    fps=plan.fps,
                    width=right - left,
                    height=bottom - top,
                    source=str(work.programme.path),
                    tags={"series": one.series, "source": one.source},
                    video_start=one.first,
                    video_frames=plan.frames,
                    box=(left, top, right, bottom),
                )


def _record(
    survey: Survey, programmes: Programmes, lags: dict[str, Lag], candidates: list[Candidate]
) -> dict[str, Any]:
    """The content of release.json."""
    reasons = Counter(reason for one in candidates for reason in one.reasons)
    kept = [one for one in candidates if not one.reasons]
    return {
        "clips": {"candidates": len(candidates), "kept": len(kept), "splits": Counter(one.split for one in kept)},
        "rejected": dict(sorted(reasons.items())),
        "programmes": [
            {
                "source": work.programme.source_id,
                "series": work.programme.series,
                "date": work.programme.day.isoformat() if work.programme.day else None,
                "language": work.series.language,
                "licence": work.series.licence,
                "consent": work.series.consent,
                "seconds": round(programmes.plan(work).frames / programmes.plan(work).fps, 3),
                "lag": _lag_record(lags[work.plan_key]),
                "plan": work.plan_key,
                "parts": [item["key"] for item in programmes.finished[work.plan_key]],
                "missing_parts": len(work.part_items) - len(programmes.finished[work.plan_key]),
            }
            for work in programmes.work
        ],
        "settings": _settings(survey),
    }


def _lag_record(lag: Lag) -> dict[str, float]:
    """The lag without its drift, which already shows in the clips' frames."""
    times = ("start_seconds", "end_seconds", "confidence")
    return {name: round(getattr(lag, name), 3) for name in times}
