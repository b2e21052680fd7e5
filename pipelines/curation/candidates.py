"""Cuts clips out of the finished parts and measures them: the candidates of a release."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import google_crc32c
import numpy as np

from ..targets import language_code
from .cutting import cut_sentences
from .lag import RATE, Recording, estimate_lags, hand_speed
from .parts import Part, read_part
from .plans import Plan, read_plan
from .quality import SCENE_CUT, Quality, measure_quality, rejection_reasons
from .records import Lag, Sentence
from .survey import Survey, Work

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


def programme_lags(survey: Survey, programmes: Programmes) -> dict[str, Lag]:
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


def measure_candidates(survey: Survey, programmes: Programmes, work: Work, lags: dict[str, Lag]) -> Iterator[Candidate]:
    """The clips of a programme, with their measurements and the reasons to reject them.

    `lags`: as `programme_lags` returns them. Raises InputError if a part is damaged.
    """
    plan, lag, programme = programmes.plan(work), lags[work.plan_key], work.programme
    parts = programmes.parts(work)
    split = survey.sources.splits.split(programme.day)
    sentences = cut_sentences(plan.words, language_code(work.series.language), survey.settings.cutting)
    for number, sentence in enumerate(sentences):
        start, end = (round(seconds * plan.fps) for seconds in lag.applied(sentence))
        first, frames = start, min(end, plan.frames) - start
        candidate = Candidate(
            id=f"{programme.series}-{programme.source_id}-{number:05d}",
            source=programme.source_id,
            series=programme.series,
            split=split,
            language=work.series.language,
            text=sentence.text,
            start=round(sentence.start, 3),
            end=round(sentence.end, 3),
            first=first,
            frames=max(frames, 0),
        )
        if frames < 1 or end > plan.frames + plan.fps:  # ends more than a second after the video
            candidate.reasons.append(OUTSIDE)
        elif (keypoints := cut_keypoints(parts, first, frames)) is None:
            candidate.reasons.append(NO_PART)
        else:
            candidate.crc32c = google_crc32c.value(keypoints)
            candidate.quality = _quality(parts, plan, candidate, sentence, keypoints)
            candidate.reasons += rejection_reasons(candidate.quality, survey.settings.thresholds)
        yield candidate


def cut_keypoints(parts: Sequence[Part], first: int, frames: int) -> np.ndarray | None:
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
